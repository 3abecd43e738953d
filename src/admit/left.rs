//! What a caller has left: for `x-ratelimit-*` headers and `GET /v1/key`.

use althing_domain::money::NanoUsd;
use althing_domain::time::UnixMillis;

use super::budget::BudgetCell;
use super::cells::KeyLimits;
use super::ledger::Owner;
use super::mono::Mono;
use super::rate::LeftRate;

/// What is left of the tightest rates. Cheap: for each answer's headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Requests, at the level that has the fewest left.
    pub requests: Option<LeftRate>,
    /// Tokens, at the level that has the fewest left.
    pub tokens: Option<LeftRate>,
}

/// How many calls more may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftConcurrent {
    /// How many may be in all.
    pub limit: u64,
    /// How many more may begin now.
    pub remaining: u64,
}

/// What is left of one budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftMoney {
    /// Whose budget it is.
    pub owner: Owner,
    /// The ceiling.
    pub limit: NanoUsd,
    /// What was spent, as far as this node knows.
    pub settled: NanoUsd,
    /// What was not.
    pub left: NanoUsd,
    /// When spending starts again from zero.
    pub resets_at: Option<UnixMillis>,
}

/// What is left of the tightest rates.
#[must_use]
pub fn left(limits: &KeyLimits, now: Mono) -> Left {
    let tightest = |all: &mut dyn Iterator<Item = LeftRate>| all.min_by_key(|it| it.remaining);
    Left {
        requests: tightest(&mut limits.rates().iter().filter_map(|it| it.requests_left(now))),
        tokens: tightest(&mut limits.rates().iter().filter_map(|it| it.tokens_left(now))),
    }
}

/// Calls in flight, at the level that lets the fewest more begin.
#[must_use]
pub fn concurrent(limits: &KeyLimits) -> Option<LeftConcurrent> {
    let all = limits.rates().iter().filter_map(|it| {
        let limit = it.concurrent_max()?;
        Some(LeftConcurrent { limit, remaining: limit.saturating_sub(it.in_flight()) })
    });
    all.min_by_key(|it| it.remaining)
}

/// What is left of each budget, from the outermost level in.
#[must_use]
pub fn money(limits: &KeyLimits) -> Vec<LeftMoney> {
    limits.budgets().iter().map(|it| money_of(it)).collect()
}

fn money_of(cell: &BudgetCell) -> LeftMoney {
    let (view, unsent) = cell.view();
    let limit = cell.limit();
    let settled = view.map_or(NanoUsd::ZERO, |it| it.settled).saturating_add(unsent);
    LeftMoney {
        owner: cell.owner().clone(),
        limit,
        settled,
        left: limit.saturating_sub(settled),
        resets_at: view.and_then(|it| it.resets_at),
    }
}
