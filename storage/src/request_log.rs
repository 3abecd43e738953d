//! The request log: every model call and tool execution of this node.
//!
//! A record is appended to the [`Spool`] on the request's path (one write(2)); one thread moves it into `SQLite`, a
//! file a day, with sums by the minute beside. Records of other nodes are on those nodes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::record::{BODY_BYTES_MAX, Bodies, Body, Payload, Record};
use crate::spool::{self, Spool};

mod chain;
mod day;
mod mover;
mod query;
mod retention;
mod rollup;
mod schema;
mod usage;
mod writer;

pub use chain::{Head, Verdict};
pub use day::Day;
pub use query::{Cursor, CursorError, Entry, Filter, PAGE_MAX, Page, QueryError};
pub use rollup::{LATENCY_MS, Sums};
pub use usage::{Answer, Dimension, GROUPS_MAX, Group, Usage};

use mover::{Counters, Mover};
use query::Deadline;
use retention::Retention;
use writer::Writer;

/// Where wall time comes from: milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How long a query waits for what was answered before it to be indexed.
const FLUSH: Duration = Duration::from_secs(2);

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its folder (`DATA/records`); made if it is not there.
    pub dir: PathBuf,
    /// Days that records are kept beside today.
    pub keep_days: u32,
    /// Days that bodies are kept beside today.
    pub bodies_keep_days: u32,
    /// The most bytes of all days together; the oldest go first, today's never.
    pub disk_bytes_max: u64,
    /// The most bytes that may wait in the spool.
    pub spool_bytes_max: u64,
}

impl Options {
    /// The defaults of the configuration, in `dir`: 30 days, 10 GiB, 256 MiB of spool.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let gib = 1024 * 1024 * 1024;
        Self {
            dir: dir.into(),
            keep_days: 30,
            bodies_keep_days: 30,
            disk_bytes_max: 10 * gib,
            spool_bytes_max: gib / 4,
        }
    }
}

/// What the log does, for metrics and `GET /api/status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Of the spool.
    pub spool: spool::Stats,
    /// Records put into the database.
    pub moved: u64,
    /// Records that were there already: an earlier life had moved them.
    pub repeated: u64,
    /// Batches that the database refused; they are tried again.
    pub failed_batches: u64,
    /// Panics of the thread, which it survived: each is a bug.
    pub panics: u64,
    /// Damaged day files that were moved aside.
    pub corrupt_files: u64,
    /// Bytes of all days on disk, as of the last look (once a minute).
    pub disk_bytes: u64,
}

/// The log of this node.
pub struct RequestLog {
    dir: PathBuf,
    spool: Spool,
    counters: Arc<Counters>,
    mover: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for RequestLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestLog").field("dir", &self.dir).finish_non_exhaustive()
    }
}

pub(crate) fn bodies_dir(dir: &Path) -> PathBuf {
    dir.join("bodies")
}

impl RequestLog {
    /// Opens the log and starts its thread, which first moves what an earlier life left in the spool.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, read or written.
    pub fn open(options: &Options, clock: Clock) -> io::Result<Self> {
        Self::open_on(options, clock, Box::new(spool::fs_port::Disk))
    }

    pub(crate) fn open_on(
        options: &Options,
        clock: Clock,
        fs: Box<dyn spool::fs_port::Fs>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(&options.dir)?;
        let spool_options = spool::Options {
            dir: options.dir.join("spool"),
            bound_bytes: options.spool_bytes_max,
            shards: 0,
        };
        let (spool, drain) = Spool::open(&spool_options, clock(), fs)?;
        let counters = Arc::new(Counters::default());
        let mover = Mover {
            spool: spool.clone(),
            drain,
            writer: Writer::new(&options.dir),
            retention: Retention {
                dir: options.dir.clone(),
                bodies_dir: bodies_dir(&options.dir),
                keep_days: options.keep_days,
                bodies_keep_days: options.bodies_keep_days,
                disk_bytes_max: options.disk_bytes_max,
            },
            clock,
            counters: Arc::clone(&counters),
        };
        let thread =
            std::thread::Builder::new().name("records".to_owned()).spawn(move || mover.run())?;
        Ok(Self { dir: options.dir.clone(), spool, counters, mover: Mutex::new(Some(thread)) })
    }

