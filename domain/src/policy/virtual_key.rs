//! A virtual key: what a caller shows, and all that it may do.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Budget, Budgets, Rate, one, yes};
use crate::budget::{BudgetId, Level};
use crate::id::Name;
use crate::object::{Kind, Policy, Reference};
use crate::pattern::Pattern;
use crate::secret::Secret;
use crate::validate::Report;

/// The fewest characters of a value that an administrator chooses for a key.
pub const KEY_BYTES_MIN: usize = 8;

/// A virtual key. It may use what it names, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VirtualKey {
    /// Its name. Not a secret.
    pub name: Name,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The secret, on input only; only a keyed hash of it is stored. Absent: one is generated.
    #[serde(default, skip_serializing)]
    pub value: Option<Secret>,
    /// The team that pays for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Name>,
    /// The customer that pays for it, where it has no team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<Name>,
    /// The providers and models it may use.
    #[serde(default)]
    pub providers: Arc<[KeyProvider]>,
    /// The tools it may use, as `server/tool`; `*` stands for any run of characters.
    #[serde(default)]
    pub tools: Arc<[Pattern]>,
    /// The tool groups it may use.
    #[serde(default)]
    pub tool_groups: Arc<[Name]>,
    /// Ceilings on what it may spend.
    #[serde(default)]
    pub budget: Budgets,
    /// A limit on how fast it may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// What a request that names no maximum of output tokens is taken to ask for, and its provider is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_max_tokens: Option<u64>,
    /// Whether its callers may keep what a call says out of its record, with the header `x-althing-record: off`.
    // Left out where it is not set, so that commands and snapshots stay as earlier builds wrote them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub record_opt_out: bool,
    /// Until when it may be used, as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Whether it may be used.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// A provider that a key may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyProvider {
    /// The provider; `*` is any.
    pub name: Pattern,
    /// The models it may use there; `*` stands for any run of characters.
    #[serde(default)]
    pub models: Vec<Pattern>,
    /// Its share where several providers serve the same model.
    #[serde(default = "one")]
    pub weight: u32,
    /// Ceilings on what the key may spend there.
    #[serde(default)]
    pub budget: Budgets,
    /// A limit on how fast the key may call there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl VirtualKey {
    /// The budgets of one of its `providers` entries, by index.
    #[must_use]
    pub fn provider_budgets(&self, entry: usize) -> Vec<(BudgetId, &Budget)> {
        let Some(provider) = self.providers.get(entry) else { return Vec::new() };
        // Entries of the same provider (for other models) are told apart by a number.
        let earlier =
            self.providers.iter().take(entry).filter(|it| it.name == provider.name).count();
        BudgetId::of_key_provider(&self.name, &provider.name.0, earlier, &provider.budget)
    }

    /// The budgets of the key itself.
    #[must_use]
    pub fn own_budgets(&self) -> Vec<(BudgetId, &Budget)> {
        BudgetId::of_all(Level::VirtualKey, &self.name, &self.budget)
    }
}

impl Policy for VirtualKey {
    fn name(&self) -> &Name {
        &self.name
    }

    fn check(&self, report: &mut Report<'_>) {
        self.validate(report);
    }

    fn references(&self) -> Vec<Reference> {
        let one = |path: String, kind, name: &str| Reference { path, kind, name: Name::new(name) };
        let team = self.team.iter().map(|it| one("team".to_owned(), Kind::Team, it.as_str()));
        let customer =
            self.customer.iter().map(|it| one("customer".to_owned(), Kind::Customer, it.as_str()));
        let providers =
            self.providers.iter().enumerate().filter(|(_, it)| !it.name.0.contains('*'));
        let providers = providers
            .map(|(index, it)| one(format!("providers[{index}].name"), Kind::Provider, &it.name.0));
        let groups = self.tool_groups.iter().enumerate();
        let groups = groups
            .map(|(index, it)| one(format!("tool_groups[{index}]"), Kind::ToolGroup, it.as_str()));
        team.chain(customer).chain(providers).chain(groups).collect()
    }

    fn sharing(mut self: Arc<Self>, like: &Self) -> Arc<Self> {
        fn share<T: PartialEq>(mine: &mut Arc<[T]>, theirs: &Arc<[T]>) {
            if *mine == *theirs {
                *mine = Arc::clone(theirs);
            }
        }
        let spec = Arc::make_mut(&mut self);
        share(&mut spec.providers, &like.providers);
        share(&mut spec.tools, &like.tools);
        share(&mut spec.tool_groups, &like.tool_groups);
        share(&mut spec.budget.0, &like.budget.0);
        self
    }

    fn budgets(&self) -> Vec<(BudgetId, &Budget)> {
        let entries = (0..self.providers.len()).flat_map(|entry| self.provider_budgets(entry));
        self.own_budgets().into_iter().chain(entries).collect()
    }
}
