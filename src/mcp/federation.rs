//! All MCP servers of the law, as one catalogue of tools and one way to call them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_domain::id::Name;
use althing_domain::policy::{Auth, Grant, McpServer};
use althing_domain::time::{Clock, UnixMillis};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::call::{Call, CallError, CallOutcome};
use super::catalog::{Catalog, Offer, build};
use super::supervisor::{Publish, Server};
use super::upstream::oauth::{self, AuthorizeError, Pending};
use super::upstream::{GuardProgram, Secrets, TokenStore, http};
use crate::tasks::Tasks;
use crate::telemetry::probe::ToolServer;

mod execute;

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Being started or reached.
    Connecting,
    /// Takes calls.
    Ready,
    /// Takes calls, but its last check or listing failed.
    Degraded,
    /// Cannot be reached now; tried again with growing pauses.
    Down,
    /// Waits for a person: it must be authorised, or something must be approved.
    Held,
    /// Switched off by policy.
    Disabled,
}

impl State {
    /// Its name, as the API shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Held => "held",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How one server is, for people.
#[derive(Debug, Clone)]
pub struct ServerStatus {
    /// The server.
    pub name: Name,
    /// How it is.
    pub state: State,
    /// Since when.
    pub since: UnixMillis,
    /// What went wrong last. Without secrets; the last lines of a stdio server's standard error may be in it.
    pub last_error: Option<String>,
    /// How many tools it offers.
    pub tools: usize,
    /// The protocol revision that is spoken, for example `2025-11-25`.
    pub protocol_version: Option<String>,
    /// What it says it is (`serverInfo`), as received.
    pub server_info: Option<Arc<RawValue>>,
    /// How often it was connected again since it was added.
    pub restarts: u64,
}

/// What bounds the traffic with each server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest result of a call, in bytes.
    pub result_bytes_max: usize,
    /// The most calls in flight per server.
    pub in_flight_max: usize,
    /// How long a call may take where its server's settings say nothing.
    pub call_timeout: Duration,
    /// How long a start and handshake may take: `npx` may download the server first.
    pub connect_timeout: Duration,
    /// How often tools are listed again without being told to.
    pub refresh_every: Duration,
    /// How often a silent server is checked.
    pub health_every: Duration,
    /// How long the answer to a check may take.
    pub health_timeout: Duration,
    /// How long calls in flight are waited for when their server is changed, removed or shut down.
    pub drain: Duration,
    /// The first pause before a lost server is tried again; doubled up to `backoff_max`, with jitter.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            result_bytes_max: 32 * 1024 * 1024,
            in_flight_max: 256,
            call_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(120),
            refresh_every: Duration::from_secs(300),
            health_every: Duration::from_secs(30),
            health_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// What a federation is built from.
pub struct Options {
    /// Where its tasks are kept.
    pub tasks: Tasks,
    /// Wall time, for people.
    pub clock: Arc<dyn Clock>,
    /// Resolves secrets of headers and environments.
    pub secrets: Arc<dyn Secrets>,
    /// Keeps OAuth grants.
    pub tokens: Arc<dyn TokenStore>,
    /// The guard of stdio servers.
    pub guard: GuardProgram,
    /// Bounds.
    pub limits: Limits,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("guard", &self.guard)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What the parts of a federation share.
pub(crate) struct Context {
    pub(crate) options: Options,
    pub(crate) pending: Pending,
    /// What the connections to a server share of its OAuth, by name.
    oauth: Mutex<HashMap<Name, Arc<oauth::Shared>>>,
}

impl Context {
    /// What the OAuth of `spec` is made of. `None`: it has none.
    pub(crate) fn oauth(&self, spec: &McpServer) -> Result<Option<oauth::Parts>, String> {
        let Some(Auth::OAuth(settings)) = &spec.auth else { return Ok(None) };
        let url = spec.url.as_deref().ok_or("`url` is missing")?;
        let shared = Arc::clone(self.oauth.lock().entry(spec.name.clone()).or_default());
        Ok(Some(oauth::Parts {
            server: spec.name.clone(),
            url: http::absolute(url)?,
            settings: settings.clone(),
            secrets: Arc::clone(&self.options.secrets),
            tokens: Arc::clone(&self.options.tokens),
            clock: Arc::clone(&self.options.clock),
            shared,
            tasks: self.options.tasks.clone(),
        }))
    }
}

/// All MCP servers. Cheap to clone.
#[derive(Clone)]
pub struct Federation {
    inner: Arc<Inner>,
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Federation")
            .field("tools", &self.catalog().tools.len())
            .finish_non_exhaustive()
    }
}

struct Inner {
    context: Arc<Context>,
    /// Enabled and disabled servers, in the order of their creation.
    servers: ArcSwap<Vec<Arc<Server>>>,
    /// Servers on their way out: shutdown waits for them too.
    leaving: Mutex<Vec<Arc<Server>>>,
    catalog: ArcSwap<Catalog>,
    version: watch::Sender<u64>,
    /// One change of the servers or the catalogue at a time. Never held across an await.
    changing: Mutex<()>,
}

impl Federation {
    /// A federation of no servers yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let inner = Inner {
            context: Arc::new(Context {
                options,
                pending: Pending::default(),
                oauth: Mutex::default(),
            }),
            servers: ArcSwap::default(),
            leaving: Mutex::default(),
            catalog: ArcSwap::default(),
            version: watch::Sender::new(0),
            changing: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes the servers be `servers`, which stand in the order of their creation.
    ///
    /// Returns at once: connecting goes on behind. Servers that did not change keep their connection and their
    /// calls, also where only prices, time-out or offered tools changed; a changed or removed one lets its calls in
    /// flight end within the drain's bound.
    pub fn reconcile(&self, servers: &[Arc<McpServer>]) {
        let mut started = Vec::new();
        {
            let _changing = self.inner.changing.lock();
            let before = self.inner.servers.load_full();
            let mut after: Vec<Arc<Server>> = Vec::with_capacity(servers.len());
            for spec in servers {
                let old = before.iter().find(|it| *it.name() == spec.name);
                match old {
                    Some(old) if is_same_link(&old.spec(), spec) => {
                        old.adopt(Arc::clone(spec));
                        after.push(Arc::clone(old));
                    }
                    _ => {
                        let server = Server::new(
                            Arc::clone(spec),
                            &self.inner.context.options,
                            old.map(AsRef::as_ref),
                        );
                        started.push(Arc::clone(&server));
                        after.push(server);
                    }
                }
            }
            let mut leaving = self.inner.leaving.lock();
            leaving.retain(|it| !it.ended().is_cancelled());
            for old in before.iter().filter(|old| !after.iter().any(|it| Arc::ptr_eq(it, old))) {
                old.stop();
                leaving.push(Arc::clone(old));
            }
            // A server that is made again under the name begins anew.
            let is_there = |name: &Name| after.iter().any(|it| it.name() == name);
            self.inner.context.oauth.lock().retain(|name, _| is_there(name));
            self.inner.servers.store(Arc::new(after));
        }
        for server in started {
            if server.spec().enabled {
                server.supervise(&self.inner.context, self.publisher());
            } else {
                server.end_unsupervised();
            }
        }
        self.inner.publish();
    }

