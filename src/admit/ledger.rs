//! The port to the money ledger in the law, and the words of its protocol.

use async_trait::async_trait;

pub use althing_domain::budget::{Ask, BudgetId, Grant, Level, Owner};

pub mod law;
pub mod memory;

/// One node's report of its leases, and what it would like of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which life of the node holds the leases.
    pub incarnation: u64,
    /// One entry a budget and window.
    pub asks: Vec<Ask>,
}

/// The exact figure of one lease that will not be touched again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Which life of the node held it.
    pub incarnation: u64,
    /// The budget.
    pub budget: BudgetId,
    /// The window.
    pub epoch: u64,
    /// What was spent from it, all in all.
    pub used: althing_domain::money::NanoUsd,
}

/// What the ledger answers to a [`Batch`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// One for each budget that exists, of the window that is current now.
    pub grants: Vec<Grant>,
    /// Budgets that do not exist (any more): nothing may be spent from them.
    pub unknown: Vec<BudgetId>,
    /// That a later life of this node has asked since: nothing was done.
    pub stale: bool,
}

/// Why the ledger did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// This node cannot reach a quorum.
    #[error("no quorum")]
    NoQuorum,
    /// The disk of this node does not take it.
    #[error("the disk refuses to store it")]
    Unwritable,
    /// The proposal failed otherwise; the text is for the log.
    #[error("the ledger did not answer: {0}")]
    Failed(String),
}

/// The money ledger. Production has the replicated law behind it.
///
/// Calls may be lost, repeated or answered late: every figure is cumulative, so the
/// same batch applied twice changes nothing the second time.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Reports and asks.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]: whether it was applied is not known then.
    async fn batch(&self, batch: Batch) -> Result<Answer, LedgerError>;

    /// Closes leases for their exact figures.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]: whether it was applied is not known then.
    async fn finish(&self, finished: Vec<Finished>) -> Result<(), LedgerError>;
}
