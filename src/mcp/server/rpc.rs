//! JSON-RPC, read no further than needed and written by hand: what is between the braces passes as it came.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::{Code, Error};
use crate::mcp::json::{Fault, Fields};

/// Malformed JSON.
pub(crate) const PARSE_ERROR: i32 = -32700;
/// JSON that is not a request.
pub(crate) const INVALID_REQUEST: i32 = -32600;
/// No such method here.
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
/// Parameters that do not fit.
pub(crate) const INVALID_PARAMS: i32 = -32602;
/// A header says other than the body (2026-07-28).
pub(crate) const HEADER_MISMATCH: i32 = -32020;
/// The client did not declare a capability that the call needs (2026-07-28).
pub(crate) const MISSING_CAPABILITY: i32 = -32021;
/// A revision that is not spoken here (2026-07-28).
pub(crate) const UNSUPPORTED_VERSION: i32 = -32022;

/// The most messages in a batch.
pub(crate) const BATCH_MAX: usize = 64;
/// The longest request id, in bytes: it is repeated in the answer and kept while the request runs.
const ID_BYTES_MAX: usize = 256;
/// The longest method name, in bytes.
const METHOD_BYTES_MAX: usize = 128;

const ENVELOPE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];

/// A body.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// One message.
    One(Result<Message<'a>, Refusal>),
    /// Several; revision 2025-03-26 only.
    Batch(Vec<Result<Message<'a>, Refusal>>),
}

/// One message.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// Wants an answer.
    Request(Request<'a>),
    /// Does not.
    Notification {
        /// What happened.
        method: String,
        /// Its parameters, as written.
        params: Option<&'a RawValue>,
    },
    /// An answer. We ask nothing yet, so there is nobody to give it to.
    Response,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Its id as JSON text: a string or a number.
    pub(crate) id: &'a str,
    /// What is asked.
    pub(crate) method: String,
    /// Its parameters, as written.
    pub(crate) params: Option<&'a RawValue>,
}

/// A message that was not taken, and the id it had where that could be read.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The id as JSON text.
    pub(crate) id: String,
    /// Why.
    pub(crate) error: Box<RpcError>,
}

/// A JSON-RPC error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RpcError {
    /// JSON-RPC's number for it.
    pub(crate) code: i32,
    /// What is wrong, in a sentence.
    pub(crate) message: Cow<'static, str>,
    /// More, for programs.
    pub(crate) data: Option<Value>,
}

impl RpcError {
    /// Without data.
    pub(crate) fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// A method that is not served.
    pub(crate) fn unknown_method(method: &str) -> Self {
        Self::new(METHOD_NOT_FOUND, format!("`{}` is not served here", shown(method)))
    }

    /// Parameters that do not fit.
    pub(crate) fn params(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    /// Whether HTTP is to say too that the request was at fault (2026-07-28).
    pub(crate) const fn is_bad_request(&self) -> bool {
        matches!(
            self.code,
            HEADER_MISMATCH | UNSUPPORTED_VERSION | INVALID_REQUEST | MISSING_CAPABILITY
        )
    }

    /// An unknown tool, or one that the caller may not use: the two look alike.
    pub(crate) fn unknown_tool(name: &str) -> Self {
        Self {
            code: INVALID_PARAMS,
            message: format!(
                "there is no tool `{}`: `tools/list` names those that are",
                shown(name)
            )
            .into(),
            data: Some(json!({ "code": Code::ToolUnknown.name() })),
        }
    }

    fn object(&self) -> Value {
        let mut object = json!({ "code": self.code, "message": self.message });
        if let (Some(data), Some(object)) = (&self.data, object.as_object_mut()) {
            object.insert("data".to_owned(), data.clone());
        }
        object
    }
}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        // A forbidden tool looks like an unknown one, whoever noticed.
        let code = if error.code == Code::ToolForbidden { Code::ToolUnknown } else { error.code };
        // What the upstream says beside its message is its own, but for the fields that are ours.
        let details = error.upstream_data.as_deref().and_then(|it| serde_json::from_str(it).ok());
        let mut data: serde_json::Map<String, Value> = details.unwrap_or_default();
        data.insert("code".to_owned(), code.name().into());
        if let Some(param) = &error.param {
            data.insert("param".to_owned(), param.as_str().into());
        }
        if let Some(seconds) = error.retry_after_seconds() {
            data.insert("retryAfterSeconds".to_owned(), seconds.into());
        }
        if let Some(upstream) = upstream_code(&error) {
            data.insert("upstreamCode".to_owned(), upstream.into());
        }
        Self { code: self::code(&error), message: error.message, data: Some(Value::Object(data)) }
    }
}

/// The code that a caller is answered with: the upstream's own where that says something of the call, else ours.
pub(crate) fn code(error: &Error) -> i32 {
    let code = if error.code == Code::ToolForbidden { Code::ToolUnknown } else { error.code };
    upstream_code(error).filter(|it| is_for_the_caller(*it)).unwrap_or_else(|| code.rpc())
}

/// An upstream's own JSON-RPC code travels in `upstream_type`.
fn upstream_code(error: &Error) -> Option<i32> {
    error.upstream_type.as_deref().and_then(|it| it.parse().ok())
}

