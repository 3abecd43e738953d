//! From what a caller named to an ordered list of targets.
//!
//! `model` is `provider/model`, an alias of a provider, or a bare model name that the caller's providers decide.

use std::sync::Arc;

use rand::RngExt;
use smallvec::SmallVec;

use crate::admit::KeyLimits;
use crate::control::view::{KeyProviderView, KeyView, ModelView, ProviderView, View};
use crate::error::{Code, Error};
use crate::telemetry::metric::{Metrics, Series};

/// The most targets that one request may name.
const TARGETS_MAX: usize = 8;
/// The longest name of a model. Vendors' are below 100; it becomes a label, a path and a line of the record.
const MODEL_BYTES_MAX: usize = 256;

/// Where a request may be sent, best first.
pub struct Plan {
    /// The targets. Never empty.
    pub targets: SmallVec<[Target; 2]>,
}

/// One place that can answer.
pub struct Target {
    /// The provider.
    pub provider: Arc<ProviderView>,
    /// The model as the provider spells it.
    pub model: Arc<str>,
    /// What is known of the model.
    pub known: Arc<ModelView>,
    /// Whether the key names the model itself.
    is_keys_own: bool,
    /// Money and rates of the key at this provider, and of the provider.
    pub limits: Option<Arc<KeyLimits>>,
}

/// What is asked for.
pub struct Wanted<'a> {
    /// The model as the caller named it.
    pub model: &'a str,
    /// What to fall back to, in order.
    pub fallbacks: &'a [std::borrow::Cow<'a, str>],
    /// The dialect's name that the caller speaks: among equals, a provider that speaks it too comes first.
    pub dialect: &'a str,
}

/// Plans a request.
///
/// # Errors
///
/// [`Code::ModelUnknown`], [`Code::ModelForbidden`] and [`Code::InvalidField`] for the model and each fallback.
pub fn plan(view: &View, key: &KeyView, wanted: &Wanted<'_>) -> Result<Plan, Error> {
    if TARGETS_MAX <= wanted.fallbacks.len() {
        return Err(Error::field(
            "fallbacks",
            format_args!("names more than {} models", TARGETS_MAX - 1),
        ));
    }
    let mut targets = SmallVec::new();
    resolve(view, key, wanted.model, wanted.dialect, "model", &mut targets)?;
    for (at, fallback) in wanted.fallbacks.iter().enumerate() {
        resolve(view, key, fallback, wanted.dialect, &format!("fallbacks[{at}]"), &mut targets)?;
    }
    Ok(Plan { targets })
}

/// A provider that may serve a bare name.
struct Fitting<'v> {
    provider: &'v Arc<ProviderView>,
    rule: &'v KeyProviderView,
    /// Whether it is known to serve it.
    knows: bool,
}

/// Appends the targets for one name.
fn resolve(
    view: &View,
    key: &KeyView,
    name: &str,
    dialect: &str,
    field: &str,
    targets: &mut SmallVec<[Target; 2]>,
) -> Result<(), Error> {
    check_name(name, field)?;
    if let Some((provider, model)) = name.split_once('/')
        && let Some(provider) = view.provider(provider)
    {
        return explicit(key, provider, model, field).map(|it| targets.push(it));
    }
    let mut fitting: SmallVec<[Fitting<'_>; 8]> = SmallVec::new();
    let mut is_served = false;
    for provider in view.providers.iter().filter(|it| it.enabled && it.broken.is_none()) {
        let knows = provider.knows(name);
        if !knows && provider.is_catalogued() && !provider.vendor.serves_any {
            continue;
        }
        is_served |= knows;
        let names = [name, provider.upstream_model(name)];
        if let Some(rule) = key.allows(provider.name.as_str(), names) {
            fitting.push(Fitting { provider, rule, knows });
        }
    }
    if fitting.iter().any(|it| it.knows) {
        fitting.retain(|it| it.knows);
    }
    if fitting.is_empty() {
        return Err(if is_served {
            forbidden(name, field)
        } else {
            unknown(view, key, name, field)
        });
    }
    order(&mut fitting, dialect);
    // The first is the choice; the others that know the model can take over.
    for it in fitting.into_iter().take(TARGETS_MAX) {
        targets.push(target(it.provider, it.rule, it.provider.model(name)));
    }
    Ok(())
}

/// A name goes into upstreams' paths: one that climbs out of its place there would reach what the key does not name.
fn check_name(name: &str, field: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::field(field, "must name a model, such as `openai/gpt-4o`"));
    }
    if MODEL_BYTES_MAX < name.len() {
        return Err(Error::field(
            field,
            format_args!("is longer than {MODEL_BYTES_MAX} bytes, which no model's name is"),
        ));
    }
    // Most names have no dot before or after a slash: looked at more closely only where one may.
    let may_climb = name.starts_with('.') || name.bytes().any(|it| matches!(it, b'/' | b'\\'));
    let climbs = may_climb && name.split(['/', '\\']).any(|it| matches!(it, "." | ".."));
    if climbs || has_control(name) {
        return Err(Error::field(
            field,
            "has `.`, `..` or control characters where no model's name has them",
        ));
    }
    Ok(())
}

