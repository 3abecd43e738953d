//! One call of a tool, and what can come of it.

use std::time::Duration;

use althing_domain::id::Name;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::federation::State;
use crate::telemetry::probe::Passed;

/// A call of a tool. Whether the caller may make it has been decided before.
#[derive(Debug)]
pub struct Call {
    /// The server.
    pub server: Name,
    /// The tool, as its server calls it.
    pub tool: String,
    /// The arguments, a JSON object; forwarded byte for byte.
    pub arguments: Option<Box<RawValue>>,
    /// The caller's `_meta`. Forwarded but for its progress token and the keys that describe the connection,
    /// which are the gateway's own (`progressToken`, `io.modelcontextprotocol/…`).
    pub meta: Option<Box<RawValue>>,
    /// Where progress goes, if the caller wants it.
    pub progress: Option<Progress>,
    /// When the caller stops waiting. The server's own time-out also holds.
    pub deadline: Option<Instant>,
    /// Cancels the call, and tells the server so. Dropping the future of the call does the same.
    pub cancel: CancellationToken,
    /// Whether it may run twice: the tool says so, or its caller knows. Only then is a
    /// call whose answer was lost sent again, once.
    pub idempotent: bool,
    /// The caller's capabilities as it declared them, where it did.
    pub capabilities: Option<Box<RawValue>>,
    /// What the server is told of the call's trace, in place of what the caller's `_meta` says of it.
    pub trace: Option<Passed>,
}

impl Call {
    /// A call without arguments, meta, progress or deadline.
    #[must_use]
    pub fn new(server: Name, tool: impl Into<String>) -> Self {
        Self {
            server,
            tool: tool.into(),
            arguments: None,
            meta: None,
            progress: None,
            deadline: None,
            cancel: CancellationToken::new(),
            idempotent: false,
            capabilities: None,
            trace: None,
        }
    }
}

/// Where progress notifications go.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The caller's own token, a JSON string or number: it replaces the gateway's in what is sent on.
    pub token: Box<RawValue>,
    /// Takes `params` of each `notifications/progress`. Bounded: what does not fit is dropped, as progress may be.
    pub sender: mpsc::Sender<Box<RawValue>>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct CallOutcome {
    /// The `CallToolResult`, byte for byte as received. `isError` may be set in it.
    pub result: Box<RawValue>,
    /// Whether the tool says that it failed (`isError`).
    pub is_error: bool,
    /// From the decision to send until the answer was complete.
    pub latency: Duration,
}

/// Why there is no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No such server or tool is offered.
    #[error("there is no such tool")]
    UnknownTool,
    /// The server cannot take calls now; nothing was sent.
    #[error("the tool's server is {state}: {reason}")]
    Unavailable {
        /// The server's state.
        state: State,
        /// Why, without secrets.
        reason: String,
    },
    /// The server has as many calls in flight as it may; nothing was sent.
    #[error("the tool's server is busy: {in_flight_max} calls are in flight")]
    Busy {
        /// The bound.
        in_flight_max: usize,
    },
    /// No answer came in time. The call may have run.
    #[error("the tool's server did not answer within {} ms", after.as_millis())]
    Timeout {
        /// How long it was waited for.
        after: Duration,
    },
    /// The caller cancelled it. The call may have run.
    #[error("the call was cancelled")]
    Cancelled,
    /// The call may have reached the server, and its answer was lost. It was not repeated.
    #[error("the call may have reached the tool's server, and its answer was lost: {reason}")]
    OutcomeUnknown {
        /// What happened to the connection, without secrets.
        reason: String,
    },
    /// The server answered with a JSON-RPC error.
    #[error("the tool's server answered with error {code}: {message}")]
    Rpc {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
        /// Its data, as received.
        data: Option<Box<RawValue>>,
    },
    /// The result is over the limit.
    #[error("the result is over {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The server answered with something that is not a result.
    #[error("the tool's server sent something that is not a tool result: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The server wants something of the caller first (`resultType: input_required`). Nobody answers that yet.
    #[error("the tool's server asks for input that this gateway cannot carry yet")]
    InputRequired {
        /// The `InputRequiredResult`, as received.
        result: Box<RawValue>,
    },
}

impl CallError {
    /// Whether nothing can have reached the server, so that nothing is charged.
    #[must_use]
    pub const fn is_without_effect(&self) -> bool {
        matches!(self, Self::UnknownTool | Self::Unavailable { .. } | Self::Busy { .. })
    }
}
