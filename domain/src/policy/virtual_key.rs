//! A virtual key: what a caller shows, and all that it may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Budgets, Rate, one, yes};
use crate::id::Name;
use crate::pattern::Pattern;
use crate::secret::Secret;

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
    pub providers: Vec<KeyProvider>,
    /// The tools it may use, as `server/tool`; `*` stands for any run of characters.
    #[serde(default)]
    pub tools: Vec<Pattern>,
    /// The tool groups it may use.
    #[serde(default)]
    pub tool_groups: Vec<Name>,
    /// Ceilings on what it may spend.
    #[serde(default)]
    pub budget: Budgets,
    /// A limit on how fast it may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// What a request that names no maximum of output tokens is taken to ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_max_tokens: Option<u64>,
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
