//! Where a record goes before its answer ends: append-only files, one write(2) a record.
//!
//! Each worker thread has a file of its own, so that no lock is shared on the path. What was appended survives
//! `kill -9` (the operating system has it); it is not synced, so a power loss may take the last seconds.
//! The total of what waits is bounded: at the bound, [`Spool::append`] says [`AppendError::Full`], and whoever
//! calls waits ([`Spool::wait_for_room`]) or refuses. [`Spool::reserve`] asks for room before the work is done.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::boot;
use crate::record::Record;

pub(crate) mod drain;
mod frame;
pub(crate) mod fs_port;
mod segment;
mod shard;

use drain::Drain;
use fs_port::Fs;
use segment::Segment;
use shard::{Common, Shard};

/// A file that is longer is ended and the next one begun.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Holds the id of the boot in which the marks were made.
const BOOT: &str = "boot";
/// The folder for damaged files.
const QUARANTINE: &str = "quarantine";
/// What [`Spool::reserve`] sets aside: more than a record without bodies has.
const RESERVED_BYTES: u64 = 1024;
/// As much waiting wakes the mover before its time: about 500 records without bodies.
const WAKE_BYTES: u64 = 128 * 1024;
/// How long a disk that refuses is left alone.
const DISK_RETRY: Duration = Duration::from_millis(50);
const SHARDS_MAX: usize = 64;

static NEXT_LANE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LANE: usize = NEXT_LANE.fetch_add(1, Ordering::Relaxed);
}

/// How a spool is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its folder; made if it is not there.
    pub dir: PathBuf,
    /// The most bytes that may wait to be moved. On disk, files that are not through with may add 4 MiB a shard.
    pub bound_bytes: u64,
    /// Files that are written side by side; 0: twice the cores.
    pub shards: usize,
}

/// Why a record was not kept. The caller still has it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// As much waits as may.
    #[error(
        "the record spool is full: {bound_bytes} bytes wait to be indexed; the node's log says why the index does not keep up"
    )]
    Full {
        /// The bound.
        bound_bytes: u64,
    },
    /// The disk refused; nothing of the record is left behind.
    #[error("a record cannot be written to the spool; free space on the data directory's disk")]
    Disk(#[source] io::Error),
}

/// Counts since the start, and what is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records appended.
    pub appended: u64,
    /// Appends that found it full.
    pub refused: u64,
    /// Appends that the disk refused.
    pub disk_errors: u64,
    /// Bytes that wait to be moved.
    pub backlog_bytes: u64,
    /// Unfinished frames at the end of files of an earlier life.
    pub torn_frames: u64,
    /// Damaged places that were skipped.
    pub damaged_frames: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    appended: AtomicU64,
    refused: AtomicU64,
    disk_errors: AtomicU64,
    torn_frames: AtomicU64,
    damaged_frames: AtomicU64,
}

pub(crate) struct Shared {
    common: Common,
    shards: Vec<Mutex<Shard>>,
    bound_bytes: u64,
    reserved: AtomicU64,
    counters: Counters,
    room: Notify,
    wake: (Mutex<Wake>, Condvar),
    progress: (Mutex<()>, Condvar),
}

#[derive(Debug, Default)]
struct Wake {
    flushers: usize,
    is_stopping: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("dir", &self.common.dir).finish_non_exhaustive()
    }
}

/// The appending side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spool(Arc<Shared>);

/// Room for one record, asked for before the work is done. Dropping it gives the room back.
#[derive(Debug)]
#[must_use = "dropping it gives the room back"]
pub struct Room(Spool);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.0.reserved.fetch_sub(RESERVED_BYTES, Ordering::AcqRel);
    }
}

impl Room {
    /// Appends without asking for room again. On an error the room is still held: try again.
    ///
    /// # Errors
    ///
    /// [`AppendError::Disk`].
    pub fn append(&self, record: &Record) -> Result<(), AppendError> {
        self.0.write(record)
    }
}

impl Spool {
    /// Opens the spool in `options.dir`, with what an earlier life left to be moved first.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or read.
    pub(crate) fn open(options: &Options, life: u64, fs: Box<dyn Fs>) -> io::Result<(Self, Drain)> {
        Self::open_in_boot(options, life, fs, &boot::id())
    }

