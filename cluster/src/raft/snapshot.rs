//! Building snapshots.

use std::io;
use std::sync::Arc;

use althing_storage::{codec, migrate, snapshot};
use openraft::storage::RaftSnapshotBuilder;

use super::apply::Shared;
use super::dto;
use super::types::{Snapshot, SnapshotMeta, Types};
use crate::state_machine::StateMachine;

/// What openraft hands around as the content of a snapshot: the file it is in.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) snapshot: snapshot::Snapshot,
}

impl SnapshotFile {
    pub(crate) fn new(snapshot: snapshot::Snapshot) -> Self {
        Self { snapshot }
    }

    pub(crate) fn time_ms(&self) -> Result<u64, codec::Error> {
        Ok(migrate::read::<dto::SnapshotMeta>(&self.snapshot.meta.opaque)?.time_ms)
    }

    /// With what openraft wants to know of it.
    pub(crate) fn with_meta(self) -> Result<(SnapshotMeta, Self), codec::Error> {
        let meta = migrate::read::<dto::SnapshotMeta>(&self.snapshot.meta.opaque)?.into_raft()?;
        Ok((meta, self))
    }
}

pub(crate) struct Builder<S: StateMachine> {
    shared: Arc<Shared<S>>,
}

impl<S: StateMachine> Builder<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self { shared }
    }
}

impl<S: StateMachine> RaftSnapshotBuilder<Types> for Builder<S> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let shared = self.shared.clone();
        let built = tokio::task::spawn_blocking(move || build(&shared));
        built.await.map_err(io::Error::other)?
    }
}

fn build<S: StateMachine>(shared: &Shared<S>) -> Result<Snapshot, io::Error> {
    let (meta, time_ms, frozen) = {
        let inner = shared.inner.lock();
        let meta =
            SnapshotMeta { last_log_id: inner.last, last_membership: inner.membership.clone() };
        (meta, inner.time_ms, inner.machine.freeze())
    };
    let opaque =
        migrate::write(&dto::SnapshotMeta::new(&meta, time_ms)).map_err(io::Error::other)?;
    let index = meta.last_log_id.map_or(0, |last| last.index());
    let written = shared
        .store
        .write(snapshot::Meta { index, opaque }, frozen.records())
        .map_err(io::Error::other)?;
    let file = SnapshotFile::new(written);
    shared.stored(meta.clone(), file.clone());
    Ok(Snapshot { meta, snapshot: file })
}
