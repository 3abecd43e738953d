//! What a call carries for traces and metrics, where OTLP is on: notes, of which spans and points are made later and elsewhere.

use std::sync::Arc;

use althing_storage::record::Record;
use http::HeaderValue;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::otlp::Otlp;
use super::trace::{Context, Parent, new_span_id};

mod reply;

pub use reply::Reply;

/// Where a provider is, as conventions call it. Made once, when the law is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `gen_ai.provider.name`.
    pub vendor: &'static str,
    /// `server.address`: the host.
    pub address: Arc<str>,
    /// `server.port`.
    pub port: u16,
}

impl Peer {
    /// Of a vendor of the catalogue, behind this base URL.
    #[must_use]
    pub fn new(vendor: &'static str, base: &str) -> Self {
        let url = url::Url::parse(base).ok();
        let host = url.as_ref().and_then(url::Url::host_str).unwrap_or_default();
        Self {
            vendor: provider_name(vendor),
            address: Arc::from(host),
            port: url.as_ref().and_then(url::Url::port_or_known_default).unwrap_or_default(),
        }
    }
}

/// What the conventions call a vendor; where they do not know it, its own name. A server of one's own is known by the
/// API that it speaks.
fn provider_name(vendor: &'static str) -> &'static str {
    match vendor.strip_suffix("-compatible").unwrap_or(vendor) {
        "azure" => "azure.ai.openai",
        "gemini" => "gcp.gemini",
        "mistral" => "mistral_ai",
        "xai" => "x_ai",
        other => other,
    }
}

/// What a caller asked for.
#[derive(Debug)]
pub enum Asked {
    /// Something of a model.
    Model {
        /// `gen_ai.operation.name`.
        operation: &'static str,
        /// `http.route`.
        route: &'static str,
    },
    /// A tool.
    Tool(Box<Tool>),
}

/// A tool that a caller asked for, and what came of it.
#[derive(Debug)]
pub struct Tool {
    /// As the caller knows it.
    pub name: Arc<str>,
    /// How it was asked for.
    pub origin: Origin,
    /// The JSON-RPC code that the caller was answered with.
    pub rpc_code: Option<i32>,
    /// Whether the tool itself says that it failed.
    pub is_error: bool,
    /// Its server, of a call that is traced.
    pub server: Option<ToolServer>,
}

/// Where a tool's server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolServer {
    /// Host and port; `None` for a process of this node.
    pub address: Option<(String, u16)>,
    /// The protocol revision that it speaks.
    pub protocol: Option<String>,
}

/// How a call of a tool came.
#[derive(Debug, Default)]
pub struct Origin {
    /// The span that it was called from.
    pub parent: Option<Parent>,
    /// The span of the HTTP request that carried it, where that is another.
    pub carrier: Option<Parent>,
    /// What was said of it in MCP; `None` where it came another way.
    pub mcp: Option<McpOrigin>,
}

/// What an MCP request says of itself.
#[derive(Debug)]
pub struct McpOrigin {
    /// Its session: the random part alone, which opens nothing.
    pub session: Option<[u8; 16]>,
    /// The revision that is spoken.
    pub protocol: &'static str,
    /// Its JSON-RPC id, as JSON text.
    pub request_id: String,
}

/// One request to somebody behind us.
#[derive(Debug)]
pub struct Attempt {
    /// Its span.
    pub span_id: u64,
    /// When it was sent.
    pub began: Instant,
    /// When it was over; `None`: when the call was.
    pub ended: Option<Instant>,
    /// Where to, for a provider.
    pub peer: Option<Arc<Peer>>,
    /// The provider's name in the configuration.
    pub provider: Option<Arc<str>>,
    /// The name of the key that was shown.
    pub key: Option<Arc<str>>,
    /// The model.
    pub model: Option<Arc<str>>,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// Why there is none.
    pub error: Option<&'static str>,
    /// The JSON-RPC error that it was answered with.
    pub rpc_code: Option<i64>,
}

