//! openraft's state machine over ours.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use althing_storage::snapshot::Store;
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::snapshot::{Builder, SnapshotFile};
use super::types::{Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::node::Failure;
use crate::state_machine::{Applied, At, StateMachine};

/// Entries that are applied before readers see them and proposers are answered.
const CHUNK_MAX: usize = 256;

/// A request id, and what its proposer is told.
type Answer<S> = (u128, Applied<<S as StateMachine>::Reply>);
type Waiter<R> = oneshot::Sender<Applied<R>>;

/// The state machine and everything that looks at it. Outlives openraft's tasks, so that they can be started anew.
pub(crate) struct Shared<S: StateMachine> {
    pub(super) inner: Mutex<Inner<S>>,
    pub(super) store: Store,
    /// The snapshot that others would get.
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
    /// The index of the snapshot before it: the log is needed from there on.
    purgeable: watch::Sender<u64>,
    /// Proposers of this node by request id.
    waiters: Mutex<HashMap<u128, Waiter<S::Reply>>>,
    applied: watch::Sender<u64>,
    failure: watch::Sender<Option<Failure>>,
}

pub(super) struct Inner<S> {
    pub(super) machine: S,
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) time_ms: u64,
}

impl<S: StateMachine> Shared<S> {
    pub(crate) fn new(
        machine: S,
        store: Store,
        current: Option<(SnapshotMeta, SnapshotFile)>,
    ) -> Arc<Self> {
        let inner =
            Inner { machine, last: None, membership: StoredMembership::default(), time_ms: 0 };
        Arc::new(Self {
            inner: Mutex::new(inner),
            store,
            current: Mutex::new(current),
            purgeable: watch::Sender::new(0),
            waiters: Mutex::default(),
            applied: watch::Sender::new(0),
            failure: watch::Sender::new(None),
        })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The index up to which readers see the state.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The index up to which the log is not needed any more.
    pub(crate) fn purgeable(&self) -> watch::Receiver<u64> {
        self.purgeable.subscribe()
    }

    /// Notes that a snapshot was stored.
    pub(super) fn stored(&self, meta: SnapshotMeta, file: SnapshotFile) {
        let index = file.snapshot.meta.index;
        let before =
            self.current.lock().replace((meta, file)).map(|(_, before)| before.snapshot.meta.index);
        if let Some(before) = before.filter(|before| *before < index) {
            self.purgeable.send_replace(before);
        }
    }

    pub(crate) fn failure(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }

    pub(crate) fn failed(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    /// Notes why this node cannot go on. The first reason stays.
    pub(crate) fn fail(&self, failure: Failure) {
        self.failure.send_if_modified(|current| {
            let is_first = current.is_none();
            current.get_or_insert(failure);
            is_first
        });
    }

    /// The largest time that was applied.
    pub(crate) fn time_ms(&self) -> u64 {
        self.inner.lock().time_ms
    }

    /// Registers a proposer. It is told before openraft answers.
    pub(crate) fn wait_for(self: &Arc<Self>, request_id: u128) -> Registered<S> {
        let (tx, rx) = oneshot::channel();
        self.waiters.lock().insert(request_id, tx);
        Registered { shared: self.clone(), request_id, rx }
    }

    fn published(&self, inner: &mut Inner<S>) {
        if let Some(last) = inner.last {
            inner.machine.publish(last.index());
            self.applied.send_replace(last.index());
        }
    }

    /// Applies entries and answers their proposers. What comes before one that cannot be applied stays applied.
    fn apply_chunk(&self, chunk: Vec<EntryResponder<Types>>) -> Result<(), io::Error> {
        let mut replies: Vec<Answer<S>> = Vec::with_capacity(chunk.len());
        let mut responders: Vec<ApplyResponder<Types>> = Vec::with_capacity(chunk.len());
        let mut result = Ok(());
        {
            let mut inner = self.inner.lock();
            for (entry, responder) in chunk {
                match inner.apply_one(&entry) {
                    Ok(reply) => {
                        replies.extend(reply);
                        responders.extend(responder);
                    }
                    Err(reason) => {
                        let index = entry.log_id.index();
                        tracing::error!(index, reason = %reason, "an entry cannot be applied: this node stops, since going on would make its state differ");
                        self.fail(Failure::Apply { index, reason: reason.clone().into() });
                        result = Err(io::Error::other(format!(
                            "entry {index} cannot be applied: {reason}"
                        )));
                        break;
                    }
                }
            }
            self.published(&mut inner);
        }
        {
            let mut waiters = self.waiters.lock();
            for (request_id, reply) in replies {
                if let Some(waiter) = waiters.remove(&request_id) {
                    // The proposer may have given up.
                    let _ = waiter.send(reply);
                }
            }
        }
        for responder in responders {
            responder.send(());
        }
        result
    }

    /// Replaces the state by that of a snapshot in our own store.
    pub(super) fn restore(
        &self,
        meta: &SnapshotMeta,
        file: &SnapshotFile,
    ) -> Result<(), io::Error> {
        let mut records = file.snapshot.records().map_err(io::Error::other)?;
        let time_ms = file.time_ms().map_err(io::Error::other)?;
        let mut inner = self.inner.lock();
        let restored = catch_unwind(AssertUnwindSafe(|| inner.machine.restore(&mut records)));
        let failed = match restored {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic_text(&*panic)),
        };
        if let Some(reason) = failed {
            tracing::error!(path = %file.snapshot.path.display(), reason = %reason, "a snapshot cannot be restored: this node stops");
            self.fail(Failure::Restore(reason.clone().into()));
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        inner.last = meta.last_log_id;
        inner.membership = meta.last_membership.clone();
        inner.time_ms = time_ms;
        self.published(&mut inner);
        Ok(())
    }
}

impl<S: StateMachine> Inner<S> {
    fn apply_one(&mut self, entry: &Entry) -> Result<Option<Answer<S>>, String> {
        let index = entry.log_id.index();
        let reply = match &entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(command) => {
                self.time_ms = self.time_ms.max(command.time_ms);
                let at = At { index, time_ms: self.time_ms, request_id: command.request_id };
                let applied =
                    catch_unwind(AssertUnwindSafe(|| self.machine.apply(at, &command.body)));
                match applied {
                    Ok(Ok(reply)) => Some((command.request_id, Applied { index, reply })),
                    Ok(Err(unknown)) => return Err(unknown.to_string()),
                    Err(panic) => return Err(panic_text(&*panic)),
                }
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                None
            }
        };
        self.last = Some(entry.log_id);
        Ok(reply)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a message"))
}

/// A proposer that waits for its reply. Dropping it forgets it.
pub(crate) struct Registered<S: StateMachine> {
    shared: Arc<Shared<S>>,
    request_id: u128,
    rx: oneshot::Receiver<Applied<S::Reply>>,
}

impl<S: StateMachine> Registered<S> {
    /// The reply, once openraft said that the entry is applied.
    pub(crate) fn take(mut self) -> Option<Applied<S::Reply>> {
        self.rx.try_recv().ok()
    }
}

impl<S: StateMachine> Drop for Registered<S> {
    fn drop(&mut self) {
        self.shared.waiters.lock().remove(&self.request_id);
    }
}

/// The state machine as openraft sees it.
pub(crate) struct Machine<S: StateMachine> {
    shared: Arc<Shared<S>>,
    /// Tells those that work for this openraft that it has ended.
    lives: Arc<()>,
}

impl<S: StateMachine> Machine<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>) -> Self {
        Self { shared, lives: Arc::default() }
    }
}

impl<S: StateMachine> RaftStateMachine<Types> for Machine<S> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let inner = self.shared.inner.lock();
        Ok((inner.last, inner.membership.clone()))
    }

    async fn apply<E>(&mut self, mut entries: E) -> Result<(), io::Error>
    where
        E: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let mut chunk = Vec::new();
            while chunk.len() < CHUNK_MAX
                && let Some(entry) = entries.next().await
            {
                chunk.push(entry?);
            }
            if chunk.is_empty() {
                return Ok(());
            }
            self.shared.apply_chunk(chunk)?;
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder<S> {
        Builder::new(self.shared.clone(), Arc::downgrade(&self.lives))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        let shared = self.shared.clone();
        let meta = meta.clone();
        // Reading and decoding a large state takes a while.
        let installed = tokio::task::spawn_blocking(move || {
            let ours = SnapshotFile::new(
                shared.store.import(&file.snapshot.path).map_err(io::Error::other)?,
            );
            shared.restore(&meta, &ours)?;
            shared.stored(meta, ours);
            Ok(())
        });
        installed.await.map_err(io::Error::other)?
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let current = self.shared.current.lock().clone();
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
