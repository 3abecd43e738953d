//! A virtual key, compiled.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use althing_domain::id::Name;
use althing_domain::pattern::Pattern;
use althing_domain::time::UnixMillis;
use smallvec::SmallVec;

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
    /// Its number in the law, which no other object ever has.
    pub number: u64,
    /// Its name, for records.
    pub label: Arc<str>,
    /// The team that pays.
    pub team_label: Option<Arc<str>>,
    /// The customer that pays.
    pub customer_label: Option<Arc<str>>,
    /// Whether it may be used.
    pub standing: Standing,
    /// Until when.
    pub expires_at: Option<UnixMillis>,
    /// The providers and models it may use.
    pub providers: Arc<[KeyProviderView]>,
    /// The tools it may use, as `server/tool`.
    pub tools: Arc<[Pattern]>,
    /// The groups it may use.
    pub groups: Arc<[Name]>,
    /// What a request that names no maximum is taken to ask for.
    pub default_max_tokens: Option<u64>,
    /// Whether its callers may keep what a call says out of its record.
    pub record_opt_out: bool,
    /// The money and rates of it, its team and its customer.
    pub limits: Arc<KeyLimits>,
    /// Its requests in flight on this node. Kept when the key is compiled anew.
    pub in_flight: Arc<AtomicU32>,
    /// The hashes under which the view has it.
    pub(in crate::control) hashes: SmallVec<[[u8; 32]; 1]>,
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
    pub limits: Arc<KeyLimits>,
}

impl KeyProviderView {
    /// Whether it names the model itself, and not only a pattern that fits it.
    #[must_use]
    pub fn names(&self, model: &str) -> bool {
        self.models.iter().any(|it| it.0 == model)
    }
}

impl KeyView {
    /// Who calls without a key where the configuration allows that: all models and tools, no limits.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: Name::new("anonymous"),
            number: 0,
            label: Arc::from("anonymous"),
            team_label: None,
            customer_label: None,
            standing: Standing::Active,
            expires_at: None,
            providers: Arc::from([KeyProviderView {
                name: Pattern::from("*"),
                models: vec![Pattern::from("*")],
                weight: 1,
                limits: Arc::default(),
            }]),
            tools: Arc::from([Pattern::from("*")]),
            groups: Arc::default(),
            default_max_tokens: None,
            record_opt_out: false,
            limits: Arc::default(),
            in_flight: Arc::default(),
            hashes: SmallVec::new(),
        }
    }

    /// What the key says of `provider`, where it may use it for one of the names of a model.
    #[must_use]
    pub fn allows(&self, provider: &str, names: [&str; 2]) -> Option<&KeyProviderView> {
        self.providers.iter().find(|it| {
            it.name.matches(provider)
                && it.models.iter().any(|m| names.iter().any(|name| m.matches(name)))
        })
    }

    /// Whether the key may use `provider` for any model.
    #[must_use]
    pub fn allows_provider(&self, provider: &str) -> bool {
        self.providers.iter().any(|it| it.name.matches(provider) && !it.models.is_empty())
    }
}
