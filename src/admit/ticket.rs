//! Leave to run one request, and the money set aside for it.
//!
//! A [`Ticket`] cannot be forgotten. Dropped before the upstream was called, it voids the
//! reservation; once called it is a [`Running`], whose drop settles at the metered
//! estimate: a caller that hangs up still pays for what was generated.

use std::sync::Arc;

use althing_domain::money::NanoUsd;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::budget::Denied;
use super::cells::KeyLimits;
use super::lease::{Hold, Short};
use super::mono::Mono;
use super::refusal::Refusal;
use super::{ASK_WAIT_MAX, Ask, HELD_WAIT_MAX};

/// Why a set of limits did not let a request in.
pub(super) enum Stop {
    /// A rate is used up.
    Refused(Refusal),
    /// The budget at this place has too little on this node.
    Dry(usize, Short),
}

/// What one request holds of one set of limits.
#[derive(Debug)]
pub(super) struct Claim {
    limits: Arc<KeyLimits>,
    holds: SmallVec<[Hold; 4]>,
    tokens: SmallVec<[u64; 4]>,
}

impl Claim {
    /// Takes everything, or nothing: concurrency, then requests, then tokens, then money, each from the outermost level in.
    pub(super) fn take(limits: &Arc<KeyLimits>, ask: &Ask) -> Result<Self, Stop> {
        let rates = &limits.rates;
        for (at, rate) in rates.iter().enumerate() {
            if let Err(limit) = rate.enter() {
                rates[..at].iter().for_each(|it| it.leave());
                return Err(Stop::Refused(Refusal::concurrent(rate, limit)));
            }
        }
        // From here on, dropping the claim counts the call out again.
        let mut claim =
            Self { limits: Arc::clone(limits), holds: SmallVec::new(), tokens: SmallVec::new() };
        for (at, rate) in rates.iter().enumerate() {
            if let Err(empty) = rate.take_request(ask.at) {
                rates[..at].iter().for_each(|it| it.give_request());
                return Err(Stop::Refused(Refusal::Requests(Refusal::rate(rate, &empty))));
            }
        }
        let taken = claim.take_tokens(ask).and_then(|()| claim.take_money(ask));
        if let Err(stop) = taken {
            rates.iter().for_each(|it| it.give_request());
            return Err(stop);
        }
        Ok(claim)
    }

    fn take_tokens(&mut self, ask: &Ask) -> Result<(), Stop> {
        for rate in &self.limits.rates {
            match rate.take_tokens(ask.at, ask.tokens) {
                Ok(taken) => self.tokens.push(taken),
                Err(empty) => {
                    let refusal = Refusal::Tokens(Refusal::rate(rate, &empty));
                    return Err(Stop::Refused(refusal));
                }
            }
        }
        Ok(())
    }

    fn take_money(&mut self, ask: &Ask) -> Result<(), Stop> {
        for (at, budget) in self.limits.budgets.iter().enumerate() {
            match budget.reserve(ask.upper.0) {
                Ok(hold) => self.holds.push(hold),
                Err(short) => return Err(Stop::Dry(at, short)),
            }
        }
        Ok(())
    }

    /// Like [`Claim::take`], and where money is missing on this node, asks for it and waits: for what calls in flight hold
    /// until `held`.
    pub(super) async fn obtain(
        limits: &Arc<KeyLimits>,
        ask: &Ask,
        held: Option<Instant>,
    ) -> Result<Self, Refusal> {
        let mut until = None;
        loop {
            match Self::take(limits, ask) {
                Ok(claim) => return Ok(claim),
                Err(Stop::Dry(at, short)) => {
                    let until = until.get_or_insert_with(|| Until::from_now(held));
                    wait(limits, (at, short), ask.upper.0, until).await?;
                }
                Err(Stop::Refused(refusal)) => return Err(refusal),
            }
        }
    }

