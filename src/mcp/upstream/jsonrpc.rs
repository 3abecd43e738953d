//! JSON-RPC as far as the gateway reads it: method, id and the error envelope. Parameters and results stay raw.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The most messages of one batch (revision 2025-03-26 only) that are read; the rest is dropped.
const BATCH_MAX: usize = 1024;
/// The longest error message that is passed on, in bytes.
const ERROR_MESSAGE_BYTES_MAX: usize = 4096;
/// The largest error data that is passed on, in bytes. Larger data is dropped.
const ERROR_DATA_BYTES_MAX: usize = 64 * 1024;

/// There is no such method.
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
/// The revision that was asked for is not spoken (2026-07-28).
pub(crate) const UNSUPPORTED_VERSION: i64 = -32022;

/// One message of a server.
#[derive(Debug)]
pub(crate) enum Inbound<'a> {
    /// The answer to a request of ours.
    Answer {
        /// Our id, if it is one.
        id: Option<u64>,
        /// Its result or its error.
        body: Result<&'a RawValue, &'a RawValue>,
    },
    /// A request of the server.
    Request {
        /// Its id, to be echoed.
        id: &'a RawValue,
        /// Its method.
        method: Cow<'a, str>,
    },
    /// A notification.
    Notification {
        /// Its method.
        method: Cow<'a, str>,
        /// Its parameters.
        params: Option<&'a RawValue>,
    },
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// Reads a message, or a batch of them.
///
/// # Errors
///
/// What is wrong, without the message's content.
pub(crate) fn parse(text: &str) -> Result<Vec<Inbound<'_>>, String> {
    if text.trim_start().starts_with('[') {
        let batch: Vec<&RawValue> = serde_json::from_str(text).map_err(|it| plain(&it))?;
        return batch.into_iter().take(BATCH_MAX).map(|it| parse_one(it.get())).collect();
    }
    parse_one(text).map(|it| vec![it])
}

fn parse_one(text: &str) -> Result<Inbound<'_>, String> {
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|it| plain(&it))?;
    match envelope {
        Envelope { method: Some(method), id: Some(id), .. } => Ok(Inbound::Request { id, method }),
        Envelope { method: Some(method), id: None, params, .. } => {
            Ok(Inbound::Notification { method, params })
        }
        Envelope { error: Some(error), result: None, id, .. } => {
            Ok(Inbound::Answer { id: id.and_then(read_id), body: Err(error) })
        }
        Envelope { result: Some(result), error: None, id: Some(id), .. } => {
            Ok(Inbound::Answer { id: read_id(id), body: Ok(result) })
        }
        _ => Err("a JSON object that is no JSON-RPC message".to_owned()),
    }
}

/// Our ids are numbers; some servers echo them as strings.
fn read_id(raw: &RawValue) -> Option<u64> {
    let text = raw.get();
    text.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(text).parse().ok()
}

/// The complaint of the parser: kind and place, nothing of the text.
fn plain(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "JSON that ends half way",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "no JSON",
        serde_json::error::Category::Data => "no JSON-RPC message",
    };
    format!("{kind} (line {}, column {})", error.line(), error.column())
}

/// A JSON-RPC error, bounded.
#[derive(Debug, Clone)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Box<RawValue>>,
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}", self.code, self.message)
    }
}

/// Reads an error object. `None` where it is none.
pub(crate) fn error(raw: &RawValue) -> Option<RpcError> {
    #[derive(Deserialize)]
    struct Read {
        code: serde_json::Number,
        #[serde(default)]
        message: Option<String>,
        #[serde(default)]
        data: Option<Box<RawValue>>,
    }
    let read: Read = serde_json::from_str(raw.get()).ok()?;
    let mut message = read.message.unwrap_or_default();
    message.truncate(clip(&message, ERROR_MESSAGE_BYTES_MAX).len());
    let code = read.code.as_i64().unwrap_or(-32603);
    let data = read.data.filter(|it| it.get().len() <= ERROR_DATA_BYTES_MAX);
    Some(RpcError { code, message, data })
}

/// The error in a message that is one.
pub(crate) fn error_of(text: &str) -> Option<RpcError> {
    match parse_one(text) {
        Ok(Inbound::Answer { body: Err(raw), .. }) => error(raw),
        _ => None,
    }
}

/// A request as text. `params` is raw JSON.
pub(crate) fn request(id: u64, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

/// A notification as text. `params` is raw JSON.
pub(crate) fn notification(method: &str, params: Option<&str>) -> String {
    match params {
        Some(params) => format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#),
        None => format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#),
    }
}

/// The answer to a server's request. `result` is raw JSON.
pub(crate) fn answer(id: &RawValue, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.get())
}

/// The refusal of a server's request.
pub(crate) fn refusal(id: &RawValue, code: i64, message: &str) -> String {
    let message = quote(message);
    format!(
        r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":{code},"message":{message}}}}}"#,
        id.get()
    )
}

/// The beginning of `text` that has at most `bytes_max` bytes.
pub(crate) fn clip(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// `text` as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The members of a JSON object, in order, their values raw.
///
/// # Errors
///
/// Where `raw` is no object, or a key stands twice.
pub(crate) fn members(raw: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, String> {
    struct Read<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);
    impl<'de: 'a, 'a> Deserialize<'de> for Read<'a> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Members<'a>(std::marker::PhantomData<&'a ()>);
            impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
                type Value = Read<'a>;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a JSON object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read<'a>, A::Error> {
                    let mut members: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::new();
                    while let Some((key, value)) = map.next_entry::<String, &'a RawValue>()? {
                        if members.iter().any(|(it, _)| *it == key) {
                            return Err(serde::de::Error::custom("a key stands twice"));
                        }
                        members.push((Cow::Owned(key), value));
                    }
                    Ok(Read(members))
                }
            }
            deserializer.deserialize_map(Members(std::marker::PhantomData))
        }
    }
    serde_json::from_str::<Read<'_>>(raw).map(|it| it.0).map_err(|it| plain(&it))
}

/// A JSON object of `members`, whose values are raw JSON.
pub(crate) fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from("{");
    for (key, value) in members {
        if 1 < text.len() {
            text.push(',');
        }
        text.push_str(&quote(key));
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests;
