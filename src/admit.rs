//! Admission: may this request run, and who pays?
//!
//! Each level of policy (customer, team, virtual key, provider) may bound money, requests,
//! tokens and calls in flight. [`admit`] takes from all of them or from none, in
//! microseconds, without a lock and without asking anybody: the node spends a slice that
//! the ledger in the law granted it beforehand ([`agent`]). Only where a slice is used up
//! does a request wait for the next, at most [`ASK_WAIT_MAX`]; and where the budget has none left but calls in flight
//! hold enough that they may give back, for that, at most [`HELD_WAIT_MAX`].

use std::sync::Arc;
use std::time::Duration;

use althing_domain::money::NanoUsd;
use tokio::time::Instant;

pub mod agent;
pub mod budget;
pub mod cells;
pub mod lease;
pub mod ledger;
pub mod left;
pub mod level;
pub mod mono;
pub mod rate;
pub mod refusal;
pub mod ticket;

pub use cells::{Cells, KeyLimits};
pub use left::{Left, left};
pub use level::LevelSpec;
pub use mono::Mono;
pub use refusal::{BudgetRefusal, Refusal, affordable, fair_part, possible, returned};
pub use ticket::{Running, Ticket};

/// How long a request waits for money that this node does not hold.
pub const ASK_WAIT_MAX: Duration = Duration::from_millis(50);
/// How long a request waits for money that calls in flight have set aside and may not need.
pub const HELD_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The most it can cost.
    pub upper: NanoUsd,
    /// How many tokens it is expected to use.
    pub tokens: u64,
    /// When it came.
    pub at: Mono,
}

/// Takes what `ask` needs from every one of `limits`, from the outermost level in.
///
/// Does not await where the node holds enough. Cancel-safe: what was taken is given back.
///
/// # Errors
///
/// [`Refusal`] names the level, its limit and when to come again. Nothing is held then.
pub async fn admit(limits: &Arc<KeyLimits>, ask: Ask) -> Result<Ticket, Refusal> {
    let claim = ticket::Claim::obtain(limits, &ask, None).await?;
    Ok(Ticket::new(claim, ask.upper))
}

/// The same, and waits for what calls in flight hold until `held` at most: for one who asks more than once.
///
/// # Errors
///
/// As [`admit`].
pub async fn admit_until(
    limits: &Arc<KeyLimits>,
    ask: Ask,
    held: Instant,
) -> Result<Ticket, Refusal> {
    let claim = ticket::Claim::obtain(limits, &ask, Some(held)).await?;
    Ok(Ticket::new(claim, ask.upper))
}

#[cfg(test)]
mod tests;
