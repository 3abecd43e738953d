//! A server that has been greeted: listing and calling its tools.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handshake::{self, First, Peer};
use super::headers;
use super::jsonrpc::{self, METHOD_NOT_FOUND};
use super::link::{Ask, AskError, Link};
use super::wire::Era;
use crate::mcp::call::{Call, CallError};
use crate::mcp::catalog::ToolEntry;
use crate::mcp::federation::State;
use crate::telemetry::probe::Passed;
use crate::telemetry::trace::{TRACEPARENT, TRACESTATE};

/// The most pages of a listing.
const PAGES_MAX: usize = 200;
/// The most tools of a server.
const TOOLS_MAX: usize = 10_000;
/// The largest listing, in bytes of definitions: a server must not fill the node's memory.
const LISTING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long one page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a whole listing may take.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to a server.
pub(crate) struct Connection {
    link: Link,
    peer: Peer,
}

/// What a server lists.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Its tools.
    pub(crate) tools: Vec<Arc<RawValue>>,
    /// How long it says the list stays good.
    pub(crate) ttl: Option<Duration>,
}

impl Connection {
    /// Greets the server behind `link`.
    pub(crate) async fn open(
        link: Link,
        first: First,
        deadline: Instant,
    ) -> Result<Self, (AskError, Link)> {
        match handshake::greet(&link, first, deadline).await {
            Ok(peer) => Ok(Self { link, peer }),
            Err(error) => Err((error, link)),
        }
    }

    /// What is known of the server.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Cancelled when the connection has ended.
    pub(crate) fn closed(&self) -> &CancellationToken {
        self.link.inbox.closed()
    }

    /// Why the connection ended, once it did, with the server's last words.
    pub(crate) fn ended(&self) -> Option<String> {
        self.link.inbox.ended().map(|reason| with_last_words(reason, self.link.wire.last_words()))
    }

    /// How long nothing came from the server.
    pub(crate) fn silent_for(&self) -> Duration {
        self.link.inbox.silent_for()
    }

    /// Waits until the server says that its tools changed.
    pub(crate) async fn tools_changed(&self) {
        self.link.inbox.tools_changed().await;
    }

    /// Ends the connection in an orderly way.
    pub(crate) async fn close(&self, reason: &str, grace: Duration) {
        self.link.inbox.end(reason);
        self.link.wire.close(grace).await;
    }

    /// Lists all tools, page by page.
    pub(crate) async fn list(&self) -> Result<Listing, AskError> {
        let listed = tokio::time::timeout(LISTING_TIMEOUT, self.pages()).await;
        listed.unwrap_or(Err(AskError::Timeout(LISTING_TIMEOUT)))
    }

    async fn pages(&self) -> Result<Listing, AskError> {
        let mut listing = Listing::default();
        let (mut cursor, mut bytes): (Option<String>, usize) = (None, 0);
        for _ in 0..PAGES_MAX {
            let page = match self.page(cursor.as_deref()).await {
                Err(AskError::Rpc(error)) if error.code == METHOD_NOT_FOUND => {
                    return Ok(Listing::default());
                }
                other => other?,
            };
            bytes += page.tools.iter().map(|it| it.get().len()).sum::<usize>();
            listing.tools.extend(page.tools.into_iter().map(Arc::from));
            listing.ttl = page.ttl_ms.map(Duration::from_millis).or(listing.ttl);
            if TOOLS_MAX < listing.tools.len() || LISTING_BYTES_MAX < bytes {
                return Err(AskError::Malformed(format!(
                    "it lists more than {TOOLS_MAX} tools or {LISTING_BYTES_MAX} bytes of them"
                )));
            }
            match page.next_cursor {
                None => return Ok(listing),
                same if same == cursor => {
                    return Err(AskError::Malformed(
                        "its listing gives the same cursor for ever".to_owned(),
                    ));
                }
                next => cursor = next,
            }
        }
        Err(AskError::Malformed(format!("its listing has more than {PAGES_MAX} pages")))
    }

    async fn page(&self, cursor: Option<&str>) -> Result<Page, AskError> {
        let cursor = cursor.map(jsonrpc::quote);
        let result = self
            .simple("tools/list", cursor.as_deref().map(|it| ("cursor", it)), PAGE_TIMEOUT)
            .await?;
        serde_json::from_str(result.get())
            .map_err(|_| AskError::Malformed("its answer to `tools/list` is none".to_owned()))
    }

