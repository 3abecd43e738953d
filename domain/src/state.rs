//! What all nodes agree on.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::budget::{Account, BudgetId};
use crate::command::Reply;
use crate::digest::Digest;
use crate::id::Name;
use crate::object::{Kind, Row, Tables};
use crate::time::UnixMillis;

/// How many answers are remembered, so that a command that comes again is not applied again.
pub const REMEMBERED_MAX: usize = 100_000;

/// Where in the log a command stands, and when it was put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its index.
    pub index: u64,
    /// The time that whoever put it there stamped it with. Time never goes back: an earlier stamp counts as the last one.
    pub time: UnixMillis,
}

/// A secret that a virtual key may be shown with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Keyed hash of it.
    pub hash: Digest,
    /// Until when it holds. Absent: as long as the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<UnixMillis>,
}

/// The state that all nodes agree on. A clone is cheap, and shares what it can.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(crate) index: u64,
    pub(crate) now: UnixMillis,
    pub(crate) last_id: u64,
    pub(crate) tables: Tables,
    pub(crate) credentials: OrdMap<Name, Arc<[Credential]>>,
    pub(crate) accounts: OrdMap<BudgetId, Arc<Account>>,
    /// The latest life of each node that ever asked for a lease.
    pub(crate) incarnations: OrdMap<u64, u64>,
    pub(crate) admin_key: Option<Digest>,
    pub(crate) cluster_secrets: Option<Arc<[u8]>>,
    pub(crate) oauth: OrdMap<Name, Arc<str>>,
    pub(crate) remembered: Remembered,
    pub(crate) audit: Audit,
    pub(crate) derived: Derived,
}

/// What follows from the rest; rebuilt when a snapshot is read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Derived {
    /// Whose secret it is.
    pub(crate) by_hash: OrdMap<Digest, Name>,
    /// Who refers to what.
    pub(crate) references: OrdMap<(Kind, Name), OrdSet<(Kind, Name)>>,
    /// Which nodes have an open lease of which budgets.
    pub(crate) open_leases: OrdSet<(u64, BudgetId)>,
}

/// The answers to the last commands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remembered {
    answers: OrdMap<u128, Arc<Answer>>,
    order: Vector<u128>,
}

/// An answer, and the index that it was first given at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) index: u64,
    pub(crate) reply: Reply,
}

impl Remembered {
    pub(crate) fn get(&self, request_id: u128) -> Option<&Answer> {
        self.answers.get(&request_id).map(Arc::as_ref)
    }

    pub(crate) fn add(&mut self, request_id: u128, answer: Answer) {
        if self.answers.insert(request_id, Arc::new(answer)).is_none() {
            self.order.push_back(request_id);
        }
        if REMEMBERED_MAX < self.order.len()
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, &Answer)> {
        self.order.iter().filter_map(|id| self.get(*id).map(|answer| (*id, answer)))
    }
}

impl State {
    /// The state before the first command.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The log index of the last command applied.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The latest time that a command was stamped with.
    #[must_use]
    pub const fn now(&self) -> UnixMillis {
        self.now
    }

    pub(crate) fn restore_row(&mut self, row: Row) {
        self.link(&row);
        self.tables.insert(row);
    }

    /// Notes who `row` refers to.
    pub(crate) fn link(&mut self, row: &Row) {
        let (kind, name) = (row.object.kind(), row.object.name());
        for it in row.object.policy().references() {
            let referrers = self.derived.references.entry((it.kind, it.name)).or_default();
            referrers.insert((kind, name.clone()));
        }
    }

    pub(crate) fn unlink(&mut self, row: &Row) {
        let (kind, name) = (row.object.kind(), row.object.name());
        for it in row.object.policy().references() {
            let to = (it.kind, it.name);
            let Some(referrers) = self.derived.references.get_mut(&to) else { continue };
            referrers.remove(&(kind, name.clone()));
            if referrers.is_empty() {
                self.derived.references.remove(&to);
            }
        }
    }

    /// Replaces the credentials of a key, none for a key that is gone.
    pub(crate) fn set_credentials(&mut self, key: &Name, credentials: &[Credential]) {
        for old in self.credentials.remove(key).iter().flat_map(|it| it.iter()) {
            self.derived.by_hash.remove(&old.hash);
        }
        if !credentials.is_empty() {
            for new in credentials {
                self.derived.by_hash.insert(new.hash, key.clone());
            }
            self.credentials.insert(key.clone(), credentials.into());
        }
    }

    /// Stores an account and notes which nodes have leases of it.
    pub(crate) fn restore_account(&mut self, account: Account) {
        for node in account.open_nodes() {
            self.derived.open_leases.insert((node, account.id().clone()));
        }
        self.accounts.insert(account.id().clone(), Arc::new(account));
    }
}