    fn open_in_boot(
        options: &Options,
        life: u64,
        fs: Box<dyn Fs>,
        boot_id: &str,
    ) -> io::Result<(Self, Drain)> {
        fs::create_dir_all(&options.dir)?;
        distrust_marks_of_another_boot(&options.dir, boot_id)?;
        let left = left_overs(&options.dir)?;
        let backlog = left.iter().map(|it| it.backlog()).sum();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards =
            if options.shards == 0 { (cores * 2).max(4) } else { options.shards }.min(SHARDS_MAX);
        let shared = Arc::new(Shared {
            common: Common {
                dir: options.dir.clone(),
                fs,
                life,
                next_file: AtomicU64::new(0),
                segments: Mutex::new(left),
                backlog: AtomicU64::new(backlog),
            },
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            bound_bytes: options.bound_bytes,
            reserved: AtomicU64::new(0),
            counters: Counters::default(),
            room: Notify::new(),
            wake: (Mutex::default(), Condvar::new()),
            progress: (Mutex::default(), Condvar::new()),
        });
        Ok((Self(Arc::clone(&shared)), Drain::new(shared)))
    }

    /// Keeps `record`: when this returns `Ok`, the operating system has it, and `kill -9` does not lose it.
    /// Costs one write(2); does not wait for a disk.
    ///
    /// # Errors
    ///
    /// [`AppendError::Full`] at the bound, [`AppendError::Disk`] where the disk refused.
    pub fn append(&self, record: &Record) -> Result<(), AppendError> {
        self.check_room()?;
        self.write(record)
    }

    /// Appends, waiting for room or for the disk, for at most `limit`. Cancel-safe: dropped before it is ready, it
    /// may or may not have appended, and the record may be appended again, since its id makes it one.
    ///
    /// # Errors
    ///
    /// The last [`AppendError`] where the time is over.
    pub async fn append_within(&self, record: &Record, limit: Duration) -> Result<(), AppendError> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            let error = match self.append(record) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let waited = match error {
                AppendError::Full { .. } => {
                    tokio::time::timeout_at(until, self.wait_for_room()).await.is_ok()
                }
                AppendError::Disk(_) => {
                    tokio::time::timeout_at(until, tokio::time::sleep(DISK_RETRY)).await.is_ok()
                }
            };
            if !waited {
                return Err(error);
            }
        }
    }

    /// Sets room for one record aside, so that a call that was admitted can be recorded.
    ///
    /// # Errors
    ///
    /// [`AppendError::Full`].
    pub fn reserve(&self) -> Result<Room, AppendError> {
        self.0.reserved.fetch_add(RESERVED_BYTES, Ordering::AcqRel);
        let room = Room(self.clone());
        self.check_room().map(|()| room)
    }

    /// Waits until there is room. Cancel-safe; the caller sets the time limit.
    pub async fn wait_for_room(&self) {
        loop {
            let notified = self.0.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.has_room() {
                return;
            }
            notified.await;
        }
    }

    /// Whether an append would find room now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let used =
            self.0.common.backlog.load(Ordering::Acquire) + self.0.reserved.load(Ordering::Acquire);
        used <= self.0.bound_bytes
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let of = |it: &AtomicU64| it.load(Ordering::Relaxed);
        let counters = &self.0.counters;
        Stats {
            appended: of(&counters.appended),
            refused: of(&counters.refused),
            disk_errors: of(&counters.disk_errors),
            backlog_bytes: self.0.common.backlog.load(Ordering::Acquire),
            torn_frames: of(&counters.torn_frames),
            damaged_frames: of(&counters.damaged_frames),
        }
    }

    fn check_room(&self) -> Result<(), AppendError> {
        if self.has_room() {
            return Ok(());
        }
        self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
        Err(AppendError::Full { bound_bytes: self.0.bound_bytes })
    }

    fn write(&self, record: &Record) -> Result<(), AppendError> {
        let lane = LANE.with(|it| *it) % self.0.shards.len().max(1);
        let Some(shard) = self.0.shards.get(lane) else {
            return Err(AppendError::Disk(io::Error::other("a spool without files")));
        };
        let appended = shard.lock().append(&self.0.common, record);
        match appended {
            Ok(backlog) => {
                self.0.counters.appended.fetch_add(1, Ordering::Relaxed);
                if backlog.start == 0 || backlog.contains(&WAKE_BYTES) {
                    self.wake();
                }
                Ok(())
            }
            Err(error) => {
                self.0.counters.disk_errors.fetch_add(1, Ordering::Relaxed);
                Err(AppendError::Disk(error))
            }
        }
    }

    fn wake(&self) {
        // Through the lock, so that a mover between its look and its sleep does not miss it.
        drop(self.0.wake.0.lock());
        self.0.wake.1.notify_one();
    }

    /// Waits until everything that was appended before is moved, for at most `limit`. Says whether it is.
    /// Blocks: not for a runtime's worker.
    #[must_use]
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let targets: Vec<(Arc<Segment>, u64)> = {
            let segments = self.0.common.segments.lock();
            segments
                .iter()
                .map(|it| (Arc::clone(it), it.committed.load(Ordering::Acquire)))
                .collect()
        };
        let is_moved =
            || targets.iter().all(|(segment, end)| *end <= segment.moved.load(Ordering::Acquire));
        if is_moved() {
            return true;
        }
        self.0.wake.0.lock().flushers += 1;
        self.0.wake.1.notify_one();
        let until = tokio::time::Instant::now() + limit;
        let mut guard = self.0.progress.0.lock();
        let mut done = is_moved();
        while !done && !self.0.progress.1.wait_until(&mut guard, until.into_std()).timed_out() {
            done = is_moved();
        }
        drop(guard);
        self.0.wake.0.lock().flushers -= 1;
        done || is_moved()
    }

    /// Asks the mover to move everything and end.
    pub(crate) fn stop(&self) {
        for shard in &self.0.shards {
            shard.lock().seal();
        }
        self.0.wake.0.lock().is_stopping = true;
        self.0.wake.1.notify_all();
    }

    /// The mover's sleep: until there is a record, then at most `linger` longer so that a batch gathers; or until
    /// somebody flushes or stops, or `idle` is over. Says whether to stop.
    pub(crate) fn wait_for_work(&self, linger: Duration, idle: Duration) -> bool {
        let mut wake = self.0.wake.0.lock();
        let backlog = || self.0.common.backlog.load(Ordering::Acquire);
        if backlog() == 0 && wake.flushers == 0 && !wake.is_stopping {
            self.0.wake.1.wait_for(&mut wake, idle);
        }
        if (1..WAKE_BYTES).contains(&backlog()) && wake.flushers == 0 && !wake.is_stopping {
            self.0.wake.1.wait_for(&mut wake, linger);
        }
        wake.is_stopping
    }

    /// The mover's pause after a failure; only stopping ends it early. Says whether to stop.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let mut wake = self.0.wake.0.lock();
        if !wake.is_stopping {
            self.0.wake.1.wait_for(&mut wake, time);
        }
        wake.is_stopping
    }
}

