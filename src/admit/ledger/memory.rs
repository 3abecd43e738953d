//! The ledger in memory: the protocol of the law without its log, for tests and benches.

use std::collections::BTreeMap;
use std::time::Duration;

use althing_domain::money::NanoUsd;
use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Answer, Ask, Batch, BudgetId, Finished, Grant, Ledger, LedgerError};

/// A ledger of one node's leases.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    accounts: Mutex<BTreeMap<BudgetId, Account>>,
    /// How long an exchange takes: what a commit costs.
    delay: Duration,
}

/// One budget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The ceiling.
    pub limit: u64,
    /// The window.
    pub epoch: u64,
    /// What is settled in it.
    pub settled: u64,
    /// The leases of it, by window and incarnation.
    pub leases: BTreeMap<(u64, u64), Figures>,
    /// How many asks were answered.
    pub asked: u64,
}

/// The figures of one lease; all of them only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Granted.
    pub granted: u64,
    /// Given back.
    pub returned: u64,
    /// Spent.
    pub used: u64,
    /// Whether it was closed, and what was charged for what was outstanding then.
    pub closed: Option<u64>,
}

impl Figures {
    const fn outstanding(&self) -> u64 {
        match self.closed {
            Some(_) => 0,
            None => self.granted.saturating_sub(self.returned).saturating_sub(self.used),
        }
    }
}

impl Account {
    /// What is handed out in the current window.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        let current = self.leases.iter().filter(|((epoch, _), _)| *epoch == self.epoch);
        current.map(|(_, it)| it.outstanding()).sum()
    }

    fn ask(&mut self, incarnation: u64, ask: &Ask) -> Grant {
        self.asked += 1;
        if let Some(lease) =
            self.leases.get_mut(&(ask.epoch, incarnation)).filter(|it| it.closed.is_none())
        {
            let more = ask.used.0.saturating_sub(lease.used);
            lease.used += more;
            lease.returned = lease.returned.max(ask.returned.0);
            if ask.epoch == self.epoch {
                self.settled += more;
            }
        }
        let rest = self.limit.saturating_sub(self.settled).saturating_sub(self.outstanding());
        let lease = self.leases.entry((self.epoch, incarnation)).or_default();
        if lease.closed.is_none() && ask.want.0 > 0 {
            let slice = (self.limit / 20).min(rest / 2).saturating_sub(lease.outstanding());
            lease.granted += ask.want.0.min(slice.max(ask.need.0)).min(rest);
        }
        let (granted, closed) = (NanoUsd(lease.granted), lease.closed.is_some());
        Grant {
            budget: ask.budget.clone(),
            epoch: self.epoch,
            granted,
            closed,
            recall: NanoUsd((self.settled + self.outstanding()).saturating_sub(self.limit)),
            limit: NanoUsd(self.limit),
            settled: NanoUsd(self.settled),
            outstanding: NanoUsd(self.outstanding()),
            resets_at: None,
        }
    }
}

impl MemoryLedger {
    /// A ledger whose exchanges take `delay`.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { accounts: Mutex::default(), delay }
    }

    /// Opens a budget, or changes its limit.
    pub fn set_limit(&self, id: &BudgetId, limit: NanoUsd) {
        let mut accounts = self.accounts.lock();
        let account = accounts
            .entry(id.clone())
            .or_insert_with(|| Account { epoch: 1, ..Account::default() });
        account.limit = limit.0;
    }

    /// Begins the next window.
    pub fn turn(&self, id: &BudgetId) {
        if let Some(account) = self.accounts.lock().get_mut(id) {
            account.epoch += 1;
            account.settled = 0;
        }
    }

    /// Takes the node for dead: everything outstanding counts as spent.
    pub fn write_off(&self, id: &BudgetId) {
        if let Some(account) = self.accounts.lock().get_mut(id) {
            for lease in account.leases.values_mut().filter(|it| it.closed.is_none()) {
                let charged = lease.outstanding();
                lease.closed = Some(charged);
                account.settled += charged;
            }
        }
    }

    /// A budget as it stands.
    #[must_use]
    pub fn account(&self, id: &BudgetId) -> Account {
        self.accounts.lock().get(id).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn batch(&self, batch: Batch) -> Result<Answer, LedgerError> {
        tokio::time::sleep(self.delay).await;
        let mut accounts = self.accounts.lock();
        let mut answer = Answer::default();
        for ask in &batch.asks {
            match accounts.get_mut(&ask.budget) {
                Some(account) => answer.grants.push(account.ask(batch.incarnation, ask)),
                None => answer.unknown.push(ask.budget.clone()),
            }
        }
        Ok(answer)
    }

    async fn finish(&self, finished: Vec<Finished>) -> Result<(), LedgerError> {
        let mut accounts = self.accounts.lock();
        for it in finished {
            let Some(account) = accounts.get_mut(&it.budget) else { continue };
            let current = account.epoch == it.epoch;
            let Some(lease) = account.leases.get_mut(&(it.epoch, it.incarnation)) else { continue };
            let paid = lease.used + lease.closed.unwrap_or(0);
            if current {
                account.settled = (account.settled + it.used.0).saturating_sub(paid);
            }
            *lease = Figures { used: it.used.0, closed: Some(0), ..*lease };
        }
        Ok(())
    }
}
