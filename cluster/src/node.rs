//! One node of the cluster.

mod answer;
mod error;
mod supervise;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_storage::log::{self, Bounds, Log, Meta};
use althing_storage::raft_log::{Quota, RaftLog};
use althing_storage::{dir, snapshot};
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::rt::WatchReceiver;
use openraft::{Raft, RaftMetrics, ReadPolicy};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::error::{AnswerError, Failure, ProposeError, ReadError, StartError};
use crate::raft::apply::{Machine, Shared};
use crate::raft::config::config;
use crate::raft::log::LogStore;
use crate::raft::network::Network;
use crate::raft::snapshot::SnapshotFile;
use crate::raft::types::{Command, Peer, Types};
use crate::state_machine::{Applied, StateMachine};
use crate::transport::PeerTransport;

type Metrics = RaftMetrics<Types>;

/// A command is at most this long.
pub const COMMAND_BYTES_MAX: usize = 4 << 20;
/// What proposals that are under way may weigh, in KiB; each weighs its length and [`PROPOSAL_KIB`], so there are 2,048 of them at most.
const INFLIGHT_KIB_MAX: usize = 64 << 10;
const PROPOSAL_KIB: usize = 32;
/// How long a node alone may take to be its own leader. It is a handful of flushes.
const READY_MAX: Duration = Duration::from_secs(10);

/// How long a snapshot may take that was asked for, and after which time it is asked for again.
const SNAPSHOT_MAX: Duration = Duration::from_secs(60);
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(250);

/// How the cluster behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    pub cluster_name: String,
    /// A snapshot is made after so many entries. The log keeps what came after the one before.
    pub snapshot_every: u64,
    /// A snapshot is made as well when the log holds so many bytes.
    pub log_bytes: u64,
    /// How long a proposal is waited for.
    pub propose_timeout: Duration,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// How long after the disk was full the log is opened again; twice as long after each try, up to 15 s.
    pub reopen_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_name: "althing".to_owned(),
            snapshot_every: 4_096,
            log_bytes: 64 << 20,
            propose_timeout: Duration::from_secs(5),
            heartbeat_ms: 100,
            election_min_ms: 400,
            election_max_ms: 800,
            reopen_after: Duration::from_secs(1),
        }
    }
}

type OpenLog = Box<dyn Fn() -> Result<Arc<dyn Log>, log::Error> + Send + Sync>;

/// Where log and snapshots are.
pub struct Store {
    open_log: OpenLog,
    snapshots: snapshot::Store,
}

impl Store {
    /// In a data directory.
    ///
    /// # Errors
    ///
    /// [`StartError::Dir`], [`StartError::Log`] and [`StartError::Snapshot`].
    pub fn on_disk(dir: &mut dir::Dir, quota: Quota) -> Result<Self, StartError> {
        let file = dir.raft_log();
        if !dir.has_log() {
            // Opened once to make it, so that its absence is a loss from now on.
            drop(RaftLog::open(&file, quota.clone())?);
            dir.log_created()?;
        }
        let snapshots = snapshot::Store::open(&dir.snapshots())?;
        Ok(Self::new(
            snapshots,
            Box::new(move || Ok(Arc::new(RaftLog::open(&file, quota.clone())?) as Arc<dyn Log>)),
        ))
    }

    /// A log of one's own making: in memory for tests. `snapshots` is a directory that exists.
    ///
    /// # Errors
    ///
    /// [`StartError::Snapshot`].
    pub fn with_log(log: Arc<dyn Log>, snapshots: &Path) -> Result<Self, StartError> {
        Ok(Self::new(snapshot::Store::open(snapshots)?, Box::new(move || Ok(log.clone()))))
    }

    fn new(snapshots: snapshot::Store, open_log: OpenLog) -> Self {
        Self { open_log, snapshots }
    }
}

/// What a node is made of.
pub struct Parts<S> {
    /// Never used by another node, nor by this one after its disk was wiped.
    pub id: u64,
    pub peer: Peer,
    pub store: Store,
    pub machine: S,
    pub transport: Arc<dyn PeerTransport>,
    pub settings: Settings,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub id: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub last_log: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub log: Bounds,
    /// Why writes are refused just now, if they are.
    pub refusal: Option<ProposeError>,
}