    /// Where records are appended.
    #[must_use]
    pub const fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        Stats {
            spool: self.spool.stats(),
            moved: counters.moved.load(Ordering::Relaxed),
            repeated: counters.repeated.load(Ordering::Relaxed),
            failed_batches: counters.failed_batches.load(Ordering::Relaxed),
            panics: counters.panics.load(Ordering::Relaxed),
            corrupt_files: counters.corrupt_files.load(Ordering::Relaxed),
            disk_bytes: counters.disk_bytes.load(Ordering::Relaxed),
        }
    }

    /// Waits until all that was appended before is in the database, for at most `limit`. Says whether it is. Blocks.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        self.spool.flush(limit)
    }

    /// A page of entries that fit `filter`, newest first, after `cursor`; at most `limit`, at most [`PAGE_MAX`].
    /// What was answered before the call is in it. Blocks for at most about `within`.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn logs(
        &self,
        filter: &Filter,
        cursor: Option<&Cursor>,
        limit: usize,
        within: Duration,
    ) -> Result<Page, QueryError> {
        let deadline = Deadline::after(within);
        let is_flushed = self.flush(FLUSH.min(within / 2));
        let mut page = query::logs(&self.dir, filter, cursor, limit, deadline)?;
        page.is_complete &= is_flushed;
        Ok(page)
    }

    /// The entry with this id, if its day is still there. Blocks for at most about `within`.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn entry(&self, id: u128, within: Duration) -> Result<Option<Entry>, QueryError> {
        let deadline = Deadline::after(within);
        // If the index lags behind, the entry is not there yet, and the answer is that there is none.
        let _ = self.flush(FLUSH.min(within / 2));
        query::entry(&self.dir, id, deadline)
    }

    /// Sums of usage. What was answered before the call is in it. Blocks for at most about `within`.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn usage(&self, wanted: &Usage, within: Duration) -> Result<Answer, QueryError> {
        let deadline = Deadline::after(within);
        let is_flushed = self.flush(FLUSH.min(within / 2));
        let mut answer = usage::usage(&self.dir, wanted, deadline)?;
        answer.is_complete &= is_flushed;
        Ok(answer)
    }

    /// The bodies of the call `record`, if they were kept and still are. Blocks for at most about `within`.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn bodies(&self, record: &Record, within: Duration) -> Result<Option<Bodies>, QueryError> {
        let found = query::bodies(
            &bodies_dir(&self.dir),
            record.id,
            record.at_ms,
            Deadline::after(within),
        )?;
        let unpack = |packed: &[u8], full_bytes| {
            let kept = zstd::bulk::decompress(packed, BODY_BYTES_MAX).map_err(QueryError::Io)?;
            Ok::<_, QueryError>(Body { kept: Payload(Bytes::from(kept)), full_bytes })
        };
        found
            .map(|it| {
                let request = unpack(&it.request, it.request_bytes)?;
                Ok(Bodies { request, response: unpack(&it.response, it.response_bytes)? })
            })
            .transpose()
    }

    /// The head of the hash chain of `day`: to be written down elsewhere. `None` where there is no record.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn chain_head(&self, day: Day, within: Duration) -> Result<Option<Head>, QueryError> {
        let deadline = Deadline::after(within);
        let Some(connection) = deadline.open(&day.file(&self.dir))? else { return Ok(None) };
        match chain::read_head(&connection, day) {
            Ok(head) => Ok(Some(head)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(error) => Err(deadline.error(error)),
        }
    }

    /// Walks the hash chain of `day`. `None` where there is no file. About a second for a million records.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn verify(&self, day: Day, within: Duration) -> Result<Option<Verdict>, QueryError> {
        let deadline = Deadline::after(within);
        let Some(connection) = deadline.open(&day.file(&self.dir))? else { return Ok(None) };
        chain::verify(&connection, day).map(Some).map_err(|it| deadline.error(it))
    }

    /// Moves what waits and ends the thread. Records appended later wait in the spool for the next start. Blocks.
    pub fn shutdown(&self) {
        self.spool.stop();
        let thread = self.mover.lock().take();
        if thread.is_some_and(|it| it.join().is_err()) {
            tracing::error!(
                "the thread that moves records ended by a panic; its records wait in the spool"
            );
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[cfg(test)]
mod tests;
