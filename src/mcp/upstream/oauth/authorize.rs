//! A person authorises: the way to the authorization server, and the way back.

use std::collections::HashMap;

use althing_domain::id::Name;
use althing_domain::time::UnixMillis;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;

use super::challenge::Challenge;
use super::discover::{self, Metadata};
use super::fetch::Fetcher;
use super::grant::{Client, Grant, Origin, Proof};
use super::{OAuth, Parts, after, client_secret, token};

/// Authorisations that wait for a person; at the bound the oldest is given up.
const PENDING_MAX: usize = 256;
/// How long one may wait, in seconds.
const PENDING_SECONDS: u64 = 15 * 60;

/// Why an authorisation cannot begin or end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorizeError {
    /// There is no such server.
    #[error("there is no such MCP server")]
    UnknownServer,
    /// The server's settings do not ask for a person's authorisation.
    #[error("the server has no `auth: {{ type: oauth, grant: authorization_code }}`")]
    NotOAuth,
    /// The settings cannot work.
    #[error("{0}")]
    Settings(String),
    /// The server or its authorization server does not play its part.
    #[error("{0}")]
    Upstream(String),
    /// The way back belongs to no authorisation that waits here: it is unknown, used, or too old.
    #[error("no authorisation waits for this answer; begin again")]
    UnknownState,
    /// The answer comes from another authorization server than the one that was asked.
    #[error("the answer comes from another authorization server; begin again")]
    WrongIssuer,
}

/// Authorisations that wait for a person, by the state that comes back.
#[derive(Default)]
pub(crate) struct Pending(Mutex<HashMap<String, Waiting>>);

struct Waiting {
    parts: Parts,
    resource: String,
    metadata: Metadata,
    client: Client,
    verifier: String,
    redirect_uri: String,
    until: UnixMillis,
}

/// Begins: where to send the person.
pub(crate) async fn begin(
    parts: Parts,
    pending: &Pending,
    redirect_uri: &str,
) -> Result<String, AuthorizeError> {
    check_redirect(redirect_uri)?;
    let fetcher = Fetcher::new(&parts.url).map_err(AuthorizeError::Upstream)?;
    let challenge = probe(&fetcher, &parts).await;
    let issuer = discover::discover(&fetcher, &parts.url, &challenge)
        .await
        .map_err(AuthorizeError::Upstream)?;
    let (metadata, resource) =
        (issuer.metadata, issuer.resource.unwrap_or_else(|| parts.url.to_string()));
    if !metadata.code_challenge_methods_supported.iter().any(|it| it == "S256") {
        return Err(AuthorizeError::Upstream(
            "its authorization server does not say that it takes PKCE with S256".to_owned(),
        ));
    }
    let mut scope = token::scope(&parts, &challenge, &issuer.resource_scopes);
    // Without it many issuers give no refresh token, and a person would have to come every hour.
    let wants_offline = metadata.scopes_supported.iter().any(|it| it == "offline_access");
    if wants_offline && !scope.split(' ').any(|it| it == "offline_access") {
        scope = format!("{scope} offline_access").trim().to_owned();
    }
    let client = client(&parts, &fetcher, &metadata, redirect_uri, &scope).await?;
    let (state, verifier) = (random()?, random()?);
    let url = authorize_url(
        &fetcher,
        &metadata,
        &Request {
            resource: &resource,
            client: &client,
            redirect_uri,
            scope: &scope,
            state: &state,
            verifier: &verifier,
        },
    )?;
    let until = after(parts.clock.now(), PENDING_SECONDS);
    pending.put(
        state,
        Waiting {
            parts,
            resource,
            metadata,
            client,
            verifier,
            redirect_uri: redirect_uri.to_owned(),
            until,
        },
    );
    Ok(url)
}

/// Ends: takes the code that came back, and keeps the tokens. The server that is authorised now.
pub(crate) async fn finish(
    pending: &Pending,
    now: UnixMillis,
    state: &str,
    code: &str,
    iss: Option<&str>,
) -> Result<Name, AuthorizeError> {
    let waiting = pending.take(state, now).ok_or(AuthorizeError::UnknownState)?;
    let is_right = match iss {
        Some(iss) => iss == waiting.metadata.issuer,
        None => !waiting.metadata.authorization_response_iss_parameter_supported,
    };
    if !is_right {
        return Err(AuthorizeError::WrongIssuer);
    }
    let oauth = OAuth::new(waiting.parts.clone()).map_err(AuthorizeError::Upstream)?;
    let url = waiting.parts.url.to_string();
    let origin = Origin {
        url: &url,
        resource: &waiting.resource,
        issuer: &waiting.metadata.issuer,
        token_endpoint: &waiting.metadata.token_endpoint,
        client: &waiting.client,
    };
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", &waiting.redirect_uri),
        ("code_verifier", &waiting.verifier),
        ("resource", &waiting.resource),
    ];
    let tokens = token::ask(&oauth.fetcher, &origin, &form)
        .await
        .map_err(|it| AuthorizeError::Upstream(it.text()))?;
    let grant =
        Grant::new(&origin, tokens, waiting.parts.clock.now()).map_err(AuthorizeError::Upstream)?;
    oauth.keep(grant).await.map_err(AuthorizeError::Upstream)?;
    Ok(waiting.parts.server.clone())
}

impl Pending {
    fn put(&self, state: String, waiting: Waiting) {
        let mut pending = self.0.lock();
        if PENDING_MAX <= pending.len()
            && let Some(oldest) =
                pending.iter().min_by_key(|(_, it)| it.until).map(|(state, _)| state.clone())
        {
            pending.remove(&oldest);
        }
        pending.insert(state, waiting);
    }

