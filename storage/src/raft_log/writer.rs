//! The queue of the raft log and the thread that empties it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use redb::Database;

use super::{ENTRIES, HELD_BYTES_MAX, META, enframe};
use crate::log::{Done, Error, Meta, Tail};

/// Operations that wait at most. A proposal is one; openraft itself has a handful under way.
const QUEUE_OPS_MAX: usize = 8_192;
/// Hints that wait for company at most.
const HINTS_MAX: usize = 256;
/// Bytes of entries that wait at most. Two largest entries fit.
const QUEUE_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(super) enum Op {
    Append { first: u64, entries: Vec<Bytes> },
    TruncateAfter(Option<u64>),
    Purge { index: u64, marker: Bytes },
    SetMeta { meta: Meta, value: Bytes },
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(Bytes::len).sum(),
            Self::TruncateAfter(_) | Self::Purge { .. } | Self::SetMeta { .. } => 0,
        }
    }

    /// Whether nobody waits for it: it is written together with what comes next.
    fn is_hint(&self) -> bool {
        matches!(self, Self::SetMeta { meta: Meta::Committed, .. })
    }
}

impl State {
    fn has_work(&self) -> bool {
        self.urgent > 0 || self.queue.len() >= HINTS_MAX || (self.closed && !self.queue.is_empty())
    }
}

struct Queued {
    op: Op,
    done: Done,
}

#[derive(Default)]
struct State {
    tail: Tail,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Operations in the queue that are more than hints.
    urgent: usize,
    /// Truncations in the queue: while there are any, what is on disk may differ from what is in memory.
    truncations: usize,
    failed: Option<Error>,
    closed: bool,
    flushes: u64,
}

pub(super) struct Shared {
    file: Arc<str>,
    state: Mutex<State>,
    wake: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(file: Arc<str>, tail: Tail) -> Self {
        Self { file, state: Mutex::new(State { tail, ..State::default() }), wake: Condvar::new() }
    }

    pub(super) fn with_tail<T>(&self, read: impl FnOnce(&Tail) -> T) -> T {
        read(&self.state.lock().tail)
    }

    pub(super) fn failed(&self) -> Option<Error> {
        self.state.lock().failed.clone()
    }

    pub(super) fn flushes(&self) -> u64 {
        self.state.lock().flushes
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    pub(super) fn push(&self, op: Op, done: Done) -> Result<(), Error> {
        let mut state = self.state.lock();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        if state.closed {
            return Err(Error::Closed);
        }
        let bytes = op.bytes();
        let has_room = state.queue_bytes == 0 || state.queue_bytes + bytes <= QUEUE_BYTES_MAX;
        if state.queue.len() >= QUEUE_OPS_MAX || !has_room {
            return Err(Error::Busy);
        }
        match &op {
            Op::Append { first, entries } => state.tail.append(*first, entries)?,
            Op::TruncateAfter(index) => {
                state.tail.truncate_after(*index);
                state.truncations += 1;
            }
            Op::Purge { index, marker } => state.tail.purge(*index, marker.clone()),
            Op::SetMeta { meta, value } => state.tail.set_meta(*meta, value.clone()),
        }
        state.queue_bytes += bytes;
        state.urgent += usize::from(!op.is_hint());
        state.queue.push_back(Queued { op, done });
        let has_work = state.has_work();
        drop(state);
        if has_work {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits for work. `None` when the log is closed and everything is written.
    fn take(&self) -> Option<VecDeque<Queued>> {
        let mut state = self.state.lock();
        while !state.has_work() {
            if state.closed {
                return None;
            }
            self.wake.wait(&mut state);
        }
        state.queue_bytes = 0;
        state.urgent = 0;
        state.truncations = 0;
        Some(std::mem::take(&mut state.queue))
    }

    fn written(&self, result: &Result<(), Error>) {
        let mut state = self.state.lock();
        match result {
            Ok(()) => {
                state.flushes += 1;
                // What is still in the queue is the newest part; it stays in memory as long as it is smaller than the limit.
                if state.truncations == 0 {
                    let waiting = state.queue_bytes;
                    state.tail.evict(HELD_BYTES_MAX.max(waiting.saturating_mul(2)));
                }
            }
            Err(error) => state.failed = Some(error.clone()),
        }
    }
}

pub(super) fn run(shared: &Shared, db: &Database) {
    while let Some(batch) = shared.take() {
        let result = match shared.failed() {
            Some(error) => Err(error),
            None => write_or_panic(&shared.file, db, &batch),
        };
        if let Err(error) = &result {
            tracing::error!(file = %shared.file, error = %error, "the raft log cannot be written; policy writes are refused");
        }
        shared.written(&result);
        for queued in batch {
            (queued.done)(result.clone());
        }
    }
}

/// A panic of redb is a failed write as well: nobody may wait for a thread that is gone.
fn write_or_panic(file: &Arc<str>, db: &Database, batch: &VecDeque<Queued>) -> Result<(), Error> {
    let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(db, batch)));
    match written {
        Ok(result) => result.map_err(|e| refused(file, e)),
        Err(_) => {
            Err(Error::Write { file: file.clone(), reason: "the storage engine panicked".into() })
        }
    }
}

fn write(db: &Database, batch: &VecDeque<Queued>) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut meta = transaction.open_table(META)?;
        for queued in batch {
            match &queued.op {
                Op::Append { first, entries: new } => {
                    for (index, entry) in (*first..).zip(new) {
                        entries.insert(index, enframe(entry)?.as_slice())?;
                    }
                }
                Op::TruncateAfter(index) => {
                    let next = index.map_or(0, |index| index.saturating_add(1));
                    entries.retain_in(next.., |_, _| false)?;
                }
                Op::Purge { index, marker } => {
                    entries.retain_in(..=*index, |_, _| false)?;
                    meta.insert(
                        Meta::Purged.name(),
                        enframe(&join_purged(*index, marker))?.as_slice(),
                    )?;
                }
                Op::SetMeta { meta: key, value } => {
                    meta.insert(key.name(), enframe(value)?.as_slice())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn join_purged(index: u64, marker: &[u8]) -> Vec<u8> {
    let mut value = index.to_le_bytes().to_vec();
    value.extend_from_slice(marker);
    value
}

/// The index and the marker of a stored purge mark.
pub(super) fn split_purged(value: &Bytes) -> Option<(u64, Bytes)> {
    let (index, _) = value.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*index), value.slice(8..)))
}

fn refused(file: &Arc<str>, error: redb::Error) -> Error {
    let reason: Arc<str> = error.to_string().into();
    let file = file.clone();
    match error {
        redb::Error::Io(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ) =>
        {
            Error::Full { file, reason }
        }
        redb::Error::Corrupted(what) => Error::Corrupt { file, what: what.into() },
        _ => Error::Write { file, reason },
    }
}
