//! A virtual key, compiled.

use althing_domain::id::Name;
use althing_domain::pattern::Pattern;
use althing_domain::policy;
use althing_domain::time::UnixMillis;

use crate::admit::KeyLimits;

/// Whether a key may be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Active,
    /// It may not; in a sentence, why.
    Disabled(&'static str),
}

/// A virtual key and all that it may do.
#[derive(Debug)]
pub struct KeyView {
    /// Its name.
    pub name: Name,
    /// The team that pays.
    pub team: Option<Name>,
    /// The customer that pays.
    pub customer: Option<Name>,
    /// Whether it may be used.
    pub standing: Standing,
    /// Until when.
    pub expires_at: Option<UnixMillis>,
    /// The providers and models it may use.
    pub providers: Vec<KeyProviderView>,
    /// The tools it may use, as `server/tool`.
    pub tools: Vec<Pattern>,
    /// The groups it may use.
    pub groups: Vec<Name>,
    /// What a request that names no maximum is taken to ask for.
    pub default_max_tokens: Option<u64>,
    /// The money and rates of it, its team and its customer.
    pub limits: KeyLimits,
}

/// A provider that a key may use.
#[derive(Debug)]
pub struct KeyProviderView {
    /// Which provider.
    pub name: Pattern,
    /// Which models.
    pub models: Vec<Pattern>,
    /// Its share where several serve the same model.
    pub weight: u32,
    /// The money and rates of the key at this provider.
    pub limits: KeyLimits,
}

impl KeyView {
    /// Who calls without a key where the configuration allows that: all models and tools, no limits.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: Name::new("anonymous"),
            team: None,
            customer: None,
            standing: Standing::Active,
            expires_at: None,
            providers: vec![KeyProviderView {
                name: Pattern::from("*"),
                models: vec![Pattern::from("*")],
                weight: 1,
                limits: KeyLimits::default(),
            }],
            tools: vec![Pattern::from("*")],
            groups: Vec::new(),
            default_max_tokens: None,
            limits: KeyLimits::default(),
        }
    }

    /// What the key says of `provider`, where it may use it for one of the names of a model.
    #[must_use]
    pub fn allows(&self, provider: &str, names: [&str; 2]) -> Option<&KeyProviderView> {
        self.providers.iter().find(|it| {
            it.name.matches(provider) && it.models.iter().any(|m| names.iter().any(|name| m.matches(name)))
        })
    }

    /// Whether the key may use `provider` for any model.
    #[must_use]
    pub fn allows_provider(&self, provider: &str) -> bool {
        self.providers.iter().any(|it| it.name.matches(provider) && !it.models.is_empty())
    }
}

/// How a key stands, with its team and customer.
#[must_use]
pub fn standing(
    key: &policy::VirtualKey,
    team: Option<&policy::Team>,
    customer: Option<&policy::Customer>,
) -> Standing {
    if !key.enabled {
        Standing::Disabled("the key is disabled")
    } else if team.is_some_and(|it| !it.enabled) {
        Standing::Disabled("the key's team is disabled")
    } else if customer.is_some_and(|it| !it.enabled) {
        Standing::Disabled("the key's customer is disabled")
    } else {
        Standing::Active
    }
}
