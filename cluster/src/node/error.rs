//! How things go wrong.

use std::sync::Arc;

use althing_storage::{codec, dir, log, snapshot};

use super::COMMAND_BYTES_MAX;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error(transparent)]
    Dir(#[from] dir::Error),
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// A snapshot is there, but the log that goes with it is not.
    #[error(
        "the raft log is empty although there is a snapshot up to entry {index}; restore a backup of the data directory or start with an empty one"
    )]
    LogLost { index: u64 },
    /// The log begins after the newest snapshot ends, or there is none.
    #[error(
        "a snapshot is missing: the raft log begins after entry {purged}, and {}; restore a backup of the data directory or start with an empty one",
        covered.map_or_else(|| "no snapshot is there".to_owned(), |it| format!("the newest snapshot ends with entry {it}"))
    )]
    SnapshotLost {
        /// The last entry that is not in the log any more.
        purged: u64,
        /// Where the newest snapshot ends.
        covered: Option<u64>,
    },
    /// What a snapshot says of the cluster cannot be read.
    #[error(
        "the snapshot {file} is corrupt: {source}; restore a backup of the data directory or start with an empty one"
    )]
    SnapshotMeta { file: String, source: codec::Error },
    /// The settings contradict each other.
    #[error("the cluster's timers do not fit together: {0}")]
    Settings(String),
    /// Log and snapshots contradict each other, or an entry cannot be applied.
    #[error("the state cannot be recovered: {0}")]
    Recover(String),
    /// The group of nodes in the log does not hold this node.
    #[error(
        "node {id} is not a member of the cluster whose log it holds; restore the data directory of a member, or start with an empty one"
    )]
    NotMember { id: u64 },
    /// The node is alone and yet did not become its own leader.
    #[error("the node did not become ready: {0}")]
    NotReady(String),
}

/// Why a node takes no more commands, for good or until its disk takes writes again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// An entry cannot be applied; going on would make this node's state another than that of the others. For good.
    Apply { index: u64, reason: Arc<str> },
    /// A snapshot cannot be restored. For good.
    Restore(Arc<str>),
    /// The consensus library stopped of itself. For good.
    Stopped(Arc<str>),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Apply { index, reason } => write!(f, "entry {index} cannot be applied: {reason}"),
            Self::Restore(reason) => write!(f, "a snapshot cannot be restored: {reason}"),
            Self::Stopped(reason) => write!(f, "the node has stopped: {reason}"),
        }
    }
}

/// Why a command was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// More proposals are under way than this node holds. Nothing happened; try again later.
    #[error("too many policy changes are under way")]
    Overloaded,
    /// The command is longer than [`COMMAND_BYTES_MAX`]. Nothing happened.
    #[error("a command of {0} bytes is larger than the limit of {COMMAND_BYTES_MAX}")]
    TooLarge(usize),
    /// There is no leader that this node can reach. Nothing happened; try again later.
    #[error("the cluster has no leader at the moment")]
    NoLeader,
    /// It took too long. Whether it takes effect is unknown.
    #[error("the cluster did not answer in time; whether the change takes effect is unknown")]
    Timeout,
    /// It went into the log of a leader that lost its place. Whether it takes effect is unknown.
    #[error("the leader changed in the middle; whether the change takes effect is unknown")]
    LeaderChanged,
    /// The disk does not take it. It takes effect only if the disk had it already when it failed.
    #[error("the change cannot be stored: {0}")]
    Storage(log::Error),
    /// The node has failed or is shutting down.
    #[error("{0}")]
    Stopped(Arc<str>),
}

impl ProposeError {
    /// Whether it is certain that the command took no effect and never will.
    #[must_use]
    pub fn is_without_effect(&self) -> bool {
        matches!(self, Self::Overloaded | Self::TooLarge(_) | Self::NoLeader)
    }
}

/// Why a consistent read cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error("the cluster has no leader at the moment")]
    NoLeader,
    #[error("the cluster did not answer in time")]
    Timeout,
    #[error("{0}")]
    Stopped(Arc<str>),
}

/// Why a request of another node was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// It cannot be read, or its answer not be written.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// The snapshot that came with it is damaged or cannot be stored.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// A snapshot request without a snapshot.
    #[error("the request brings no snapshot")]
    NoFile,
    /// This node has stopped, or its disk refuses.
    #[error("{0}")]
    Stopped(Arc<str>),
}
