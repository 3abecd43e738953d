//! Building snapshots.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use althing_storage::{codec, migrate, snapshot};
use openraft::storage::RaftSnapshotBuilder;

use super::apply::Shared;
use super::dto;
use super::types::{Snapshot, SnapshotMeta, Types};
use crate::state_machine::StateMachine;

/// How long after a snapshot could not be stored it is tried again; twice as long after each try.
const RETRY_AFTER: Duration = Duration::from_millis(250);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

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
    /// Gone when the openraft that asked for the snapshot has ended.
    asker: Weak<()>,
}

impl<S: StateMachine> Builder<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, asker: Weak<()>) -> Self {
        Self { shared, asker }
    }
}

impl<S: StateMachine> RaftSnapshotBuilder<Types> for Builder<S> {
    type SnapshotData = SnapshotFile;

    /// openraft takes an error of this for the end of the node. A disk without room for a snapshot is none: the log still holds
    /// everything, and grows until there is room.
    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let mut pause = RETRY_AFTER;
        loop {
            let shared = self.shared.clone();
            let built = tokio::task::spawn_blocking(move || build(&shared));
            let error = match built.await.map_err(io::Error::other)? {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => error,
            };
            tracing::error!(error = %describe(&error), "a snapshot cannot be stored: the log is kept until it can; it is tried again");
            tokio::time::sleep(pause).await;
            if self.asker.strong_count() == 0 {
                return Err(error);
            }
            pause = pause.saturating_mul(2).min(RETRY_AFTER_MAX);
        }
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

/// With its cause.
fn describe(error: &io::Error) -> String {
    let source = error.get_ref().and_then(|it| it.source());
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
