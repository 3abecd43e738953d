//! The handle to the law: commands go in, and the state that they make is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use althing_cluster::{
    Alone, Cluster, Failure, Parts, Peer, ProposeError, ReadError, Settings, Status, Store,
};
use althing_domain::command::{Command, Expect, Op, Reply};
use althing_domain::state::State;
use althing_domain::time::Clock;
use althing_storage::dir::{self, Dir, Identity};
use althing_storage::raft_log::Quota;
use althing_storage::{log, seal};
use tokio::sync::watch;

use super::replica::{Committed, Follow, Follower, Published, Replica};
use crate::error::{self, Code};

/// What to say in `Retry-After` where nobody knows how long it takes.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory. Made if it is not there.
    pub dir: PathBuf,
    /// What this node is called.
    pub name: String,
    /// Timers and sizes of the cluster.
    pub settings: Settings,
    /// How large the log file may become.
    pub quota: Quota,
}

impl Options {
    /// The defaults in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            name: "node".to_owned(),
            settings: Settings::default(),
            quota: Quota::unlimited(),
        }
    }
}

/// Why the law cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Dir(#[from] dir::Error),
    /// Log or snapshots cannot be used, or the node does not become ready.
    #[error(transparent)]
    Cluster(#[from] althing_cluster::StartError),
    /// The cluster's secret cannot be used.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// Secrets are stored, but the key to them is not.
    #[error(
        "the data directory {dir} has no cluster.secret, and secrets are stored that only it opens; restore it from a backup"
    )]
    SecretLost {
        /// The data directory.
        dir: String,
    },
    /// What is stored as the data key is none.
    #[error(
        "the cluster's data key in the law is not text; restore a backup of the data directory"
    )]
    DataKey,
    /// The first command was not taken.
    #[error("the cluster's data key cannot be stored")]
    Propose(#[source] Error),
    /// A task of the start-up died.
    #[error("opening the data directory failed: {0}")]
    Task(String),
}

/// Why a command was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] pub ProposeError);

impl From<Error> for error::Error {
    fn from(Error(error): Error) -> Self {
        let text = error.to_string();
        let code = match error {
            ProposeError::Overloaded => Code::Overloaded,
            ProposeError::TooLarge(_) => Code::BodyTooLarge,
            ProposeError::NoLeader | ProposeError::Timeout | ProposeError::LeaderChanged => {
                Code::NoQuorum
            }
            ProposeError::Storage(log::Error::Full { .. }) => Code::StorageFull,
            // The cause names files, which is for the log and not for callers.
            ProposeError::Storage(_) => {
                return Self::new(
                    Code::StorageFull,
                    "the disk refuses to store policy; the log of this node has the cause",
                )
                .with_retry_after(RETRY_AFTER);
            }
            _ => return Self::of(Code::Internal),
        };
        match code {
            Code::BodyTooLarge => Self::new(code, text),
            Code::StorageFull => Self::of(code).with_retry_after(RETRY_AFTER),
            _ => Self::new(code, text).with_retry_after(RETRY_AFTER),
        }
    }
}

/// The law on this node. Clones are the same node.
#[derive(Clone)]
pub struct Control {
    cluster: Cluster<Replica>,
    published: Published,
    follow: Follow,
    clock: Arc<dyn Clock>,
    data_key: Arc<seal::DataKey>,
    dir: Arc<Dir>,
}

impl Control {
    /// Opens the data directory and recovers the law. When this returns, commands are taken.
    ///
    /// # Errors
    ///
    /// [`StartError`], in sentences that say what to do.
    pub async fn start(options: Options, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let Options { dir, name, settings, quota } = options;
        let opened = tokio::task::spawn_blocking(move || open(&dir, quota)).await;
        let (dir, store) = opened.map_err(|error| StartError::Task(error.to_string()))??;
        let (machine, published, follow) = Replica::new();
        let parts = Parts {
            id: dir.identity().node_id,
            peer: Peer { name, address: String::new() },
            store,
            machine,
            transport: Arc::new(Alone),
            settings,
        };
        let cluster = Cluster::start(parts).await?;
        let data_key = data_key(&cluster, &published, dir.path(), clock.as_ref()).await;
        let data_key = match data_key {
            Ok(key) => Arc::new(key),
            Err(error) => {
                cluster.shutdown().await;
                return Err(error);
            }
        };
        Ok(Self { cluster, published, follow, clock, data_key, dir: Arc::new(dir) })
    }

