//! The words of the protocol.

use std::fmt;
use std::sync::Arc;

use althing_domain::id::Name;
use althing_domain::money::NanoUsd;
use althing_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// The name of one budget: `virtual-key:app:month`.
///
/// It is made of the owner and the period, not of a place in a list, so that reordering
/// the budgets of an object moves no money between them. Another period is another budget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BudgetId(Arc<str>);

/// What a budget bounds, from the outermost in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// All of a customer.
    Customer,
    /// All of a team.
    Team,
    /// One virtual key.
    VirtualKey,
    /// One virtual key at one provider.
    KeyProvider,
    /// All use of a provider.
    Provider,
}

/// The owner of a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// What kind of owner.
    pub level: Level,
    /// Its name.
    pub name: Name,
    /// For [`Level::KeyProvider`]: the provider, as the key names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

impl Level {
    /// Its name in ids and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Team => "team",
            Self::VirtualKey => "virtual-key",
            Self::KeyProvider => "key-provider",
            Self::Provider => "provider",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl BudgetId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The owner that the id names.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        let mut parts = self.0.split(':');
        let (level, name) = (parts.next()?, Name::new(parts.next()?));
        let level =
            [Level::Customer, Level::Team, Level::VirtualKey, Level::KeyProvider, Level::Provider]
                .into_iter()
                .find(|it| it.name() == level)?;
        let provider =
            if level == Level::KeyProvider { Some(parts.next()?.to_owned()) } else { None };
        Some(Owner { level, name, provider })
    }
}
impl fmt::Display for BudgetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for BudgetId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// What a node reports of one lease and asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The budget.
    pub budget: BudgetId,
    /// The window that `used` and `returned` are of; 0 where the node holds no lease of it yet.
    pub epoch: u64,
    /// Spent from this lease, all in all.
    pub used: NanoUsd,
    /// Given back, all in all. A node takes it out of what it may spend *before* it says so.
    pub returned: NanoUsd,
    /// How much more it would like. Zero: it only reports.
    pub want: NanoUsd,
    /// How much more a request that waits needs; at most `want`. Granted whole where there is as much, past the usual slice.
    pub need: NanoUsd,
}

/// What a node is told of one budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The budget.
    pub budget: BudgetId,
    /// The window that everything here is of. Another than asked for: the old lease takes no more requests.
    pub epoch: u64,
    /// What this incarnation of the node was given in this window, all in all.
    pub granted: NanoUsd,
    /// That its lease was closed: it drains it, reports it with `Final`, and goes on with a new incarnation.
    pub closed: bool,
    /// How much of it the node must give back, because the limit was lowered below what is handed out.
    pub recall: NanoUsd,
    /// The ceiling.
    pub limit: NanoUsd,
    /// What is settled, of all nodes.
    pub settled: NanoUsd,
    /// What is handed out, of all nodes.
    pub outstanding: NanoUsd,
    /// When spending starts again from zero (or, rolling, when the next part of it stops to count).
    pub resets_at: Option<UnixMillis>,
}
