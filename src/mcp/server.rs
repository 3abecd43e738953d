//! Our face to MCP clients: every tool that a caller may use, as one server, in every revision in use.
//!
//! Two eras: until 2025-11-25 a client shakes hands and has a session ([`legacy`]); since 2026-07-28 each request
//! stands alone ([`modern`]). Tools are the same in both ([`tools`]). What is not served (prompts, resources,
//! completion, logging, sampling, elicitation, tasks) is not advertised, and refused as an unknown method.
//!
//! The stages before have made sure who calls, that `Origin` and `Host` are allowed, and that the body has a bound.

mod http;
mod legacy;
mod modern;
mod rpc;
mod session;
mod sse;
mod tools;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, Request as HttpRequest, Response, StatusCode};
use althing_domain::time::{Clock, UnixMillis};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::http::{
    Accepts, PROTOCOL_VERSION, accepts, empty, fail, is_json, refuse, sole, wrong_method,
};
use self::rpc::{Incoming, Message, Request, RpcError};
use self::session::{Running, Session, Streams};
use super::scope::{Catalogs, Filter, Names, Scope, ToolCaller};
use crate::error::{Code, Error};
use crate::tasks::Tasks;
use crate::telemetry::trace::Parent;

pub use self::http::Body;
pub(crate) use self::modern::{collect_marks, primitive};
pub(crate) use self::rpc::{code as rpc_code, shown};
pub use self::session::Keys;

/// A revision of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Revision {
    V2024_11_05,
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
}

impl Revision {
    const ALL: [(Self, &'static str); 5] = [
        (Self::V2024_11_05, "2024-11-05"),
        (Self::V2025_03_26, "2025-03-26"),
        (Self::V2025_06_18, "2025-06-18"),
        (Self::V2025_11_25, "2025-11-25"),
        (Self::V2026_07_28, "2026-07-28"),
    ];
    /// What a client is told that it can speak, newest first.
    const OFFERED: [&'static str; 4] = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"];
    const LATEST: Self = Self::V2026_07_28;

    fn of(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|it| it.1 == text).map(|it| it.0)
    }

    fn text(self) -> &'static str {
        Self::ALL.iter().find(|it| it.0 == self).map_or("", |it| it.1)
    }

    const fn is_modern(self) -> bool {
        matches!(self, Self::V2026_07_28)
    }

    /// A number for storage.
    const fn number(self) -> u8 {
        match self {
            Self::V2024_11_05 => 1,
            Self::V2025_03_26 => 2,
            Self::V2025_06_18 => 3,
            Self::V2025_11_25 => 4,
            Self::V2026_07_28 => 5,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|it| it.0.number() == number).map(|it| it.0)
    }
}

/// Which tools a path serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/mcp`: all that the caller may use.
    All,
    /// `/mcp/{group}`.
    Group(String),
}

/// Bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many notification streams one principal may have open.
    pub streams_per_principal: usize,
    /// How many all may have open.
    pub streams: usize,
    /// How long a call is waited for before its answer becomes a stream, where the client takes one.
    pub answer_within: Duration,
    /// How often a silent stream says that it is alive. Revocation by time is noticed as often.
    pub keep_alive: Duration,
    /// How many tools a page of a list has.
    pub tools_per_page: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_principal: 64,
            streams: 8192,
            answer_within: Duration::from_secs(10),
            keep_alive: Duration::from_secs(15),
            tools_per_page: 1000,
        }
    }
}

/// What a server is built from.
pub struct Options {
    /// The tools.
    pub catalogs: Arc<dyn Catalogs>,
    /// Grows with every change of the law: streams look again at what their caller may do.
    pub law: watch::Receiver<u64>,
    /// Seal sessions and cursors; from the same secret on every node of a cluster.
    pub keys: Keys,
    /// When handles expire.
    pub clock: Arc<dyn Clock>,
    /// Where calls and streams run. Streams end when these are asked to stop.
    pub tasks: Tasks,
    /// Bounds.
    pub limits: Limits,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct McpServer {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    lists: tools::Lists,
    running: Arc<Running>,
    streams: Arc<Streams>,
    open: legacy::OpenStreams,
}

/// What is known of a request before its method is looked at.
#[derive(Clone)]
struct Ask {
    scope: Scope,
    revision: Revision,
    session: Option<Session>,
    parent: Option<String>,
    idempotency_key: Option<String>,
    /// The span that the HTTP request came from, where the caller is traced.
    carrier: Option<Parent>,
}

impl McpServer {
    /// A server.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let inner = Inner {
            options,
            lists: tools::Lists::default(),
            running: Arc::default(),
            streams: Arc::default(),
            open: legacy::OpenStreams::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Answers a request to `/mcp` or `/mcp/{group}` (Streamable HTTP). Never fails: failures are answers.
    ///
    /// A tool call of a legacy client goes on when its connection is lost, as the revisions ask; a modern client
    /// cancels by closing.
    pub async fn handle(
        &self,
        request: HttpRequest<Bytes>,
        caller: Arc<dyn ToolCaller>,
        target: Target,
    ) -> Response<Body> {
        match *request.method() {
            Method::POST => self.post(&request, caller, &target).await,
            Method::GET | Method::DELETE => {
                let header = sole(request.headers(), PROTOCOL_VERSION.as_str()).ok().flatten();
                if header.and_then(Revision::of).is_some_and(Revision::is_modern) {
                    return wrong_method("POST");
                }
                let session = match legacy::session(self, request.headers(), caller.principal()) {
                    Ok(session) => session,
                    Err(response) => return *response,
                };
                let revision = session.map_or(Revision::V2025_03_26, |it| it.revision);
                match self.ask(&request, caller, &target, revision, session) {
                    Err(response) => *response,
                    Ok(ask) if *request.method() == Method::GET => {
                        self.get(ask, accepts(request.headers()))
                    }
                    Ok(ask) => self.delete(&ask),
                }
            }
            _ => wrong_method("GET, POST, DELETE"),
        }
    }

