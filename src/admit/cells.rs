//! The cells of this node by what they belong to, so that a change of policy keeps what was used.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::budget::{BudgetCell, Signal, View};
use super::ledger::{BudgetId, Owner};
use super::level::LevelSpec;
use super::rate::RateCell;

/// How many signals may wait for the agent. It empties the queue in microseconds; beyond, a cell signals again at its next use.
const SIGNALS_MAX: usize = 16 * 1024;

/// The cells of this node. As many as policy names, and no more: see [`Cells::sweep`].
#[derive(Debug)]
pub struct Cells {
    budgets: Mutex<HashMap<BudgetId, Arc<BudgetCell>, RandomState>>,
    rates: Mutex<HashMap<Box<str>, Arc<RateCell>, RandomState>>,
    signals: mpsc::Sender<Signal>,
}

/// All that bounds a caller: what the request path holds.
#[derive(Debug, Default)]
pub struct KeyLimits {
    pub(super) budgets: SmallVec<[Arc<BudgetCell>; 4]>,
    pub(super) rates: SmallVec<[Arc<RateCell>; 4]>,
}

impl KeyLimits {
    /// Whether nothing bounds the caller.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.budgets.is_empty() && self.rates.is_empty()
    }

    /// Whether money must be reserved before a call: a model without a price is refused then.
    #[must_use]
    pub fn has_strict_budget(&self) -> bool {
        self.budgets.iter().any(|it| it.is_strict())
    }

    /// Both as one; `None` where neither bounds anything. Copies only where both do.
    #[must_use]
    pub fn joined(outer: &Arc<Self>, inner: &Arc<Self>) -> Option<Arc<Self>> {
        match (outer.is_empty(), inner.is_empty()) {
            (true, true) => None,
            (false, true) => Some(Arc::clone(outer)),
            (true, false) => Some(Arc::clone(inner)),
            (false, false) => Some(Arc::new(Self {
                budgets: outer.budgets.iter().chain(&inner.budgets).map(Arc::clone).collect(),
                rates: outer.rates.iter().chain(&inner.rates).map(Arc::clone).collect(),
            })),
        }
    }

    /// The budgets, from the outermost level in.
    #[must_use]
    pub fn budgets(&self) -> &[Arc<BudgetCell>] {
        &self.budgets
    }

    /// The rates, from the outermost level in.
    #[must_use]
    pub fn rates(&self) -> &[Arc<RateCell>] {
        &self.rates
    }
}

impl Cells {
    /// No cells yet, and where their signals arrive: the agent's end.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::Receiver<Signal>) {
        let (signals, received) = mpsc::channel(SIGNALS_MAX);
        let cells = Self { budgets: Mutex::default(), rates: Mutex::default(), signals };
        (Arc::new(cells), received)
    }

    /// What bounds a caller that stands at `levels`, from the outermost in. The same budget
    /// or rate is the same cell each time; a changed one is changed in place.
    #[must_use]
    pub fn limits_for(&self, levels: &[LevelSpec<'_>]) -> Arc<KeyLimits> {
        let mut limits = KeyLimits::default();
        for level in levels {
            for (id, budget) in &level.budgets {
                let mut budgets = self.budgets.lock();
                let cell = budgets.get(id).map(Arc::clone).inspect(|it| it.update(budget));
                limits.budgets.push(cell.unwrap_or_else(|| {
                    let owner = level.owner.clone();
                    let cell =
                        Arc::new(BudgetCell::new(id.clone(), owner, budget, self.signals.clone()));
                    budgets.insert(id.clone(), Arc::clone(&cell));
                    cell
                }));
            }
            if let Some(rate) = level.rate {
                let key = rate_key(&level.owner);
                let mut rates = self.rates.lock();
                let cell = rates.get(&key).map(Arc::clone).inspect(|it| it.update(rate));
                limits.rates.push(cell.unwrap_or_else(|| {
                    let cell = Arc::new(RateCell::new(level.owner.clone(), rate));
                    rates.insert(key, Arc::clone(&cell));
                    cell
                }));
            }
        }
        Arc::new(limits)
    }

    /// Forgets the cells that nothing refers to any more. Call it after a new view of policy has replaced the old one.
    pub fn sweep(&self) {
        self.budgets.lock().retain(|_, it| 1 < Arc::strong_count(it));
        self.rates.lock().retain(|_, it| 1 < Arc::strong_count(it));
    }

    /// The cell of a budget, where the node has one.
    #[must_use]
    pub fn budget(&self, id: &BudgetId) -> Option<Arc<BudgetCell>> {
        self.budgets.lock().get(id).map(Arc::clone)
    }

    /// Takes in how those of the budgets `ids` that have a cell stand in the law: when the cell is made, and after each
    /// change of them. What callers are told of a budget that this node has not spent from comes from here.
    pub fn seen<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i BudgetId>,
        law: impl Fn(&BudgetId) -> Option<althing_domain::budget::View>,
    ) {
        for id in ids {
            let Some(cell) = self.budget(id) else { continue };
            let Some(view) = law(id) else { continue };
            cell.seen(View {
                limit: view.limit,
                settled: view.settled,
                outstanding: view.outstanding,
                resets_at: view.resets_at,
            });
        }
    }

    /// As [`Cells::seen`], for every cell there is.
    pub fn seen_all(&self, law: impl Fn(&BudgetId) -> Option<althing_domain::budget::View>) {
        let all = self.all_budgets();
        self.seen(all.iter().map(|it| it.id()), law);
    }

    /// How many cells of budgets and of rates there are.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.budgets.lock().len(), self.rates.lock().len())
    }

    pub(super) fn all_budgets(&self) -> Vec<Arc<BudgetCell>> {
        self.budgets.lock().values().map(Arc::clone).collect()
    }
}

fn rate_key(owner: &Owner) -> Box<str> {
    let provider = owner.provider.as_deref().unwrap_or("");
    format!("{}:{}:{provider}", owner.level.name(), owner.name).into()
}
