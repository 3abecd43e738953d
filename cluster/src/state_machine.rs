//! The port to what is agreed on.

use althing_storage::snapshot;

/// Where in the common order a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its index. Larger for every later command, with gaps where the cluster wrote entries of its own.
    pub index: u64,
    /// Wall time in milliseconds since 1970 as its proposer saw it; never less than that of an earlier command.
    pub time_ms: u64,
    /// Random, and the same when a proposal is repeated.
    pub request_id: u128,
}

/// What a proposer gets to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied<R> {
    /// The index of the command.
    pub index: u64,
    /// What the state machine answered.
    pub reply: R,
}

/// The command cannot be understood, so that nothing can be applied any more: skipping it would make this node's state another
/// than that of nodes that understand it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// The records of a snapshot cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The file is damaged.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// A record says something that this version does not know.
    #[error("the snapshot cannot be restored: {0}")]
    Unknown(String),
}

/// A deterministic state: the same commands in the same order make the same state on every node, to the last byte. So it asks no clock,
/// draws nothing at random and does no I/O.
pub trait StateMachine: Send + 'static {
    /// What a command answers. An answer that says "no" is a reply too.
    type Reply: Send + 'static;

    /// Applies one command. It is called once for each, in order, and must not block. A panic stops the node.
    ///
    /// # Errors
    ///
    /// [`Unknown`] if the command cannot be understood, which stops the node.
    fn apply(&mut self, at: At, command: &[u8]) -> Result<Self::Reply, Unknown>;

    /// Everything up to `index` is applied: make it visible to readers. Called after each batch, before any proposer of it is answered,
    /// and after a restore.
    fn publish(&mut self, index: u64);

    /// The state as it is now, for a snapshot. The call must be cheap (a clone of persistent maps).
    fn freeze(&self) -> Box<dyn Frozen>;

    /// Replaces the whole state by what `records` say.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; the node then stops, whatever the state is.
    fn restore(
        &mut self,
        records: &mut dyn Iterator<Item = Result<Vec<u8>, snapshot::Error>>,
    ) -> Result<(), RestoreError>;
}

/// A state that does not change any more.
pub trait Frozen: Send {
    /// All of it as records, for [`StateMachine::restore`]. Driven on a thread of its own.
    fn records(&self) -> Box<dyn Iterator<Item = Vec<u8>> + '_>;
}