    async fn post(
        &self,
        request: &HttpRequest<Bytes>,
        caller: Arc<dyn ToolCaller>,
        target: &Target,
    ) -> Response<Body> {
        let headers = request.headers();
        let accepts = accepts(headers);
        if !accepts.json && !accepts.events {
            return fail(
                StatusCode::NOT_ACCEPTABLE,
                "accept `application/json` and `text/event-stream`",
            );
        }
        if !is_json(headers) {
            return fail(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be `application/json`");
        }
        let incoming = match rpc::read(request.body()) {
            Ok(incoming) => incoming,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, "null", &error),
        };
        let version = match sole(headers, PROTOCOL_VERSION.as_str()) {
            Ok(version) => version,
            Err(problem) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "null",
                    &RpcError::new(rpc::HEADER_MISMATCH, problem),
                );
            }
        };
        match era(&incoming, version) {
            Era::Modern => self.post_modern(request, caller, target, incoming, accepts).await,
            Era::Legacy => {
                self.post_legacy(request, caller, target, (incoming, version), accepts).await
            }
            Era::Unknown(error) => refuse(StatusCode::BAD_REQUEST, id_of(&incoming), &error),
        }
    }

    async fn post_modern(
        &self,
        http: &HttpRequest<Bytes>,
        caller: Arc<dyn ToolCaller>,
        target: &Target,
        incoming: Incoming<'_>,
        accepts: Accepts,
    ) -> Response<Body> {
        let ask = match self.ask(http, caller, target, Revision::V2026_07_28, None) {
            Ok(ask) => ask,
            Err(response) => return *response,
        };
        match incoming {
            Incoming::One(Ok(Message::Request(request))) => {
                self.modern(ask, http.headers(), &request, accepts).await
            }
            Incoming::One(Ok(Message::Notification { method, .. })) => {
                match modern::notified(http.headers(), &method) {
                    Ok(_) => empty(StatusCode::ACCEPTED),
                    Err(error) => refuse(StatusCode::BAD_REQUEST, "null", &error),
                }
            }
            Incoming::One(Ok(Message::Response)) => {
                fail(StatusCode::BAD_REQUEST, "nothing was asked of this client")
            }
            Incoming::One(Err(refusal)) => {
                refuse(StatusCode::BAD_REQUEST, &refusal.id, &refusal.error)
            }
            Incoming::Batch(_) => no_batches(),
        }
    }

    async fn post_legacy(
        &self,
        http: &HttpRequest<Bytes>,
        caller: Arc<dyn ToolCaller>,
        target: &Target,
        (incoming, version): (Incoming<'_>, Option<&str>),
        accepts: Accepts,
    ) -> Response<Body> {
        let is_handshake = matches!(&incoming, Incoming::One(Ok(Message::Request(it))) if it.method == "initialize");
        // A handshake makes a new session, whatever one the client had.
        let session = if is_handshake {
            None
        } else {
            match legacy::session(self, http.headers(), caller.principal()) {
                Ok(session) => session,
                Err(response) => return *response,
            }
        };
        let revision = version
            .and_then(Revision::of)
            .or_else(|| session.map(|it| it.revision))
            .unwrap_or(Revision::V2025_03_26);
        let ask = match self.ask(http, caller, target, revision, session) {
            Ok(ask) => ask,
            Err(response) => return *response,
        };
        match incoming {
            Incoming::One(Ok(Message::Request(request))) => {
                self.legacy(ask, &request, accepts).await
            }
            Incoming::One(Ok(Message::Notification { method, params })) => {
                self.notified(&ask, &method, params);
                empty(StatusCode::ACCEPTED)
            }
            Incoming::One(Ok(Message::Response)) => empty(StatusCode::ACCEPTED),
            Incoming::One(Err(refusal)) => {
                refuse(StatusCode::BAD_REQUEST, &refusal.id, &refusal.error)
            }
            Incoming::Batch(batch) if revision == Revision::V2025_03_26 => {
                self.batch(&ask, batch, accepts).await
            }
            Incoming::Batch(_) => no_batches(),
        }
    }

    /// What is known of a request; a refusal where its path or headers are wrong.
    fn ask(
        &self,
        request: &HttpRequest<Bytes>,
        caller: Arc<dyn ToolCaller>,
        target: &Target,
        revision: Revision,
        session: Option<Session>,
    ) -> Result<Ask, Box<Response<Body>>> {
        let headers = request.headers();
        let refused =
            |status, error: Error| Box::new(refuse(status, "null", &RpcError::from(error)));
        let filter = Filter::from_headers(headers)
            .map(Arc::new)
            .map_err(|it| refused(StatusCode::BAD_REQUEST, it))?;
        let scope = match target {
            Target::All => Scope::all(caller, filter),
            Target::Group(name) => {
                let names =
                    if is_plain(request.uri().query()) { Names::Plain } else { Names::Flat };
                Scope::group(caller, filter, name, names).ok_or_else(|| {
                    let message =
                        format!("there is no tool group `{}` that this key may use", shown(name));
                    refused(StatusCode::NOT_FOUND, Error::new(Code::NotFound, message))
                })?
            }
        };
        let is_traced = scope.caller().is_traced();
        Ok(Ask {
            scope,
            revision,
            session,
            carrier: if is_traced { Parent::of_headers(headers) } else { None },
            parent: short(headers, "x-althing-parent"),
            idempotency_key: short(headers, "idempotency-key"),
        })
    }
}

