//! This node's slice of one budget: reserve, settle, void, without a lock and without asking anybody.
//!
//! A [`Lease`] is what the ledger granted this process for one window. Its free money is
//! one atomic; a reservation takes from it, a settlement gives back what was not spent.
//! What `granted` holds is always what `avail + reserved + used + returned` add up to, so
//! that the sum of all that was ever admitted stays within what was granted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::money::NanoUsd;
use althing_domain::policy::{Budget, BudgetMode};
use althing_domain::time::UnixMillis;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ledger::{Ask, BudgetId, Grant, Owner};

/// How long an exhausted budget is not asked about again.
pub const EXHAUSTED_FOR: Duration = Duration::from_millis(250);
/// Windows that ended and still have requests running. Beyond, the oldest is forgotten, and with it what might be given back of it.
const OLD_LEASES_MAX: usize = 8;

/// What wakes the agent.
#[derive(Debug)]
pub enum Signal {
    /// The cell was used for the first time since it was last idle.
    Active(Arc<BudgetCell>),
    /// A request waits for money.
    Wanted(Arc<BudgetCell>),
}

/// What the ledger granted this process for one budget in one window.
#[derive(Debug, Default)]
pub struct Lease {
    epoch: u64,
    avail: AtomicI64,
    granted: AtomicU64,
    returned: AtomicU64,
    used: AtomicU64,
    reserved: AtomicU64,
    sent_used: AtomicU64,
    sent_returned: AtomicU64,
}

/// One budget on this node.
#[derive(Debug)]
pub struct BudgetCell {
    id: BudgetId,
    owner: Owner,
    soft: AtomicBool,
    limit: AtomicU64,
    lease: ArcSwap<Lease>,
    active: AtomicBool,
    signals: mpsc::Sender<Signal>,
    changed: Notify,
    slow: Mutex<Slow>,
}

/// What only waiting requests and the agent touch.
#[derive(Debug, Default)]
struct Slow {
    /// What waiting requests lack, all together.
    need: u64,
    /// The last round in which the ledger was asked, and the last that was answered.
    asked: u64,
    answered: u64,
    /// What the last answered round added.
    gained: u64,
    /// Until when asks of at least this much are denied without asking.
    exhausted: Option<(Instant, u64)>,
    no_quorum: bool,
    view: Option<View>,
    old: Vec<Arc<Lease>>,
}

/// What the ledger said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The ceiling.
    pub limit: NanoUsd,
    /// What is settled, of all nodes.
    pub settled: NanoUsd,
    /// What is handed out, of all nodes.
    pub outstanding: NanoUsd,
    /// When spending starts again from zero.
    pub resets_at: Option<UnixMillis>,
}

/// Why no money came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Nothing is left.
    Exhausted,
    /// The ledger cannot be asked, and the slice on this node is used up.
    NoQuorum,
    /// The ledger did not answer in time.
    Late,
}

/// Money set aside for one request in one budget.
#[derive(Debug)]
pub struct Hold {
    lease: Arc<Lease>,
    amount: u64,
    /// Where the window turned while the request ran: what it took from the next one.
    next: Option<Box<Hold>>,
}

