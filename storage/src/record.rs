//! One call as it is kept: the entry of the request log, and its bytes in the spool.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

mod codec;

pub(crate) use codec::encode_entry;
pub use codec::{DecodeError, RECORD_BYTES_MAX, decode, encode};

/// The longest name, model, tool or error code that is kept, in bytes; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 512;
/// The longest arguments that are kept, in bytes; longer ones are cut.
pub const ARGUMENTS_BYTES_MAX: usize = 256 * 1024;
/// The longest request or response body that is kept, in bytes; longer ones are cut and [`Body::full_bytes`] tells.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What kind of call a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A call of a model.
    ModelCall,
    /// An execution of a tool.
    ToolCall,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It was answered.
    Ok,
    /// The gateway refused it.
    Refused,
    /// It was tried and failed.
    Failed,
    /// The caller went away.
    Cancelled,
}

impl Kind {
    /// As the log and the database say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ModelCall => "model_call",
            Self::ToolCall => "tool_call",
        }
    }

    /// Reads what [`Kind::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::ModelCall, Self::ToolCall].into_iter().find(|it| it.as_str() == text)
    }

    /// The number that files hold; never reused for another meaning.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::ModelCall => 0,
            Self::ToolCall => 1,
        }
    }

    /// Reads [`Kind::code`].
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::ModelCall),
            1 => Some(Self::ToolCall),
            _ => None,
        }
    }
}

impl Status {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Failed, Self::Cancelled];

    /// As the log and the API say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`Status::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// The number that files hold; 0 is `Ok`, which the index of bad calls relies on.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Refused => 1,
            Self::Failed => 2,
            Self::Cancelled => 3,
        }
    }

    /// Reads [`Status::code`].
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.code() == code)
    }
}

/// What a call used.
///
/// `cached_input` is the part of `input` that was read from a cache, `reasoning` the part of `output` that nobody sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens read, those from a cache included.
    pub input: u64,
    /// Of `input`, those that the vendor had cached.
    pub cached_input: u64,
    /// Tokens written to the vendor's cache.
    pub cache_write: u64,
    /// Tokens written, reasoning included.
    pub output: u64,
    /// Of `output`, those of hidden reasoning.
    pub reasoning: u64,
    /// Whether the vendor did not say and these are the gateway's own count.
    pub estimated: bool,
}

/// Bytes of a caller: never shown by `Debug`, so that they reach no log by accident.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// One body, perhaps cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// The first [`BODY_BYTES_MAX`] bytes.
    pub kept: Payload,
    /// How long it was.
    pub full_bytes: u64,
}

impl Body {
    /// Keeps what may be kept of `bytes`, without copying.
    #[must_use]
    pub fn new(bytes: &Bytes) -> Self {
        let full_bytes = bytes.len() as u64;
        Self { kept: Payload(bytes.slice(..bytes.len().min(BODY_BYTES_MAX))), full_bytes }
    }
}

/// What was said, where the configuration wants it kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bodies {
    /// As the caller sent it.
    pub request: Body,
    /// As the caller got it; where the upstream's reply could not be read, as that came.
    pub response: Body,
}

/// One model call or tool execution: plain data, the fields of `GET /api/logs`.
///
/// Texts are shared (`Arc<str>`), so that building one from what the request already holds copies nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// A version 7 UUID, minted once a call; what makes moving it exactly-once.
    pub id: u128,
    /// When it began, milliseconds since 1970. Decides the day file that holds it.
    pub at_ms: u64,
    /// The node that served it.
    pub node: Arc<str>,
    /// Model or tool.
    pub kind: Kind,
    /// Name of the virtual key.
    pub key: Option<Arc<str>>,
    /// Name of the key's team.
    pub team: Option<Arc<str>>,
    /// Name of the customer.
    pub customer: Option<Arc<str>>,
    /// The provider that was called last.
    pub provider: Option<Arc<str>>,
    /// Name of the provider's key that was used.
    pub provider_key: Option<Arc<str>>,
    /// The model, as the provider names it.
    pub model: Option<Arc<str>>,
    /// The MCP server.
    pub server: Option<Arc<str>>,
    /// The tool, as its server names it.
    pub tool: Option<Arc<str>>,
    /// How it ended.
    pub status: Status,
    /// What the caller saw; 0 where there was no HTTP answer.
    pub http_status: u16,
    /// The stable error code, where it did not end well.
    pub error: Option<Cow<'static, str>>,
    /// Whether the answer streamed.
    pub stream: bool,
    /// From the request's first byte to the answer's last, milliseconds.
    pub latency_ms: u64,
    /// Of that, the gateway's own part, microseconds.
    pub overhead_us: u64,
    /// Upstream calls that were made.
    pub attempts: u32,
    /// What was used.
    pub tokens: Tokens,
    /// What it cost, in nano-dollars.
    pub cost_nano_usd: u64,
    /// The model request that a tool call belongs to.
    pub parent: Option<u128>,
    /// SHA-256 of the tool's arguments.
    pub arguments_sha256: Option<[u8; 32]>,
    /// The arguments, where the configuration wants them (`records.arguments: full`).
    pub arguments: Option<Payload>,
    /// The bodies, where the configuration wants them (`records.bodies`).
    pub bodies: Option<Box<Bodies>>,
}

impl Record {
    /// Leaves out what was said: bodies, and arguments with their hash, which would tell two calls alike. Who, when, what of
    /// it cost and how it ended stay.
    pub fn forget_content(&mut self) {
        self.bodies = None;
        self.arguments = None;
        self.arguments_sha256 = None;
    }

    /// A record of nothing yet: the fields that every call has, all others empty.
    #[must_use]
    pub fn new(id: u128, at_ms: u64, node: Arc<str>, kind: Kind) -> Self {
        Self {
            id,
            at_ms,
            node,
            kind,
            key: None,
            team: None,
            customer: None,
            provider: None,
            provider_key: None,
            model: None,
            server: None,
            tool: None,
            status: Status::Ok,
            http_status: 0,
            error: None,
            stream: false,
            latency_ms: 0,
            overhead_us: 0,
            attempts: 0,
            tokens: Tokens::default(),
            cost_nano_usd: 0,
            parent: None,
            arguments_sha256: None,
            arguments: None,
            bodies: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
