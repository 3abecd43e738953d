//! Spans of a call that is over: one for the call, one for each request that was made for it.

use std::sync::Arc;
use std::time::SystemTime;

use althing_storage::record::Status as Ended;
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::name;
use crate::telemetry::probe::{Asked, Attempt, Finished, Tool, ToolServer};
use crate::telemetry::trace::Parent;

/// The longest text of an attribute, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Who made the spans and metrics.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("althing").with_version(env!("CARGO_PKG_VERSION")).build()
}

/// One moment on both clocks, so that others of the one can be told on the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor {
    pub(super) monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Anchor {
    pub(super) fn now() -> Self {
        Self { monotonic: Instant::now(), wall: crate::clock::wall() }
    }

    fn wall(self, at: Instant) -> SystemTime {
        let moved = match self.monotonic.checked_duration_since(at) {
            Some(before) => self.wall.checked_sub(before),
            // A call that ended after the moment was taken.
            None => self.wall.checked_add(at.saturating_duration_since(self.monotonic)),
        };
        moved.unwrap_or(self.wall)
    }
}

/// The spans of a call.
pub(super) fn spans(it: &Finished, anchor: Anchor) -> SmallVec<[SpanData; 2]> {
    let mut all = SmallVec::with_capacity(1 + it.probe.attempts.len());
    all.push(call(it, anchor));
    for (at, attempt) in it.probe.attempts.iter().enumerate() {
        all.push(client(it, (at, attempt), anchor));
    }
    all
}

/// The call as its caller saw it.
fn call(it: &Finished, anchor: Anchor) -> SpanData {
    let context = &it.probe.context;
    let error = error_type(it);
    let (name, mut attributes, status) = match &it.probe.asked {
        Asked::Model { operation, route } => {
            let mut attributes = model(it, operation);
            attributes.push(KeyValue::new(name::HTTP_METHOD, "POST"));
            attributes.push(KeyValue::new(name::HTTP_ROUTE, *route));
            attributes.push(KeyValue::new(name::HTTP_STATUS, i64::from(it.record.http_status)));
            // What was named but never looked up may be anything: a span's name has few values.
            let planned = it.record.model.as_ref().filter(|_| it.record.provider.is_some());
            // By the conventions of HTTP what the caller did wrong is no error of the server's.
            let is_ours = it.record.status == Ended::Failed && 500 <= it.record.http_status;
            (titled(operation, planned), attributes, is_ours)
        }
        Asked::Tool(tool) => {
            let operation =
                if tool.origin.mcp.is_some() { name::TOOLS_CALL } else { name::EXECUTE_TOOL };
            (titled(operation, Some(&tool.name)), asked_tool(tool), error.is_some())
        }
    };
    attributes.extend(ours(it));
    attributes.extend(error.map(|error| KeyValue::new(name::ERROR_TYPE, error)));
    let mut span = blank(it, context.span_id, name, (SpanKind::Server, status));
    span.parent_span_id = context.parent.map_or(SpanId::INVALID, id);
    span.parent_span_is_remote = context.parent.is_some();
    span.start_time = anchor.wall(it.started);
    span.end_time = anchor.wall(it.ended);
    span.attributes = attributes;
    if let Asked::Tool(tool) = &it.probe.asked {
        let carrier = tool.origin.carrier.as_ref().map(|it| Link::new(remote(it), Vec::new(), 0));
        let mut links = SpanLinks::default();
        links.links.extend(carrier);
        span.links = links;
    }
    span
}

/// A request to a provider or a tool's server. Its usage is the call's, and told there alone: who adds up spans adds it once.
fn client(it: &Finished, (at, attempt): (usize, &Attempt), anchor: Anchor) -> SpanData {
    let error = attempt_error(attempt, it);
    let (name, mut attributes) = match &it.probe.asked {
        Asked::Model { operation, .. } => {
            let mut attributes = vec![KeyValue::new(name::OPERATION, *operation)];
            if let Some(peer) = &attempt.peer {
                attributes.push(KeyValue::new(name::PROVIDER, peer.vendor));
                attributes.extend(place(Arc::clone(&peer.address), peer.port));
            }
            text(&mut attributes, name::REQUEST_MODEL, attempt.model.as_ref());
            text(&mut attributes, name::OUR_PROVIDER, attempt.provider.as_ref());
            text(&mut attributes, name::PROVIDER_KEY, attempt.key.as_ref());
            let status = attempt.status.map(|it| KeyValue::new(name::HTTP_STATUS, i64::from(it)));
            attributes.extend(status);
            (titled(operation, attempt.model.as_ref()), attributes)
        }
        Asked::Tool(tool) => {
            let upstream_name = it.record.tool.as_ref().unwrap_or(&tool.name);
            let mut attributes = execute_tool(upstream_name);
            attributes.push(KeyValue::new(name::MCP_METHOD, name::TOOLS_CALL));
            text(&mut attributes, name::MCP_SERVER, it.record.server.as_ref());
            attributes.extend(tool.server.as_ref().into_iter().flat_map(tool_server));
            let code = attempt.rpc_code.map(|it| KeyValue::new(name::RPC_STATUS, it.to_string()));
            attributes.extend(code);
            (titled(name::TOOLS_CALL, Some(upstream_name)), attributes)
        }
    };
    if 0 < at {
        attributes.push(KeyValue::new(name::HTTP_RESEND_COUNT, whole(at as u64)));
    }
    let is_error = error.is_some();
    attributes.extend(error.map(|error| KeyValue::new(name::ERROR_TYPE, error)));
    let mut span = blank(it, attempt.span_id, name, (SpanKind::Client, is_error));
    span.parent_span_id = id(it.probe.context.span_id);
    span.start_time = anchor.wall(attempt.began);
    span.end_time = anchor.wall(attempt.ended.unwrap_or(it.ended));
    span.attributes = attributes;
    span
}