/// What is said of a trace to somebody behind us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// `traceparent`.
    pub parent: HeaderValue,
    /// `tracestate`.
    pub state: Option<HeaderValue>,
}

/// See the module.
pub struct Probe {
    /// The call's trace.
    pub context: Context,
    /// What was asked for.
    pub asked: Asked,
    /// The requests that were made for it, in order.
    pub attempts: SmallVec<[Attempt; 1]>,
    /// When a stream's first bytes came.
    pub first_chunk: Option<Instant>,
    /// What a traced call's reply says of itself.
    pub reply: Reply,
    otlp: Arc<Otlp>,
}

/// A call that is over.
pub struct Finished {
    /// What was noted on the way.
    pub probe: Box<Probe>,
    /// Its record, without bodies and arguments.
    pub record: Record,
    /// When it began.
    pub started: Instant,
    /// When it was over.
    pub ended: Instant,
}

impl Probe {
    pub(super) fn new(otlp: &Arc<Otlp>, context: Context, asked: Asked) -> Self {
        Self {
            context,
            asked,
            attempts: SmallVec::new(),
            first_chunk: None,
            reply: Reply::default(),
            otlp: Arc::clone(otlp),
        }
    }

    /// Notes that a request is sent now, and gives what it says of the trace.
    pub fn attempt(
        &mut self,
        peer: Option<&Arc<Peer>>,
        provider: Option<&Arc<str>>,
        (model, key): (Option<&Arc<str>>, Option<&Arc<str>>),
    ) -> Passed {
        let span_id = new_span_id();
        self.attempts.push(Attempt {
            span_id,
            began: Instant::now(),
            ended: None,
            peer: peer.cloned(),
            provider: provider.cloned(),
            key: key.cloned(),
            model: model.cloned(),
            status: None,
            error: None,
            rpc_code: None,
        });
        Passed { parent: self.context.traceparent(span_id), state: self.context.tracestate() }
    }

    /// Notes that the last attempt was answered; `is_over`: that the answer is of no use.
    pub fn answered(&mut self, status: u16, is_over: bool) {
        if let Some(last) = self.attempts.last_mut() {
            last.status = Some(status);
            last.ended = is_over.then(Instant::now);
        }
    }

    /// Notes that the last attempt failed; `rpc_code`: with this answer.
    pub fn failed(&mut self, code: &'static str, rpc_code: Option<i64>) {
        if let Some(last) = self.attempts.last_mut() {
            (last.error, last.rpc_code) = (Some(code), rpc_code);
            last.ended = Some(Instant::now());
        }
    }

    /// Notes that the last attempt is over.
    pub fn ended(&mut self) {
        if let Some(last) = self.attempts.last_mut() {
            last.ended = Some(Instant::now());
        }
    }

    /// Looks at bytes of a stream that came at `at`.
    pub fn chunk(&mut self, bytes: &[u8], at: Instant) {
        if self.first_chunk.is_none() {
            self.first_chunk = Some(at);
        }
        if self.context.is_sampled {
            self.reply.look(bytes);
        }
    }

    /// Looks at a whole reply.
    pub fn whole(&mut self, body: &[u8]) {
        if self.context.is_sampled {
            self.reply.look(body);
        }
    }

    /// What is known of the tool, where one was asked for.
    pub fn tool(&mut self) -> Option<&mut Tool> {
        match &mut self.asked {
            Asked::Tool(tool) => Some(tool),
            Asked::Model { .. } => None,
        }
    }

    /// The call is over.
    pub fn finish(self: Box<Self>, mut record: Record, started: Instant, ended: Instant) {
        // They may be large, and nothing of them is exported.
        record.bodies = None;
        record.arguments = None;
        let otlp = Arc::clone(&self.otlp);
        otlp.take(Finished { probe: self, record, started, ended });
    }
}
