//! Why a request may not run, in words that say how to mend it.

use std::fmt;
use std::time::Duration;

use althing_domain::money::NanoUsd;
use althing_domain::time::UnixMillis;
use tokio::time::Instant;

use super::budget::{BudgetCell, Denied};
use super::cells::KeyLimits;
use super::ledger::Owner;
use super::level::Spoken;
use super::rate::{Empty, RateCell};
use crate::error::{Code, Error};

/// Why a request may not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// As many calls are in flight as may be.
    Concurrent {
        /// Whose limit it is.
        owner: Owner,
        /// The limit.
        limit: u64,
    },
    /// No request is left for now.
    Requests(Box<RateRefusal>),
    /// Too few tokens are left for now.
    Tokens(Box<RateRefusal>),
    /// A budget has too little.
    Budget(Box<BudgetRefusal>),
}

/// A rate that is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateRefusal {
    /// Whose limit it is.
    pub owner: Owner,
    /// How many fit into each period.
    pub limit: u64,
    /// The period.
    pub per: Duration,
    /// When the same request would fit.
    pub retry_after: Duration,
}

/// A budget that has too little.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetRefusal {
    /// Whose budget it is.
    pub owner: Owner,
    /// The ceiling.
    pub limit: NanoUsd,
    /// What was spent, as far as this node knows.
    pub settled: NanoUsd,
    /// When spending starts again from zero; never, where absent.
    pub resets_at: Option<UnixMillis>,
    /// What a smaller request could still reserve at every level: for clamping.
    pub affordable: NanoUsd,
    /// What calls in flight on this node have set aside, and may give back.
    pub returning: NanoUsd,
    /// Why there is no more.
    pub denied: Denied,
}

impl Refusal {
    pub(super) fn concurrent(rate: &RateCell, limit: u64) -> Self {
        Self::Concurrent { owner: rate.owner().clone(), limit }
    }

    pub(super) fn rate(rate: &RateCell, empty: &Empty) -> Box<RateRefusal> {
        Box::new(RateRefusal {
            owner: rate.owner().clone(),
            limit: empty.limit,
            per: empty.per,
            retry_after: empty.retry_after,
        })
    }

    pub(super) fn money(limits: &KeyLimits, cell: &BudgetCell, why: (Denied, u64)) -> Self {
        let denied = match why {
            // It is there, only not here yet: the ledger is late.
            (Denied::Exhausted, amount) if cell.is_strict() && amount.max(1) <= cell.free() => {
                Denied::Late
            }
            (denied, _) => denied,
        };
        let (view, unsent) = cell.view();
        let settled = view.map_or(NanoUsd::ZERO, |it| it.settled).saturating_add(unsent);
        Self::Budget(Box::new(BudgetRefusal {
            owner: cell.owner().clone(),
            limit: cell.limit(),
            settled,
            resets_at: view.and_then(|it| it.resets_at),
            affordable: affordable(limits),
            returning: NanoUsd(cell.lease().reserved()),
            denied,
        }))
    }
}

/// What can be reserved at every one of `limits` on this node, as far as it knows: what it holds and what the ledger has.
#[must_use]
pub fn affordable(limits: &KeyLimits) -> NanoUsd {
    let strict = limits.budgets().iter().filter(|it| it.is_strict());
    strict.map(|it| NanoUsd(it.free())).min().unwrap_or(NanoUsd::MAX)
}

/// What can be reserved at every one of `limits` at most, once the calls in flight on this node have ended.
#[must_use]
pub fn possible(limits: &KeyLimits) -> NanoUsd {
    let strict = limits.budgets().iter().filter(|it| it.is_strict());
    strict.map(|it| NanoUsd(it.possible())).min().unwrap_or(NanoUsd::MAX)
}

/// Waits until calls in flight have given back so much that there may be `amount` at every one of `limits`, at most
/// until `deadline`. False where that did not happen. Cancel-safe.
pub async fn returned(limits: &KeyLimits, amount: NanoUsd, deadline: Instant) -> bool {
    for cell in limits.budgets().iter().filter(|it| it.is_strict()) {
        if !cell.wait_returned(amount.0, deadline).await {
            return false;
        }
    }
    true
}

/// What one more call should get of `limits`, where its caller would take all there is.
///
/// So that those who come after it get something too: half of what is free where nothing runs, and the smaller a part the more calls run.
#[must_use]
pub fn fair_part(limits: &KeyLimits, now: UnixMillis) -> NanoUsd {
    let strict = limits.budgets().iter().filter(|it| it.is_strict());
    strict.map(|it| NanoUsd(it.fair_part(now))).min().unwrap_or(NanoUsd::MAX)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Concurrent { owner, limit } => write!(
                f,
                "{} has {limit} calls in flight, which is its limit: wait for one to end, or raise `rate.concurrent`",
                Spoken(owner)
            ),
            Self::Requests(it) => it.say("requests", "has used them", f),
            Self::Tokens(it) => it.say("tokens", "has fewer left than this call may need", f),
            Self::Budget(it) => it.fmt(f),
        }
    }
}

impl RateRefusal {
    fn say(&self, what: &str, why: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, limit, per, retry_after } = self;
        write!(
            f,
            "{} may use {limit} {what} per {per:?} and {why}: come again in {}s, or raise `rate.{what}`",
            Spoken(owner),
            retry_after.as_millis().div_ceil(1000).max(1),
        )
    }
}

impl fmt::Display for BudgetRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = Spoken(&self.owner);
        let Self { limit, settled, .. } = self;
        match self.denied {
            Denied::Exhausted => write!(
                f,
                "the budget of {owner} has too little left for this call: limit ${limit}, settled ${settled}, set aside for calls in flight here ${}, ",
                self.returning
            )?,
            Denied::NoQuorum => {
                return write!(
                    f,
                    "this node has used its part of the budget of {owner} and cannot reach a quorum for more: try again shortly"
                );
            }
            Denied::Unwritable => {
                return write!(
                    f,
                    "this node cannot write to its disk, so it spends nothing more of the budget of {owner}: free space on the data directory's disk"
                );
            }
            Denied::Late => {
                return write!(
                    f,
                    "the budget of {owner} did not answer in time: try again shortly (limit ${limit}, settled ${settled})"
                );
            }
        }
        match self.resets_at {
            Some(at) => write!(
                f,
                "resets at {}; raise the limit, wait for the reset, or make a call that costs less",
                at.to_rfc3339()
            ),
            // It is for good, or it rolls and nothing was settled that could leave its window.
            None => f.write_str("no reset is due; raise the limit, or make a call that costs less"),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        let soon = Duration::from_secs(1);
        match refusal {
            Refusal::Concurrent { .. } => Self::new(Code::RateLimited, text).with_retry_after(soon),
            Refusal::Requests(it) | Refusal::Tokens(it) => {
                Self::new(Code::RateLimited, text).with_retry_after(it.retry_after)
            }
            Refusal::Budget(it) => match it.denied {
                // What calls in flight give back may be enough.
                Denied::Exhausted if NanoUsd::ZERO < it.returning => {
                    Self::new(Code::BudgetExhausted, text).with_retry_after(soon)
                }
                Denied::Exhausted => Self::new(Code::BudgetExhausted, text),
                Denied::NoQuorum => Self::new(Code::NoQuorum, text).with_retry_after(soon),
                Denied::Unwritable => Self::new(Code::StorageFull, text).with_retry_after(soon),
                Denied::Late => Self::new(Code::Overloaded, text).with_retry_after(soon),
            },
        }
    }
}
