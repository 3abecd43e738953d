//! Counting the tokens of a prompt.

use serde_json::Value;

use super::upstream::Writer;
use crate::chat::Request;
use crate::dialect::{Error, WireRequest};

/// What the counting route takes of a request's extra fields.
const EXTRA: &[&str] = &["cache_control", "mcp_servers", "context_management", "speed"];

/// Writes a request to count.
pub(super) fn encode(request: &Request) -> Result<WireRequest, Error> {
    let mut counted = Request { extra: request.extra.clone(), ..request.clone() };
    counted.extra.retain(|key, _| EXTRA.contains(&key.as_str()));
    let mut writer = Writer::new(&counted);
    let mut body = writer.prompt()?;
    let plan = writer.plan(&body);
    writer.configure(&plan, &mut body);
    writer.extra(&mut body);
    Ok(writer.finish("/messages/count_tokens", body))
}

/// Reads the number.
pub(super) fn decode_reply(body: &[u8]) -> Result<u64, Error> {
    let reply: Value = serde_json::from_slice(body)
        .map_err(|error| Error::Reply { problem: format!("not JSON: {error}") })?;
    let count = reply.get("input_tokens").and_then(Value::as_u64);
    count.ok_or_else(|| Error::Reply { problem: "input_tokens is missing".to_owned() })
}
