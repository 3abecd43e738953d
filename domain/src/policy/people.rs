//! Who pays: customers, and the teams within them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Budget, Budgets, Rate, yes};
use crate::budget::{BudgetId, Level};
use crate::id::Name;
use crate::object::{Kind, Policy, Reference};
use crate::validate::Report;

/// A customer: the outermost level at which money and rates are bounded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// Its name.
    pub name: Name,
    /// Ceilings on what all of it may spend.
    #[serde(default)]
    pub budget: Budgets,
    /// A limit on how fast all of it may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Whether its keys may be used.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// A team, of a customer or by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Team {
    /// Its name.
    pub name: Name,
    /// The customer it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<Name>,
    /// Ceilings on what all of it may spend.
    #[serde(default)]
    pub budget: Budgets,
    /// A limit on how fast all of it may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Whether its keys may be used.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl Policy for Customer {
    fn name(&self) -> &Name {
        &self.name
    }

    fn check(&self, report: &mut Report<'_>) {
        self.validate(report);
    }

    fn budgets(&self) -> Vec<(BudgetId, &Budget)> {
        BudgetId::of_all(Level::Customer, &self.name, &self.budget)
    }
}

impl Policy for Team {
    fn name(&self) -> &Name {
        &self.name
    }

    fn check(&self, report: &mut Report<'_>) {
        self.validate(report);
    }

    fn references(&self) -> Vec<Reference> {
        let customer = |name: &Name| Reference {
            path: "customer".to_owned(),
            kind: Kind::Customer,
            name: name.clone(),
        };
        self.customer.iter().map(customer).collect()
    }

    fn budgets(&self) -> Vec<(BudgetId, &Budget)> {
        BudgetId::of_all(Level::Team, &self.name, &self.budget)
    }
}