    /// Asks for a sign of life.
    pub(crate) async fn ping(&self, within: Duration) -> Result<(), AskError> {
        let method = match self.peer.agreed.era {
            Era::Legacy => "ping",
            Era::Modern => "server/discover",
        };
        match self.simple(method, None, within).await {
            // A server that does not know `ping` is alive.
            Ok(_) | Err(AskError::Rpc(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn simple(
        &self,
        method: &'static str,
        member: Option<(&str, &str)>,
        within: Duration,
    ) -> Result<Box<RawValue>, AskError> {
        let is_modern = self.peer.agreed.era == Era::Modern;
        let meta = is_modern.then(|| jsonrpc::object(handshake::modern_meta()));
        let params =
            jsonrpc::object(member.into_iter().chain(meta.as_deref().map(|it| ("_meta", it))));
        let ask = Ask {
            method,
            params: &|_| params.clone(),
            headers: if is_modern { headers::modern(method, None) } else { Vec::new() },
            progress: None,
            deadline: Instant::now() + within,
            cancel: None,
        };
        self.link.ask(ask).await
    }

    /// Calls a tool.
    pub(crate) async fn call(
        &self,
        tool: &ToolEntry,
        call: &Call,
        deadline: Instant,
    ) -> Result<Box<RawValue>, AskError> {
        let is_modern = self.peer.agreed.era == Era::Modern;
        let arguments = call.arguments.as_ref().map_or("{}", |it| it.get());
        let name = jsonrpc::quote(&tool.name);
        let meta = callers_meta(call)?;
        let mut headers = if is_modern { call_headers(tool, arguments) } else { Vec::new() };
        if let Some(trace) = &call.trace {
            headers.push((TRACEPARENT, trace.parent.clone()));
            headers.extend(trace.state.clone().map(|it| (TRACESTATE, it)));
        }
        let params = |id: u64| {
            let token = id.to_string();
            let mut members: Vec<(&str, &str)> =
                meta.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            if call.progress.is_some() {
                members.push(("progressToken", &token));
            }
            if is_modern {
                members.extend(handshake::modern_meta());
            }
            let meta = (!members.is_empty()).then(|| jsonrpc::object(members));
            let fields = [("name", name.as_str()), ("arguments", arguments)];
            jsonrpc::object(fields.into_iter().chain(meta.as_deref().map(|it| ("_meta", it))))
        };
        let ask = Ask {
            method: "tools/call",
            params: &params,
            headers,
            progress: call.progress.clone(),
            deadline,
            cancel: Some(&call.cancel),
        };
        self.link.ask(ask).await
    }
}

/// `reason`, and what the server said last.
pub(crate) fn with_last_words(reason: String, last_words: Option<String>) -> String {
    match last_words {
        Some(words) if !words.is_empty() => format!("{reason}; its last words: {words}"),
        _ => reason,
    }
}

fn call_headers(tool: &ToolEntry, arguments: &str) -> Vec<(HeaderName, HeaderValue)> {
    let mut all = headers::modern("tools/call", Some(&tool.name));
    if tool.raw.get().contains("x-mcp-header")
        && let Ok(arguments) = serde_json::from_str(arguments)
    {
        all.extend(headers::parameters(&tool.input_schema, &arguments));
    }
    all
}

/// The caller's `_meta` without what is the gateway's own to say.
fn callers_meta(call: &Call) -> Result<Vec<(String, String)>, AskError> {
    let ours = call.trace.as_ref().map(trace_meta).unwrap_or_default();
    let Some(meta) = &call.meta else { return Ok(ours) };
    let members = jsonrpc::members(meta.get())
        .map_err(|it| AskError::NotSent(format!("the caller's `_meta` is {it}")))?;
    let is_ours = |key: &str| {
        key == "progressToken"
            || key.starts_with("io.modelcontextprotocol/")
            || (call.trace.is_some() && [TRACEPARENT.as_str(), TRACESTATE.as_str()].contains(&key))
    };
    let callers = members
        .into_iter()
        .filter(|(key, _)| !is_ours(key))
        .map(|(key, value)| (key.into_owned(), value.get().to_owned()));
    Ok(callers.chain(ours).collect())
}

/// The trace as `_meta` says it: whatever carries the message, its server finds it there (SEP-414).
fn trace_meta(trace: &Passed) -> Vec<(String, String)> {
    let member = |key: HeaderName, value: &HeaderValue| {
        Some((key.as_str().to_owned(), jsonrpc::quote(value.to_str().ok()?)))
    };
    let parent = member(TRACEPARENT, &trace.parent);
    let state = trace.state.as_ref().and_then(|it| member(TRACESTATE, it));
    parent.into_iter().chain(state).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    tools: Vec<Box<RawValue>>,
    #[serde(default)]
    next_cursor: Option<String>,
    #[serde(default)]
    ttl_ms: Option<u64>,
}

/// From what happened on the wire to what the caller is told.
pub(crate) fn call_error(error: AskError, result_bytes_max: usize) -> CallError {
    match error {
        AskError::NotSent(reason) => CallError::Unavailable { state: State::Down, reason },
        AskError::Unauthorized(reason) => CallError::Unavailable { state: State::Held, reason },
        AskError::Lost(reason) => CallError::OutcomeUnknown { reason },
        AskError::Timeout(after) => CallError::Timeout { after },
        AskError::Cancelled => CallError::Cancelled,
        AskError::TooLarge => CallError::TooLarge { limit_bytes: result_bytes_max },
        AskError::Malformed(reason) => CallError::Malformed { reason },
        AskError::Rpc(it) => CallError::Rpc { code: it.code, message: it.message, data: it.data },
        AskError::Status(status) => status_error(status),
    }
}

/// An HTTP status in the place of a message: from the server, or from a proxy before it.
fn status_error(status: u16) -> CallError {
    let reason = format!("HTTP status {status} instead of an answer");
    match status {
        429 | 503 => CallError::Unavailable { state: State::Degraded, reason },
        500.. => CallError::OutcomeUnknown { reason },
        _ => CallError::Malformed { reason },
    }
}

/// Checks that a result is a `CallToolResult`, as far as the gateway must know, and says whether the tool failed.
pub(crate) fn read_result(result: Box<RawValue>) -> Result<(Box<RawValue>, bool), CallError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        #[serde(default)]
        result_type: Option<String>,
        /// Anything may stand here: only `true` is looked for.
        #[serde(default)]
        is_error: Option<serde_json::Value>,
    }
    match serde_json::from_str::<Kind>(result.get()) {
        Ok(Kind { result_type: Some(kind), .. }) if kind == "input_required" => {
            Err(CallError::InputRequired { result })
        }
        Ok(Kind { is_error, .. }) if result.get().trim_start().starts_with('{') => {
            Ok((result, is_error == Some(serde_json::Value::Bool(true))))
        }
        _ => Err(CallError::Malformed { reason: "its result is no JSON object".to_owned() }),
    }
}