impl Lease {
    fn new(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    fn take(&self, amount: u64) -> bool {
        let Ok(wanted) = i64::try_from(amount) else { return false };
        let mut seen = self.avail.load(Ordering::Relaxed);
        loop {
            if seen < wanted {
                return false;
            }
            let exchanged = self.avail.compare_exchange_weak(
                seen,
                seen - wanted,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match exchanged {
                Ok(_) => break,
                Err(other) => seen = other,
            }
        }
        self.reserved.fetch_add(amount, Ordering::AcqRel);
        true
    }

    fn settle(&self, amount: u64, cost: u64) {
        self.used.fetch_add(cost, Ordering::AcqRel);
        self.reserved.fetch_sub(amount, Ordering::AcqRel);
        self.avail.fetch_add(signed(amount).saturating_sub(signed(cost)), Ordering::AcqRel);
    }

    /// Takes up to `most` out of what may be spent, for good.
    fn give_back(&self, most: u64) -> u64 {
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
                    self.returned.fetch_add(amount, Ordering::AcqRel);
                    return amount;
                }
                Err(other) => seen = other,
            }
        }
    }

    /// Raises what was granted to `total`, and says by how much that is more.
    fn raise(&self, total: u64) -> u64 {
        let before = self.granted.fetch_max(total, Ordering::AcqRel);
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
        self.used.load(Ordering::Acquire)
    }

    /// What running requests have set aside.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// What was granted, all in all.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted.load(Ordering::Acquire)
    }

    /// What was given back, all in all.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Acquire)
    }

    /// Whether nothing runs under it and nothing is left to spend: what is used is exact, for good.
    ///
    /// A reservation just being made, or a settlement half done, shows as a sum that does not add up yet.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.reserved() == 0 && self.granted() <= self.used().saturating_add(self.returned())
    }

    /// Takes the rest out of use, and says whether it [is quiet](Self::is_quiet) by now.
    pub(super) fn drain(&self) -> bool {
        self.give_back(u64::MAX);
        self.is_quiet()
    }

    fn unsent(&self) -> bool {
        self.sent_used.load(Ordering::Acquire) != self.used()
            || self.sent_returned.load(Ordering::Acquire) != self.returned()
    }

    fn unsent_used(&self) -> u64 {
        self.used().saturating_sub(self.sent_used.load(Ordering::Acquire))
    }

    fn ask(&self, budget: &BudgetId, want: u64, need: u64) -> Ask {
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

impl BudgetCell {
    pub(super) fn new(
        id: BudgetId,
        owner: Owner,
        budget: &Budget,
        signals: mpsc::Sender<Signal>,
    ) -> Self {
        Self {
            id,
            owner,
            soft: AtomicBool::new(budget.mode == BudgetMode::Soft),
            limit: AtomicU64::new(budget.limit_usd.0),
            lease: ArcSwap::from_pointee(Lease::default()),
            active: AtomicBool::new(false),
            signals,
            changed: Notify::new(),
            slow: Mutex::default(),
        }
    }

    pub(super) fn update(&self, budget: &Budget) {
        self.soft.store(budget.mode == BudgetMode::Soft, Ordering::Relaxed);
        if self.limit.swap(budget.limit_usd.0, Ordering::Relaxed) != budget.limit_usd.0 {
            self.slow.lock().exhausted = None;
        }
    }

    /// Its id in the ledger.
    #[must_use]
    pub const fn id(&self) -> &BudgetId {
        &self.id
    }

    /// Whose it is.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether money is reserved before a call.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        !self.soft.load(Ordering::Relaxed)
    }

    /// The lease of the current window.
    #[must_use]
    pub fn lease(&self) -> Arc<Lease> {
        self.lease.load_full()
    }

    /// Sets `amount` aside; in soft mode nothing, but there must be money left.
    pub fn reserve(self: &Arc<Self>, amount: u64) -> Option<Hold> {
        let lease = self.lease.load();
        let amount = if self.is_strict() {
            lease.take(amount).then_some(amount)
        } else {
            (0 < lease.avail()).then_some(0)
        }?;
        let hold = Hold { lease: Arc::clone(&lease), amount, next: None };
        drop(lease);
        self.touch();
        Some(hold)
    }

    /// Sets `more` aside beside what `hold` has. Whether there was as much.
    pub fn extend(self: &Arc<Self>, hold: &mut Hold, more: u64) -> bool {
        if !self.is_strict() {
            return 0 < self.lease.load().avail();
        }
        if let Some(next) = &mut hold.next {
            return self.extend(next, more);
        }
        if hold.lease.take(more) {
            hold.amount = hold.amount.saturating_add(more);
            return true;
        }
        if self.lease.load().epoch == hold.lease.epoch {
            return false;
        }
        hold.next = self.reserve(more).map(Box::new);
        hold.next.is_some()
    }

    /// Tells the agent that there is something to report, unless it knows.
    pub fn touch(self: &Arc<Self>) {
        if !self.active.load(Ordering::Relaxed) && !self.active.swap(true, Ordering::AcqRel) {
            // A full queue is no loss: the next use tries again.
            if self.signals.try_send(Signal::Active(Arc::clone(self))).is_err() {
                self.active.store(false, Ordering::Release);
            }
        }
    }

    /// Waits until there may be `amount`, at most until `deadline`: one ask of the ledger serves all who wait.
    ///
    /// Cancel-safe: a request that goes away leaves nothing behind but a larger ask.
    ///
    /// # Errors
    ///
    /// [`Denied`] says why there is none.
    pub async fn wait_for(self: &Arc<Self>, amount: u64, deadline: Instant) -> Result<(), Denied> {
        // A request in soft mode needs something to be left, however little.
        let amount = if self.is_strict() { amount } else { 1 };
        let mut round = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if amount <= self.lease.load().avail() {
                return Ok(());
            }
            if round.is_some_and(|it| self.slow.lock().answered >= it) {
                self.denied(amount)?;
                round = None;
            }
            if round.is_none() {
                round = Some(self.join_round(amount)?);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(Denied::Late);
            }
        }
    }

    /// What the answer to an ask means for one who still has too little: an error, or leave to ask again.
    fn denied(&self, amount: u64) -> Result<(), Denied> {
        let mut slow = self.slow.lock();
        if slow.no_quorum {
            return Err(Denied::NoQuorum);
        }
        if slow.gained == 0 {
            slow.exhausted = Some((Instant::now() + EXHAUSTED_FOR, amount));
            return Err(Denied::Exhausted);
        }
        Ok(())
    }

    /// Joins the next ask, and says which that is.
    fn join_round(self: &Arc<Self>, amount: u64) -> Result<u64, Denied> {
        let mut slow = self.slow.lock();
        if let Some((until, denied)) = slow.exhausted {
            if until <= Instant::now() {
                slow.exhausted = None;
            } else if denied <= amount {
                return Err(Denied::Exhausted);
            }
        }
        let first = slow.need == 0;
        // The first who waits lacks only what the slice does not cover; the others come on top.
        let covered = if first { self.lease.load().avail.load(Ordering::Acquire) } else { 0 };
        let lacks = signed(amount).saturating_sub(covered).max(1).unsigned_abs();
        slow.need = slow.need.saturating_add(lacks);
        let round = slow.asked + 1;
        // A full queue means that the agent is behind: the wait ends at its deadline, and the next one asks again.
        if first && self.signals.try_send(Signal::Wanted(Arc::clone(self))).is_err() {
            slow.need = 0;
        }
        Ok(round)
    }

    /// What the ledger said last, and how much of the settled sum it has not heard of yet.
    #[must_use]
    pub fn view(&self) -> (Option<View>, NanoUsd) {
        let slow = self.slow.lock();
        (slow.view, NanoUsd(self.lease.load().unsent_used()))
    }

    /// The ceiling that policy states.
    #[must_use]
    pub fn limit(&self) -> NanoUsd {
        NanoUsd(self.limit.load(Ordering::Relaxed))
    }
}

