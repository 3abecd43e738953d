//! The log in memory: for tests in virtual time, where a disk's thread would be a second clock.

use bytes::Bytes;
use parking_lot::Mutex;

use crate::log::{Bounds, Done, Error, Log, Meta, Tail};

/// A log that is gone when the process is. Everything is "durable" at once.
#[derive(Debug, Default)]
pub struct MemoryLog {
    tail: Mutex<Tail>,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn change(
        &self,
        done: Done,
        change: impl FnOnce(&mut Tail) -> Result<(), Error>,
    ) -> Result<(), Error> {
        change(&mut self.tail.lock())?;
        done(Ok(()));
        Ok(())
    }
}

impl Log for MemoryLog {
    fn append(&self, first: u64, entries: &[Bytes], done: Done) -> Result<(), Error> {
        self.change(done, |tail| tail.append(first, entries))
    }

    fn truncate_after(&self, index: Option<u64>, done: Done) -> Result<(), Error> {
        self.change(done, |tail| {
            tail.truncate_after(index);
            Ok(())
        })
    }

    fn purge(&self, index: u64, marker: Bytes, done: Done) -> Result<(), Error> {
        self.change(done, |tail| {
            tail.purge(index, marker);
            Ok(())
        })
    }

    fn set_meta(&self, meta: Meta, value: Bytes, done: Done) -> Result<(), Error> {
        self.change(done, |tail| {
            tail.set_meta(meta, value);
            Ok(())
        })
    }

    fn meta(&self, meta: Meta) -> Option<Bytes> {
        self.tail.lock().meta(meta)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Bytes>, Error> {
        let tail = self.tail.lock();
        if from >= to || tail.last().is_none_or(|last| from > last) {
            return Ok(Vec::new());
        }
        if tail.bounds().first.is_none_or(|first| from < first) {
            return Err(Error::Missing(from));
        }
        Ok(tail.read(from, to, bytes_max))
    }

    fn bounds(&self) -> Bounds {
        self.tail.lock().bounds()
    }

    fn failed(&self) -> Option<Error> {
        None
    }

    fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::MemoryLog;
    use crate::log::contract;

    #[test]
    fn the_contract_holds() {
        contract::check(&mut |_| Box::new(MemoryLog::new()), contract::Engine::Forgets);
    }
}
