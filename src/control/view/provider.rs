//! A provider, compiled: where it is, how it is spoken to, and what it costs.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use althing_domain::id::Name;
use althing_domain::object::Kind;
use althing_domain::pattern::Pattern;
use althing_domain::policy::{self, ModelPrice};
use althing_domain::secret::Secret;
use althing_llm::provider::{Auth, Vendor};
use http::{HeaderName, HeaderValue, Uri};
use secrecy::ExposeSecret;

use super::model::Models;
use crate::admit::KeyLimits;
use crate::execute::egress::{Client, Settings};
use crate::secret::{Place, Resolver};
use crate::telemetry::metric::OTHER;
use crate::telemetry::probe::Peer;

/// A provider.
pub struct ProviderView {
    /// Its name.
    pub name: Name,
    /// The same, for records.
    pub label: Arc<str>,
    /// The same, as answers say it, where it fits into a header.
    pub shown: Option<HeaderValue>,
    /// What metrics call models here that nobody but a caller has named.
    pub unnamed: Arc<str>,
    /// What it is: dialect and quirks.
    pub vendor: &'static Vendor,
    /// Scheme, host and path before the operation's.
    pub base: Base,
    /// Its credentials; empty: requests carry none.
    pub keys: Vec<KeyCell>,
    /// Headers added to each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long a reply may take to begin, where policy says so.
    pub timeout: Option<Duration>,
    /// Aliases.
    pub aliases: BTreeMap<String, Arc<str>>,
    /// Prices that override the catalogue, by model or pattern.
    pub prices: BTreeMap<String, ModelPrice>,
    /// Whether any of them is of a pattern.
    pub has_price_patterns: bool,
    /// Whether it may be used.
    pub enabled: bool,
    /// What is wrong with it, where it cannot work.
    pub broken: Option<String>,
    /// Its own money and rates.
    pub limits: Arc<KeyLimits>,
    /// Its connections.
    pub client: Client,
    /// Counts attempts that were answered.
    pub answered: OnceLock<prometheus::IntCounter>,
    /// What is known of models here.
    pub(super) models: OnceLock<Models>,
    pub(super) catalogued: OnceLock<bool>,
    /// Whole addresses of the operations whose path is the same for every model.
    pub(super) addresses: [OnceLock<Uri>; FIXED_PATHS.len()],
    /// Where it is, as traces say it.
    pub peer: Arc<Peer>,
}

/// The part of a URL that stands before an operation's path.
#[derive(Debug, Clone)]
pub struct Base {
    text: String,
    /// The `Host` header.
    pub host: HeaderValue,
}

/// A credential, ready to send.
pub struct KeyCell {
    /// Its name.
    pub name: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// The models it serves.
    pub models: Vec<Pattern>,
    /// The header that shows it; `None` where the secret cannot be had.
    pub header: Option<(HeaderName, HeaderValue)>,
}

/// Paths of operations that name no model.
const FIXED_PATHS: [&str; 4] = ["/chat/completions", "/messages", "/responses", "/embeddings"];

/// What compiling needs from outside.
pub struct BuildContext<'a> {
    /// Opens references to secrets.
    pub secrets: &'a dyn Resolver,
    /// A client made for the same settings before, to keep its connections.
    pub reuse: Option<Client>,
    /// The provider's own limits.
    pub limits: Arc<KeyLimits>,
}

impl Base {
    /// Reads a base URL. Anthropic's and Google's SDKs take the bare host, so for their dialects a URL without a path means the usual one.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn parse(text: &str, dialect: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| format!("`{text}` has no host"))?;
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| format!("`{text}` has an odd host"))?;
        let path = match (dialect, uri.path()) {
            ("anthropic", "" | "/") => "/v1",
            ("gemini", "" | "/") => "/v1beta",
            _ => "",
        };
        Ok(Self { text: format!("{}{path}", text.trim_end_matches('/')), host })
    }

    /// As text, without a slash at its end.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The address of `path` (with its leading slash and query).
    ///
    /// # Errors
    ///
    /// A sentence, where the two do not make a URL.
    pub fn join(&self, path: &str) -> Result<Uri, String> {
        let mut all = String::with_capacity(self.text.len() + path.len());
        all.push_str(&self.text);
        all.push_str(path);
        all.parse().map_err(|_| "the model's name does not fit into a URL".to_owned())
    }
}

