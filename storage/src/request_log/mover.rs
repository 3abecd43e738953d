//! The one thread that moves records out of the spool into the database, and lets old files go.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Clock;
use super::retention::{self, Retention};
use super::writer::Writer;
use crate::spool::Spool;
use crate::spool::drain::Drain;

/// Records in one transaction.
const BATCH_RECORDS: usize = 500;
/// How long the first record of a batch waits for others.
const LINGER: Duration = Duration::from_millis(200);
const SWEEP_MS: u64 = 60_000;
const IDLE: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PANIC_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Attempts while stopping; then what is left waits in the spool for the next start.
const STOPPING_TRIES_MAX: u32 = 3;

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) moved: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) failed_batches: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) corrupt_files: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
}

pub(super) struct Mover {
    pub(super) spool: Spool,
    pub(super) drain: Drain,
    pub(super) writer: Writer,
    pub(super) retention: Retention,
    pub(super) clock: Clock,
    pub(super) counters: Arc<Counters>,
}

impl Mover {
    /// Until the spool says stop; then moves what is left and ends. A panic, which would be a bug, is logged and the
    /// work taken up again: what was not committed is still in the spool.
    pub(super) fn run(mut self) {
        give_way();
        while std::panic::catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            self.counters.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("the thread that moves records panicked; it begins anew");
            self.writer = self.writer.anew();
            if self.spool.pause(PANIC_PAUSE) {
                return;
            }
        }
    }

    fn work(&mut self) {
        let mut next_sweep_ms = 0;
        let mut failures = 0u32;
        let mut is_stopping = false;
        loop {
            let is_moved = self.move_all();
            self.sweep_if_due(&mut next_sweep_ms);
            if is_moved {
                if is_stopping {
                    return;
                }
                failures = 0;
                is_stopping = self.spool.wait_for_work(LINGER, IDLE);
                continue;
            }
            failures += 1;
            let pause = (PAUSE_MIN * 2u32.saturating_pow(failures.min(10))).min(PAUSE_MAX);
            is_stopping = self.spool.pause(pause);
            if is_stopping && STOPPING_TRIES_MAX <= failures {
                tracing::error!(
                    "the request log cannot be written while stopping; its records wait in the spool for the next start"
                );
                return;
            }
        }
    }

    fn sweep_if_due(&mut self, next_ms: &mut u64) {
        let now_ms = (self.clock)();
        // Also where the clock stepped back by much.
        if now_ms < *next_ms && *next_ms <= now_ms + SWEEP_MS {
            return;
        }
        let bytes = retention::sweep(&self.retention, now_ms, &mut |day| self.writer.close(day));
        self.counters.disk_bytes.store(bytes, Ordering::Relaxed);
        *next_ms = now_ms + SWEEP_MS;
    }

    /// Moves until nothing waits. Says whether that succeeded.
    fn move_all(&mut self) -> bool {
        loop {
            let batch = self.drain.next(BATCH_RECORDS);
            if batch.is_empty() {
                self.drain.let_go(|| self.writer.sync());
                return !batch.is_partial;
            }
            let result = self.writer.insert(&batch.records, (self.clock)());
            self.counters.corrupt_files.store(self.writer.corrupt_files, Ordering::Relaxed);
            match result {
                Ok(new) => {
                    let all = batch.records.len() as u64;
                    self.counters.moved.fetch_add(new, Ordering::Relaxed);
                    self.counters.repeated.fetch_add(all.saturating_sub(new), Ordering::Relaxed);
                    self.drain.commit(&batch);
                    self.drain.let_go(|| self.writer.sync());
                }
                Err(error) => {
                    self.counters.failed_batches.fetch_add(1, Ordering::Relaxed);
                    let cause = std::error::Error::source(&error)
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    tracing::error!(%error, cause, "records stay in the spool and are tried again");
                    return false;
                }
            }
        }
    }
}

/// Lets other threads of this node go first where cores are short: a record that is moved later is no trouble, a request that waits
/// for it is. Linux alone has priorities of single threads.
fn give_way() {
    const NICER: i32 = 10;
    if cfg!(target_os = "linux") {
        // The calling thread's own.
        let now = rustix::process::getpriority_process(None).unwrap_or(0);
        // Being nicer is allowed to everybody; where it is not, records are moved all the same.
        let _ = rustix::process::setpriority_process(None, (now + NICER).min(19));
    }
}
