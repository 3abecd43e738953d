//! From a server's settings to a connection.

use std::sync::Arc;

use althing_domain::object::Kind;
use althing_domain::policy::{McpServer, Transport};
use arc_swap::ArcSwap;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::connection::{Connection, with_last_words};
use super::handshake::First;
use super::http::{Client, Credentials, Endpoint, Reach, absolute};
use super::inbox::Inbox;
use super::link::{AskError, Link};
use super::oauth::OAuth;
use super::redact::Redactor;
use super::sse::Sse;
use super::stdio::{self, Launch, Stdio};
use super::streamable_http::StreamableHttp;
use crate::mcp::federation::{Context, Options};
use crate::secret::Place;

/// How long a connection that failed to be made gets for ending.
const CLOSE_GRACE: std::time::Duration = std::time::Duration::from_secs(12);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The settings cannot work, whatever the server does.
    #[error("{0}")]
    Settings(String),
    /// It failed now, and may succeed later.
    #[error("{0}")]
    Failed(String),
    /// A person must authorise it first.
    #[error("{0}")]
    Unauthorized(String),
}

/// Connects to the server of `spec`, within `options.limits.connect_timeout`.
pub(crate) async fn open(spec: &McpServer, context: &Context) -> Result<Connection, OpenError> {
    let options = &context.options;
    let deadline = Instant::now() + options.limits.connect_timeout;
    let given = Given::resolve(spec, options).await?;
    let redactor = given.redactor();
    let bytes_max = options.limits.result_bytes_max;
    let inbox = Inbox::new(spec.name.clone(), bytes_max, Arc::clone(&redactor));
    let (link, first) = match spec.transport {
        Transport::Stdio => (start(spec, options, (given, redactor), inbox).await?, First::Legacy),
        Transport::Http => {
            let endpoint = endpoint(spec, context, &given, redactor)?;
            let wire = StreamableHttp::new(endpoint, Arc::clone(&inbox), &options.tasks);
            (Link { wire, inbox }, First::Modern)
        }
        Transport::Sse => {
            let endpoint = endpoint(spec, context, &given, redactor)?;
            let opened = Sse::open(endpoint, Arc::clone(&inbox), &options.tasks, deadline).await;
            let wire = opened.map_err(|it| match AskError::from(it) {
                AskError::Unauthorized(reason) => OpenError::Unauthorized(reason),
                other => OpenError::Failed(other.to_string()),
            })?;
            (Link { wire, inbox }, First::LegacyOnly)
        }
    };
    match Connection::open(link, first, deadline).await {
        Ok(connection) => Ok(connection),
        Err((error, link)) => {
            link.inbox.end("the handshake failed");
            link.wire.close(CLOSE_GRACE).await;
            let is_refused = matches!(error, AskError::Unauthorized(_));
            let reason = with_last_words(error.to_string(), link.wire.last_words());
            Err(if is_refused {
                OpenError::Unauthorized(reason)
            } else {
                OpenError::Failed(reason)
            })
        }
    }
}

/// What the server is given that nobody else may see: environment or headers, by name.
struct Given(Vec<(String, SecretString)>);

impl Given {
    async fn resolve(spec: &McpServer, options: &Options) -> Result<Self, OpenError> {
        let (field, named) = match spec.transport {
            Transport::Stdio => ("env", &spec.env),
            Transport::Http | Transport::Sse => ("headers", &spec.headers),
        };
        let mut given = Vec::with_capacity(named.len());
        for (key, secret) in named {
            let path = format!("{field}/{key}");
            let place = Place { kind: Kind::McpServer, name: spec.name.as_str(), field: &path };
            let value = options.secrets.resolve(secret, &place).await;
            given.push((
                key.clone(),
                value.map_err(|it| OpenError::Settings(format!("`{field}.{key}`: {it}")))?,
            ));
        }
        Ok(Self(given))
    }

    fn redactor(&self) -> Arc<Redactor> {
        let whole = self.0.iter().map(|(_, it)| it.clone());
        // Of `Bearer …` a server may repeat the token alone.
        let last = self.0.iter().filter_map(|(_, it)| {
            it.expose_secret().rsplit_once(' ').map(|(_, it)| it.to_owned().into())
        });
        Arc::new(Redactor::new(whole.chain(last).collect()))
    }
}

async fn start(
    spec: &McpServer,
    options: &Options,
    (given, redactor): (Given, Arc<Redactor>),
    inbox: Arc<Inbox>,
) -> Result<Link, OpenError> {
    let command = spec
        .command
        .as_ref()
        .ok_or_else(|| OpenError::Settings("`command` is missing".to_owned()))?;
    if let Some(cwd) = &spec.cwd
        && !tokio::fs::metadata(cwd).await.is_ok_and(|it| it.is_dir())
    {
        return Err(OpenError::Settings("`cwd` is no folder on this node".to_owned()));
    }
    let launch = Launch {
        argv: stdio::argv(command).map_err(OpenError::Settings)?,
        redactor,
        env: given.0,
        cwd: spec.cwd.as_deref(),
        guard: &options.guard,
    };
    let wire =
        Stdio::start(launch, Arc::clone(&inbox), &options.tasks).map_err(OpenError::Failed)?;
    Ok(Link { wire, inbox })
}

/// Headers that are the transport's own to set.
const RESERVED: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "accept",
    "accept-encoding",
    "mcp-session-id",
    "mcp-protocol-version",
    "last-event-id",
];

fn endpoint(
    spec: &McpServer,
    context: &Context,
    given: &Given,
    redactor: Arc<Redactor>,
) -> Result<Endpoint, OpenError> {
    let url =
        spec.url.as_deref().ok_or_else(|| OpenError::Settings("`url` is missing".to_owned()))?;
    let uri = absolute(url).map_err(OpenError::Settings)?;
    let mut headers = HeaderMap::new();
    for (key, value) in &given.0 {
        let wrong = |problem: &str| OpenError::Settings(format!("`headers.{key}`: {problem}"));
        let name =
            HeaderName::from_bytes(key.as_bytes()).map_err(|_| wrong("is no header name"))?;
        if RESERVED.contains(&name.as_str()) {
            return Err(wrong("is set by the gateway itself"));
        }
        let value = HeaderValue::from_str(value.expose_secret());
        let mut value = value.map_err(|_| wrong("has a value that cannot stand in a header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let credentials = credentials(spec, context)?;
    if credentials.is_some() && headers.contains_key(AUTHORIZATION) {
        return Err(OpenError::Settings(
            "`headers.authorization` and `auth` exclude each other".to_owned(),
        ));
    }
    let client = Client::new(Reach::Anywhere).map_err(OpenError::Failed)?;
    Ok(Endpoint { client, uri: ArcSwap::from_pointee(uri), headers, credentials, redactor })
}

fn credentials(
    spec: &McpServer,
    context: &Context,
) -> Result<Option<Arc<dyn Credentials>>, OpenError> {
    match context.oauth(spec).map_err(OpenError::Settings)? {
        None => Ok(None),
        Some(parts) => Ok(Some(Arc::new(OAuth::new(parts).map_err(OpenError::Failed)?))),
    }
}
