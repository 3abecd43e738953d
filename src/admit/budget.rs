//! This node's slice of one budget: reserve, settle, void, without a lock and without asking anybody.
//!
//! A [`BudgetCell`] holds the [`Lease`] of the current window and those of earlier windows that requests still run
//! under. Requests touch its lease only; where that is used up they wait here for the agent's next ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use althing_domain::money::NanoUsd;
use althing_domain::policy::{Budget, BudgetMode};
use althing_domain::time::UnixMillis;
use althing_storage::usage_journal;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lease::{Figures, Hold, Lease, Short, signed};
use super::ledger::{Ask, BudgetId, Grant, Owner};

/// How long an exhausted budget is not asked about again.
pub const EXHAUSTED_FOR: Duration = Duration::from_millis(250);
/// Windows that ended and still have requests running. Beyond, the oldest is forgotten, and with it what might be given back of it.
const OLD_LEASES_MAX: usize = 8;
/// How long a request that waits for what others give back is left alone.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What wakes the agent.
#[derive(Debug)]
pub enum Signal {
    /// The cell was used for the first time since it was last idle.
    Active(Arc<BudgetCell>),
    /// A request waits for money.
    Wanted(Arc<BudgetCell>),
}

/// Makes a place in the usage journal for the lease of an epoch. None: a death of the process writes it off.
pub(super) type Enter<'a> = &'a dyn Fn(u64, Arc<Figures>) -> Option<usage_journal::Lease>;

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
    /// How many requests wait for what calls in flight give back.
    waiting: AtomicUsize,
    slow: Mutex<Slow>,
}

/// Counts a request that waits, for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
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
    /// Why the last ask was not answered, where it was not.
    cut_off: Option<Denied>,
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

impl View {
    /// What is neither settled nor handed out.
    const fn rest(self) -> u64 {
        self.limit.0.saturating_sub(self.settled.0).saturating_sub(self.outstanding.0)
    }
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
    /// This node's disk refuses the usage journal: what it spends could not be told after a crash.
    Unwritable,
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
            waiting: AtomicUsize::new(0),
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
    ///
    /// # Errors
    ///
    /// [`Short`] says what there is too little of.
    pub(super) fn reserve(self: &Arc<Self>, amount: u64) -> Result<Hold, Short> {
        let lease = self.lease.load();
        let amount = if self.is_strict() {
            lease.take(amount)?;
            amount
        } else if 0 < lease.avail() {
            0
        } else {
            return Err(Short::Money);
        };
        let hold = Hold { lease: Arc::clone(&lease), amount, next: None };
        drop(lease);
        self.touch();
        Ok(hold)
    }