fn has_control(name: &str) -> bool {
    // Beyond ASCII there are control characters of two bytes.
    let is_plain = name.bytes().all(|it| it.is_ascii_graphic());
    !is_plain && name.chars().any(char::is_control)
}

fn explicit(
    key: &KeyView,
    provider: &Arc<ProviderView>,
    model: &str,
    field: &str,
) -> Result<Target, Error> {
    let known = provider.model(model);
    let Some(rule) = key.allows(provider.name.as_str(), [model, &known.name]) else {
        return Err(forbidden(&format!("{}/{model}", provider.name), field));
    };
    if !provider.enabled {
        return Err(Error::new(
            Code::ModelUnknown,
            format!("`{field}`: the provider `{}` is disabled", provider.name),
        ));
    }
    if let Some(problem) = &provider.broken {
        tracing::warn!(provider.name = %provider.name, %problem, "a broken provider was asked for");
        return Err(Error::new(
            Code::UpstreamUnreachable,
            format!(
                "the provider `{}` is not set up right: an administrator finds why at /api/status",
                provider.name
            ),
        ));
    }
    Ok(target(provider, rule, known))
}

fn target(provider: &Arc<ProviderView>, rule: &KeyProviderView, known: Arc<ModelView>) -> Target {
    Target {
        is_keys_own: !known.is_spelt_out && rule.names(&known.name),
        limits: KeyLimits::joined(&rule.limits, &provider.limits),
        provider: Arc::clone(provider),
        model: Arc::clone(&known.name),
        known,
    }
}

impl Target {
    /// The target's counters. Only names that the law or the catalogue has become labels, as callers can make up any
    /// number.
    #[must_use]
    pub fn series(&self, metrics: &Metrics) -> Arc<Series> {
        let label = &self.provider.label;
        if self.known.is_spelt_out {
            let kept = self.known.series.get_or_init(|| metrics.model(label, &self.model));
            return Arc::clone(kept);
        }
        metrics.model(label, if self.is_keys_own { &self.model } else { &self.provider.unnamed })
    }
}

/// Same dialect first; within that, a weighted draw for the first place, the rest in order of weight.
fn order(fitting: &mut SmallVec<[Fitting<'_>; 8]>, dialect: &str) {
    if fitting.len() < 2 {
        return;
    }
    let speaks = |it: &ProviderView| it.vendor.speaks(dialect);
    fitting.sort_by_key(|it| (!speaks(it.provider), std::cmp::Reverse(it.rule.weight)));
    let equals =
        fitting.iter().take_while(|it| speaks(it.provider) == speaks(fitting[0].provider)).count();
    let total: u64 = fitting.iter().take(equals).map(|it| u64::from(it.rule.weight)).sum();
    if total == 0 {
        return;
    }
    let mut draw = rand::rng().random_range(0..total);
    for at in 0..equals {
        let weight = u64::from(fitting[at].rule.weight);
        if draw < weight {
            fitting[..=at].rotate_right(1);
            return;
        }
        draw -= weight;
    }
}

fn forbidden(model: &str, field: &str) -> Error {
    Error::new(
        Code::ModelForbidden,
        format!("the key does not allow the model `{model}`: an administrator can add it to the key's `providers`"),
    )
    .with_param(field)
}

fn unknown(view: &View, key: &KeyView, model: &str, field: &str) -> Error {
    let names: Vec<&str> = view
        .providers
        .iter()
        .map(|it| it.name.as_str())
        .filter(|it| key.allows_provider(it))
        .take(8)
        .collect();
    let hint = if names.is_empty() {
        "the key allows no provider".to_owned()
    } else {
        format!("name it as `provider/model` with one of: {}", names.join(", "))
    };
    Error::new(
        Code::ModelUnknown,
        format!("no provider of this key serves the model `{model}`: {hint}"),
    )
    .with_param(field)
}

#[cfg(test)]
mod tests;