fn blank(
    it: &Finished,
    span_id: u64,
    name: String,
    (span_kind, is_error): (SpanKind, bool),
) -> SpanData {
    let context = &it.probe.context;
    let state = context.state.as_deref().and_then(|it| it.parse::<TraceState>().ok());
    let span_context = SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        id(span_id),
        TraceFlags::SAMPLED,
        false,
        state.unwrap_or_default(),
    );
    SpanData {
        span_context,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind,
        name: name.into(),
        start_time: SystemTime::UNIX_EPOCH,
        end_time: SystemTime::UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if is_error { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope(),
    }
}

/// What was asked of a model and what came of it.
fn model(it: &Finished, operation: &'static str) -> Vec<KeyValue> {
    let (record, probe) = (&it.record, &it.probe);
    let mut all = Vec::with_capacity(28);
    all.push(KeyValue::new(name::OPERATION, operation));
    let peer = probe.attempts.last().and_then(|it| it.peer.as_ref());
    all.extend(peer.map(|it| KeyValue::new(name::PROVIDER, it.vendor)));
    text(&mut all, name::REQUEST_MODEL, record.model.as_ref());
    text(&mut all, name::OUR_PROVIDER, record.provider.as_ref());
    if record.stream {
        all.push(KeyValue::new(name::REQUEST_STREAM, true));
    }
    let model =
        probe.reply.model.as_deref().map(|it| KeyValue::new(name::RESPONSE_MODEL, it.to_owned()));
    all.extend(model);
    let reasons: Vec<StringValue> =
        probe.reply.finish_reasons.iter().map(|it| StringValue::from(it.to_string())).collect();
    if !reasons.is_empty() {
        all.push(KeyValue::new(name::FINISH_REASONS, Value::Array(reasons.into())));
    }
    if let (Some(first), Some(last)) = (probe.first_chunk, probe.attempts.last()) {
        let waited = first.saturating_duration_since(last.began).as_secs_f64();
        all.push(KeyValue::new(name::TIME_TO_FIRST_CHUNK, waited));
    }
    let tokens = &record.tokens;
    if tokens.input != 0 || tokens.output != 0 {
        all.push(KeyValue::new(name::USAGE_INPUT, whole(tokens.input)));
        all.push(KeyValue::new(name::USAGE_OUTPUT, whole(tokens.output)));
    }
    let parts = [
        (name::USAGE_CACHE_READ, tokens.cached_input),
        (name::USAGE_CACHE_WRITE, tokens.cache_write),
        (name::USAGE_REASONING, tokens.reasoning),
    ];
    all.extend(
        parts.into_iter().filter(|it| it.1 != 0).map(|(key, it)| KeyValue::new(key, whole(it))),
    );
    if tokens.estimated {
        all.push(KeyValue::new(name::ESTIMATED, true));
    }
    all
}

/// What was asked of a tool.
fn asked_tool(tool: &Tool) -> Vec<KeyValue> {
    let mut all = execute_tool(&tool.name);
    if let Some(mcp) = &tool.origin.mcp {
        all.push(KeyValue::new(name::MCP_METHOD, name::TOOLS_CALL));
        all.push(KeyValue::new(name::MCP_PROTOCOL, mcp.protocol));
        let session = mcp.session.map(|it| format!("{:032x}", u128::from_be_bytes(it)));
        all.extend(session.map(|it| KeyValue::new(name::MCP_SESSION, it)));
        all.push(KeyValue::new(name::RPC_ID, mcp.request_id.trim_matches('"').to_owned()));
        let code = tool.rpc_code.map(|it| KeyValue::new(name::RPC_STATUS, it.to_string()));
        all.extend(code);
    }
    all.push(KeyValue::new(name::NETWORK_TRANSPORT, "tcp"));
    all.push(KeyValue::new(name::NETWORK_PROTOCOL, "http"));
    all
}

