//! What a caller may use: the list of models in each vendor's shape, and its own key.

use std::collections::BTreeSet;

use althing_llm::dialect::{self, Dialect};
use http::Response;
use http::request::Parts;
use serde_json::{Value, json};

use super::body::Body;
use super::face::dialect_of_path;
use super::{Api, llm};
use crate::admit::{self, KeyLimits};
use crate::control::view::{KeyView, ProviderView, View};
use crate::error::{Code, Error};
use crate::gateway::Arrival;

/// Whether the path lists models, or shows one.
#[must_use]
pub fn is_list(path: &str) -> bool {
    let rest = [
        "/v1/models",
        "/openai/v1/models",
        "/anthropic/v1/models",
        "/genai/v1beta/models",
        "/v1beta/models",
    ]
    .iter()
    .find_map(|it| path.strip_prefix(it));
    rest.is_some_and(|it| it.is_empty() || (it.starts_with('/') && 1 < it.len()))
}

/// `GET …/models` and `GET …/models/{id}`.
#[must_use]
pub fn list(api: &Api, arrival: Arrival, parts: &Parts) -> Response<Body> {
    let path = parts.uri.path();
    let shape = shape(path, parts);
    let dialect = shape.dialect();
    let view = api.gateway.views.load_full();
    let caller = match api.gateway.caller(&view, &parts.headers, parts.uri.query(), arrival.wall) {
        Ok(it) => it,
        Err(error) => return llm::failure(dialect, &error, arrival),
    };
    if parts.method != http::Method::GET {
        return llm::failure(dialect, &Error::of(Code::MethodNotAllowed), arrival);
    }
    let models = models_of(&view, &caller);
    let one = path
        .split_once("/models/")
        .map(|it| percent_encoding::percent_decode_str(it.1).decode_utf8_lossy());
    let body = match one {
        None => shape.all(&models),
        Some(name) => match models
            .into_iter()
            .find(|it| it.id == name || it.bare() == name)
            .or_else(|| unlisted(&view, &caller, &name))
        {
            Some(model) => shape.one(&model),
            None => {
                let error =
                    Error::new(Code::ModelUnknown, format!("this key may use no model `{name}`"));
                return llm::failure(dialect, &error, arrival);
            }
        },
    };
    llm::json(Response::new(Body::full(body.to_string())))
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Model {
    /// `provider/model`.
    id: String,
    provider: String,
}

impl Model {
    fn bare(&self) -> &str {
        self.id.get(self.provider.len() + 1..).unwrap_or(&self.id)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    OpenAi,
    Anthropic,
    Gemini,
}

fn shape(path: &str, parts: &Parts) -> Shape {
    if path.contains("/v1beta/") {
        Shape::Gemini
    } else if path.starts_with("/anthropic/")
        || (!path.starts_with("/openai/") && parts.headers.contains_key("anthropic-version"))
    {
        Shape::Anthropic
    } else {
        Shape::OpenAi
    }
}

impl Shape {
    /// The dialect of a caller who gets this shape.
    fn dialect(self) -> &'static dyn Dialect {
        let name = match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        };
        dialect::by_name(name).unwrap_or(&dialect::openai::OPENAI)
    }

    fn one(self, model: &Model) -> Value {
        match self {
            Self::OpenAi => {
                json!({ "id": model.id, "object": "model", "created": 0, "owned_by": model.provider })
            }
            Self::Anthropic => json!({
                "type": "model", "id": model.id, "display_name": model.id, "created_at": "1970-01-01T00:00:00Z",
            }),
            Self::Gemini => json!({
                "name": format!("models/{}", model.id), "displayName": model.id,
                "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
            }),
        }
    }

    fn all(self, models: &BTreeSet<Model>) -> Value {
        let list: Vec<Value> = models.iter().map(|it| self.one(it)).collect();
        match self {
            Self::OpenAi => json!({ "object": "list", "data": list }),
            Self::Anthropic => json!({
                "first_id": models.first().map(|it| &it.id), "last_id": models.last().map(|it| &it.id),
                "has_more": false, "data": list,
            }),
            Self::Gemini => json!({ "models": list }),
        }
    }
}

