//! What names a budget.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::policy::{Budget, Budgets};

/// The name of one budget: `virtual-key:app:month`.
///
/// It is made of the owner and the period, not of a place in a list, so that reordering
/// the budgets of an object moves no money between them. Another period is another budget.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct BudgetId(Arc<str>);

/// What a budget bounds, from the outermost in.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

    pub(crate) fn of_all<'a>(
        level: Level,
        name: &Name,
        budgets: &'a Budgets,
    ) -> Vec<(Self, &'a Budget)> {
        budgets
            .0
            .iter()
            .map(|it| (Self(format!("{level}:{name}:{}", period(it)).into()), it))
            .collect()
    }

    pub(crate) fn of_key_provider<'a>(
        key: &Name,
        provider: &str,
        earlier: usize,
        budgets: &'a Budgets,
    ) -> Vec<(Self, &'a Budget)> {
        let number = if earlier == 0 { String::new() } else { format!("#{}", earlier + 1) };
        let id = |it| format!("{}:{key}:{provider}{number}:{}", Level::KeyProvider, period(it));
        budgets.0.iter().map(|it| (Self(id(it).into()), it)).collect()
    }
}

fn period(budget: &Budget) -> String {
    match &budget.time_zone {
        Some(zone) => format!("{}:{zone}", budget.period),
        None => budget.period.to_string(),
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

impl std::borrow::Borrow<str> for BudgetId {
    fn borrow(&self) -> &str {
        &self.0
    }
}