/// The agent's side.
impl BudgetCell {
    /// What to report and ask now: `slice` is what the node would like to hold. Empty where there is nothing to say.
    pub(super) fn asks(&self, slice: u64) -> Vec<Ask> {
        let mut slow = self.slow.lock();
        let lease = self.lease.load();
        let mut asks = Vec::new();
        slow.old.retain(|it| {
            let keep = !it.drain() || it.unsent();
            if it.unsent() {
                asks.push(it.ask(&self.id, 0, 0));
            }
            keep
        });
        let need = std::mem::take(&mut slow.need);
        let denied = slow.exhausted.is_some_and(|(until, _)| Instant::now() < until);
        let low = lease.avail() < slice / 2 && !denied;
        let want = if low { slice.saturating_sub(lease.avail()) } else { 0 };
        if 0 < need {
            slow.asked += 1;
        }
        if 0 < need || 0 < want || lease.unsent() {
            asks.push(lease.ask(&self.id, want, need));
        }
        asks
    }

    /// Asks only to hear how the budget stands, for a window that has ended.
    pub(super) fn inquiry(&self) -> Ask {
        self.lease.load().ask(&self.id, 0, 0)
    }

    /// Takes in that `ask` arrived.
    pub(super) fn sent(&self, ask: &Ask) {
        let note = |it: &Lease| {
            if it.epoch == ask.epoch {
                it.sent_used.fetch_max(ask.used.0, Ordering::AcqRel);
                it.sent_returned.fetch_max(ask.returned.0, Ordering::AcqRel);
            }
        };
        note(&self.lease.load());
        self.slow.lock().old.iter().for_each(|it| note(it));
    }