/// The answer to a request that is refused before its message is read.
#[must_use]
pub fn refused(error: Error) -> Response<Body> {
    let status = error.http_status();
    refuse(status, "null", &RpcError::from(error))
}

/// Which era a body belongs to.
enum Era {
    Legacy,
    Modern,
    Unknown(RpcError),
}

fn era(incoming: &Incoming<'_>, header: Option<&str>) -> Era {
    let request = match incoming {
        Incoming::One(Ok(Message::Request(request))) => Some(request),
        _ => None,
    };
    let named = request.and_then(|it| modern::named_version(it.params));
    let is_handshake = request.is_some_and(|it| it.method == "initialize");
    match (named.as_deref(), header.map(|it| (it, Revision::of(it)))) {
        // A request that names a legacy revision for itself is served as one, without a session.
        (Some(named), Some((_, Some(header))))
            if Revision::of(named) == Some(header)
                && !header.is_modern()
                && !request.is_some_and(is_of_modern) =>
        {
            Era::Legacy
        }
        (Some(_), _) => Era::Modern,
        (None, Some((_, Some(header)))) if header.is_modern() && !is_handshake => Era::Modern,
        (None, _) if request.is_some_and(is_of_modern) => Era::Modern,
        (None, Some((text, None))) if !is_handshake => Era::Unknown(modern::unsupported(text)),
        (None, _) => Era::Legacy,
    }
}

/// Methods that only the modern era has.
fn is_of_modern(request: &Request<'_>) -> bool {
    matches!(request.method.as_str(), "server/discover" | "subscriptions/listen")
}

fn id_of<'i>(incoming: &'i Incoming<'_>) -> &'i str {
    match incoming {
        Incoming::One(Ok(Message::Request(request))) => request.id,
        _ => "null",
    }
}

fn no_batches() -> Response<Body> {
    fail(StatusCode::BAD_REQUEST, "batches are part of revision 2025-03-26 only: send one message")
}

/// What we can do.
fn capabilities() -> Value {
    json!({ "tools": { "listChanged": true } })
}

/// What we are.
fn server_info() -> Value {
    json!({ "name": "althing", "title": "Althing", "version": env!("CARGO_PKG_VERSION") })
}

/// What the operator says of the group.
fn instructions(ask: &Ask) -> Option<String> {
    ask.scope.tool_group().and_then(|it| it.description.clone())
}

fn is_plain(query: Option<&str>) -> bool {
    query
        .into_iter()
        .flat_map(|it| url::form_urlencoded::parse(it.as_bytes()))
        .any(|(key, value)| key == "names" && value == "plain")
}

/// A header of ours that is noted, not decided by: one that cannot be used is as if absent.
fn short(headers: &HeaderMap, name: &str) -> Option<String> {
    const BYTES_MAX: usize = 255;
    sole(headers, name)
        .ok()
        .flatten()
        .filter(|it| !it.is_empty() && it.len() <= BYTES_MAX)
        .map(str::to_owned)
}

fn later(now: UnixMillis, life: Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_add(u64::try_from(life.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