    /// Each state counts once.
    fn take(&self, state: &str, now: UnixMillis) -> Option<Waiting> {
        let mut pending = self.0.lock();
        pending.retain(|_, it| now < it.until);
        pending.remove(state)
    }
}

/// A URL to which codes may come back: `https`, or `http` on this machine.
fn check_redirect(redirect_uri: &str) -> Result<(), AuthorizeError> {
    let wrong = || {
        AuthorizeError::Settings(
            "the redirect URI must be https://, or http:// on a loopback host; set `public_url`"
                .to_owned(),
        )
    };
    let parsed = url::Url::parse(redirect_uri).map_err(|_| wrong())?;
    if parsed.scheme() == "https" || (parsed.scheme() == "http" && is_loopback(&parsed)) {
        Ok(())
    } else {
        Err(wrong())
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(it)) => it.is_loopback(),
        Some(url::Host::Ipv6(it)) => it.is_loopback(),
        Some(url::Host::Domain(it)) => it == "localhost",
        None => false,
    }
}

/// Asks the server without a token, to hear where its metadata is and what it wants.
async fn probe(fetcher: &Fetcher, parts: &Parts) -> Challenge {
    let body = super::super::jsonrpc::request(0, "ping", "{}");
    let asked = fetcher.post(&parts.url.to_string(), "application/json", body, None).await;
    asked.ok().and_then(|it| it.challenge).map(|it| Challenge::parse(&it)).unwrap_or_default()
}

/// The client that we are there: registered by an admin, or now.
async fn client(
    parts: &Parts,
    fetcher: &Fetcher,
    metadata: &Metadata,
    redirect_uri: &str,
    scope: &str,
) -> Result<Client, AuthorizeError> {
    if let Some(id) = &parts.settings.client_id {
        let secret = client_secret(parts).await.map_err(AuthorizeError::Settings)?;
        return Ok(token::preregistered(
            metadata,
            id.clone(),
            secret.map(|it| it.expose_secret().to_owned()),
        ));
    }
    let endpoint = metadata.registration_endpoint.as_deref().ok_or_else(|| {
        AuthorizeError::Settings("its authorization server does not register clients by itself; register one there and set `auth.client_id`".to_owned())
    })?;
    register(fetcher, endpoint, metadata, redirect_uri, scope)
        .await
        .map_err(AuthorizeError::Upstream)
}

/// Dynamic registration (RFC 7591).
async fn register(
    fetcher: &Fetcher,
    endpoint: &str,
    metadata: &Metadata,
    redirect_uri: &str,
    scope: &str,
) -> Result<Client, String> {
    #[derive(Deserialize)]
    struct Registered {
        client_id: String,
        #[serde(default)]
        client_secret: Option<String>,
        #[serde(default)]
        token_endpoint_auth_method: Option<String>,
    }
    let methods = metadata.token_endpoint_auth_methods_supported.clone().unwrap_or_default();
    let method = ["none", "client_secret_basic", "client_secret_post"]
        .into_iter()
        .find(|it| methods.iter().any(|known| known == it));
    let is_native = url::Url::parse(redirect_uri).is_ok_and(|it| is_loopback(&it));
    let mut request = json!({
        "client_name": "Althing",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method.unwrap_or("none"),
        "application_type": if is_native { "native" } else { "web" },
    });
    if !scope.is_empty() {
        request["scope"] = scope.into();
    }
    let answer = fetcher.post(endpoint, "application/json", request.to_string(), None).await?;
    if !answer.status.is_success() {
        let status = answer.status.as_u16();
        return Err(format!(
            "its authorization server does not register us (HTTP status {status}); register a client there and set `auth.client_id`"
        ));
    }
    let read: Registered = serde_json::from_slice(&answer.body)
        .map_err(|_| "its authorization server's registration cannot be read".to_owned())?;
    let proof = match read.token_endpoint_auth_method.as_deref() {
        _ if read.client_secret.is_none() => Proof::None,
        Some("none") => Proof::None,
        Some("client_secret_post") => Proof::Post,
        _ => Proof::Basic,
    };
    Ok(Client { id: read.client_id, secret: read.client_secret, proof })
}

struct Request<'a> {
    resource: &'a str,
    client: &'a Client,
    redirect_uri: &'a str,
    scope: &'a str,
    state: &'a str,
    verifier: &'a str,
}

fn authorize_url(
    fetcher: &Fetcher,
    metadata: &Metadata,
    request: &Request<'_>,
) -> Result<String, AuthorizeError> {
    let endpoint = metadata.authorization_endpoint.as_deref();
    let endpoint = endpoint.ok_or_else(|| {
        AuthorizeError::Upstream(
            "its authorization server has no authorization endpoint".to_owned(),
        )
    })?;
    // A person's browser goes there: no other scheme than the web's.
    fetcher.allowed(endpoint).map_err(AuthorizeError::Upstream)?;
    let mut url =
        url::Url::parse(endpoint).map_err(|it| AuthorizeError::Upstream(it.to_string()))?;
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, request.verifier.as_bytes()));
    {
        let mut query = url.query_pairs_mut();
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &request.client.id)
            .append_pair("redirect_uri", request.redirect_uri)
            .append_pair("state", request.state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .append_pair("resource", request.resource);
        if !request.scope.is_empty() {
            query.append_pair("scope", request.scope);
        }
        // OpenID Connect gives offline access only where the person is asked.
        if request.scope.split(' ').any(|it| it == "offline_access") {
            query.append_pair("prompt", "consent");
        }
    }
    Ok(url.into())
}

/// 256 random bits, fit for URLs.
fn random() -> Result<String, AuthorizeError> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| AuthorizeError::Settings("the system gives no random numbers".to_owned()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}
