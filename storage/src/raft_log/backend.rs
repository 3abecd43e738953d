//! The file under redb, with a quota.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{BackendError, StorageBackend};

/// How large the file may become. It can be changed while the log is open: lowering it below the size of the file refuses growth, and what is there stays.
#[derive(Debug, Clone)]
pub struct Quota(Arc<AtomicU64>);

impl Quota {
    /// As large as the disk allows.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::bytes(u64::MAX)
    }

    /// At most `bytes`.
    #[must_use]
    pub fn bytes(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Changes the quota.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn allows(&self, bytes: u64) -> bool {
        bytes <= self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct FileBackend {
    inner: redb::backends::FileBackend,
    quota: Quota,
}

impl FileBackend {
    pub(super) fn new(file: File, quota: Quota) -> io::Result<Self> {
        let inner = redb::backends::FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Self { inner, quota })
    }
}

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.quota.allows(len) || len <= self.inner.len()? {
            return self.inner.set_len(len);
        }
        Err(io::Error::new(io::ErrorKind::StorageFull, "the quota of the raft log is used up"))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    // By these redb locks the file, and so refuses to open it twice: two writers would destroy it.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