    /// Proposes a command, and waits until it is durable and visible in [`Control::state`].
    ///
    /// # Errors
    ///
    /// [`Error`]: the cluster did not take it. What the law says no to is a [`Reply::Refused`], and no error.
    pub async fn propose(&self, command: &Command) -> Result<Committed, Error> {
        let applied = self.cluster.propose(command.encode(), self.clock.now().0).await?;
        Ok(applied.reply)
    }

    /// The law as it is now. Take it once a request.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.published.load_full()
    }

    /// Makes `follower` see the whole law now, and every change of it from now on, before its writer is answered.
    /// Replaces an earlier one.
    pub fn follow(&self, mut follower: Follower) {
        let mut follow = self.follow.lock();
        follower(&self.published.load_full(), None);
        *follow = Some(follower);
    }

    /// Tells of every change: the log index up to which [`Control::state`] has come. Elections and members count as well.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.cluster.watch()
    }

    /// Waits until everything that was acknowledged before, on any node, is visible here.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        self.cluster.read_index().await
    }

    /// Becomes `Some` when this node has failed for good: the process should end then.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<Failure>> {
        self.cluster.failure()
    }

    /// What the node says of itself: leader, log, and why it refuses writes, if it does.
    #[must_use]
    pub fn status(&self) -> Status {
        self.cluster.status()
    }

    /// Seals secrets before they are proposed, opens them for use, and hashes keys.
    #[must_use]
    pub fn data_key(&self) -> &seal::DataKey {
        &self.data_key
    }

    /// Which node this is, and in which of its lives.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.dir.identity()
    }

    /// The data directory, which is locked for this process while a clone of this lives.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a snapshot now, for a backup or before a planned stop.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn snapshot_now(&self) -> Result<(), ReadError> {
        self.cluster.snapshot_now().await
    }

    /// Puts an entry into the log that no build can apply.
    #[cfg(test)]
    pub(crate) async fn poison(&self) {
        let refused = self.cluster.propose(vec![255; 3], 0).await;
        assert!(refused.is_err(), "it was applied");
    }

    /// Stops taking commands and closes the log. The state can still be read.
    pub async fn shutdown(&self) {
        self.cluster.shutdown().await;
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("node", &self.identity().node_id).finish_non_exhaustive()
    }
}

fn open(path: &Path, quota: Quota) -> Result<(Dir, Store), StartError> {
    let mut dir = Dir::open(path)?;
    let store = Store::on_disk(&mut dir, quota)?;
    Ok((dir, store))
}

/// Finds the data key in the law, or makes one if there is none.
async fn data_key(
    cluster: &Cluster<Replica>,
    published: &Published,
    dir: &Path,
    clock: &dyn Clock,
) -> Result<seal::DataKey, StartError> {
    let wrapped = published.load_full().cluster_secrets().map(<[u8]>::to_vec);
    let kek = match (seal::Kek::load(dir)?, &wrapped) {
        (Some(kek), _) => kek,
        (None, None) => seal::Kek::create(dir)?,
        (None, Some(_)) => return Err(StartError::SecretLost { dir: dir.display().to_string() }),
    };
    if let Some(wrapped) = wrapped {
        return unwrap(&kek, &wrapped);
    }
    let (key, wrapped) = kek.create_data_key()?;
    let op = Op::SetClusterSecrets { sealed: wrapped.into_bytes(), expect: Expect::Absent };
    let command = Command { request_id: rand::random(), who: "althing".to_owned(), op };
    let proposed = cluster.propose(command.encode(), clock.now().0).await;
    match proposed.map_err(|error| StartError::Propose(error.into()))?.reply.reply {
        // Another node was quicker.
        Reply::Refused(_) => {
            let wrapped = published.load_full().cluster_secrets().map(<[u8]>::to_vec);
            unwrap(&kek, &wrapped.ok_or(StartError::DataKey)?)
        }
        Reply::Written(_) | Reply::Leases(_) | Reply::Closed { .. } | Reply::Done => Ok(key),
    }
}

fn unwrap(kek: &seal::Kek, wrapped: &[u8]) -> Result<seal::DataKey, StartError> {
    let text = std::str::from_utf8(wrapped).map_err(|_| StartError::DataKey)?;
    Ok(kek.unwrap_data_key(text)?)
}

#[cfg(test)]
mod tests;
