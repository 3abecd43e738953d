//! Errors, written for callers and read from upstreams.

use serde_json::{Value, json};

use crate::dialect::{Failure, UpstreamFailure};

/// What an unstructured error body may contribute to a sentence.
const PLAIN_BYTES_MAX: usize = 512;

/// Writes an error.
pub(crate) fn encode(failure: &Failure<'_>) -> Vec<u8> {
    body(failure).to_string().into_bytes()
}

/// An error's words. `request_id` stands beside it, as no OpenAI field is for it.
pub(crate) fn body(failure: &Failure<'_>) -> Value {
    json!({
        "error": {
            "message": failure.message,
            "type": kind(failure.status),
            "param": failure.param,
            "code": failure.code,
        },
        "request_id": failure.request_id,
    })
}

/// OpenAI's word for a kind of failure.
fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "insufficient_quota",
        403 => "permission_error",
        408 | 504 => "timeout_error",
        429 => "rate_limit_error",
        502 => "upstream_error",
        503 => "overloaded_error",
        400..=499 | 501 => "invalid_request_error",
        _ => "server_error",
    }
}

/// Reads an error, in any of the shapes that servers of this dialect are known to write.
pub(crate) fn decode(body: &[u8]) -> UpstreamFailure {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return UpstreamFailure { message: plain(body), ..UpstreamFailure::default() };
    };
    // Google wraps its errors in a list.
    let value = value.get(0).unwrap_or(&value);
    read(value)
}

/// Reads an error's object, or the object around it.
pub(crate) fn read(value: &Value) -> UpstreamFailure {
    let error = match value.get("error") {
        Some(error @ Value::Object(_)) => error,
        Some(Value::String(message)) => {
            return UpstreamFailure {
                message: Some(message.clone()),
                ..UpstreamFailure::default()
            };
        }
        _ => value,
    };
    UpstreamFailure {
        kind: word(error, &["type", "status"]),
        code: word(error, &["code"]),
        message: word(error, &["message", "detail", "msg", "title"]),
    }
}

fn word(error: &Value, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| match error.get(*key)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        // FastAPI: a list of what is wrong where.
        Value::Array(list) => {
            let texts: Vec<&str> =
                list.iter().filter_map(|it| it.get("msg").unwrap_or(it).as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
        // Mistral: the list under another `detail`.
        nested @ Value::Object(_) => word(nested, &["detail", "message"]),
        _ => None,
    })
}

/// The beginning of a text that is no markup.
fn plain(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body.get(..body.len().min(PLAIN_BYTES_MAX))?);
    let text = text.trim();
    (!text.is_empty() && !text.starts_with('<')).then(|| text.to_owned())
}
