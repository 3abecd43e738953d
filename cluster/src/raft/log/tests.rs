use std::sync::Arc;

use althing_storage::log::Log;
use althing_storage::memory::MemoryLog;
use althing_storage::raft_log::{Quota, RaftLog};
use althing_storage::snapshot::Store;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::LogStore;
use crate::raft::apply::{Machine, Shared};
use crate::raft::types::Types;
use crate::testing::Register;

struct Builder {
    on_disk: bool,
}

impl StoreBuilder<Types, LogStore, Machine<Register>, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine<Register>), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let log: Arc<dyn Log> = if self.on_disk {
            Arc::new(RaftLog::open(&dir.path().join("raft.redb"), Quota::unlimited()).unwrap())
        } else {
            Arc::new(MemoryLog::new())
        };
        let store = Store::open(dir.path()).unwrap();
        Ok((dir, LogStore::new(log), Machine::new(Shared::new(Register::default(), store, None))))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes_on_disk() {
    Suite::test_all(Builder { on_disk: true }).await.unwrap();
}

#[tokio::test]
async fn openrafts_own_suite_passes_in_memory() {
    Suite::test_all(Builder { on_disk: false }).await.unwrap();
}
