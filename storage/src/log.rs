//! The port of an ordered log of opaque entries, and the part that every engine keeps in memory.
//!
//! An engine promises: entries can be read as soon as [`Log::append`] returns; the callback comes when they are durable, in
//! the order in which the operations were given, also across kinds (a vote that was saved before an append is durable before it); and
//! an error is never swallowed: once a write failed, every later one fails too, while reads go on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

/// Called once when an operation is durable or has failed.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Why the log cannot do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened at all.
    #[error("cannot open the raft log {file}: {reason}")]
    Open { file: Arc<str>, reason: Arc<str> },
    /// What is in the file cannot be right.
    #[error(
        "the raft log {file} is corrupt: {what}; restore a backup of the data directory or start with an empty one"
    )]
    Corrupt { file: Arc<str>, what: Arc<str> },
    /// The disk refused a write. Nothing was acknowledged, and no later write is accepted until the log is opened anew.
    #[error("the disk refused a write to the raft log {file}: {reason}")]
    Write { file: Arc<str>, reason: Arc<str> },
    /// The disk is full, or the log has reached its quota. As [`Error::Write`].
    #[error("no space is left for the raft log {file}: {reason}")]
    Full { file: Arc<str>, reason: Arc<str> },
    /// More is queued than the engine holds; nothing was taken. Try again in a moment.
    #[error("the write queue of the raft log is full")]
    Busy,
    /// The entry does not follow the last one.
    #[error("entry {got} does not follow the last entry of the raft log, which is {last}")]
    Gap { last: u64, got: u64 },
    /// The entry was asked for but is not there: purged, or never written.
    #[error("entry {0} is not in the raft log")]
    Missing(u64),
    /// The log has been closed.
    #[error("the raft log is closed")]
    Closed,
}

/// Small values that are stored beside the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meta {
    /// The vote of this node.
    Vote,
    /// The last committed entry. Only a hint that makes restarts quicker: it is written together with what comes next, or when the log is
    /// closed, and its callback comes as late.
    Committed,
    /// Set by [`Log::purge`].
    Purged,
}

impl Meta {
    pub(crate) const ALL: [Self; 3] = [Self::Vote, Self::Committed, Self::Purged];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Committed => "committed",
            Self::Purged => "purged",
        }
    }
}

/// What the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// The first entry that can be read.
    pub first: Option<u64>,
    /// The last entry that can be read.
    pub last: Option<u64>,
    /// Everything up to here was purged.
    pub purged: Option<u64>,
    /// Bytes of all entries; may be too high for a while after old ones were removed.
    pub bytes: u64,
}

/// An ordered log of opaque entries.
pub trait Log: Send + Sync + 'static {
    /// Appends entries that follow the last one without a hole. They can be read when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Gap`], [`Error::Closed`] and the error of an earlier failed write. Then nothing was taken and `done` is
    /// not called, but dropped.
    fn append(&self, first: u64, entries: &[Bytes], done: Done) -> Result<(), Error>;

    /// Removes every entry after `index`; all of them for `None`.
    ///
    /// # Errors
    ///
    /// As [`Log::append`].
    fn truncate_after(&self, index: Option<u64>, done: Done) -> Result<(), Error>;

    /// Removes every entry up to and with `index` and stores `marker` as [`Meta::Purged`], both or neither. `index` may lie behind the
    /// last entry: the next one is then expected right after it.
    ///
    /// # Errors
    ///
    /// As [`Log::append`].
    fn purge(&self, index: u64, marker: Bytes, done: Done) -> Result<(), Error>;

    /// Stores a small value; [`Log::meta`] sees it at once.
    ///
    /// # Errors
    ///
    /// As [`Log::append`].
    fn set_meta(&self, meta: Meta, value: Bytes, done: Done) -> Result<(), Error>;

    /// The value stored last.
    fn meta(&self, meta: Meta) -> Option<Bytes>;

    /// Reads the entries `from..to` in order, fewer if they are more than `bytes_max` (but never none of several).
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if the first of them is not there; a range that ends behind the last entry is cut there.
    /// [`Error::Corrupt`] if what was written is not what is read.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Bytes>, Error>;

    /// What can be read.
    fn bounds(&self) -> Bounds;

    /// The error of the write that failed, after which the log takes no more.
    fn failed(&self) -> Option<Error>;

    /// Makes everything durable that was queued, and takes no more. May block for as long as the disk does.
    fn close(&self);
}

