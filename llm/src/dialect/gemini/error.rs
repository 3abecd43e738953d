//! Errors in Google's words.

use serde_json::{Map, Value, json};

use crate::dialect::{Failure, UpstreamFailure};

/// An error body.
pub(super) fn body(failure: &Failure<'_>) -> Value {
    let mut metadata = Map::new();
    metadata.insert("request_id".to_owned(), json!(failure.request_id));
    if let Some(param) = failure.param {
        metadata.insert("param".to_owned(), json!(param));
    }
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": failure.code,
        "domain": "althing",
        "metadata": metadata,
    });
    json!({"error": {
        "code": failure.status,
        "message": failure.message,
        "status": status_name(failure.status),
        "details": [info],
    }})
}

/// Google's canonical name of a status.
fn status_name(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        402 | 429 => "RESOURCE_EXHAUSTED",
        408 | 504 => "DEADLINE_EXCEEDED",
        409 => "ABORTED",
        412 => "FAILED_PRECONDITION",
        499 => "CANCELLED",
        405 | 501 => "UNIMPLEMENTED",
        502 | 503 | 529 => "UNAVAILABLE",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    }
}

/// Reads an error body, whatever it is. A stream that was not asked for as events has it in an array.
pub(super) fn decode(body: &[u8]) -> UpstreamFailure {
    serde_json::from_slice::<Value>(body)
        .ok()
        .map_or_else(UpstreamFailure::default, |body| read(&body))
}

/// Reads an error from JSON.
pub(super) fn read(body: &Value) -> UpstreamFailure {
    let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let details = body.pointer("/error/details").and_then(Value::as_array);
    let reason = details.into_iter().flatten().find_map(|detail| detail.get("reason")?.as_str());
    let code = body.pointer("/error/code").and_then(Value::as_u64).map(|code| code.to_string());
    UpstreamFailure {
        kind: text("/error/status"),
        code: reason.map(str::to_owned).or(code),
        message: text("/error/message").or_else(|| text("/message")),
    }
}