    /// Sets `more` aside in every budget, or in none.
    fn extend(&mut self, more: u64) -> Result<(), (usize, Short)> {
        let before: SmallVec<[u64; 4]> = self.holds.iter().map(Hold::amount).collect();
        let budgets = Arc::clone(&self.limits);
        for (at, budget) in budgets.budgets.iter().enumerate() {
            let Some(hold) = self.holds.get_mut(at) else { continue };
            if let Err(short) = budget.extend(hold, more) {
                for (hold, amount) in self.holds.iter_mut().zip(before).take(at) {
                    hold.shrink(amount);
                }
                return Err((at, short));
            }
        }
        Ok(())
    }

    async fn extend_or_wait(&mut self, more: u64) -> Result<(), Refusal> {
        // It holds money that others may wait for: it does not wait for theirs.
        let mut until = Until::from_now(Some(Instant::now()));
        while let Err(short) = self.extend(more) {
            wait(&self.limits, short, more, &mut until).await?;
        }
        Ok(())
    }

    /// Replaces the reservation by `cost`, and the token estimate by `tokens` as they are known at a moment, if they are.
    fn settle(mut self, cost: u64, tokens: Option<(u64, Mono)>) {
        for (hold, budget) in self.holds.drain(..).zip(&self.limits.budgets) {
            hold.settle(cost);
            budget.touch();
            budget.freed();
        }
        if let Some((used, now)) = tokens {
            for (taken, rate) in self.tokens.drain(..).zip(&self.limits.rates) {
                rate.correct_tokens(now, taken, used);
            }
        } else {
            self.tokens.clear();
        }
    }

    fn void(self) {
        drop(self);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for (hold, budget) in self.holds.drain(..).zip(&self.limits.budgets) {
            hold.settle(0);
            budget.freed();
        }
        if !self.tokens.is_empty() {
            let now = Mono::now();
            for (taken, rate) in self.tokens.drain(..).zip(&self.limits.rates) {
                rate.correct_tokens(now, taken, 0);
            }
        }
        self.limits.rates.iter().for_each(|it| it.leave());
    }
}

/// Until when a request waits.
struct Until {
    /// For the ledger's answer.
    ask: Instant,
    /// For what others give back.
    held: Instant,
}

impl Until {
    fn from_now(held: Option<Instant>) -> Self {
        let now = Instant::now();
        Self { ask: now + ASK_WAIT_MAX, held: held.unwrap_or(now + HELD_WAIT_MAX) }
    }
}

async fn wait(
    limits: &KeyLimits,
    (at, short): (usize, Short),
    amount: u64,
    until: &mut Until,
) -> Result<(), Refusal> {
    let Some(cell) = limits.budgets.get(at) else { return Ok(()) };
    let waited = if short == Short::Journal {
        // The money is there: to ask for more would be no help.
        Err(Denied::Unwritable)
    } else if until.ask <= Instant::now() {
        Err(Denied::Late)
    } else {
        cell.wait_for(amount, until.ask).await
    };
    let is_short = matches!(waited, Err(Denied::Exhausted | Denied::Late));
    if is_short && cell.wait_returned(amount, until.held).await {
        until.ask = Instant::now() + ASK_WAIT_MAX;
        return Ok(());
    }
    waited.map_err(|denied| Refusal::money(limits, cell, (denied, amount)))
}

/// What a request holds: at its own levels, and at those of the target it is sent to.
#[derive(Debug)]
struct Claims {
    own: Claim,
    target: Option<Claim>,
    upper: u64,
}

impl Claims {
    async fn retarget(
        &mut self,
        limits: Option<&Arc<KeyLimits>>,
        ask: &Ask,
        held: Option<Instant>,
    ) -> Result<(), Refusal> {
        if let Some(former) = self.target.take() {
            former.void();
        }
        let upper = ask.upper.0;
        if self.upper < upper {
            self.own.extend_or_wait(upper - self.upper).await?;
        } else {
            self.own.holds.iter_mut().for_each(|it| it.shrink(upper));
        }
        self.upper = upper;
        if let Some(limits) = limits.filter(|it| !it.is_empty()) {
            self.target = Some(Claim::obtain(limits, ask, held).await?);
        }
        Ok(())
    }

