//! Requests, tokens and calls in flight: how fast one level of policy may call.
//!
//! The generic cell rate algorithm: one number per bucket, the *theoretical arrival
//! time* up to which capacity is already given away. A bucket of `limit` per `per`
//! refills evenly and holds at most `limit`, so that in any interval `t` at most
//! `limit · t / per + limit` pass (and what was refunded within it). No lock: each
//! change is one compare-and-swap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::policy::Rate;

use super::ledger::Owner;
use super::mono::{Mono, nanos};

/// How fast one level may call, on this node. Shared by everything that belongs to that level.
#[derive(Debug)]
pub struct RateCell {
    owner: Owner,
    requests: Bucket,
    tokens: Bucket,
    concurrent_max: AtomicU64,
    in_flight: AtomicU64,
}

/// What is left in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftRate {
    /// How many fit into each period.
    pub limit: u64,
    /// How many would be let through now.
    pub remaining: u64,
    /// How long until the bucket is full again.
    pub reset: Duration,
}

/// A bucket that has too little. Holds what a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty {
    /// How many fit into each period.
    pub limit: u64,
    /// The period.
    pub per: Duration,
    /// When the same ask would fit.
    pub retry_after: Duration,
}

impl RateCell {
    /// A cell in which nothing was used.
    #[must_use]
    pub fn new(owner: Owner, rate: &Rate) -> Self {
        let cell = Self {
            owner,
            requests: Bucket::default(),
            tokens: Bucket::default(),
            concurrent_max: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        };
        cell.set(rate);
        cell
    }

    /// Takes a changed policy; what was used stays used.
    pub fn update(&self, rate: &Rate) {
        self.set(rate);
    }

    fn set(&self, rate: &Rate) {
        let number = |it: Option<std::num::NonZeroU64>| it.map_or(0, std::num::NonZeroU64::get);
        let per = nanos(rate.per.duration());
        self.requests.set(number(rate.requests), per);
        self.tokens.set(number(rate.tokens), per);
        self.concurrent_max.store(number(rate.concurrent), Ordering::Relaxed);
    }

    /// Whose rate this is.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Counts a call in, or says how many may be in flight.
    ///
    /// # Errors
    ///
    /// The limit, where as many are in flight already.
    pub fn enter(&self) -> Result<(), u64> {
        let limit = self.concurrent_max.load(Ordering::Relaxed);
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        if limit != 0 && limit <= before {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(limit);
        }
        Ok(())
    }

    /// Counts a call out.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many calls may be in flight, where that is limited.
    #[must_use]
    pub fn concurrent_max(&self) -> Option<u64> {
        let limit = self.concurrent_max.load(Ordering::Relaxed);
        (limit != 0).then_some(limit)
    }

    /// How many calls are in flight.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes one request.
    ///
    /// # Errors
    ///
    /// [`Empty`] where none is left.
    pub fn take_request(&self, now: Mono) -> Result<(), Empty> {
        self.requests.take(now, 1).map(drop)
    }

    /// Undoes [`RateCell::take_request`].
    pub fn give_request(&self) {
        self.requests.give(1);
    }

    /// Sets `estimate` tokens aside and says how many were: an estimate above the whole
    /// bucket takes all of it, so that a call with a generous maximum is still possible.
    ///
    /// # Errors
    ///
    /// [`Empty`] where too few are left.
    pub fn take_tokens(&self, now: Mono, estimate: u64) -> Result<u64, Empty> {
        self.tokens.take(now, estimate)
    }

    /// Replaces the `taken` of an estimate by what was `used`. More than was taken leaves a
    /// debt of at most one whole period.
    pub fn correct_tokens(&self, now: Mono, taken: u64, used: u64) {
        if used < taken {
            self.tokens.give(taken - used);
        } else {
            self.tokens.owe(now, used - taken);
        }
    }

    /// What is left of requests, where they are limited.
    #[must_use]
    pub fn requests_left(&self, now: Mono) -> Option<LeftRate> {
        self.requests.left(now)
    }

    /// What is left of tokens, where they are limited.
    #[must_use]
    pub fn tokens_left(&self, now: Mono) -> Option<LeftRate> {
        self.tokens.left(now)
    }
}

/// A bucket that refills evenly: `limit` in each `per`. No limit: zero.
#[derive(Debug, Default)]
struct Bucket {
    limit: AtomicU64,
    per_ns: AtomicU64,
    /// Until when capacity is given away, in monotonic nanoseconds.
    taken_until: AtomicU64,
}

impl Bucket {
    fn set(&self, limit: u64, per_ns: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.per_ns.store(per_ns, Ordering::Relaxed);
    }

    fn spec(&self) -> Option<(u64, u64)> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit != 0).then(|| (limit, self.per_ns.load(Ordering::Relaxed)))
    }

    fn take(&self, now: Mono, amount: u64) -> Result<u64, Empty> {
        let Some((limit, per_ns)) = self.spec() else { return Ok(0) };
        let amount = amount.min(limit);
        let cost = width(amount, limit, per_ns);
        let full = now.0.saturating_add(per_ns);
        let mut seen = self.taken_until.load(Ordering::Relaxed);
        loop {
            let until = seen.max(now.0).saturating_add(cost);
            if full < until {
                return Err(Empty {
                    limit,
                    per: Duration::from_nanos(per_ns),
                    retry_after: Duration::from_nanos(until - full),
                });
            }
            match self.taken_until.compare_exchange_weak(
                seen,
                until,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(amount),
                Err(other) => seen = other,
            }
        }
    }

    fn give(&self, amount: u64) {
        let Some((limit, per_ns)) = self.spec() else { return };
        let cost = width(amount, limit, per_ns);
        self.change(|until| until.saturating_sub(cost));
    }

    fn owe(&self, now: Mono, amount: u64) {
        let Some((limit, per_ns)) = self.spec() else { return };
        let worst = now.0.saturating_add(per_ns.saturating_mul(2));
        let cost = width(amount, limit, per_ns);
        self.change(|until| until.max(now.0).saturating_add(cost).min(worst.max(until)));
    }

    fn change(&self, to: impl Fn(u64) -> u64) {
        let mut seen = self.taken_until.load(Ordering::Relaxed);
        while let Err(other) = self.taken_until.compare_exchange_weak(
            seen,
            to(seen),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            seen = other;
        }
    }

    fn left(&self, now: Mono) -> Option<LeftRate> {
        let (limit, per_ns) = self.spec()?;
        let busy = self.taken_until.load(Ordering::Relaxed).saturating_sub(now.0);
        let free = per_ns.saturating_sub(busy);
        // Most fit into 64 bits, whose division is many times as fast.
        let remaining = match free.checked_mul(limit) {
            Some(product) => u128::from(product / per_ns.max(1)),
            None => u128::from(free) * u128::from(limit) / u128::from(per_ns.max(1)),
        };
        Some(LeftRate {
            limit,
            remaining: u64::try_from(remaining).unwrap_or(limit),
            reset: Duration::from_nanos(busy),
        })
    }
}

/// How long the bucket needs to refill `amount`, rounded up.
fn width(amount: u64, limit: u64, per_ns: u64) -> u64 {
    if let Some(exact) = amount.checked_mul(per_ns) {
        return exact.div_ceil(limit.max(1));
    }
    let exact = u128::from(amount) * u128::from(per_ns);
    u64::try_from(exact.div_ceil(u128::from(limit.max(1)))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
