//! Tasks that shutdown waits for, and whose panics are counted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where the process's tasks are kept. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tracker: TaskTracker,
    stop: CancellationToken,
    panics: Arc<AtomicU64>,
}

impl Tasks {
    /// Starts `task` under `name`. A panic in it is caught, logged under that name and counted.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let guarded = async move {
            if std::panic::AssertUnwindSafe(task).catch_unwind().await.is_err() {
                inner.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(task.name = name, "task `{name}` panicked");
            }
        };
        self.inner.tracker.spawn(guarded)
    }

    /// Tasks that are asked to end at another time than these; their panics count here.
    #[must_use]
    pub fn apart(&self) -> Self {
        let panics = Arc::clone(&self.inner.panics);
        Self { inner: Arc::new(Inner { panics, ..Inner::default() }) }
    }

    /// Cancelled when the process is to end: long-lived tasks select on it.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// How many tasks have panicked since the start.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Relaxed)
    }

    /// Asks all tasks to end and waits for them, at most `within`. Whether all ended.
    pub async fn shutdown(&self, within: Duration) -> bool {
        self.inner.stop.cancel();
        self.inner.tracker.close();
        tokio::time::timeout(within, self.inner.tracker.wait()).await.is_ok()
    }
}
