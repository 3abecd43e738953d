//! One node's slice of one budget in one window.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BudgetId;
use crate::money::NanoUsd;
use crate::time::UnixMillis;

/// A lease. `granted`, `returned` and `used` are cumulative: they only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// The node that holds it.
    pub node: u64,
    /// Which life of that node.
    pub incarnation: u64,
    /// What it was given, all in all.
    pub granted: NanoUsd,
    /// What it gave back, all in all.
    pub returned: NanoUsd,
    /// What it said it has spent, all in all. May pass what it was given in soft mode, or where an estimate was too low.
    pub used: NanoUsd,
    /// Whether it may still be spent from.
    pub state: LeaseState,
}

/// Whether a lease may still be spent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// It may.
    Open,
    /// The node was taken for dead: all that was outstanding counts as spent, until its exact figure comes.
    WrittenOff {
        /// What was charged for it beyond `used`.
        charged: NanoUsd,
        /// Which part of a rolling period was charged.
        slot: u64,
    },
    /// Its exact figure is known; the node will not touch it again.
    Final,
}

impl Lease {
    pub(crate) const fn new(node: u64, incarnation: u64) -> Self {
        let zero = NanoUsd::ZERO;
        Self {
            node,
            incarnation,
            granted: zero,
            returned: zero,
            used: zero,
            state: LeaseState::Open,
        }
    }

    /// What the node may still spend, as far as is known here. Zero for a closed lease.
    #[must_use]
    pub const fn outstanding(&self) -> NanoUsd {
        match self.state {
            LeaseState::Open => {
                self.granted.saturating_sub(self.returned).saturating_sub(self.used)
            }
            LeaseState::WrittenOff { .. } | LeaseState::Final => NanoUsd::ZERO,
        }
    }

    /// Whether it is open.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, LeaseState::Open)
    }

    pub(crate) const fn is(&self, node: u64, incarnation: u64) -> bool {
        self.node == node && self.incarnation == incarnation
    }
}

/// What a node reports of one lease and asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The budget.
    pub budget: BudgetId,
    /// The window that `used` and `returned` are of; 0 where the node holds no lease of it yet.
    pub epoch: u64,
    /// Spent from this lease, all in all.
    pub used: NanoUsd,
    /// Given back, all in all. A node takes it out of what it may spend *before* it says so.
    pub returned: NanoUsd,
    /// How much more it would like. Zero: it only reports.
    pub want: NanoUsd,
    /// How much more a request that waits needs; at most `want`. Granted whole where there is as much, past the usual slice.
    pub need: NanoUsd,
}

/// What a node is told of one budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The budget.
    pub budget: BudgetId,
    /// The window that everything here is of. Another than asked for: the old lease takes no more requests.
    pub epoch: u64,
    /// What this incarnation of the node was given in this window, all in all.
    pub granted: NanoUsd,
    /// That its lease was closed: it drains it, reports it with `Final`, and goes on with a new incarnation.
    pub closed: bool,
    /// How much of it the node must give back, because the limit was lowered below what is handed out.
    pub recall: NanoUsd,
    /// The ceiling.
    pub limit: NanoUsd,
    /// What is settled, of all nodes.
    pub settled: NanoUsd,
    /// What is handed out, of all nodes.
    pub outstanding: NanoUsd,
    /// When spending starts again from zero (or, rolling, when the next part of it stops to count).
    pub resets_at: Option<UnixMillis>,
}