/// Whether an upstream's code says something of the call, and not of the way between it and us.
const fn is_for_the_caller(code: i32) -> bool {
    !matches!(
        code,
        PARSE_ERROR
            | INVALID_REQUEST
            | METHOD_NOT_FOUND
            | -32603
            | HEADER_MISMATCH
            | UNSUPPORTED_VERSION
    )
}

/// Reads a body.
///
/// # Errors
///
/// Where it is not JSON at all; what is wrong with single messages is told in their place.
pub(crate) fn read(body: &Bytes) -> Result<Incoming<'_>, RpcError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| RpcError::new(PARSE_ERROR, "the body is not UTF-8"))?;
    let trimmed = text.trim_start();
    if !trimmed.starts_with('[') {
        return match message(trimmed) {
            Err(Refusal { error, .. }) if error.code == PARSE_ERROR => Err(*error),
            read => Ok(Incoming::One(read)),
        };
    }
    let parts: Vec<&RawValue> = serde_json::from_str(trimmed)
        .map_err(|it| RpcError::new(PARSE_ERROR, format!("the body is not valid JSON: {it}")))?;
    if parts.is_empty() || BATCH_MAX < parts.len() {
        return Err(RpcError::new(
            INVALID_REQUEST,
            format!("a batch has 1 to {BATCH_MAX} messages"),
        ));
    }
    Ok(Incoming::Batch(parts.into_iter().map(|it| message(it.get())).collect()))
}

fn message(text: &str) -> Result<Message<'_>, Refusal> {
    let refuse = |id: &str, error: RpcError| Refusal { id: id.to_owned(), error: Box::new(error) };
    let fields = Fields::read(text, ENVELOPE).map_err(|fault| refuse("null", envelope(&fault)))?;
    let id = match fields.get("id").map(RawValue::get) {
        None => None,
        Some(id) if is_id(id) => Some(id),
        Some(_) => {
            let error = RpcError::new(INVALID_REQUEST, "`id` must be a short string or a number");
            return Err(refuse("null", error));
        }
    };
    let invalid = |problem: &'static str| {
        refuse(id.unwrap_or("null"), RpcError::new(INVALID_REQUEST, problem))
    };
    if fields.text("jsonrpc").as_deref() != Some("2.0") {
        return Err(invalid("`jsonrpc` must be \"2.0\""));
    }
    let params = fields.get("params");
    if params.is_some_and(|it| !crate::mcp::json::is_object(it)) {
        return Err(invalid("`params` must be an object"));
    }
    let is_answer = fields.get("result").is_some() || fields.get("error").is_some();
    match (fields.get("method"), id) {
        (Some(_), _) if is_answer => {
            Err(invalid("a message has a `method`, or a `result` or `error`"))
        }
        (Some(_), id) => match (fields.text("method"), id) {
            (Some(method), _) if METHOD_BYTES_MAX < method.len() => {
                Err(invalid("`method` is too long"))
            }
            (Some(method), Some(id)) => Ok(Message::Request(Request { id, method, params })),
            (Some(method), None) => Ok(Message::Notification { method, params }),
            (None, _) => Err(invalid("`method` must be a string")),
        },
        (None, Some(_)) if is_answer => Ok(Message::Response),
        (None, _) => Err(invalid("`method` is missing")),
    }
}

fn is_id(text: &str) -> bool {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    (text.starts_with('"') || is_number) && text.len() <= ID_BYTES_MAX
}

fn envelope(fault: &Fault) -> RpcError {
    match fault {
        Fault::Syntax { .. } => RpcError::new(PARSE_ERROR, format!("the body is {fault}")),
        Fault::NotObject => RpcError::new(INVALID_REQUEST, format!("a message {fault}")),
        Fault::Twice { .. } | Fault::LooksLike { .. } | Fault::Odd { .. } => doubtful(fault),
    }
}

/// A message that two readers may read differently.
pub(crate) fn doubtful(fault: &Fault) -> RpcError {
    RpcError {
        code: INVALID_REQUEST,
        message: fault.to_string().into(),
        data: Some(json!({ "code": Code::DuplicateField.name() })),
    }
}

/// The answer to `id`: `result` stands in it as it is.
pub(crate) fn success(id: &str, result: &str) -> Bytes {
    let mut text = String::with_capacity(result.len() + id.len() + 40);
    text.push_str(r#"{"jsonrpc":"2.0","id":"#);
    text.push_str(id);
    text.push_str(r#","result":"#);
    text.push_str(result);
    text.push('}');
    text.into()
}

/// The answer to `id`: it failed.
pub(crate) fn failure(id: &str, error: &RpcError) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{}}}"#, error.object()).into()
}

/// A notification: `params` stands in it as it is.
pub(crate) fn notification(method: &str, params: Option<&str>) -> Bytes {
    let method = Value::from(method);
    match params {
        Some(params) => format!(r#"{{"jsonrpc":"2.0","method":{method},"params":{params}}}"#),
        None => format!(r#"{{"jsonrpc":"2.0","method":{method}}}"#),
    }
    .into()
}

/// Text of a caller as it may be repeated to it.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(METHOD_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests;