    fn settle(self, cost: u64, tokens: Option<(u64, Mono)>) {
        self.own.settle(cost, tokens);
        if let Some(target) = self.target {
            target.settle(cost, tokens);
        }
    }
}

/// Leave to run one request. Dropped, it voids what it holds.
#[must_use = "a ticket holds money until it is started or dropped"]
#[derive(Debug)]
pub struct Ticket {
    claims: Claims,
}

/// A request whose upstream was called. Dropped, it settles at what was metered, or at the
/// whole reservation where nothing was.
#[must_use = "a running request is settled when it ends"]
#[derive(Debug)]
pub struct Running {
    claims: Option<Claims>,
    metered: Option<u64>,
}

impl Ticket {
    pub(super) const fn new(own: Claim, upper: NanoUsd) -> Self {
        Self { claims: Claims { own, target: None, upper: upper.0 } }
    }

    /// Adds the levels of the target (provider, key at provider) that the request goes to,
    /// in place of those of a former target, and fits the reservation to what it costs there.
    ///
    /// # Errors
    ///
    /// [`Refusal`] where the target's levels, or the larger bound, do not allow it. The ticket
    /// stays good for another target.
    pub async fn target(
        &mut self,
        limits: Option<&Arc<KeyLimits>>,
        ask: &Ask,
    ) -> Result<(), Refusal> {
        self.claims.retarget(limits, ask, None).await
    }

    /// The same, and waits for what calls in flight hold until `held` at most.
    ///
    /// # Errors
    ///
    /// As [`Ticket::target`].
    pub async fn target_until(
        &mut self,
        limits: Option<&Arc<KeyLimits>>,
        ask: &Ask,
        held: Instant,
    ) -> Result<(), Refusal> {
        self.claims.retarget(limits, ask, Some(held)).await
    }

    /// What is set aside at each level.
    #[must_use]
    pub const fn upper(&self) -> NanoUsd {
        NanoUsd(self.claims.upper)
    }

    /// The upstream is about to be called: from now on, money may have been spent.
    pub fn start(self) -> Running {
        Running { claims: Some(self.claims), metered: None }
    }
}

impl Running {
    /// Goes on with another target after an attempt that cost nothing; see [`Ticket::target`].
    ///
    /// # Errors
    ///
    /// As [`Ticket::target`].
    pub async fn target(
        &mut self,
        limits: Option<&Arc<KeyLimits>>,
        ask: &Ask,
    ) -> Result<(), Refusal> {
        match &mut self.claims {
            Some(claims) => claims.retarget(limits, ask, None).await,
            None => Ok(()),
        }
    }

    /// Notes what the call has cost so far: what it settles at where it is dropped.
    pub const fn meter(&mut self, so_far: NanoUsd) {
        self.metered = Some(so_far.0);
    }

    /// What is set aside at each level.
    #[must_use]
    pub fn upper(&self) -> NanoUsd {
        NanoUsd(self.claims.as_ref().map_or(0, |it| it.upper))
    }

    /// Ends it: replaces the reservation by what the call cost, and the token estimate by what it used.
    pub fn settle(self, cost: NanoUsd, tokens: u64) {
        self.settle_at(cost, tokens, Mono::now());
    }

    /// The same for who knows what time it is.
    pub fn settle_at(mut self, cost: NanoUsd, tokens: u64, now: Mono) {
        if let Some(claims) = self.claims.take() {
            claims.settle(cost.0, Some((tokens, now)));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(claims) = self.claims.take() {
            let cost = self.metered.unwrap_or(claims.upper);
            claims.settle(cost, None);
        }
    }
}