/// A mark says that records are in the database, which is not synced at once. After a power loss they may not be,
/// so everything that is still there is moved again, and what is found to be there already is left.
fn distrust_marks_of_another_boot(dir: &Path, boot_id: &str) -> io::Result<()> {
    let path = dir.join(BOOT);
    if !boot_id.is_empty() && fs::read_to_string(&path).is_ok_and(|it| it == boot_id) {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let file = entry?.path();
        if file.extension().is_some_and(|it| it == "mark") {
            fs::remove_file(file)?;
        }
    }
    fs::write(path, boot_id)
}

/// The files of an earlier life, oldest first. Those that cannot be spool files go into quarantine.
fn left_overs(dir: &Path) -> io::Result<Vec<Arc<Segment>>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir)?.filter_map(|it| it.ok().map(|it| it.path())).collect();
    files.sort();
    let mut found = Vec::new();
    for path in files {
        match path.extension().and_then(|it| it.to_str()) {
            Some("spool") => match Segment::left_over(&path)? {
                Some(segment) => found.push(Arc::new(segment)),
                // The process ended between making the file and writing its header: there is no record in it.
                None if fs::metadata(&path)?.len() < segment::HEADER_BYTES => {
                    fs::remove_file(&path)?;
                }
                None => {
                    tracing::error!(path = %path.display(), "a spool file has no readable header: its records are lost; it is kept in quarantine");
                    drain::quarantine(&path);
                }
            },
            Some("mark") if !path.with_extension("spool").exists() => fs::remove_file(&path)?,
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
