//! The raft log on disk: one redb file, one thread that writes.
//!
//! redb commits with one fsync and survives power loss at any point. All operations go through one queue in their order; whatever is queued when the
//! writer comes round becomes one transaction, and then every callback of it is called: this is the group commit. The entries
//! stay in memory as well (the newest [`HELD_BYTES_MAX`] of them), so that reading never waits for the disk.

mod backend;
mod writer;

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

pub use self::backend::Quota;
use self::writer::{Op, Shared};
use crate::codec::{self, Frame};
use crate::log::{Bounds, Done, Error, Log, Meta, Tail, cut};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Version of the frame around an entry and around a meta value.
const FRAME_VERSION: u16 = 1;
/// Older entries than these are read from the file.
const HELD_BYTES_MAX: usize = 2 << 20;
/// redb's own cache. The log is hardly ever read from disk, so it only has to hold the pages being written.
const CACHE_BYTES: usize = 1 << 20;
/// A file of at least this size is compacted at start if most of it is free.
const COMPACT_BYTES_MIN: u64 = 64 << 20;

/// A durable [`Log`].
#[derive(Debug)]
pub struct RaftLog {
    file: Arc<str>,
    shared: Arc<Shared>,
    db: Arc<Database>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl RaftLog {
    /// Opens the log in `file`, creating it if it is not there, and checks all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] if the file cannot be opened, and [`Error::Corrupt`] with what is wrong if its pages, an entry's checksum or the
    /// row of indexes are broken.
    pub fn open(file: &Path, quota: Quota) -> Result<Self, Error> {
        let name: Arc<str> = file.display().to_string().into();
        let opened = open_file(file)
            .and_then(|handle| backend::FileBackend::new(handle, quota))
            .map_err(|e| Error::Open { file: name.clone(), reason: e.to_string().into() })?;
        Self::open_backend(name, opened)
    }

    /// As [`RaftLog::open`], over any store of bytes. `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// As [`RaftLog::open`].
    pub fn open_backend(name: Arc<str>, backend: impl redb::StorageBackend) -> Result<Self, Error> {
        // redb may panic on a file that was altered behind its back. That is a finding about the file, not about us.
        let opened =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| load(&name, backend)));
        let (db, tail) = match opened {
            Ok(loaded) => loaded?,
            Err(_) => return Err(corrupt(&name, "its pages cannot be read")),
        };
        let db = Arc::new(db);
        let shared = Arc::new(Shared::new(name.clone(), tail));
        let (thread_shared, thread_db) = (shared.clone(), db.clone());
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || writer::run(&thread_shared, &thread_db))
            .map_err(|e| Error::Open { file: name.clone(), reason: e.to_string().into() })?;
        Ok(Self { file: name, shared, db, writer: Mutex::new(Some(thread)) })
    }

    /// Transactions that were flushed to the disk since the log was opened.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.shared.flushes()
    }

    fn read_disk(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Bytes>, Error> {
        let failed = |e: redb::Error| corrupt(&self.file, &e.to_string());
        let read = self.db.begin_read().map_err(|e| failed(e.into()))?;
        let table = read.open_table(ENTRIES).map_err(|e| failed(e.into()))?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (expected, row) in (from..).zip(table.range(from..to).map_err(|e| failed(e.into()))?) {
            let (index, value) = row.map_err(|e| failed(e.into()))?;
            if index.value() != expected {
                break;
            }
            let payload = unframe(&self.file, &format!("entry {expected}"), value.value())?;
            bytes += payload.len();
            entries.push(payload);
            if bytes >= bytes_max {
                break;
            }
        }
        if entries.is_empty() {
            Err(Error::Missing(from))
        } else {
            Ok(cut(entries.into_iter(), bytes_max))
        }
    }
}

impl Log for RaftLog {
    fn append(&self, first: u64, entries: &[Bytes], done: Done) -> Result<(), Error> {
        self.shared.push(Op::Append { first, entries: entries.to_vec() }, done)
    }

    fn truncate_after(&self, index: Option<u64>, done: Done) -> Result<(), Error> {
        self.shared.push(Op::TruncateAfter(index), done)
    }

    fn purge(&self, index: u64, marker: Bytes, done: Done) -> Result<(), Error> {
        self.shared.push(Op::Purge { index, marker }, done)
    }

    fn set_meta(&self, meta: Meta, value: Bytes, done: Done) -> Result<(), Error> {
        self.shared.push(Op::SetMeta { meta, value }, done)
    }