fn execute_tool(tool: &Arc<str>) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(20);
    all.push(KeyValue::new(name::OPERATION, name::EXECUTE_TOOL));
    text(&mut all, name::TOOL, Some(tool));
    all
}

fn tool_server(server: &ToolServer) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(5);
    all.extend(server.protocol.clone().map(|it| KeyValue::new(name::MCP_PROTOCOL, it)));
    match &server.address {
        Some((host, port)) => {
            all.extend(place(Arc::from(host.as_str()), *port));
            all.push(KeyValue::new(name::NETWORK_TRANSPORT, "tcp"));
            all.push(KeyValue::new(name::NETWORK_PROTOCOL, "http"));
        }
        None => all.push(KeyValue::new(name::NETWORK_TRANSPORT, "pipe")),
    }
    all
}

/// What the record says that no convention has a name for. Names of keys, never keys.
fn ours(it: &Finished) -> Vec<KeyValue> {
    let record = &it.record;
    let mut all = Vec::with_capacity(10);
    let uuid = |it: u128| uuid::Uuid::from_u128(it).to_string();
    all.push(KeyValue::new(name::RECORD, uuid(record.id)));
    all.extend(record.parent.map(|it| KeyValue::new(name::PARENT_RECORD, uuid(it))));
    text(&mut all, name::KEY, record.key.as_ref());
    text(&mut all, name::TEAM, record.team.as_ref());
    text(&mut all, name::CUSTOMER, record.customer.as_ref());
    text(&mut all, name::MCP_SERVER, record.server.as_ref());
    all.push(KeyValue::new(name::COST, whole(record.cost_nano_usd)));
    all.push(KeyValue::new(name::OVERHEAD, whole(record.overhead_us)));
    all.push(KeyValue::new(name::ATTEMPTS, i64::from(record.attempts)));
    all.extend(record.error.clone().map(|it| KeyValue::new(name::ERROR_CODE, it)));
    all
}

/// `error.type` of a call; `None` where it went well.
pub(super) fn error_type(it: &Finished) -> Option<StringValue> {
    let code = it.record.error.clone().map(StringValue::from);
    match &it.probe.asked {
        Asked::Model { .. } => code,
        // MCP's own word for it, where it came by MCP.
        Asked::Tool(tool) => match (tool.rpc_code, tool.is_error) {
            (Some(rpc), _) if tool.origin.mcp.is_some() && code.is_some() => {
                Some(rpc.to_string().into())
            }
            (_, true) if code.is_none() => Some(name::TOOL_ERROR.into()),
            _ => code,
        },
    }
}

/// `error.type` of an attempt; `None` where it went well.
pub(super) fn attempt_error(attempt: &Attempt, it: &Finished) -> Option<StringValue> {
    if let Some(rpc) = attempt.rpc_code {
        return Some(rpc.to_string().into());
    }
    if let Some(code) = attempt.error {
        return Some(code.into());
    }
    if let Some(status) = attempt.status.filter(|it| !(200..300).contains(it)) {
        return Some(status.to_string().into());
    }
    match &it.probe.asked {
        Asked::Tool(tool) if tool.is_error => Some(name::TOOL_ERROR.into()),
        // It was answered, and the answer broke off, or was none.
        _ if attempt.ended.is_none() => it.record.error.clone().map(StringValue::from),
        _ => None,
    }
}

fn place(address: Arc<str>, port: u16) -> [KeyValue; 2] {
    [
        KeyValue::new(name::SERVER_ADDRESS, address),
        KeyValue::new(name::SERVER_PORT, i64::from(port)),
    ]
}

fn titled(operation: &str, target: Option<&Arc<str>>) -> String {
    match target {
        Some(target) => format!("{operation} {}", cut(target)),
        None => operation.to_owned(),
    }
}

fn text(all: &mut Vec<KeyValue>, key: &'static str, value: Option<&Arc<str>>) {
    let Some(value) = value else { return };
    if value.len() <= TEXT_BYTES_MAX {
        all.push(KeyValue::new(key, Arc::clone(value)));
    } else {
        all.push(KeyValue::new(key, cut(value).to_owned()));
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn id(span: u64) -> SpanId {
    SpanId::from_bytes(span.to_be_bytes())
}

fn remote(parent: &Parent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id.to_be_bytes()),
        id(parent.span_id),
        if parent.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
        true,
        TraceState::default(),
    )
}

#[cfg(test)]
mod tests;
