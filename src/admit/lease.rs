//! What the ledger granted this process for one budget in one window.
//!
//! Its free money is one atomic; a reservation takes from it, a settlement gives back what was not spent. What was
//! granted is always what is free, reserved, used and returned together, so that the sum of all that was ever admitted
//! stays within what was granted.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use althing_domain::money::NanoUsd;
use althing_storage::usage_journal::{self, Charged};

use super::ledger::{Ask, BudgetId};

/// What the ledger granted this process for one budget in one window.
#[derive(Debug, Default)]
pub struct Lease {
    pub(super) epoch: u64,
    pub(super) avail: AtomicI64,
    pub(super) figures: Arc<Figures>,
    /// Its place in the usage journal, where there is one.
    pub(super) journal: OnceLock<usage_journal::Lease>,
    pub(super) sent_used: AtomicU64,
    pub(super) sent_returned: AtomicU64,
}

/// What is charged to a lease. Sequentially consistent, as the usage journal asks.
#[derive(Debug, Default)]
pub struct Figures {
    used: AtomicU64,
    reserved: AtomicU64,
    granted: AtomicU64,
    returned: AtomicU64,
}

impl Charged for Figures {
    fn charged(&self) -> u64 {
        // In this order: a settlement raises what is used before it lowers what is reserved.
        let reserved = self.reserved.load(Ordering::SeqCst);
        self.used.load(Ordering::SeqCst).saturating_add(reserved)
    }

    /// Never past what was granted, and nothing where nothing runs: a process that dies idle is charged to the nano.
    fn ahead_max(&self) -> u64 {
        if self.reserved.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        let mine = self.granted.load(Ordering::Acquire);
        let mine = mine.saturating_sub(self.returned.load(Ordering::Acquire));
        mine.saturating_sub(self.charged())
    }
}

/// Why a lease did not give money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// It has too little.
    Money,
    /// The usage journal cannot be written, so what is spent might be given back after a crash.
    Journal,
}

/// Money set aside for one request in one budget.
#[derive(Debug)]
pub struct Hold {
    pub(super) lease: Arc<Lease>,
    pub(super) amount: u64,
    /// Where the window turned while the request ran: what it took from the next one.
    pub(super) next: Option<Box<Hold>>,
}

impl Lease {
    pub(super) fn new(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    pub(super) fn take(&self, amount: u64) -> Result<(), Short> {
        let wanted = i64::try_from(amount).map_err(|_| Short::Money)?;
        if self.avail.load(Ordering::Relaxed) < wanted {
            return Err(Short::Money);
        }
        // Said before it is taken: whoever looks whether anything runs here sees it at every moment from now on.
        self.figures.reserved.fetch_add(amount, Ordering::SeqCst);
        let enough = |seen: i64| seen.checked_sub(wanted).filter(|it| 0 <= *it);
        if self.avail.fetch_update(Ordering::SeqCst, Ordering::Relaxed, enough).is_err() {
            self.figures.reserved.fetch_sub(amount, Ordering::SeqCst);
            return Err(Short::Money);
        }
        if self.is_covered() {
            return Ok(());
        }
        self.settle(amount, 0);
        Err(Short::Journal)
    }

    /// Whether the journal says at least what is charged now: else a death of the process would refund what was spent.
    fn is_covered(&self) -> bool {
        let Some(Err(error)) = self.journal.get().map(usage_journal::Lease::cover) else {
            return true;
        };
        tracing::error!(%error, "the usage journal cannot be written: no money is spent without it");
        false
    }

    pub(super) fn settle(&self, amount: u64, cost: u64) {
        let (used, avail) = (&self.figures.used, &self.avail);
        if amount < cost {
            // Past its bound. An upstream may state any number, and a sum that wraps would be money from nothing.
            let more = |it: u64| Some(it.saturating_add(cost));
            let _ = used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
            let less = |it: i64| Some(it.saturating_sub(signed(cost - amount)));
            let _ = avail.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        } else {
            used.fetch_add(cost, Ordering::SeqCst);
            avail.fetch_add(signed(amount - cost), Ordering::AcqRel);
        }
        // Last, so that nothing that is half done shows as nothing running.
        self.figures.reserved.fetch_sub(amount, Ordering::SeqCst);
        if amount < cost {
            // It is spent, covered or not.
            self.is_covered();
        } else if let Some(journal) = self.journal.get() {
            journal.settled();
        }
    }

    /// Takes it out of the journal: the ledger has its exact figure.
    pub(super) fn leave_journal(&self) {
        let Some(journal) = self.journal.get() else { return };
        if let Err(error) = journal.clone().close() {
            tracing::warn!(%error, "a lease stays in the usage journal, which does no harm");
        }
    }

    /// Takes up to `most` out of what may be spent, for good.
    pub(super) fn give_back(&self, most: u64) -> u64 {
        let mut seen = self.avail.load(Ordering::Relaxed);
        loop {
            let amount = seen.min(signed(most));
            if amount <= 0 {
                return 0;
            }
            let exchanged = self.avail.compare_exchange_weak(
                seen,
                seen - amount,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match exchanged {
                Ok(_) => {
                    let amount = amount.unsigned_abs();
                    self.figures.returned.fetch_add(amount, Ordering::AcqRel);
                    if let Some(journal) = self.journal.get() {
                        journal.settled();
                    }
                    return amount;
                }
                Err(other) => seen = other,
            }
        }
    }

    /// Raises what was granted to `total`, and says by how much that is more.
    pub(super) fn raise(&self, total: u64) -> u64 {
        let before = self.figures.granted.fetch_max(total, Ordering::AcqRel);
        let more = total.saturating_sub(before);
        self.avail.fetch_add(signed(more), Ordering::AcqRel);
        more
    }

    /// What a request may still take.
    #[must_use]
    pub fn avail(&self) -> u64 {
        u64::try_from(self.avail.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// The window.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What was spent from it, all in all.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.figures.used.load(Ordering::SeqCst)
    }

    /// What running requests have set aside.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.figures.reserved.load(Ordering::SeqCst)
    }

    /// What was granted, all in all.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.figures.granted.load(Ordering::Acquire)
    }

    /// What was given back, all in all.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.figures.returned.load(Ordering::Acquire)
    }