impl ProviderView {
    /// Compiles `spec`. What cannot work is kept as `broken` or as a key without a header: one bad secret must not
    /// take the rest of the law with it.
    #[must_use]
    pub fn build(spec: &policy::Provider, context: BuildContext<'_>) -> Self {
        let mut broken = None;
        let vendor = althing_llm::provider::find(spec.name.as_str(), spec.dialect);
        let url = spec.base_url.as_deref().unwrap_or(vendor.base_url);
        let base = Base::parse(url, vendor.dialect).unwrap_or_else(|problem| {
            broken = Some(format!("base_url: {problem}"));
            Base { text: String::new(), host: HeaderValue::from_static("invalid") }
        });
        let client = context.reuse.clone().map_or_else(|| client(spec, context.secrets), Ok);
        let client = client.unwrap_or_else(|problem| {
            broken = Some(problem);
            Client::plain()
        });
        let headers = spec
            .headers
            .iter()
            .filter_map(|(name, value)| header(&spec.name, name, value, context.secrets));
        Self {
            name: spec.name.clone(),
            label: Arc::from(spec.name.as_str()),
            shown: HeaderValue::from_str(spec.name.as_str()).ok(),
            unnamed: Arc::from(OTHER),
            vendor,
            peer: Arc::new(Peer::new(vendor.name, base.text())),
            base,
            keys: spec
                .keys
                .iter()
                .filter(|it| it.enabled)
                .map(|it| key(spec, it, vendor, context.secrets))
                .collect(),
            headers: headers.collect(),
            timeout: spec.timeout.map(policy::Span::duration),
            aliases: spec
                .models
                .iter()
                .map(|(alias, model)| (alias.clone(), Arc::from(model.as_str())))
                .collect(),
            prices: spec.prices.clone(),
            has_price_patterns: spec.prices.keys().any(|it| it.contains('*')),
            enabled: spec.enabled,
            broken,
            limits: context.limits,
            client,
            answered: OnceLock::new(),
            models: OnceLock::new(),
            catalogued: OnceLock::new(),
            addresses: Default::default(),
        }
    }

    /// The upstream's name of a model that a caller named.
    #[must_use]
    pub fn upstream_model<'a>(&'a self, model: &'a str) -> &'a str {
        self.aliases.get(model).map_or(model, |it| it)
    }

    /// The address of an operation: `path` is below the base URL, as the dialect has it.
    ///
    /// # Errors
    ///
    /// A sentence, where base and path do not make a URL.
    pub fn address(&self, path: &str, model: &str) -> Result<Uri, String> {
        let fixed = FIXED_PATHS.iter().position(|it| *it == path);
        let kept = fixed.and_then(|it| self.addresses.get(it));
        if let Some(address) = kept.and_then(OnceLock::get) {
            return Ok(address.clone());
        }
        let whole = self.vendor.path(self.base.text(), path, model);
        let address = self.base.join(&whole)?;
        // Azure has the model in its paths.
        if let Some(kept) = kept.filter(|_| whole == path) {
            let _ = kept.set(address.clone());
        }
        Ok(address)
    }
}

/// Whether two specifications reach their upstream in the same way, so that connections can be kept.
#[must_use]
pub fn same_client(a: &policy::Provider, b: &policy::Provider) -> bool {
    a.ca == b.ca && a.proxy == b.proxy
}

/// A place in a provider, where its secrets are sealed for.
fn place<'a>(provider: &'a Name, field: &'a str) -> Place<'a> {
    Place { kind: Kind::Provider, name: provider.as_str(), field }
}

fn client(spec: &policy::Provider, secrets: &dyn Resolver) -> Result<Client, String> {
    let ca = match &spec.ca {
        None => None,
        Some(ca) => {
            Some(secrets.resolve(ca, &place(&spec.name, "ca")).map_err(|it| format!("ca: {it}"))?)
        }
    };
    let settings = Settings {
        ca_pem: ca.as_ref().map(ExposeSecret::expose_secret),
        proxy: spec.proxy.as_deref(),
    };
    Client::new(&settings).map_err(|it| it.to_string())
}

fn key(
    spec: &policy::Provider,
    key: &policy::ProviderKey,
    vendor: &Vendor,
    secrets: &dyn Resolver,
) -> KeyCell {
    let field = format!("keys/{}/value", key.name);
    let header = match secrets.resolve(&key.value, &place(&spec.name, &field)) {
        Ok(secret) => auth_header(vendor.auth, secret.expose_secret()),
        Err(problem) => {
            tracing::warn!(provider.name = %spec.name, key.name = %key.name, %problem, "a provider key cannot be used");
            None
        }
    };
    KeyCell {
        name: Arc::from(key.name.as_str()),
        weight: key.weight,
        models: key.models.clone(),
        header,
    }
}

fn auth_header(auth: Auth, secret: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, text) = match auth {
        Auth::Bearer => (http::header::AUTHORIZATION, format!("Bearer {secret}")),
        Auth::Header(name) => (HeaderName::from_static(name), secret.to_owned()),
    };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

fn header(
    provider: &Name,
    name: &str,
    value: &Secret,
    secrets: &dyn Resolver,
) -> Option<(HeaderName, HeaderValue)> {
    let field = format!("headers/{name}");
    let resolved = match secrets.resolve(value, &place(provider, &field)) {
        Ok(it) => it,
        Err(problem) => {
            tracing::warn!(provider.name = %provider, header = name, %problem, "a header cannot be sent");
            return None;
        }
    };
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(resolved.expose_secret()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}
