//! The ledger of one budget.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lease::{Ask, Grant, Lease, LeaseState};
use super::window::{self, Window};
use super::{BudgetId, Owner};
use crate::money::NanoUsd;
use crate::policy::{Budget, BudgetMode, Period};
use crate::time::UnixMillis;

/// One grant takes at most this part of the limit: what a dead node can make unreachable.
const SLICE_OF_LIMIT: u64 = 20;
/// And at most this part of what is left, divided among the nodes: slices shrink as the end comes near.
const SLICE_OF_REST: u64 = 2;
/// How many windows that ended are remembered, for what is still reported of them.
const PAST_MAX: usize = 2;
/// How many leases a window remembers. Beyond, the oldest closed ones go, and what might have been refunded of them with them.
const LEASES_MAX: usize = 256;

/// The ledger of one budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    id: BudgetId,
    limit: NanoUsd,
    period: Period,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    mode: BudgetMode,
    current: Book,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past: Vec<Book>,
}

/// What happened in one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    window: Window,
    /// What is settled, by part of a rolling period; one part else. In order, no part twice.
    settled: Vec<(u64, NanoUsd)>,
    /// What of that was charged for leases of nodes taken for dead, and not refunded since.
    written_off: NanoUsd,
    leases: Vec<Lease>,
}

/// A budget as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct View {
    /// The budget.
    pub id: BudgetId,
    /// Whose it is.
    #[serde(flatten)]
    pub owner: Option<Owner>,
    /// When spending starts again.
    pub period: Period,
    /// In which time zone. UTC where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Ceiling or count.
    pub mode: BudgetMode,
    /// Number of the window.
    pub epoch: u64,
    /// The ceiling.
    pub limit: NanoUsd,
    /// What was spent, as far as was reported, and what was written off.
    pub settled: NanoUsd,
    /// The part of `settled` that is charged for nodes that died and did not come back.
    pub written_off: NanoUsd,
    /// What nodes hold and may still spend.
    pub outstanding: NanoUsd,
    /// What is neither spent nor handed out.
    pub available: NanoUsd,
    /// When spending starts again from zero (or, rolling, when the next part of it stops to count).
    pub resets_at: Option<UnixMillis>,
    /// Who holds what.
    pub leases: Vec<LeaseView>,
}

/// What one node holds of a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LeaseView {
    /// The lease.
    #[serde(flatten)]
    pub lease: Lease,
    /// What the node may still spend.
    pub outstanding: NanoUsd,
    /// How much of it the node must give back, because the limit was lowered below what is handed out.
    pub recall: NanoUsd,
}

impl Book {
    const fn new(window: Window) -> Self {
        Self { window, settled: Vec::new(), written_off: NanoUsd::ZERO, leases: Vec::new() }
    }

    fn lease_mut(&mut self, node: u64, incarnation: u64) -> Option<&mut Lease> {
        self.leases.iter_mut().find(|it| it.is(node, incarnation))
    }

    fn charge(&mut self, slot: u64, amount: NanoUsd) {
        match self.settled.last_mut() {
            Some((last, sum)) if slot <= *last => *sum = sum.saturating_add(amount),
            Some(_) | None => {
                // Of most budgets there is one, and there are as many budgets as keys: no room for more.
                self.settled.reserve_exact(1);
                self.settled.push((slot, amount));
            }
        }
    }

    fn refund(&mut self, slot: u64, amount: NanoUsd) {
        if let Some((_, sum)) = self.settled.iter_mut().find(|(it, _)| *it == slot) {
            *sum = sum.saturating_sub(amount);
        }
    }

    fn settled(&self) -> NanoUsd {
        self.settled.iter().fold(NanoUsd::ZERO, |sum, (_, it)| sum.saturating_add(*it))
    }

    fn outstanding(&self) -> NanoUsd {
        self.leases.iter().fold(NanoUsd::ZERO, |sum, it| sum.saturating_add(it.outstanding()))
    }

    fn is_done(&self) -> bool {
        self.leases.iter().all(|it| it.state == LeaseState::Final)
    }

    /// Takes in what a node says of its lease. An old or repeated figure does nothing.
    fn report(&mut self, slot: u64, (node, incarnation): (u64, u64), ask: &Ask) {
        let Some(lease) = self.lease_mut(node, incarnation).filter(|it| it.is_open()) else {
            return;
        };
        let more = ask.used.saturating_sub(lease.used);
        lease.used = lease.used.max(ask.used);
        lease.returned = lease.returned.max(ask.returned);
        self.charge(slot, more);
    }