/// A node of a cluster, perhaps its only one. Clones are the same node.
pub struct Cluster<S: StateMachine> {
    node: Arc<Node<S>>,
}

impl<S: StateMachine> Clone for Cluster<S> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone() }
    }
}

struct Node<S: StateMachine> {
    id: u64,
    settings: Settings,
    shared: Arc<Shared<S>>,
    running: RwLock<Running<S>>,
    open_log: OpenLog,
    transport: Arc<dyn PeerTransport>,
    inflight: Semaphore,
    /// The largest time that was proposed.
    time_ms: AtomicU64,
    stop: watch::Sender<bool>,
    supervisor: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

/// What is replaced when the log had to be opened anew.
enum Running<S: StateMachine> {
    Up {
        raft: Raft<Types, Machine<S>>,
        log: Arc<dyn Log>,
    },
    /// The disk refused a write; if it is only full, the supervisor tries to open the log again.
    Down(ProposeError),
}

impl<S: StateMachine> Cluster<S> {
    /// Starts a node. On an empty store it founds a cluster of one. When this returns, a node that is alone has recovered its state
    /// and takes proposals.
    ///
    /// # Errors
    ///
    /// [`StartError`]: damage is named, and never repaired by forgetting.
    pub async fn start(parts: Parts<S>) -> Result<Self, StartError> {
        let founders = Some(BTreeMap::from([(parts.id, parts.peer.clone())]));
        Self::start_with(parts, founders).await
    }

    /// As [`Cluster::start`]. An empty store founds a cluster of `founders`, the same on each of them; without any it waits to be taken into one.
    pub(crate) async fn start_with(
        parts: Parts<S>,
        founders: Option<BTreeMap<u64, Peer>>,
    ) -> Result<Self, StartError> {
        let Parts { id, store, machine, transport, settings, .. } = parts;
        let log = (store.open_log)()?;
        let found = store.snapshots.latest(log.bounds().first)?;
        if let Some(found) = &found
            && log.bounds() == Bounds::default()
            && log.meta(Meta::Vote).is_none()
        {
            return Err(StartError::LogLost { index: found.meta.index });
        }
        let covered = found.as_ref().map(|found| found.meta.index);
        if let Some(purged) =
            log.bounds().purged.filter(|purged| covered.is_none_or(|it| it < *purged))
        {
            return Err(StartError::SnapshotLost { purged, covered });
        }
        let file =
            found.as_ref().map_or_else(String::new, |found| found.path.display().to_string());
        let current = found.map(|found| SnapshotFile::new(found).with_meta()).transpose();
        let current = current.map_err(|source| StartError::SnapshotMeta { file, source })?;
        let shared = Shared::new(machine, store.snapshots, current);
        let raft = build(id, &settings, &shared, log.clone(), transport.clone()).await?;
        let ready = make_ready(id, founders, &raft).await;
        if let Err(error) = ready {
            shutdown(&raft).await;
            return Err(error);
        }
        let time_ms = AtomicU64::new(shared.time_ms());
        let node = Arc::new(Node {
            id,
            settings,
            shared,
            running: RwLock::new(Running::Up { raft, log }),
            open_log: store.open_log,
            transport,
            inflight: Semaphore::new(INFLIGHT_KIB_MAX),
            time_ms,
            stop: watch::Sender::new(false),
            supervisor: parking_lot::Mutex::new(None),
        });
        let task = supervise::spawn(&node);
        *node.supervisor.lock() = Some(task);
        Ok(Self { node })
    }

