//! From a failure to what a caller sees. The one place for status codes.
//!
//! [`Code`] is what a caller's program branches on: adding one is fine, renaming is not.
//! `docs/errors.md` is generated from [`Code::ALL`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

macro_rules! codes {
    ($($variant:ident, $name:literal, $status:literal, $openai:literal, $anthropic:literal, $gemini:literal, $rpc:literal, $text:literal;)*) => {
        /// Why a request was not answered as asked.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $text] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status it is answered with, where no upstream's own status is kept.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// `error.type` in OpenAI's dialect.
            #[must_use]
            pub const fn openai_type(self) -> &'static str {
                match self { $(Self::$variant => $openai,)* }
            }

            /// `error.type` in Anthropic's dialect.
            #[must_use]
            pub const fn anthropic_type(self) -> &'static str {
                match self { $(Self::$variant => $anthropic,)* }
            }

            /// `error.status` in Gemini's dialect.
            #[must_use]
            pub const fn gemini_status(self) -> &'static str {
                match self { $(Self::$variant => $gemini,)* }
            }

            /// The JSON-RPC code on `/mcp`.
            #[must_use]
            pub const fn rpc(self) -> i32 {
                match self { $(Self::$variant => $rpc,)* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    InvalidJson, "invalid_json", 400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32700, "The body is not valid JSON.";
    BodyIncomplete, "body_incomplete", 400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32700, "The body stopped before its end.";
    InvalidField, "invalid_field", 400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32602, "A field has the wrong type or value; `param` names it.";
    DuplicateField, "duplicate_field", 400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32600, "A field stands twice, or in another spelling of its case.";
    InvalidHeader, "invalid_header", 400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32600, "A request header has a value that cannot be used.";
    TwoKeys, "two_keys", 400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32600, "Two different keys were given; give one.";
    ArgumentsInvalid, "arguments_invalid", 400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32602, "A tool's arguments do not fit its schema.";
    MissingKey, "missing_key", 401, "authentication_error", "authentication_error", "UNAUTHENTICATED", -32001, "No key was given.";
    InvalidKey, "invalid_key", 401, "authentication_error", "authentication_error", "UNAUTHENTICATED", -32001, "The key is not known here.";
    KeyExpired, "key_expired", 401, "authentication_error", "authentication_error", "UNAUTHENTICATED", -32001, "The key has expired.";
    KeyDisabled, "key_disabled", 401, "authentication_error", "authentication_error", "UNAUTHENTICATED", -32001, "The key, its team or its customer is disabled.";
    BudgetExhausted, "budget_exhausted", 402, "insufficient_quota", "billing_error", "RESOURCE_EXHAUSTED", -32003, "A budget has no money left for this call; the message names its level, limit and reset.";
    PriceUnknown, "price_unknown", 402, "insufficient_quota", "billing_error", "RESOURCE_EXHAUSTED", -32003, "The model has no price, so a strict budget cannot bound the call; set `prices` on the provider.";
    ModelForbidden, "model_forbidden", 403, "permission_error", "permission_error", "PERMISSION_DENIED", -32002, "The key does not allow this model.";
    ToolForbidden, "tool_forbidden", 403, "permission_error", "permission_error", "PERMISSION_DENIED", -32602, "The key does not allow this tool.";
    Forbidden, "forbidden", 403, "permission_error", "permission_error", "PERMISSION_DENIED", -32002, "The credential does not allow this.";
    NotFound, "not_found", 404, "invalid_request_error", "not_found_error", "NOT_FOUND", -32601, "There is no such route or object.";
    ModelUnknown, "model_unknown", 404, "invalid_request_error", "not_found_error", "NOT_FOUND", -32602, "No provider of the key serves this model.";
    ToolUnknown, "tool_unknown", 404, "invalid_request_error", "not_found_error", "NOT_FOUND", -32602, "There is no such tool.";
    MethodNotAllowed, "method_not_allowed", 405, "invalid_request_error", "invalid_request_error", "UNIMPLEMENTED", -32600, "The route does not take this method.";
    RequestTimeout, "request_timeout", 408, "timeout_error", "timeout_error", "DEADLINE_EXCEEDED", -32004, "The request did not arrive in time.";
    Conflict, "conflict", 409, "invalid_request_error", "invalid_request_error", "ABORTED", -32600, "The object exists already, or is referred to by others.";
    VersionMismatch, "version_mismatch", 412, "invalid_request_error", "invalid_request_error", "FAILED_PRECONDITION", -32600, "The object was changed since it was read.";
    BodyTooLarge, "body_too_large", 413, "invalid_request_error", "request_too_large", "INVALID_ARGUMENT", -32600, "The body is over the limit.";
    UnsupportedMediaType, "unsupported_media_type", 415, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32600, "The body must be JSON without a content encoding.";
    RateLimited, "rate_limited", 429, "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED", -32005, "A rate is used up; `Retry-After` says for how long.";
    HeaderTooLarge, "header_too_large", 431, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", -32600, "The request's headers are over the limit.";
    Cancelled, "cancelled", 499, "cancelled", "api_error", "CANCELLED", -32800, "The caller went away. In records only.";
    Internal, "internal", 500, "server_error", "api_error", "INTERNAL", -32603, "Althing failed; its log has the cause under the request id.";
    NotSupported, "not_supported", 501, "invalid_request_error", "api_error", "UNIMPLEMENTED", -32601, "The target cannot do this.";
    UpstreamFailed, "upstream_failed", 502, "upstream_error", "api_error", "UNAVAILABLE", -32010, "The upstream answered with an error.";
    UpstreamUnreachable, "upstream_unreachable", 502, "upstream_error", "api_error", "UNAVAILABLE", -32010, "The upstream could not be reached.";
    UpstreamMalformed, "upstream_malformed", 502, "upstream_error", "api_error", "UNAVAILABLE", -32010, "The upstream sent something that is not its own format.";
    OutcomeUnknown, "outcome_unknown", 502, "upstream_error", "api_error", "UNAVAILABLE", -32011, "The call may have reached the upstream, and its answer was lost. It was not repeated.";
    ResultTooLarge, "result_too_large", 502, "upstream_error", "api_error", "UNAVAILABLE", -32010, "The upstream's answer is over the limit.";
    Overloaded, "overloaded", 503, "overloaded_error", "overloaded_error", "UNAVAILABLE", -32006, "Althing is busy; `Retry-After` says when to come again.";
    RecordsFull, "records_full", 503, "overloaded_error", "overloaded_error", "UNAVAILABLE", -32006, "Records cannot be written, and the configuration says to refuse then.";
    NoQuorum, "no_quorum", 503, "overloaded_error", "overloaded_error", "UNAVAILABLE", -32006, "This node cannot reach a quorum.";
    ServerUnavailable, "server_unavailable", 503, "overloaded_error", "overloaded_error", "UNAVAILABLE", -32010, "The tool's MCP server is down or not connected yet.";
    StorageFull, "storage_full", 503, "overloaded_error", "overloaded_error", "UNAVAILABLE", -32006, "The disk is full: policy cannot be written.";
    Draining, "draining", 503, "overloaded_error", "overloaded_error", "UNAVAILABLE", -32006, "This node is shutting down.";
    UpstreamTimeout, "upstream_timeout", 504, "timeout_error", "timeout_error", "DEADLINE_EXCEEDED", -32004, "The upstream did not answer in time.";
}

/// A failure on its way to the caller. Holds nothing that the caller may not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind.
    pub code: Code,
    /// A sentence that says what is wrong and how to mend it.
    pub message: Cow<'static, str>,
    /// The field at fault.
    pub param: Option<String>,
    /// When it makes sense to come again.
    pub retry_after: Option<Duration>,
    /// The status to answer with instead of the code's own: an upstream's 400, 404, 413, 422 and 429 are kept.
    pub status: Option<StatusCode>,
    /// The upstream's own word for it, where the upstream failed.
    pub upstream_type: Option<String>,
    /// The upstream's own details, as JSON text. For MCP callers only, whose protocol has a place for them.
    pub upstream_data: Option<Box<str>>,
    /// Where a call of a model was sent, or would have been.
    pub tried: Option<Box<Tried>>,
}

/// Where a call was sent last before it failed, for the headers of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The provider.
    pub provider: Arc<str>,
    /// The model, as the provider names it.
    pub model: Arc<str>,
    /// Requests that were sent, to all targets.
    pub attempts: u32,
}

impl Error {
    /// A failure of kind `code`, in a sentence.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            status: None,
            upstream_type: None,
            upstream_data: None,
            tried: None,
        }
    }

    /// The code's own sentence.
    #[must_use]
    pub fn of(code: Code) -> Self {
        Self::new(code, code.text())
    }

    /// A field of the body that is wrong.
    pub fn field(param: impl Into<String>, problem: impl fmt::Display) -> Self {
        let param = param.into();
        let message = format!("`{param}`: {problem}");
        Self::new(Code::InvalidField, message).with_param(param)
    }

    /// Names the field at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to come again.
    #[must_use]
    pub const fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Keeps an upstream's status.
    #[must_use]
    pub const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The status to answer with.
    #[must_use]
    pub fn http_status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| {
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }

    /// Whole seconds for a `Retry-After` header, at least one.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after
            .map(|it| it.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
            .map(|it: u64| it.max(1))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
