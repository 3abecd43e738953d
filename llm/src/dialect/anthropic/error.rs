//! Errors in Anthropic's words.

use serde_json::{Map, Value, json};

use crate::dialect::{Failure, UpstreamFailure};

/// Writes an error body.
pub(super) fn encode(failure: &Failure<'_>) -> Vec<u8> {
    body(failure).to_string().into_bytes()
}

/// An error as the body and the stream's error event have it. `code` and `param` are ours; SDKs pass over them.
pub(super) fn body(failure: &Failure<'_>) -> Value {
    let mut error = Map::new();
    error.insert("type".to_owned(), json!(kind(failure.status)));
    error.insert("message".to_owned(), json!(failure.message));
    error.insert("code".to_owned(), json!(failure.code));
    if let Some(param) = failure.param {
        error.insert("param".to_owned(), json!(param));
    }
    json!({"type": "error", "error": error, "request_id": failure.request_id})
}

/// Anthropic's word for a status.
fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// Anthropic's word for another vendor's kind of failure, in a stream whose status is long sent.
pub(super) fn word(kind: &str) -> &str {
    match kind {
        "RESOURCE_EXHAUSTED" | "rate_limit_exceeded" | "insufficient_quota" => "rate_limit_error",
        "UNAVAILABLE" | "server_overloaded" | "overloaded" => "overloaded_error",
        "INVALID_ARGUMENT" | "FAILED_PRECONDITION" => "invalid_request_error",
        "DEADLINE_EXCEEDED" => "timeout_error",
        "server_error" | "upstream_error" => "api_error",
        known if known.ends_with("_error") => known,
        _ => "api_error",
    }
}

/// Reads an error body, whatever it is.
pub(super) fn decode(body: &[u8]) -> UpstreamFailure {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return UpstreamFailure::default() };
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    UpstreamFailure {
        kind: text("/error/type"),
        code: text("/error/details/error_code").or_else(|| text("/error/code")),
        message: text("/error/message").or_else(|| text("/message")),
    }
}