/// The entries that are kept in memory, and the metadata.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Index of the first entry of `entries`.
    start: u64,
    entries: VecDeque<Bytes>,
    /// Bytes of `entries`.
    held: usize,
    /// The first entry of the log; smaller than `start` if older ones are on disk only.
    first: Option<u64>,
    purged: Option<u64>,
    /// Bytes of entries that are on disk only; an upper bound after a purge or truncation among them.
    evicted: u64,
    meta: BTreeMap<Meta, Bytes>,
}

impl Tail {
    pub(crate) fn last(&self) -> Option<u64> {
        self.first.and_then(|_| (self.start + self.entries.len() as u64).checked_sub(1))
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            first: self.first,
            last: self.last(),
            purged: self.purged,
            bytes: self.evicted + self.held as u64,
        }
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn meta(&self, meta: Meta) -> Option<Bytes> {
        self.meta.get(&meta).cloned()
    }

    pub(crate) fn set_meta(&mut self, meta: Meta, value: Bytes) {
        self.meta.insert(meta, value);
    }

    pub(crate) fn set_purged(&mut self, purged: u64) {
        self.purged = Some(purged);
    }

    pub(crate) fn append(&mut self, first: u64, entries: &[Bytes]) -> Result<(), Error> {
        let before = self.last().or(self.purged);
        if let Some(last) = before.filter(|last| last.checked_add(1) != Some(first)) {
            return Err(Error::Gap { last, got: first });
        }
        if entries.is_empty() {
            return Ok(());
        }
        if self.first.is_none() {
            self.first = Some(first);
            self.start = first;
        }
        self.held += entries.iter().map(Bytes::len).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
        Ok(())
    }

    /// Removes what comes after `index`.
    pub(crate) fn truncate_after(&mut self, index: Option<u64>) {
        let next = index.map_or(0, |index| index.saturating_add(1));
        while self.last().is_some_and(|last| last >= next) {
            match self.entries.pop_back() {
                Some(entry) => self.held -= entry.len(),
                None => {
                    // The new end lies among the entries that are on disk only.
                    self.start = next;
                    break;
                }
            }
        }
        if self.first.is_some_and(|first| first >= next) || self.last().is_none() {
            self.clear();
        }
    }

    pub(crate) fn purge(&mut self, index: u64, marker: Bytes) {
        self.meta.insert(Meta::Purged, marker);
        self.purged = Some(self.purged.unwrap_or(0).max(index));
        if self.last().is_none_or(|last| last <= index) {
            self.clear();
            return;
        }
        while self.start <= index {
            let Some(entry) = self.entries.pop_front() else { break };
            self.held -= entry.len();
            self.start += 1;
        }
        self.first = self.first.map(|first| first.max(index.saturating_add(1)));
        if self.first == Some(self.start) {
            self.evicted = 0;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.held = 0;
        self.first = None;
        self.evicted = 0;
    }

    /// Forgets the oldest entries in memory, which must be durable, down to `bytes_max`. The last one stays, however large:
    /// every restart and every vote asks for it.
    pub(crate) fn evict(&mut self, bytes_max: usize) {
        while bytes_max < self.held
            && 1 < self.entries.len()
            && let Some(entry) = self.entries.pop_front()
        {
            self.held -= entry.len();
            self.evicted += entry.len() as u64;
            self.start += 1;
        }
    }

    /// The entries of `from..to` that are in memory. `from` must not lie before [`Tail::start`].
    pub(crate) fn read(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Bytes> {
        let skip = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let take = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        cut(self.entries.iter().skip(skip).take(take).cloned(), bytes_max)
    }
}

/// As many as fit, and at least one.
pub(crate) fn cut(entries: impl Iterator<Item = Bytes>, bytes_max: usize) -> Vec<Bytes> {
    let mut left = bytes_max;
    let mut out = Vec::new();
    for entry in entries {
        match left.checked_sub(entry.len()) {
            Some(rest) => left = rest,
            None if out.is_empty() => left = 0,
            None => break,
        }
        out.push(entry);
    }
    out
}

#[cfg(test)]
pub(crate) mod contract;
