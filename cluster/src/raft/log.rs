//! openraft's log storage over storage's log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use althing_storage::log::{Error, Log, Meta};
use althing_storage::{codec, migrate};
use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::dto;
use super::types::{Entry, LogId, Types, Vote};

/// Bytes of entries in one replication message at most (one larger entry goes alone).
const APPEND_BYTES_MAX: usize = 2 << 20;
/// How long a full write queue is waited for. It empties with every flush, so this is a disk that hangs.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
const BUSY_TRIES_MAX: u32 = 15_000;

/// The log as openraft sees it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<dyn Log>,
}

impl LogStore {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self { log }
    }

    fn log_id(&self, index: u64) -> Result<Option<LogId>, io::Error> {
        let entries = self.log.read(index, index.saturating_add(1), usize::MAX).map_err(failed)?;
        entries.first().map(|bytes| read_entry(bytes).map(|entry| entry.log_id)).transpose()
    }

    fn purged(&self) -> Result<Option<LogId>, io::Error> {
        self.log.meta(Meta::Purged).map(|bytes| read_dto::<dto::LogId, _>(&bytes)).transpose()
    }

    /// Reads `from..to`, cut at both ends to what is there.
    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        let from = from.max(self.log.bounds().first.unwrap_or(0));
        let entries = self.log.read(from, to, bytes_max).map_err(failed)?;
        entries.iter().map(read_entry).collect()
    }

    async fn wait(
        &self,
        op: impl Fn(&dyn Log, althing_storage::log::Done) -> Result<(), Error>,
    ) -> Result<(), io::Error> {
        for _ in 0..BUSY_TRIES_MAX {
            let (tx, rx) = oneshot::channel();
            let done = Box::new(move |result| {
                let _ = tx.send(result);
            });
            match op(&*self.log, done) {
                Ok(()) => return rx.await.map_err(|_| failed(Error::Closed))?.map_err(failed),
                Err(Error::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(Error::Busy))
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        // One read may end early where memory meets disk.
        let mut entries = self.entries(from, to, usize::MAX)?;
        while let Some(last) = entries.last().map(|entry| entry.log_id.index())
            && last.saturating_add(1) < to
        {
            let more = self.entries(last + 1, to, usize::MAX)?;
            if more.is_empty() {
                break;
            }
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.meta(Meta::Vote).map(|bytes| read_dto::<dto::Vote, _>(&bytes)).transpose()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.entries(start, end, APPEND_BYTES_MAX)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let purged = self.purged()?;
        let last = match self.log.bounds().last {
            Some(index) => self.log_id(index)?,
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = write_dto(&dto::Vote::from(*vote))?;
        self.wait(move |log, done| log.set_meta(Meta::Vote, bytes.clone(), done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        let bytes = write_dto(&dto::LogId::from(committed))?;
        match self.log.set_meta(Meta::Committed, bytes, Box::new(|_| ())) {
            // A hint that makes restarts quicker: not worth waiting for.
            Ok(()) | Err(Error::Busy) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed: Option<LogId> = self
            .log
            .meta(Meta::Committed)
            .map(|bytes| read_dto::<dto::LogId, _>(&bytes))
            .transpose()?;
        // It is not flushed with the entries, and so may name some that a power cut took.
        let last = self.log.bounds().last;
        Ok(committed.filter(|committed| last.is_some_and(|last| committed.index() <= last)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut first = None;
        let mut encoded = Vec::new();
        for entry in entries {
            first = Some(first.unwrap_or_else(|| entry.log_id.index()));
            encoded.push(dto::write_entry(&entry).map_err(io::Error::other)?);
        }
        let Some(first) = first else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        // The callback outlives a try that finds the queue full.
        let callback = Arc::new(Mutex::new(Some(callback)));
        for _ in 0..BUSY_TRIES_MAX {
            let slot = callback.clone();
            let done = Box::new(move |result: Result<(), Error>| {
                let callback = slot.lock().take();
                if let Some(callback) = callback {
                    callback.io_completed(result.map_err(failed));
                }
            });
            match self.log.append(first, &encoded, done) {
                Ok(()) => return Ok(()),
                Err(Error::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(Error::Busy))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let index = last.map(|last| last.index());
        self.wait(move |log, done| log.truncate_after(index, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let marker = write_dto(&dto::LogId::from(upto))?;
        self.wait(move |log, done| log.purge(upto.index(), marker.clone(), done)).await
    }
}

fn read_entry(bytes: &Bytes) -> Result<Entry, io::Error> {
    dto::read_entry(bytes).map_err(undecodable)
}

fn read_dto<T, U>(bytes: &[u8]) -> Result<U, io::Error>
where
    T: migrate::Versioned + serde::de::DeserializeOwned + Into<U>,
{
    migrate::read::<T>(bytes).map(Into::into).map_err(undecodable)
}

fn write_dto<T: migrate::Versioned + serde::Serialize>(value: &T) -> Result<Bytes, io::Error> {
    dto::write(value).map_err(io::Error::other)
}

fn undecodable(error: codec::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn failed(error: Error) -> io::Error {
    let kind = match &error {
        Error::Full { .. } => io::ErrorKind::StorageFull,
        Error::Corrupt { .. } => io::ErrorKind::InvalidData,
        Error::Missing(_) => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests;
