//! A provider of models: a vendor, or anything that speaks a vendor's dialect.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Budget, Budgets, Rate, Span, one, yes};
use crate::budget::{BudgetId, Level};
use crate::id::Name;
use crate::money::PerMillion;
use crate::object::{Policy, SecretPath};
use crate::pattern::Pattern;
use crate::secret::Secret;
use crate::validate::Report;

/// A provider of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its name. A vendor's own name (`openai`, `anthropic`, …) brings that vendor's dialect and base URL.
    pub name: Name,
    /// The wire format it speaks. Absent: the vendor's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<DialectName>,
    /// Where its API lives, up to and without the operation's path (`https://api.openai.com/v1`). Absent: the vendor's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Its credentials. Empty: requests carry none.
    #[serde(default)]
    pub keys: Vec<ProviderKey>,
    /// Headers added to each request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// How long a call may take until its reply begins. Where absent: two minutes for a stream; a reply that comes whole
    /// begins when it is done, and may take what `limits.request_timeout` allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// A PEM file of certificate authorities to trust beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Secret>,
    /// An HTTP proxy (`http://host:port`) to reach it through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Aliases: the name callers use, and the model it stands for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, String>,
    /// Prices that override or extend the catalogue, by upstream model; `*` stands for any run of characters, and the
    /// longest pattern that fits counts. A model without a price cannot be called under a strict budget.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, ModelPrice>,
    /// Ceilings on money spent with this provider.
    #[serde(default, skip_serializing_if = "budgets_absent")]
    pub budget: Budgets,
    /// A limit on how fast this provider may be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Whether it may be used.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// A credential of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderKey {
    /// Its name within the provider.
    pub name: Name,
    /// The credential.
    pub value: Secret,
    /// Its share of the traffic, beside the other keys'.
    #[serde(default = "one")]
    pub weight: u32,
    /// The models it serves.
    #[serde(default = "all")]
    pub models: Vec<Pattern>,
    /// Whether it may be used.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// What a model costs, in US dollars per million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// A million input tokens.
    pub input_usd_per_million: PerMillion,
    /// A million input tokens read from the vendor's cache. Absent: as input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_usd_per_million: Option<PerMillion>,
    /// A million input tokens written to the vendor's cache. Absent: as input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_usd_per_million: Option<PerMillion>,
    /// A million output tokens, reasoning included.
    pub output_usd_per_million: PerMillion,
}

/// A wire format.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DialectName {
    /// OpenAI: chat completions, Responses, embeddings.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic: messages.
    Anthropic,
    /// Google Gemini: `generateContent`.
    Gemini,
    /// Azure OpenAI: OpenAI's bodies under Azure's paths and key header.
    Azure,
    /// The built-in provider of `althing demo`.
    Demo,
}

impl Policy for Provider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn check(&self, report: &mut Report<'_>) {
        self.validate(report);
    }

    fn budgets(&self) -> Vec<(BudgetId, &Budget)> {
        BudgetId::of_all(Level::Provider, &self.name, &self.budget)
    }

    fn secrets(&mut self, visit: &mut dyn FnMut(SecretPath, &mut Secret)) {
        for key in &mut self.keys {
            visit(
                SecretPath::field("keys").then_named(key.name.as_str()).then_field("value"),
                &mut key.value,
            );
        }
        for (name, value) in &mut self.headers {
            visit(SecretPath::field("headers").then_field(name), value);
        }
        if let Some(ca) = &mut self.ca {
            visit(SecretPath::field("ca"), ca);
        }
    }
}

fn all() -> Vec<Pattern> {
    vec![Pattern::from("*")]
}

fn budgets_absent(budgets: &Budgets) -> bool {
    budgets.0.is_empty()
}