    /// What is offered now.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.inner.catalog.load_full()
    }

    /// A number that grows with every change of the catalogue: callers are told `list_changed` by it.
    #[must_use]
    pub fn version(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// Calls a tool. Dropping the future cancels the call, and the server is told.
    ///
    /// # Errors
    ///
    /// [`CallError`] says what is known of the call's fate.
    pub async fn call(&self, call: Call) -> Result<CallOutcome, CallError> {
        match self.attempt(&call).await {
            // The server was changed at this moment, and nothing was sent to it: its successor takes the call.
            (Err(CallError::Unavailable { .. }), Some(server)) if server.is_stopping() => {
                self.attempt(&call).await.0
            }
            (outcome, _) => outcome,
        }
    }

    async fn attempt(&self, call: &Call) -> (Result<CallOutcome, CallError>, Option<Arc<Server>>) {
        let found =
            self.inner.servers.load().iter().find(|it| *it.name() == call.server).map(Arc::clone);
        let Some(server) = found else { return (Err(CallError::UnknownTool), None) };
        let tool = self.catalog().by_name(call.server.as_str(), &call.tool).map(Arc::clone);
        let outcome = match tool {
            Some(tool) => {
                execute::execute(&server, &tool, call, &self.inner.context.options.limits).await
            }
            None => Err(unlisted(&server)),
        };
        (outcome, Some(server))
    }

    /// Where a server is and what it speaks, for the trace of a call.
    #[must_use]
    pub fn place(&self, server: &str) -> Option<ToolServer> {
        let servers = self.inner.servers.load();
        let found = servers.iter().find(|it| it.name().as_str() == server)?;
        let url = found.spec().url.as_deref().and_then(|it| url::Url::parse(it).ok());
        Some(ToolServer {
            address: url
                .as_ref()
                .and_then(|it| Some((it.host_str()?.to_owned(), it.port_or_known_default()?))),
            protocol: found.connection().map(|it| it.peer().agreed.version.clone()),
        })
    }

    /// How each server is, in the order of their creation.
    #[must_use]
    pub fn status(&self) -> Vec<ServerStatus> {
        let catalog = self.catalog();
        let count = |name: &Name| catalog.tools.iter().filter(|it| it.server == *name).count();
        self.inner.servers.load().iter().map(|it| it.status(count(it.name()))).collect()
    }

    /// Connects `server` anew: an admin asked, or its authorisation is complete. Whether there is such a server.
    pub fn reconnect(&self, server: &str) -> bool {
        let servers = self.inner.servers.load();
        let found = servers.iter().find(|it| it.name().as_str() == server && it.spec().enabled);
        found.inspect(|it| it.reconnect()).is_some()
    }

    /// Begins the authorisation of `server` by a person: the URL to send them to. The answer comes to `redirect_uri`
    /// with `state` and `code`, which go to [`Self::finish_authorize`] on this node within 15 minutes.
    ///
    /// # Errors
    ///
    /// [`AuthorizeError`] says what the server, its settings or its authorization server lacks.
    pub async fn begin_authorize(
        &self,
        server: &str,
        redirect_uri: &str,
    ) -> Result<String, AuthorizeError> {
        let spec = self
            .inner
            .servers
            .load()
            .iter()
            .map(|it| it.spec())
            .find(|it| it.name.as_str() == server);
        let spec = spec.ok_or(AuthorizeError::UnknownServer)?;
        let parts = self.inner.context.oauth(&spec).map_err(AuthorizeError::Settings)?;
        let parts = parts
            .filter(|it| it.settings.grant == Grant::AuthorizationCode)
            .ok_or(AuthorizeError::NotOAuth)?;
        oauth::begin(parts, &self.inner.context.pending, redirect_uri).await
    }

    /// Ends an authorisation with what came back, keeps the tokens, and connects the server. The server's name.
    ///
    /// # Errors
    ///
    /// [`AuthorizeError`]; a `state` counts once, so after any error the person begins again.
    pub async fn finish_authorize(
        &self,
        state: &str,
        code: &str,
        iss: Option<&str>,
    ) -> Result<Name, AuthorizeError> {
        let now = self.inner.context.options.clock.now();
        let server = oauth::finish(&self.inner.context.pending, now, state, code, iss).await?;
        self.reconnect(server.as_str());
        Ok(server)
    }

    /// Ends all servers: calls in flight get the drain's bound, at most `within`. Whether all ended.
    pub async fn shutdown(&self, within: Duration) -> bool {
        self.reconcile(&[]);
        let leaving: Vec<Arc<Server>> = self.inner.leaving.lock().clone();
        let all = async {
            for server in leaving {
                server.ended().cancelled().await;
            }
        };
        tokio::time::timeout(within, all).await.is_ok()
    }

    fn publisher(&self) -> Publish {
        // Weak: a supervisor must not keep its federation alive.
        let inner = Arc::downgrade(&self.inner);
        Arc::new(move || {
            if let Some(inner) = inner.upgrade() {
                inner.publish();
            }
        })
    }
}

impl Inner {
    /// Builds the catalogue anew; a new version only where it differs.
    fn publish(&self) {
        let _changing = self.changing.lock();
        let servers = self.servers.load();
        let offers: Vec<Offer> =
            servers.iter().filter(|it| it.spec().enabled).map(|it| it.offer()).collect();
        let before = self.catalog.load_full();
        let after = build(&offers, &before);
        if after.is_same(&before) {
            return;
        }
        self.catalog.store(Arc::new(after));
        self.version.send_modify(|it| *it += 1);
    }
}

/// What a caller is told of a tool that is in no list.
fn unlisted(server: &Server) -> CallError {
    let state = server.state();
    match state {
        // It may be one of a server that has not been listed yet.
        State::Connecting | State::Down | State::Held => {
            let reason =
                server.last_error().unwrap_or_else(|| "it has not connected yet".to_owned());
            CallError::Unavailable { state, reason }
        }
        State::Ready | State::Degraded | State::Disabled => CallError::UnknownTool,
    }
}

/// Whether the way to the server is the same: what else may differ takes effect without a new connection.
fn is_same_link(old: &McpServer, new: &McpServer) -> bool {
    old.enabled == new.enabled
        && old.transport == new.transport
        && old.command == new.command
        && old.env == new.env
        && old.cwd == new.cwd
        && old.url == new.url
        && old.headers == new.headers
        && old.auth == new.auth
}

#[cfg(test)]
pub(crate) mod tests;