    /// Closes a lease for its exact figure, whether it was open or written off.
    fn finish(&mut self, slot: u64, (node, incarnation): (u64, u64), used: NanoUsd) {
        let Some(lease) = self.lease_mut(node, incarnation) else { return };
        let (known, exact) = (lease.used, lease.used.max(used));
        let (charged, charged_to) = match lease.state {
            LeaseState::Open => (NanoUsd::ZERO, slot),
            LeaseState::WrittenOff { charged, slot } => (charged, slot),
            LeaseState::Final => return,
        };
        lease.used = exact;
        lease.state = LeaseState::Final;
        let paid = known.saturating_add(charged);
        self.refund(charged_to, paid.saturating_sub(exact));
        self.charge(slot, exact.saturating_sub(paid));
        self.written_off = self.written_off.saturating_sub(charged);
    }

    /// Charges all that is outstanding on open leases of `node` up to `incarnation`, and closes them.
    fn write_off(&mut self, slot: u64, node: u64, incarnation: u64) -> NanoUsd {
        let mut total = NanoUsd::ZERO;
        for lease in self
            .leases
            .iter_mut()
            .filter(|it| it.node == node && it.incarnation <= incarnation && it.is_open())
        {
            let charged = lease.outstanding();
            lease.state = LeaseState::WrittenOff { charged, slot };
            total = total.saturating_add(charged);
        }
        self.written_off = self.written_off.saturating_add(total);
        self.charge(slot, total);
        total
    }

    fn active_nodes(&self, asking: u64) -> u64 {
        let open = self.leases.iter().filter(|it| it.is_open()).map(|it| it.node);
        let nodes: BTreeSet<u64> = open.chain([asking]).collect();
        u64::try_from(nodes.len()).unwrap_or(u64::MAX)
    }

    fn make_room(&mut self, node: u64, incarnation: u64) {
        // Of a life that is over and reported, nothing more can come.
        self.leases.retain(|it| {
            it.node != node || incarnation <= it.incarnation || it.state != LeaseState::Final
        });
        while LEASES_MAX <= self.leases.len() {
            let Some(oldest) = self.leases.iter().position(|it| !it.is_open()) else { return };
            self.leases.remove(oldest);
        }
    }
}

impl Account {
    pub(crate) fn new(id: BudgetId, budget: &Budget, index: u64, now: UnixMillis) -> Self {
        let window = Window::open(index, budget.period, budget.time_zone.as_deref(), now);
        Self {
            id,
            limit: budget.limit_usd,
            period: budget.period,
            time_zone: budget.time_zone.clone(),
            mode: budget.mode,
            current: Book::new(window),
            past: Vec::new(),
        }
    }

    /// Takes over what may change without starting anew: the limit and the mode.
    pub(crate) fn amend(&mut self, budget: &Budget) {
        self.limit = budget.limit_usd;
        self.mode = budget.mode;
    }

    /// The budget.
    #[must_use]
    pub const fn id(&self) -> &BudgetId {
        &self.id
    }

    /// The ceiling.
    #[must_use]
    pub const fn limit(&self) -> NanoUsd {
        self.limit
    }

    /// Ceiling or count.
    #[must_use]
    pub const fn mode(&self) -> BudgetMode {
        self.mode
    }

    /// Opens the window that `now` is in, and forgets what no longer counts.
    pub(crate) fn roll(&mut self, index: u64, now: UnixMillis) {
        if self.current.window.is_over(now) {
            let next = Window::open(index, self.period, self.time_zone.as_deref(), now);
            let ended = std::mem::replace(&mut self.current, Book::new(next));
            self.past.push(ended);
            self.past.retain(|it| !it.is_done());
            let over = self.past.len().saturating_sub(PAST_MAX);
            self.past.drain(..over);
        }
        let period = self.period;
        self.current.settled.retain(|(slot, _)| window::counts(period, *slot, now));
    }

    /// Takes in a report, and grants what may be granted. The account must have been rolled to `now`.
    pub(crate) fn ask(&mut self, now: UnixMillis, lease: (u64, u64), ask: &Ask) -> Grant {
        let slot = window::slot(self.period, now);
        if ask.epoch != 0
            && let Some(book) = self.book_mut(ask.epoch)
        {
            book.report(slot, lease, ask);
        }
        if NanoUsd::ZERO < ask.want.max(ask.need) {
            self.grant(lease, ask);
        }
        self.answer(now, lease)
    }