    fn meta(&self, meta: Meta) -> Option<Bytes> {
        self.shared.with_tail(|tail| tail.meta(meta))
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Bytes>, Error> {
        let in_memory = self.shared.with_tail(|tail| {
            let bounds = tail.bounds();
            let to = to.min(bounds.last.map_or(0, |last| last + 1));
            if from >= to {
                return Ok(Ok(Vec::new()));
            }
            if bounds.first.is_none_or(|first| from < first) {
                return Err(Error::Missing(from));
            }
            if from < tail.start() {
                Ok(Err(to.min(tail.start())))
            } else {
                Ok(Ok(tail.read(from, to, bytes_max)))
            }
        })?;
        match in_memory {
            Ok(entries) => Ok(entries),
            Err(to) => self.read_disk(from, to, bytes_max),
        }
    }

    fn bounds(&self) -> Bounds {
        self.shared.with_tail(|tail| tail.bounds())
    }

    fn failed(&self) -> Option<Error> {
        self.shared.failed()
    }

    fn close(&self) {
        self.shared.close();
        if let Some(thread) = self.writer.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(file = %self.file, "the thread that writes the raft log panicked");
        }
    }
}

impl Drop for RaftLog {
    fn drop(&mut self) {
        self.close();
    }
}

fn open_file(file: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file)
}

fn load(name: &Arc<str>, backend: impl redb::StorageBackend) -> Result<(Database, Tail), Error> {
    let bytes = backend.len().map_err(|e| refused(name, redb::Error::Io(e)))?;
    let mut db = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)
        .map_err(|e| refused(name, e.into()))?;
    create_tables(&db).map_err(|e| refused(name, e))?;
    let tail = load_tail(name, &db)?;
    if bytes > COMPACT_BYTES_MIN && bytes / 4 > tail.bounds().bytes {
        db.compact().map_err(|e| refused(name, e.into()))?;
    }
    Ok((db, tail))
}

fn create_tables(db: &Database) -> Result<(), redb::Error> {
    {
        let read = db.begin_read()?;
        if read.open_table(ENTRIES).is_ok() && read.open_table(META).is_ok() {
            return Ok(());
        }
    }
    let write = db.begin_write()?;
    write.open_table(ENTRIES)?;
    write.open_table(META)?;
    write.commit()?;
    Ok(())
}

fn load_tail(name: &Arc<str>, db: &Database) -> Result<Tail, Error> {
    let failed = |e: redb::Error| refused(name, e);
    let read = db.begin_read().map_err(|e| failed(e.into()))?;
    let mut tail = Tail::default();
    let table = read.open_table(META).map_err(|e| failed(e.into()))?;
    for meta in Meta::ALL {
        let Some(value) = table.get(meta.name()).map_err(|e| failed(e.into()))? else { continue };
        let value = unframe(name, meta.name(), value.value())?;
        if meta == Meta::Purged {
            let (index, marker) = writer::split_purged(&value)
                .ok_or_else(|| corrupt(name, "the purge mark is too short"))?;
            tail.set_purged(index);
            tail.set_meta(meta, marker);
        } else {
            tail.set_meta(meta, value);
        }
    }
    let table = read.open_table(ENTRIES).map_err(|e| failed(e.into()))?;
    for row in table.iter().map_err(|e| failed(e.into()))? {
        let (index, value) = row.map_err(|e| failed(e.into()))?;
        let index = index.value();
        let entry = unframe(name, &format!("entry {index}"), value.value())?;
        tail.append(index, &[entry]).map_err(|e| match e {
            Error::Gap { last, got } => corrupt(
                name,
                &format!("entry {got} follows entry {last}, those between are missing"),
            ),
            other => other,
        })?;
        tail.evict(HELD_BYTES_MAX);
    }
    Ok(tail)
}

fn unframe(name: &Arc<str>, what: &str, bytes: &[u8]) -> Result<Bytes, Error> {
    match Frame::read(bytes) {
        Ok(frame) if frame.version == FRAME_VERSION => Ok(Bytes::copy_from_slice(frame.payload)),
        Ok(frame) => {
            Err(corrupt(name, &format!("{what} has the unknown version {}", frame.version)))
        }
        Err(e) => Err(corrupt(name, &format!("{what}: {e}"))),
    }
}

fn enframe(payload: &[u8]) -> Result<Vec<u8>, redb::Error> {
    codec::frame(FRAME_VERSION, payload).map_err(|_| redb::Error::ValueTooLarge(payload.len()))
}

fn corrupt(name: &Arc<str>, what: &str) -> Error {
    Error::Corrupt { file: name.clone(), what: what.into() }
}

/// What an error of redb while opening means.
fn refused(name: &Arc<str>, error: redb::Error) -> Error {
    let reason: Arc<str> = error.to_string().into();
    let file = name.clone();
    match error {
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Error::Corrupt { file, what: reason }
        }
        redb::Error::Io(_) | redb::Error::DatabaseAlreadyOpen => Error::Open { file, reason },
        _ => Error::Corrupt { file, what: reason },
    }
}

#[cfg(test)]
mod tests;