/// The models that a key may use and that are known by name: aliases, priced ones, and the catalogue's.
fn models_of(view: &View, caller: &KeyView) -> BTreeSet<Model> {
    let mut models = BTreeSet::new();
    for provider in view.providers.iter().filter(|it| it.enabled && it.broken.is_none()) {
        let granted = caller.providers.iter().filter(|it| it.name.matches(provider.name.as_str()));
        let granted = granted.flat_map(|it| it.models.iter()).map(|it| it.0.as_str());
        for name in names(provider).chain(granted.filter(|it| !it.contains('*'))) {
            let upstream = provider.upstream_model(name);
            if caller.allows(provider.name.as_str(), [name, upstream]).is_some() {
                models.insert(Model {
                    id: format!("{}/{name}", provider.name),
                    provider: provider.name.to_string(),
                });
            }
        }
    }
    models
}

/// A model that nobody lists, where the key may ask its provider for it.
fn unlisted(view: &View, caller: &KeyView, name: &str) -> Option<Model> {
    let (provider, model) = name.split_once('/')?;
    let provider = view.providers.iter().find(|it| it.name.as_str() == provider)?;
    let is_usable = provider.enabled && provider.broken.is_none() && !model.is_empty();
    (is_usable && caller.allows(provider.name.as_str(), [model, model]).is_some())
        .then(|| Model { id: name.to_owned(), provider: provider.name.to_string() })
}

fn names(provider: &ProviderView) -> impl Iterator<Item = &str> {
    let listed = althing_llm::catalog::of_vendor(provider.vendor.name)
        .iter()
        .filter(|it| matches!(&*it.mode, "chat" | "responses" | "embedding" | "completion"))
        .map(|it| &*it.model);
    let named = provider
        .keys
        .iter()
        .flat_map(|it| &it.models)
        .map(|it| it.0.as_str())
        .filter(|it| !it.contains('*'));
    provider
        .aliases
        .keys()
        .map(String::as_str)
        .chain(provider.prices.keys().map(String::as_str).filter(|it| !it.contains('*')))
        .chain(named)
        .chain(listed)
}

/// `GET /v1/key`: the caller's own key, and what it has left.
#[must_use]
pub fn own_key(api: &Api, arrival: Arrival, parts: &Parts) -> Response<Body> {
    let dialect = dialect_of_path(parts.uri.path());
    let view = api.gateway.views.load_full();
    let caller = match api.gateway.caller(&view, &parts.headers, parts.uri.query(), arrival.wall) {
        Ok(it) => it,
        Err(error) => return llm::failure(dialect, &error, arrival),
    };
    if parts.method != http::Method::GET {
        return llm::failure(dialect, &Error::of(Code::MethodNotAllowed), arrival);
    }
    // A provider's own limits are not the caller's to know.
    let providers = caller.providers.iter().map(|it| {
        json!({
            "name": it.name, "models": it.models, "budgets": budgets_left(&it.limits), "rate": rates_left(&it.limits),
        })
    });
    let body = json!({
        "name": caller.name,
        "team": caller.team_label,
        "customer": caller.customer_label,
        "expires_at": caller.expires_at.map(|it| it.to_rfc3339()),
        "providers": providers.collect::<Vec<_>>(),
        "tools": caller.tools,
        "tool_groups": caller.groups,
        "budgets": budgets_left(&caller.limits),
        "rate": rates_left(&caller.limits),
        "default_max_tokens": caller.default_max_tokens,
        "record_opt_out": caller.record_opt_out,
    });
    llm::json(Response::new(Body::full(body.to_string())))
}

fn budgets_left(limits: &KeyLimits) -> Vec<Value> {
    let shown = |it: &admit::left::LeftMoney| {
        json!({
            "level": it.owner.level.name(), "name": it.owner.name, "limit_usd": it.limit, "settled_usd": it.settled,
            "remaining_usd": it.left, "resets_at": it.resets_at.map(|at| at.to_rfc3339()),
        })
    };
    admit::left::money(limits).iter().map(shown).collect()
}

fn rates_left(limits: &KeyLimits) -> Value {
    let left = admit::left(limits, admit::Mono::now());
    let rate = |it: Option<admit::rate::LeftRate>| {
        it.map(|it| json!({ "limit": it.limit, "remaining": it.remaining, "reset_ms": u64::try_from(it.reset.as_millis()).unwrap_or(u64::MAX) }))
    };
    let concurrent = admit::left::concurrent(limits)
        .map(|it| json!({ "limit": it.limit, "remaining": it.remaining }));
    json!({ "requests": rate(left.requests), "tokens": rate(left.tokens), "concurrent": concurrent })
}