    /// Proposes a command and waits until it is on the disks of a majority and applied here. `time_ms` is the wall time now.
    ///
    /// Dropping the future does not take the proposal back.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]; [`ProposeError::is_without_effect`] tells those after which it may simply be repeated.
    pub async fn propose(
        &self,
        command: Vec<u8>,
        time_ms: u64,
    ) -> Result<Applied<S::Reply>, ProposeError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge(command.len()));
        }
        let weight = PROPOSAL_KIB + command.len() / 1024;
        let weight = u32::try_from(weight).map_err(|_| ProposeError::TooLarge(command.len()))?;
        let _permit =
            self.node.inflight.try_acquire_many(weight).map_err(|_| ProposeError::Overloaded)?;
        let raft = self.node.raft()?;
        let request_id = rand::random();
        let time_ms = self.node.time_ms.fetch_max(time_ms, Ordering::Relaxed).max(time_ms);
        let waiter = self.node.shared.wait_for(request_id);
        let command = Command { request_id, time_ms, body: command.into() };
        let written =
            tokio::time::timeout(self.node.settings.propose_timeout, raft.client_write(command))
                .await;
        match written {
            Err(_) => Err(self.node.refusal().unwrap_or(ProposeError::Timeout)),
            Ok(Ok(_)) => {
                waiter.take().ok_or_else(|| ProposeError::Stopped("the reply was lost".into()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(self.node.died(&fatal.to_string())),
            Ok(Err(RaftError::APIError(error))) => Err(match error {
                ClientWriteError::ForwardToLeader(_) => ProposeError::NoLeader,
                ClientWriteError::LogEntryDiscarded(_) => ProposeError::LeaderChanged,
                ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_) => {
                    ProposeError::Stopped(error.to_string().into())
                }
            }),
        }
    }

    /// The index up to which the state is applied and visible here.
    #[must_use]
    pub fn applied(&self) -> u64 {
        *self.node.shared.applied().borrow()
    }

    /// Tells of every change of [`Cluster::applied`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.node.shared.applied()
    }

    /// Becomes `Some` when this node has failed for good; the process should end then.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<Failure>> {
        self.node.shared.failure()
    }

    /// Waits until everything that was acknowledged before this call, anywhere in the cluster, is visible here, and returns the index.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let raft = self.node.raft().map_err(|e| ReadError::Stopped(e.to_string().into()))?;
        let read = tokio::time::timeout(
            self.node.settings.propose_timeout,
            raft.ensure_linearizable(ReadPolicy::ReadIndex),
        )
        .await;
        match read {
            Err(_) => Err(ReadError::Timeout),
            Ok(Ok(_)) => Ok(self.applied()),
            Ok(Err(RaftError::APIError(_))) => Err(ReadError::NoLeader),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ReadError::Stopped(fatal.to_string().into())),
        }
    }

    /// Makes a snapshot of what is applied and waits for it.
    ///
    /// # Errors
    ///
    /// [`ReadError::Timeout`] after a minute, and [`ReadError::Stopped`].
    pub async fn snapshot_now(&self) -> Result<(), ReadError> {
        let raft = self.node.raft().map_err(|e| ReadError::Stopped(e.to_string().into()))?;
        let target = self.applied();
        let stopped = |e: &dyn std::fmt::Display| ReadError::Stopped(e.to_string().into());
        let is_done = |metrics: &Metrics| {
            metrics.snapshot.is_some_and(|last| last.index() >= target)
                || metrics.running_state.is_err()
        };
        let deadline = Instant::now() + SNAPSHOT_MAX;
        let metrics = loop {
            // Ignored while an earlier one is being made, so it is asked for again.
            raft.trigger().snapshot().await.map_err(|e| stopped(&e))?;
            let waited =
                raft.wait(Some(SNAPSHOT_PAUSE)).metrics(is_done, "a snapshot is made").await;
            match waited {
                Ok(metrics) => break metrics,
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return Err(ReadError::Timeout),
            }
        };
        metrics.running_state.map_err(|e| stopped(&e))
    }

    /// What this node says of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Stops this node. What was proposed and not answered may still take effect. Later calls refuse.
    pub async fn shutdown(&self) {
        self.node.stop.send_replace(true);
        let task = self.node.supervisor.lock().take();
        if let Some(task) = task {
            // It sees the stop, or fails, and there is nothing to be done about that here.
            let _ = task.await;
        }
        let down = Running::Down(ProposeError::Stopped("the node is shutting down".into()));
        let running = std::mem::replace(&mut *self.node.running.write(), down);
        if let Running::Up { raft, log } = running {
            shutdown(&raft).await;
            drop(raft);
            // Waits for the disk.
            let closed = tokio::task::spawn_blocking(move || log.close());
            let _ = closed.await;
        }
    }
}

impl<S: StateMachine> Node<S> {
    fn raft(&self) -> Result<Raft<Types, Machine<S>>, ProposeError> {
        if let Some(failure) = self.shared.failed() {
            return Err(ProposeError::Stopped(failure.to_string().into()));
        }
        match &*self.running.read() {
            Running::Up { raft, log } => match log.failed() {
                Some(error) => Err(ProposeError::Storage(error)),
                None => Ok(raft.clone()),
            },
            Running::Down(error) => Err(error.clone()),
        }
    }

