//! Content blocks as Anthropic writes them, read into the internal form.

use serde_json::Value;

use super::NAME;
use crate::chat::{Block, Source};
use crate::dialect::Error;
use crate::json::{self, Fields};
use crate::seal;

/// Set before a foreign seal that belongs on a tool call. Anthropic's calls have no place for one, so it travels in
/// an empty thinking block before the call; clients send thinking blocks back.
const CALL: &str = "call:";

/// As [`CALL`], of the call before: in a stream a seal may come when its call has begun.
const LATE: &str = "late:";

/// Reads `key` of `fields`, a string or a list of blocks. Absent is none.
pub(super) fn content(fields: &mut Fields, key: &str) -> Result<Vec<Block>, Error> {
    match fields.any(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Block::text(text)]),
        Some(Value::Array(list)) => {
            let path = fields.at(key);
            let blocks = list
                .into_iter()
                .enumerate()
                .map(|(at, value)| decode(value, &format!("{path}[{at}]")));
            blocks.collect::<Result<_, _>>().map(attach_seals)
        }
        Some(other) => Err(fields.wrong(
            key,
            format!("must be a string or a list of content blocks, but is {}", json::kind(&other)),
        )),
    }
}

/// Reads one block.
pub(super) fn decode(value: Value, path: &str) -> Result<Block, Error> {
    let kind = match value.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        _ if value.is_object() => {
            return Err(json::field(format!("{path}.type"), "is required, as a string"));
        }
        _ => {
            return Err(json::field(
                path,
                format!("must be an object, but is {}", json::kind(&value)),
            ));
        }
    };
    // A member of a toolset is not a function that another vendor could know.
    let of_toolset = value.get("toolset_name").is_some_and(|name| !name.is_null());
    let content_source = value.pointer("/source/type").and_then(Value::as_str) == Some("content");
    if of_toolset || content_source {
        return Ok(Block::Opaque { dialect: NAME, value });
    }
    match kind.as_str() {
        "text" => text(Fields::new(value, path)?),
        "image" | "document" => media(Fields::new(value, path)?, &kind),
        "thinking" => thinking(Fields::new(value, path)?),
        "redacted_thinking" => {
            let data = Fields::new(value, path)?.need_text("data")?;
            let (data, id) = seal::split_item(&seal::marked(NAME, &data));
            Ok(Block::RedactedThinking { data, id })
        }
        "tool_use" => tool_use(Fields::new(value, path)?),
        "tool_result" => tool_result(Fields::new(value, path)?),
        _ => Ok(Block::Opaque { dialect: NAME, value }),
    }
}

fn text(mut fields: Fields) -> Result<Block, Error> {
    let text = fields.need_text("text")?;
    let citations = fields
        .any("citations")
        .filter(|value| value.as_array().is_none_or(|list| !list.is_empty()));
    Ok(Block::Text { text, cache: fields.any("cache_control"), citations })
}

fn media(mut fields: Fields, kind: &str) -> Result<Block, Error> {
    let source = fields
        .object("source")?
        .ok_or_else(|| fields.wrong("source", "is required, as an object"))?;
    let source = decode_source(source)?;
    let cache = fields.any("cache_control");
    if kind == "image" {
        return Ok(Block::Image { source, detail: None, cache });
    }
    Ok(Block::Document { source, title: fields.text("title")?, cache })
}

fn decode_source(mut fields: Fields) -> Result<Source, Error> {
    match fields.need_text("type")?.as_str() {
        "base64" => Ok(Source::Base64 {
            media_type: fields.need_text("media_type")?,
            data: fields.need_text("data")?,
        }),
        "url" => Ok(Source::Url { url: fields.need_text("url")?, media_type: None }),
        "file" => Ok(Source::File { id: fields.need_text("file_id")? }),
        "text" => Ok(Source::Text { text: fields.need_text("data")? }),
        _ => Err(fields.wrong("type", "must be base64, url, file, text or content")),
    }
}

fn thinking(mut fields: Fields) -> Result<Block, Error> {
    let text = fields.text("thinking")?.unwrap_or_default();
    let signature = fields.text("signature")?.filter(|signature| !signature.is_empty());
    let sealed = signature.map(|signature| seal::split_item(&seal::marked(NAME, &signature)));
    let (signature, id) = sealed.map_or((None, None), |(signature, id)| (Some(signature), id));
    Ok(Block::Thinking { text, signature, id })
}

/// A seal as callers see it: Anthropic's own bare, another's marked, with its item's id.
pub(super) fn shown(seal: &str, id: Option<&str>) -> String {
    seal::own(NAME, seal).map_or_else(|| seal::with_item(seal, id), str::to_owned)
}

fn tool_use(mut fields: Fields) -> Result<Block, Error> {
    let arguments = match fields.any("input") {
        None => "{}".to_owned(),
        Some(input @ Value::Object(_)) => input.to_string(),
        Some(other) => {
            return Err(
                fields.wrong("input", format!("must be an object, but is {}", json::kind(&other)))
            );
        }
    };
    Ok(Block::ToolUse {
        id: fields.need_text("id")?,
        name: fields.need_text("name")?,
        arguments,
        signature: None,
        cache: fields.any("cache_control"),
    })
}

fn tool_result(mut fields: Fields) -> Result<Block, Error> {
    Ok(Block::ToolResult {
        id: fields.need_text("tool_use_id")?,
        name: None,
        content: content(&mut fields, "content")?,
        is_error: fields.flag("is_error")?.unwrap_or(false),
        cache: fields.any("cache_control"),
    })
}

/// Where the call is that a seal belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Behind the seal's carrier.
    Next,
    /// Before it.
    Last,
}

/// The signature of the thinking block that carries a call's seal.
pub(super) fn call_seal(signature: &str, side: Side) -> String {
    let word = match side {
        Side::Next => CALL,
        Side::Last => LATE,
    };
    match seal::owner(signature) {
        Some(owner) => seal::mark(owner, &format!("{word}{}", seal::bare(owner, signature))),
        None => signature.to_owned(),
    }
}

/// A call's seal and its side, if a block is nothing but its carrier.
fn carried(block: &Block) -> Option<(String, Side)> {
    let Block::Thinking { text, signature: Some(signature), .. } = block else { return None };
    let owner = seal::owner(signature)?;
    let token = seal::own(owner, signature)?;
    let next = token.strip_prefix(CALL).map(|token| (token, Side::Next));
    let (token, side) =
        next.or_else(|| token.strip_prefix(LATE).map(|token| (token, Side::Last)))?;
    text.is_empty().then(|| (seal::mark(owner, token), side))
}

/// Moves seals from their carriers to their calls. A carrier whose call is gone is dropped.
fn attach_seals(blocks: Vec<Block>) -> Vec<Block> {
    let mut attached: Vec<Block> = Vec::with_capacity(blocks.len());
    let mut waiting = None;
    for mut block in blocks {
        match (carried(&block), attached.last_mut()) {
            (Some((seal, Side::Next)), _) => {
                waiting = Some(seal);
                continue;
            }
            (Some((seal, Side::Last)), Some(Block::ToolUse { signature, .. })) => {
                *signature = Some(seal);
                continue;
            }
            (Some((_, Side::Last)), _) => continue,
            (None, _) => {}
        }
        let seal = waiting.take();
        if let Block::ToolUse { signature, .. } = &mut block {
            *signature = seal;
        }
        attached.push(block);
    }
    attached
}