    /// Whether nothing runs under it and nothing is left to spend: what is used is exact, for good.
    ///
    /// A reservation just being made shows as reserved, a settlement half done as well.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.reserved() == 0
            && self.granted() <= self.used().saturating_add(self.returned())
            && self.reserved() == 0
    }

    /// Takes the rest out of use, and says whether it [is quiet](Self::is_quiet) by now.
    pub(super) fn drain(&self) -> bool {
        self.give_back(u64::MAX);
        self.is_quiet()
    }

    pub(super) fn unsent(&self) -> bool {
        self.sent_used.load(Ordering::Acquire) != self.used()
            || self.sent_returned.load(Ordering::Acquire) != self.returned()
    }

    pub(super) fn unsent_used(&self) -> u64 {
        self.used().saturating_sub(self.sent_used.load(Ordering::Acquire))
    }

    /// What was given back and is still on its way: the ledger has not said that it has it.
    pub(super) fn unsent_returned(&self) -> u64 {
        self.returned().saturating_sub(self.sent_returned.load(Ordering::Acquire))
    }

    pub(super) fn ask(&self, budget: &BudgetId, want: u64, need: u64) -> Ask {
        Ask {
            budget: budget.clone(),
            epoch: self.epoch,
            used: NanoUsd(self.used()),
            returned: NanoUsd(self.returned()),
            want: NanoUsd(want.max(need)),
            need: NanoUsd(need),
        }
    }
}

impl Hold {
    /// What is set aside.
    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount.saturating_add(self.next.as_ref().map_or(0, |it| it.amount()))
    }

    /// Replaces the reservation by what the request cost.
    pub fn settle(self, cost: u64) {
        match self.next {
            None => self.lease.settle(self.amount, cost),
            Some(next) => {
                let here = cost.min(self.amount);
                self.lease.settle(self.amount, here);
                next.settle(cost - here);
            }
        }
    }

    /// Gives up part of the reservation, down to `amount`.
    pub fn shrink(&mut self, amount: u64) {
        if let Some(next) = &mut self.next {
            next.shrink(amount.saturating_sub(self.amount));
        }
        if amount < self.amount {
            self.lease.settle(self.amount - amount, 0);
            self.amount = amount;
        }
    }
}

/// `amount` as a signed number; what does not fit is more money than there is.
pub(super) fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