    fn refusal(&self) -> Option<ProposeError> {
        self.raft().err()
    }

    /// Why openraft has stopped.
    fn died(&self, fatal: &str) -> ProposeError {
        self.refusal().unwrap_or_else(|| ProposeError::Stopped(fatal.into()))
    }

    fn status(&self) -> Status {
        let refusal = self.refusal();
        let (metrics, log) = match &*self.running.read() {
            Running::Up { raft, log } => {
                (Some(raft.metrics().borrow_watched().clone()), log.bounds())
            }
            Running::Down(_) => (None, Bounds::default()),
        };
        let index = |id: Option<crate::raft::types::LogId>| id.map(|id| id.index());
        let membership =
            metrics.as_ref().map(|m| m.membership_config.membership().clone()).unwrap_or_default();
        Status {
            id: self.id,
            leader: metrics.as_ref().and_then(|m| m.current_leader),
            term: metrics.as_ref().map_or(0, |m| m.current_term),
            last_log: metrics.as_ref().and_then(|m| m.last_log_index),
            committed: metrics.as_ref().and_then(|m| index(m.local_committed)),
            applied: Some(*self.shared.applied().borrow()),
            snapshot: metrics.as_ref().and_then(|m| index(m.snapshot)),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            log,
            refusal,
        }
    }
}

impl<S: StateMachine> Drop for Node<S> {
    fn drop(&mut self) {
        if let Some(task) = self.supervisor.lock().take() {
            task.abort();
        }
    }
}

async fn build<S: StateMachine>(
    id: u64,
    settings: &Settings,
    shared: &Arc<Shared<S>>,
    log: Arc<dyn Log>,
    transport: Arc<dyn PeerTransport>,
) -> Result<Raft<Types, Machine<S>>, StartError> {
    let config = config(settings).map_err(|e| StartError::Settings(e.to_string()))?;
    let raft = Raft::new(
        id,
        config,
        Network::new(transport),
        LogStore::new(log),
        Machine::new(shared.clone()),
    )
    .await;
    raft.map_err(|fatal| match shared.failed() {
        Some(failure) => StartError::Recover(failure.to_string()),
        None => StartError::Recover(fatal.to_string()),
    })
}

/// Founds the cluster if there is none, and makes a node that is the only voter its leader.
async fn make_ready<S: StateMachine>(
    id: u64,
    founders: Option<BTreeMap<u64, Peer>>,
    raft: &Raft<Types, Machine<S>>,
) -> Result<(), StartError> {
    let not_ready = |reason: &dyn std::fmt::Display| StartError::NotReady(reason.to_string());
    let is_founded = raft.is_initialized().await.map_err(|e| not_ready(&e))?;
    if is_founded {
        let membership = raft.metrics().borrow_watched().membership_config.membership().clone();
        if membership.get_node(&id).is_none() {
            return Err(StartError::NotMember { id });
        }
        if !membership.voter_ids().eq([id]) {
            return Ok(());
        }
        // Nobody else can be leader, so there is nothing to wait for.
        raft.trigger().elect(false).await.map_err(|e| not_ready(&e))?;
    } else {
        let Some(founders) = founders else { return Ok(()) };
        let is_alone = founders.keys().eq([&id]);
        let founded = raft.initialize(founders).await;
        match founded {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(not_ready(&error)),
        }
        if !is_alone {
            return Ok(());
        }
    }
    let wait = raft.wait(Some(READY_MAX));
    let is_leader =
        |metrics: &Metrics| metrics.current_leader == Some(id) || metrics.running_state.is_err();
    wait.metrics(is_leader, "this node leads itself").await.map_err(|e| not_ready(&e))?;
    let read =
        tokio::time::timeout(READY_MAX, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await;
    read.map_err(|e| not_ready(&e))?.map_err(|e| not_ready(&e))?;
    Ok(())
}

async fn shutdown<S: StateMachine>(raft: &Raft<Types, Machine<S>>) {
    if let Err(error) = raft.shutdown().await {
        tracing::error!(error = %error, "the consensus task did not end in order");
    }
}

#[cfg(test)]
mod tests;