    /// Takes in an answer and wakes who waits for it.
    pub(super) fn granted(&self, grant: &Grant) {
        let mut slow = self.slow.lock();
        let lease = self.lease.load_full();
        let gained = if lease.epoch < grant.epoch {
            let next = Arc::new(Lease::new(grant.epoch));
            let gained = next.raise(grant.granted.0);
            self.lease.store(next);
            if lease.granted() != 0 {
                lease.give_back(u64::MAX);
                slow.old.push(lease);
                let over = slow.old.len().saturating_sub(OLD_LEASES_MAX);
                slow.old.drain(..over);
            }
            // What was denied in the last window says nothing of this one.
            slow.exhausted = None;
            gained.max(1)
        } else if lease.epoch == grant.epoch {
            let gained = lease.raise(grant.granted.0);
            lease.give_back(grant.recall.0);
            gained
        } else {
            0
        };
        if 0 < gained {
            slow.exhausted = None;
        }
        slow.gained = gained;
        slow.no_quorum = false;
        slow.answered = slow.asked;
        slow.view = Some(View {
            limit: grant.limit,
            settled: grant.settled,
            outstanding: grant.outstanding,
            resets_at: grant.resets_at,
        });
        drop(slow);
        self.changed.notify_waiters();
    }

    /// Takes in that the ledger could not be asked.
    pub(super) fn unanswered(&self) {
        let mut slow = self.slow.lock();
        slow.no_quorum = true;
        slow.gained = 0;
        slow.answered = slow.asked;
        drop(slow);
        self.changed.notify_waiters();
    }

    /// Takes in that the budget is no more: policy has deleted it, and the view that still names it is about to go.
    pub(super) fn vanished(&self) {
        self.renew();
        self.active.store(false, Ordering::Release);
        self.unanswered();
    }

    /// Gives back what nobody can use: all of it where the node was idle, and what is left beside a denial.
    pub(super) fn give_back_unused(&self) {
        self.lease.load().give_back(u64::MAX);
    }

    /// Whether a request was denied within the last [`EXHAUSTED_FOR`].
    pub(super) fn is_exhausted(&self) -> bool {
        self.slow.lock().exhausted.is_some()
    }

    /// Whether the window has ended by the wall clock.
    pub(super) fn is_over(&self, now: UnixMillis) -> bool {
        let slow = self.slow.lock();
        slow.view.and_then(|it| it.resets_at).is_some_and(|it| it <= now)
    }

    /// Says that the agent forgets it until it is used again. Whether that holds: there may have been a use meanwhile.
    pub(super) fn rest(self: &Arc<Self>) -> bool {
        self.active.store(false, Ordering::Release);
        let slow = self.slow.lock();
        let lease = self.lease.load();
        let busy = !lease.is_quiet() || lease.unsent() || !slow.old.is_empty();
        busy && !self.active.swap(true, Ordering::AcqRel)
    }

    /// Every lease of this process, current and old, with nothing left to spend.
    pub(super) fn close(&self) -> Vec<Arc<Lease>> {
        let slow = self.slow.lock();
        let current = self.lease.load_full();
        current.give_back(u64::MAX);
        slow.old.iter().cloned().chain([current]).filter(|it| it.epoch != 0).collect()
    }

    /// Starts anew under another incarnation: the ledger closed the lease. Returns what still runs under the old one.
    pub(super) fn renew(&self) -> Vec<Arc<Lease>> {
        let mut slow = self.slow.lock();
        let old = self.lease.swap(Arc::default());
        old.give_back(u64::MAX);
        slow.exhausted = None;
        let mut leases = std::mem::take(&mut slow.old);
        leases.push(old);
        leases.retain(|it| it.epoch != 0);
        leases
    }
}

/// `amount` as a signed number; what does not fit is more money than there is.
fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
