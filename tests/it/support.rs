//! What the tests stand on: a gateway process, and an upstream that keeps its own books.

pub(crate) mod collector;
pub(crate) mod gateway;
pub(crate) mod upstream;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use collector::{Collector, Span};
pub(crate) use gateway::{Answer, Gateway};
pub(crate) use upstream::Upstream;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime of its own for each test.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(240), test)
                .await
                .expect("the test takes too long")
        })
}

/// Waits until `condition` holds.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(it) = condition().await {
            return it;
        }
        assert!(tokio::time::Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where `./dev test` put the test peers.
#[expect(clippy::disallowed_methods, reason = "the runner tells where it put the peers")]
pub(crate) fn peers() -> PathBuf {
    let text = std::env::var("ALTHING_PEERS")
        .expect("ALTHING_PEERS: run the tests by `./dev test`, which installs the peers");
    PathBuf::from(text)
}