    /// Sets `more` aside beside what `hold` has.
    ///
    /// # Errors
    ///
    /// As [`BudgetCell::reserve`].
    pub(super) fn extend(self: &Arc<Self>, hold: &mut Hold, more: u64) -> Result<(), Short> {
        if !self.is_strict() {
            return if 0 < self.lease.load().avail() { Ok(()) } else { Err(Short::Money) };
        }
        if let Some(next) = &mut hold.next {
            return self.extend(next, more);
        }
        match hold.lease.take(more) {
            Ok(()) => {
                hold.amount = hold.amount.saturating_add(more);
                return Ok(());
            }
            // The window turned, or the ledger closed that lease: the rest of the request is paid from the one after it.
            Err(Short::Money) if !Arc::ptr_eq(&self.lease.load(), &hold.lease) => {}
            Err(short) => return Err(short),
        }
        hold.next = Some(Box::new(self.reserve(more)?));
        Ok(())
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
                return Err(self.late(amount));
            }
        }
    }

    /// Waits until calls in flight have given back so much that there may be `amount`, or a ledger that is late grants it,
    /// at most until `deadline`. False where that did not happen, or cannot: they hold too little. Cancel-safe.
    pub(super) async fn wait_returned(&self, amount: u64, deadline: Instant) -> bool {
        if !self.is_strict() {
            return false;
        }
        let _waiting = Waiting::among(&self.waiting);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if amount <= self.lease.load().avail() {
                return true;
            }
            let now = Instant::now();
            if deadline <= now || !self.may_return(amount) {
                return false;
            }
            // Woken for nothing, or not at all, it looks again.
            let _ = tokio::time::timeout_at(deadline.min(now + LOOK_AGAIN), changed).await;
            if amount <= self.free() {
                // Asked together with what this node holds, the ledger has enough.
                self.slow.lock().exhausted = None;
                return true;
            }
        }
    }

    /// Whether `amount` may be there once the ledger has answered and the calls in flight on this node have ended.
    fn may_return(&self, amount: u64) -> bool {
        amount <= self.possible()
    }

    /// Takes in that a call has ended: what it did not need may be what others wait for.
    pub(super) fn freed(&self) {
        if 0 < self.waiting.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    /// What could be set aside here, as far as this node knows: what it holds, what the ledger has not handed out, and
    /// what is on its way back there.
    #[must_use]
    pub fn free(&self) -> u64 {
        let rest = self.slow.lock().view.map_or_else(|| self.limit().0, View::rest);
        rest.saturating_add(self.here())
    }

    /// What could be set aside here beside what the ledger has not handed out.
    fn here(&self) -> u64 {
        let lease = self.lease.load();
        lease.avail().saturating_add(lease.unsent_returned())
    }

    /// What could be set aside here at most, once the calls in flight on this node have ended.
    #[must_use]
    pub fn possible(&self) -> u64 {
        self.free().saturating_add(self.lease.load().reserved())
    }

    /// What one more call should take at most, where it would take all there is: half of what is free where nothing
    /// runs, a third beside one call, and so on. So the first of many does not leave the others without.
    #[must_use]
    pub fn fair_part(&self, now: UnixMillis) -> u64 {
        // Each call holds the lease that it spends from; so does the cell.
        let running = Arc::strong_count(&self.lease.load()).saturating_sub(1);
        // What the ledger said last is of a window that has ended: all of the next one may be free.
        let free = if self.is_over(now) { self.limit().0 } else { self.free() };
        free / (u64::try_from(running).unwrap_or(u64::MAX).saturating_add(2))
    }

    /// What it means that no money came in time: there was none left by the last answer, or that answer is late.
    fn late(&self, amount: u64) -> Denied {
        let slow = self.slow.lock();
        let is_short = |rest: u64| rest.saturating_add(self.here()) < amount;
        if let Some(why) = slow.cut_off {
            return why;
        }
        match slow.view.map(View::rest) {
            Some(rest) if is_short(rest) => Denied::Exhausted,
            Some(_) | None => Denied::Late,
        }
    }

    /// What the answer to an ask means for one who still has too little: an error, or leave to ask again.
    fn denied(&self, amount: u64) -> Result<(), Denied> {
        let mut slow = self.slow.lock();
        if let Some(why) = slow.cut_off {
            return Err(why);
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
            if !keep {
                it.leave_journal();
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
    pub(super) fn granted(&self, grant: &Grant, enter: Enter<'_>) {
        let mut slow = self.slow.lock();
        let lease = self.lease.load_full();
        let gained = if lease.epoch < grant.epoch {
            let next = Arc::new(Lease::new(grant.epoch));
            if let Some(place) = enter(grant.epoch, Arc::clone(&next.figures)) {
                // It is new: nobody else has set it.
                let _ = next.journal.set(place);
            }
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
        let rest = grant.limit.saturating_sub(grant.settled).saturating_sub(grant.outstanding);
        let here = self.lease.load().avail();
        if slow.exhausted.is_some_and(|(_, denied)| denied <= rest.0.saturating_add(here)) {
            // Calls that cost less than they had set aside have given back what was denied.
            slow.exhausted = None;
        }
        slow.cut_off = None;
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

    /// Takes in how the budget stands in the law. More left than before: what was denied is asked again.
    pub(super) fn seen(&self, view: View) {
        let mut slow = self.slow.lock();
        let left = |it: &View| it.limit.saturating_sub(it.settled).saturating_sub(it.outstanding);
        if slow.view.is_none_or(|it| left(&it) < left(&view)) {
            slow.exhausted = None;
        }
        slow.view = Some(view);
    }

    /// Takes in that the ledger could not be asked, and why.
    pub(super) fn unanswered(&self, why: Denied) {
        let mut slow = self.slow.lock();
        slow.cut_off = Some(why);
        slow.gained = 0;
        slow.answered = slow.asked;
        drop(slow);
        self.changed.notify_waiters();
    }

    /// Takes in that the budget is no more: policy has deleted it, and the view that still names it is about to go.
    pub(super) fn vanished(&self) {
        self.renew().iter().for_each(|it| it.leave_journal());
        self.active.store(false, Ordering::Release);
        self.unanswered(Denied::NoQuorum);
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

#[cfg(test)]
mod tests;
