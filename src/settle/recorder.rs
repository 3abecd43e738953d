//! Where records go, and what happens when they cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_storage::record::Record;
use althing_storage::spool::{Room, Spool};
use tokio::sync::mpsc;

use crate::error::{Code, Error};
use crate::tasks::Tasks;

/// How long a request waits for room where it may.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Records of answered calls that a failing disk keeps in memory: about 1 KiB each.
const STUCK_MAX: usize = 4096;
const DISK_RETRY: Duration = Duration::from_millis(200);
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What a request does where records cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits a while for room, then is refused.
    Wait,
    /// It is refused at once.
    Refuse,
}

/// Takes records.
#[derive(Debug)]
pub struct Recorder {
    spool: Spool,
    when_full: WhenFull,
    stuck: mpsc::Sender<(Room, Box<Record>)>,
    stuck_count: Arc<AtomicU64>,
    lost: AtomicU64,
}

impl Recorder {
    /// A recorder over `spool`, with its task that retries what a disk refused.
    #[must_use]
    pub fn start(spool: Spool, when_full: WhenFull, tasks: &Tasks) -> Arc<Self> {
        let (stuck, queue) = mpsc::channel(STUCK_MAX);
        let stuck_count = Arc::new(AtomicU64::new(0));
        tasks.spawn("records.retry", retry(queue, Arc::clone(&stuck_count), tasks.clone()));
        Arc::new(Self { spool, when_full, stuck, stuck_count, lost: AtomicU64::new(0) })
    }

    /// Sets room for a record aside before the call is made, so that no admitted call goes unrecorded.
    ///
    /// # Errors
    ///
    /// [`Code::RecordsFull`], at once or after a wait, as configured.
    pub async fn room(&self) -> Result<Room, Error> {
        if self.stuck_count.load(Ordering::Relaxed) == 0
            && let Ok(room) = self.spool.reserve()
        {
            return Ok(room);
        }
        if self.when_full == WhenFull::Wait {
            let until = tokio::time::Instant::now() + WAIT_MAX;
            while tokio::time::Instant::now() < until {
                if 0 < self.stuck_count.load(Ordering::Relaxed) {
                    tokio::time::sleep(DISK_RETRY).await;
                } else if tokio::time::timeout_at(until, self.spool.wait_for_room()).await.is_ok()
                    && let Ok(room) = self.spool.reserve()
                {
                    return Ok(room);
                }
            }
        }
        Err(Error::of(Code::RecordsFull).with_retry_after(RETRY_AFTER))
    }

    /// Writes a record into its room. What the disk refuses is kept and retried; until that is through, no new call is admitted.
    pub(super) fn append(&self, room: Room, record: &Record) {
        let Err(error) = room.append(record) else { return };
        self.stuck_count.fetch_add(1, Ordering::Relaxed);
        if self.stuck.try_send((room, Box::new(record.clone()))).is_err() {
            self.stuck_count.fetch_sub(1, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(request.id = %uuid::Uuid::from_u128(record.id), %error, "a record is lost: the disk refuses and memory for records is full");
        } else {
            tracing::error!(%error, "a record waits in memory: the disk refuses it; free space on the data directory's disk");
        }
    }

    /// Records that were lost because the disk refused and memory was full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Records that wait in memory for the disk.
    pub fn stuck(&self) -> u64 {
        self.stuck_count.load(Ordering::Relaxed)
    }

    /// The spool.
    pub const fn spool(&self) -> &Spool {
        &self.spool
    }
}

async fn retry(
    mut queue: mpsc::Receiver<(Room, Box<Record>)>,
    count: Arc<AtomicU64>,
    tasks: Tasks,
) {
    loop {
        let next = tokio::select! {
            it = queue.recv() => it,
            () = tasks.stop().cancelled() => queue.try_recv().ok(),
        };
        let Some((room, record)) = next else { return };
        while let Err(error) = room.append(&record) {
            if tasks.stop().is_cancelled() {
                tracing::error!(%error, "a record is lost: the disk still refuses it at shutdown");
                break;
            }
            tokio::time::sleep(DISK_RETRY).await;
        }
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
