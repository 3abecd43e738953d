//! The task that reports what was spent, asks for more in time, and gives back what is not used.
//!
//! One exchange with the ledger at a time, so figures never overtake each other. Requests
//! that wait are served at once, and what runs short is asked for every [`REPORT_EVERY`]. What was spent goes out with
//! that, of at most [`REPORTS_MAX`] budgets at a time: on a node with more of them in use each waits for its turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::money::NanoUsd;
use althing_domain::time::Clock;
use althing_storage::usage_journal::{self, Past, UsageJournal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::budget::{BudgetCell, Denied, Signal};
use super::cells::Cells;
use super::lease::{Figures, Lease};
use super::ledger::{Answer, Ask, Batch, BudgetId, Finished, Ledger, LedgerError};

/// How often what was spent is reported.
pub const REPORT_EVERY: Duration = Duration::from_millis(250);
/// How many budgets are reported on at a time where nothing is asked for them. A commit of the law holds them all, so this
/// bounds what the log of a node with many thousand busy budgets grows by.
pub const REPORTS_MAX: usize = 1_024;
/// After how long without use a slice goes back.
pub const IDLE_AFTER: Duration = Duration::from_secs(30);
/// How long an exchange may take. Its figures are cumulative, so giving up on an answer loses nothing.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(5);
/// A slice covers what was spent in this many reports: ten seconds.
const HORIZON_REPORTS: u64 = 40;
/// And at most this part of the limit, as the ledger would grant no more.
const SLICE_OF_LIMIT: u64 = 20;
/// While requests run, the journal says this part of a budget's limit more than is charged (never more than was granted),
/// so that most requests write nothing.
pub const JOURNAL_AHEAD: u64 = 200;
/// How many budgets go into one batch. The rest follows in the next exchange.
const BATCH_MAX: usize = 4096;

/// The agent. [`Agent::run`] is its life.
pub struct Agent {
    cells: Arc<Cells>,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    signals: mpsc::Receiver<Signal>,
    incarnation: Incarnation,
    tracked: HashMap<BudgetId, Tracked>,
    /// Leases of former incarnations that requests still run under.
    retired: Vec<Retired>,
    journal: Option<UsageJournal>,
    /// What earlier processes left in the journal, where the ledger has not heard of it.
    past: Option<Vec<Finished>>,
}

/// Which life of the node spends. Shared with the usage journal.
#[derive(Debug, Clone)]
pub struct Incarnation(Arc<AtomicU64>);

impl Incarnation {
    /// The first of the process that is the node's `start`-th. A process that renews it (see [`Agent::run`]) stays below
    /// the next process's first: two processes must never hold the same lease.
    #[must_use]
    pub fn of_start(start: u64) -> Self {
        Self::new(start.saturating_mul(1 << 20))
    }

    /// Starts at `first`: larger than that of any former life of this node.
    #[must_use]
    pub fn new(first: u64) -> Self {
        Self(Arc::new(AtomicU64::new(first)))
    }

    /// The current one.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn next(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

struct Tracked {
    cell: Arc<BudgetCell>,
    /// Spending in one report's time, as a moving average.
    pace: u64,
    used_before: u64,
    busy_at: Instant,
    /// For how many reports it was not its turn.
    waited: usize,
}

struct Retired {
    incarnation: u64,
    budget: BudgetId,
    lease: Arc<Lease>,
}

impl Tracked {
    fn new(cell: Arc<BudgetCell>) -> Self {
        let used_before = cell.lease().used();
        Self { cell, pace: 0, used_before, busy_at: Instant::now(), waited: 0 }
    }

    /// What the node would like to hold.
    fn slice(&self) -> u64 {
        let ahead = self.pace.saturating_mul(HORIZON_REPORTS);
        let running = self.cell.lease().reserved().saturating_mul(2);
        ahead.max(running).min(self.cell.limit().0 / SLICE_OF_LIMIT)
    }

    /// Takes the pace, once a report.
    fn tick(&mut self, now: Instant) {
        let lease = self.cell.lease();
        let used = lease.used();
        let spent = used.saturating_sub(self.used_before);
        self.used_before = used;
        self.pace = self.pace.saturating_mul(3).saturating_add(spent) / 4;
        if 0 < spent || 0 < lease.reserved() {
            self.busy_at = now;
        }
        self.waited = self.waited.saturating_add(1);
    }

    /// Gives back what nobody can use.
    fn give_back(&self, now: Instant) {
        if self.is_idle(now) || self.cell.is_exhausted() {
            self.cell.give_back_unused();
        }
    }

    /// Whether the slice does not last.
    fn is_short(&self, slice: u64) -> bool {
        self.cell.lease().avail() < slice / 2
    }

    fn is_idle(&self, now: Instant) -> bool {
        IDLE_AFTER <= now.saturating_duration_since(self.busy_at)
    }
}

impl Agent {
    /// An agent for `cells`, whose signals arrive at `signals` (see [`Cells::new`]).
    #[must_use]
    pub fn new(
        (cells, signals): (Arc<Cells>, mpsc::Receiver<Signal>),
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
        incarnation: Incarnation,
    ) -> Self {
        Self {
            cells,
            ledger,
            clock,
            signals,
            incarnation,
            tracked: HashMap::new(),
            retired: Vec::new(),
            journal: None,
            past: None,
        }
    }

    /// With a journal of what is spent: what earlier processes left (`past`) is told to the ledger, so that a process
    /// that was killed costs its node no more than [`JOURNAL_AHEAD`] of a budget.
    #[must_use]
    pub fn journaled(mut self, journal: UsageJournal, past: Vec<Past>) -> Self {
        // Where a machine lost power the figures may be too small: the write-off stands.
        let exact = past.into_iter().filter(|it| it.is_exact).map(finished_before).collect();
        self.past = journal.has_past().then_some(exact);
        self.journal = Some(journal);
        self
    }

    /// Works until `stop`; then closes every lease that nothing runs under any more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Before anything is asked: a grant to this process closes the leases of earlier ones.
        self.finish_past().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(signal) = self.signals.recv() => self.serve(signal).await,
                _ = tick.tick() => self.report().await,
            }
        }
        self.close().await;
    }

    /// Answers the requests that wait.
    async fn serve(&mut self, first: Signal) {
        let mut wanted = Vec::new();
        let mut next = Some(first);
        while let Some(signal) = next {
            match signal {
                Signal::Active(cell) => self.track(cell),
                Signal::Wanted(cell) => {
                    self.track(Arc::clone(&cell));
                    wanted.push(cell);
                }
            }
            next = if wanted.len() < BATCH_MAX { self.signals.try_recv().ok() } else { None };
        }
        let tracked = &self.tracked;
        let slice = |it: &BudgetCell| tracked.get(it.id()).map_or(0, Tracked::slice);
        let asks = wanted.iter().flat_map(|it| it.asks(slice(it).max(floor(it)))).collect();
        self.exchange(asks).await;
    }

    /// Reports what changed since the last time.
    async fn report(&mut self) {
        let (now, wall) = (Instant::now(), self.clock.now());
        let mut asks: Vec<Ask> = Vec::new();
        // Who has waited for so many reports is among the first who may, so everybody's turn comes.
        let turn = 1 + self.tracked.len() / REPORTS_MAX;
        let mut left = REPORTS_MAX;
        for tracked in self.tracked.values_mut() {
            tracked.tick(now);
            let slice = if tracked.is_idle(now) { 0 } else { tracked.slice() };
            let is_its_turn = 0 < left && turn <= tracked.waited;
            let is_short = tracked.is_short(slice);
            if !is_its_turn && !is_short {
                continue;
            }
            tracked.waited = 0;
            tracked.give_back(now);
            let cell = &tracked.cell;
            let found = cell.asks(slice);
            let before = asks.len();
            if found.is_empty() && cell.is_over(wall) {
                asks.push(cell.inquiry());
            }
            asks.extend(found);
            if !is_short {
                left = left.saturating_sub(asks.len() - before);
            }
        }
        while !asks.is_empty() {
            let rest = asks.split_off(asks.len().min(BATCH_MAX));
            self.exchange(std::mem::replace(&mut asks, rest)).await;
        }
        self.tracked.retain(|_, it| !it.is_idle(now) || it.cell.rest());
        self.finish_retired().await;
        self.finish_past().await;
    }

    fn track(&mut self, cell: Arc<BudgetCell>) {
        self.tracked.entry(cell.id().clone()).or_insert_with(|| Tracked::new(cell));
    }

    async fn exchange(&mut self, asks: Vec<Ask>) {
        if asks.is_empty() {
            return;
        }
        let batch = Batch { incarnation: self.incarnation.get(), asks: asks.clone() };
        let answer = tokio::time::timeout(EXCHANGE_WITHIN, self.ledger.batch(batch)).await;
        match answer.unwrap_or(Err(LedgerError::NoQuorum)) {
            Ok(answer) => self.take_in(&asks, &answer),
            Err(error) => {
                tracing::warn!(error = %error, "the money ledger did not answer: this node spends what it holds");
                for cell in asks.iter().filter_map(|it| self.tracked.get(&it.budget)) {
                    cell.cell.unanswered(denied(&error));
                }
            }
        }
    }

    fn take_in(&mut self, asks: &[Ask], answer: &Answer) {
        if answer.stale || answer.grants.iter().any(|it| it.closed) {
            self.renew();
            return;
        }
        for grant in &answer.grants {
            if let Some(tracked) = self.tracked.get(&grant.budget) {
                let enter = |epoch, figures| self.enter(tracked.cell.as_ref(), epoch, figures);
                tracked.cell.granted(grant, &enter);
            }
        }
        // After that: what was given back counts at every moment, as on its way or as the ledger's.
        for ask in asks {
            if let Some(tracked) = self.tracked.get(&ask.budget) {
                tracked.cell.sent(ask);
            }
        }
        for budget in &answer.unknown {
            if let Some(tracked) = self.tracked.remove(budget) {
                tracked.cell.vanished();
            }
        }
    }

    /// The ledger took this node for dead and wrote its leases off: go on as another incarnation.
    fn renew(&mut self) {
        let incarnation = self.incarnation.get();
        tracing::warn!(
            incarnation,
            "the ledger closed this node's leases: starting a new incarnation"
        );
        for cell in self.cells.all_budgets() {
            let leases = cell.renew();
            self.retired.extend(leases.into_iter().map(|lease| Retired {
                incarnation,
                budget: cell.id().clone(),
                lease,
            }));
            cell.unanswered(Denied::NoQuorum);
        }
        self.incarnation.next();
        for tracked in self.tracked.values_mut() {
            tracked.used_before = 0;
        }
    }

    /// Tells the exact figures of leases that were closed and that nothing runs under any more.
    async fn finish_retired(&mut self) {
        let done = |it: &Retired| it.lease.drain();
        let finished: Vec<Finished> =
            self.retired.iter().filter(|it| done(it)).map(finished).collect();
        if !finished.is_empty() && self.finish(finished).await {
            self.retired.retain(|it| {
                let is_done = done(it);
                if is_done {
                    it.lease.leave_journal();
                }
                !is_done
            });
        }
    }

    /// Tells what earlier processes spent, again until the ledger has heard it.
    async fn finish_past(&mut self) {
        let Some(past) = &self.past else { return };
        let told = past.len();
        if 0 < told && !self.finish(past.clone()).await {
            return;
        }
        self.past = None;
        let Some(journal) = &self.journal else { return };
        if 0 < told {
            tracing::info!(
                leases = told,
                "told the ledger what the process before this one had spent"
            );
        }
        if let Err(error) = journal.forget_past() {
            tracing::warn!(%error, "an old usage journal cannot be deleted: it is told again at the next start");
        }
    }

    fn enter(
        &self,
        cell: &BudgetCell,
        epoch: u64,
        figures: Arc<Figures>,
    ) -> Option<usage_journal::Lease> {
        let journal = self.journal.as_ref()?;
        let budget = Arc::from(cell.id().as_str());
        let key = usage_journal::Key { budget, epoch, incarnation: self.incarnation.get() };
        journal
            .lease(&key, cell.limit().0 / JOURNAL_AHEAD, figures)
            .inspect_err(|error| {
                tracing::warn!(%error, "a lease is not in the usage journal: if the process dies, it is written off");
            })
            .ok()
    }

    async fn finish(&self, finished: Vec<Finished>) -> bool {
        let answer = tokio::time::timeout(EXCHANGE_WITHIN, self.ledger.finish(finished)).await;
        let answer = answer.unwrap_or(Err(LedgerError::NoQuorum));
        if let Err(error) = &answer {
            tracing::warn!(error = %error, "closing leases failed: they are written off until the usage journal is replayed");
        }
        answer.is_ok()
    }

    async fn close(mut self) {
        let incarnation = self.incarnation.get();
        for cell in self.cells.all_budgets() {
            let budget = cell.id();
            let leases = cell.close().into_iter();
            self.retired.extend(leases.map(|lease| Retired {
                incarnation,
                budget: budget.clone(),
                lease,
            }));
        }
        self.finish_retired().await;
        let Some(journal) = self.journal.take() else { return };
        let closed = tokio::task::spawn_blocking(move || journal.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "the usage journal was not closed");
        }
    }
}

fn finished_before(past: Past) -> Finished {
    let usage_journal::Key { budget, epoch, incarnation } = past.key;
    let used = NanoUsd(past.charged);
    Finished { incarnation, budget: BudgetId::from(budget.as_ref()), epoch, used }
}

fn finished(retired: &Retired) -> Finished {
    let Retired { incarnation, budget, lease } = retired;
    Finished {
        incarnation: *incarnation,
        budget: budget.clone(),
        epoch: lease.epoch(),
        used: NanoUsd(lease.used()),
    }
}

/// What it means for callers that the ledger did not answer.
const fn denied(error: &LedgerError) -> Denied {
    match error {
        LedgerError::Unwritable => Denied::Unwritable,
        LedgerError::NoQuorum | LedgerError::Failed(_) => Denied::NoQuorum,
    }
}

/// What is asked for where somebody waits: a whole slice, so that the next one need not.
fn floor(cell: &BudgetCell) -> u64 {
    cell.limit().0 / SLICE_OF_LIMIT
}

#[cfg(test)]
mod tests;
