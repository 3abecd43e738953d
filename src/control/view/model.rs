//! A model at a provider: all that the law and the catalogue say of it, found once.

use std::sync::{Arc, OnceLock};

use althing_domain::pattern;
use althing_llm::catalog;
use althing_llm::price::Price;
use foldhash::fast::RandomState;
use http::HeaderValue;

use super::provider::{KeyCell, ProviderView};
use crate::telemetry::metric::Series;

/// The models that a provider's settings and the catalogue spell out, by name.
pub(super) type Models = std::collections::HashMap<Arc<str>, Arc<ModelView>, RandomState>;

/// A model at a provider.
pub struct ModelView {
    /// Its name, as the provider spells it.
    pub name: Arc<str>,
    /// The same, as answers say it, where it fits into a header.
    pub shown: Option<HeaderValue>,
    /// What it costs: the provider's own price, else the catalogue's; `None` where nobody knows.
    pub price: Option<Price>,
    /// What the catalogue has of it.
    pub listed: Option<&'static catalog::Entry>,
    /// Whether the provider's settings or the catalogue spell it out, and not only a pattern that fits it.
    pub is_spelt_out: bool,
    /// Whether the provider is known to serve it.
    is_served: bool,
    /// Its counters. Only of what is spelt out: callers can make up any number of other names.
    pub series: OnceLock<Arc<Series>>,
}

impl ModelView {
    fn of(provider: &ProviderView, name: Arc<str>) -> Self {
        let listed = catalog::find(provider.vendor.name, &name);
        let own = provider.prices.get(&*name);
        let has_patterns = provider.has_price_patterns;
        let fitting = || has_patterns.then(|| pattern::longest(&provider.prices, &name)).flatten();
        let price = own.or_else(fitting).copied().map(Price::from);
        let is_named = |it: &KeyCell| it.models.iter().any(|pattern| *pattern.0 == *name);
        let is_own = own.is_some() || listed.is_some();
        Self {
            shown: HeaderValue::from_str(&name).ok(),
            price: price.or_else(|| listed?.price),
            listed,
            is_spelt_out: is_own
                || provider.aliases.values().any(|it| *it == name)
                || provider.keys.iter().any(is_named),
            is_served: is_own || provider.has_key_for(&name),
            series: OnceLock::new(),
            name,
        }
    }
}

impl ProviderView {
    /// The model that a caller names, by an alias or as the provider spells it.
    #[must_use]
    pub fn model(&self, named: &str) -> Arc<ModelView> {
        let alias = self.aliases.get(named);
        match self.models().get(alias.map_or(named, |it| &**it)) {
            Some(known) => Arc::clone(known),
            None => {
                let name = alias.map_or_else(|| Arc::from(named), Arc::clone);
                Arc::new(ModelView::of(self, name))
            }
        }
    }

    /// Whether this provider is known to serve the model: by an alias, a price, a key that names it, or the catalogue.
    #[must_use]
    pub fn knows(&self, model: &str) -> bool {
        match self.models().get(model) {
            _ if self.aliases.contains_key(model) => true,
            Some(known) => known.is_served,
            None => self.has_key_for(model),
        }
    }

    /// Whether a key names the model, itself or by a pattern that says anything.
    fn has_key_for(&self, model: &str) -> bool {
        self.keys.iter().any(|it| it.models.iter().any(|p| p.0 != "*" && p.matches(model)))
    }

    /// Whether the catalogue has any models of this vendor, so that not being there means something.
    #[must_use]
    pub fn is_catalogued(&self) -> bool {
        *self.catalogued.get_or_init(|| catalog::has_vendor(self.vendor.name))
    }

    /// All models that are spelt out; made when the first is asked for.
    fn models(&self) -> &Models {
        self.models.get_or_init(|| {
            let listed = catalog::of_vendor(self.vendor.name).iter().map(|it| &*it.model);
            let keys = self.keys.iter().flat_map(|it| &it.models).map(|it| &*it.0);
            let own = self.prices.keys().map(String::as_str).chain(keys);
            let own = own.filter(|it| !it.contains('*'));
            let names = listed.chain(own).map(Arc::from);
            let names = names.chain(self.aliases.values().map(Arc::clone));
            names.map(|it| (Arc::clone(&it), Arc::new(ModelView::of(self, it)))).collect()
        })
    }
}