    fn grant(&mut self, (node, incarnation): (u64, u64), ask: &Ask) {
        let rest = self.rest();
        let active = self.current.active_nodes(node);
        let slice = NanoUsd((self.limit.0 / SLICE_OF_LIMIT).min(rest.0 / SLICE_OF_REST / active));
        if self.current.lease_mut(node, incarnation).is_none() {
            self.current.make_room(node, incarnation);
            self.current.leases.reserve_exact(1);
            self.current.leases.push(Lease::new(node, incarnation));
        }
        let Some(lease) = self.current.lease_mut(node, incarnation).filter(|it| it.is_open())
        else {
            return;
        };
        // The slice is what a node may hold, not what it may add: asking often must not pile it up.
        let share = slice.saturating_sub(lease.outstanding()).max(ask.need);
        let amount = ask.want.max(ask.need).min(share).min(rest);
        lease.granted = lease.granted.saturating_add(amount);
    }

    fn answer(&self, now: UnixMillis, (node, incarnation): (u64, u64)) -> Grant {
        let lease = self.current.leases.iter().find(|it| it.is(node, incarnation));
        Grant {
            budget: self.id.clone(),
            epoch: self.current.window.epoch,
            granted: lease.map_or(NanoUsd::ZERO, |it| it.granted),
            closed: lease.is_some_and(|it| !it.is_open()),
            recall: lease.map_or(NanoUsd::ZERO, |it| self.recall(it)),
            limit: self.limit,
            settled: self.current.settled(),
            outstanding: self.current.outstanding(),
            resets_at: self.resets_at(now),
        }
    }

    /// What is neither settled nor handed out.
    fn rest(&self) -> NanoUsd {
        self.limit.saturating_sub(self.current.settled()).saturating_sub(self.current.outstanding())
    }

    /// A lease's part, by its size, of what is handed out beyond the limit.
    fn recall(&self, lease: &Lease) -> NanoUsd {
        let outstanding = self.current.outstanding();
        let excess = self.current.settled().saturating_add(outstanding).saturating_sub(self.limit);
        if outstanding == NanoUsd::ZERO {
            return NanoUsd::ZERO;
        }
        let part = u128::from(lease.outstanding().0) * u128::from(excess.0.min(outstanding.0));
        NanoUsd(u64::try_from(part.div_ceil(u128::from(outstanding.0))).unwrap_or(u64::MAX))
    }

    pub(crate) fn finish(&mut self, now: UnixMillis, lease: (u64, u64), epoch: u64, used: NanoUsd) {
        let slot = window::slot(self.period, now);
        if let Some(book) = self.book_mut(epoch) {
            book.finish(slot, lease, used);
        }
        self.past.retain(|it| !it.is_done());
    }

    pub(crate) fn write_off(&mut self, now: UnixMillis, node: u64, incarnation: u64) -> NanoUsd {
        let slot = window::slot(self.period, now);
        let past = self.past.iter_mut().map(|it| it.write_off(slot, node, incarnation));
        let past = past.fold(NanoUsd::ZERO, NanoUsd::saturating_add);
        past.saturating_add(self.current.write_off(slot, node, incarnation))
    }

    /// Whose leases are open, in any window.
    pub(crate) fn open_nodes(&self) -> impl Iterator<Item = u64> {
        self.past
            .iter()
            .chain([&self.current])
            .flat_map(|it| &it.leases)
            .filter(|it| it.is_open())
            .map(|it| it.node)
    }

    fn book_mut(&mut self, epoch: u64) -> Option<&mut Book> {
        self.past.iter_mut().chain([&mut self.current]).find(|it| it.window.epoch == epoch)
    }

    fn resets_at(&self, now: UnixMillis) -> Option<UnixMillis> {
        let counting = |(slot, sum): &&(u64, NanoUsd)| {
            NanoUsd::ZERO < *sum && window::counts(self.period, *slot, now)
        };
        match self.period {
            Period::Rolling(_) => self
                .current
                .settled
                .iter()
                .find(counting)
                .and_then(|(slot, _)| window::slot_end(self.period, *slot)),
            Period::Hour | Period::Day | Period::Week | Period::Month | Period::Total => {
                self.current.window.ends_at
            }
        }
    }

    /// As it stands at `now`, also where no command has come since its window ended.
    #[must_use]
    pub fn view(&self, now: UnixMillis) -> View {
        let mut at = self.clone();
        at.roll(self.current.window.epoch, now);
        let (settled, outstanding) = (at.current.settled(), at.current.outstanding());
        View {
            id: at.id.clone(),
            owner: at.id.owner(),
            period: at.period,
            mode: at.mode,
            epoch: at.current.window.epoch,
            limit: at.limit,
            settled,
            written_off: at.current.written_off,
            outstanding,
            available: at.rest(),
            resets_at: at.resets_at(now),
            leases: at
                .current
                .leases
                .iter()
                .map(|it| LeaseView {
                    lease: it.clone(),
                    outstanding: it.outstanding(),
                    recall: at.recall(it),
                })
                .collect(),
            time_zone: at.time_zone,
        }
    }
}
