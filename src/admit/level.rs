//! The levels of policy that bound a call, and what each asks for.

use std::fmt;

use althing_domain::policy::{Budget, Rate};

use super::ledger::{BudgetId, Owner};

/// What one level asks for: its budgets and its rate, as policy has them.
#[derive(Debug, Clone)]
pub struct LevelSpec<'a> {
    /// Whose they are.
    pub owner: Owner,
    /// Its budgets under their ids in the ledger.
    pub budgets: Vec<(BudgetId, &'a Budget)>,
    /// Its rate.
    pub rate: Option<&'a Rate>,
}

/// An owner as messages name it: ``team `web` ``.
pub struct Spoken<'a>(pub &'a Owner);

impl fmt::Display for Spoken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owner { level, name, provider } = self.0;
        match provider {
            Some(provider) => write!(f, "virtual key `{name}` at provider `{provider}`"),
            None => write!(f, "{} `{name}`", level.name().replace('-', " ")),
        }
    }
}
