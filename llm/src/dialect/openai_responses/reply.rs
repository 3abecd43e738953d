//! A whole reply, read and written.

use serde_json::{Value, json};

use super::seals::{self, Sealed};
use super::{NAME, alias, item, part};
use crate::chat::{Alias, Aliased, Block, Choice, Reply, Stop, Usage};
use crate::dialect::openai::{error, flat_citations};
use crate::dialect::{Error, ReplyContext};
use crate::json::{self, Fields};
use crate::seal;
use crate::usage::wire;

/// Reads an upstream's reply.
pub(super) fn decode(body: &[u8]) -> Result<Reply, Error> {
    read(body).map_err(json::of_reply)
}

fn read(body: &[u8]) -> Result<Reply, Error> {
    let mut fields = json::body(body)?;
    if fields.any("error").is_some() {
        let failure = error::decode(body);
        let problem = failure.message.unwrap_or_else(|| "an error without words".to_owned());
        return Err(Error::Reply { problem });
    }
    let list = fields.list("output")?.ok_or_else(|| fields.wrong("output", "is missing"))?;
    let mut content = Vec::with_capacity(list.len());
    let mut waiting = None;
    for (at, value) in list.into_iter().enumerate() {
        output(value, &format!("output[{at}]"), &mut waiting, &mut content)?;
    }
    let status = fields.text("status")?;
    let stop = stop(status.as_deref(), fields.any("incomplete_details").as_ref(), &content);
    Ok(Reply {
        id: fields.text("id")?.unwrap_or_default(),
        model: fields.text("model")?.unwrap_or_default(),
        created: fields.any("created_at").and_then(|it| it.as_u64()),
        choices: vec![Choice { index: 0, content, stop, logprobs: None }],
        usage: fields.any("usage").map(usage).unwrap_or_default(),
    })
}

/// Reads usage; what is not understood is zero.
pub(super) fn usage(value: Value) -> Usage {
    serde_json::from_value::<wire::OpenAi>(value).map(|it| it.usage()).unwrap_or_default()
}

fn output(
    value: Value,
    path: &str,
    waiting: &mut Option<String>,
    content: &mut Vec<Block>,
) -> Result<(), Error> {
    match value.get("type").and_then(Value::as_str) {
        Some("message") => {
            let mut fields = Fields::new(value, path)?;
            content.extend(part::content(&mut fields, "content")?);
        }
        Some("function_call") => {
            let mut fields = Fields::new(value, path)?;
            content.push(Block::ToolUse {
                id: fields.need_text("call_id")?,
                name: fields.need_text("name")?,
                arguments: fields.text("arguments")?.unwrap_or_default(),
                signature: waiting.take(),
                cache: None,
            });
        }
        Some("reasoning") => match item::reasoning(Fields::new(value, path)?)? {
            Sealed::Thought(block) => content.push(block),
            Sealed::Call(seal) => *waiting = Some(seal),
        },
        _ => content.push(Block::Opaque { dialect: NAME, value }),
    }
    Ok(())
}

/// Why a response ended.
pub(super) fn stop(status: Option<&str>, details: Option<&Value>, content: &[Block]) -> Stop {
    let reason = details.and_then(|it| it.get("reason")).and_then(Value::as_str);
    let has = |is: fn(&Block) -> bool| content.iter().any(is);
    match (status, reason) {
        (Some("incomplete"), Some("content_filter")) => Stop::ContentFilter,
        (Some("incomplete"), None | Some("max_output_tokens")) => Stop::Length,
        (Some("incomplete"), Some(other)) => Stop::Other(other.to_owned()),
        (Some(word @ ("cancelled" | "failed")), _) => Stop::Other(word.to_owned()),
        _ if has(|it| matches!(it, Block::ToolUse { .. })) => Stop::ToolUse,
        _ if has(|it| matches!(it, Block::Refusal { .. })) => Stop::Refusal,
        _ => Stop::End,
    }
}

/// How a response ends: its status and the reason where it is not whole.
pub(super) fn status(stop: &Stop) -> (&'static str, Option<&'static str>) {
    match stop {
        Stop::Length => ("incomplete", Some("max_output_tokens")),
        Stop::ContentFilter => ("incomplete", Some("content_filter")),
        Stop::End
        | Stop::ToolUse
        | Stop::Sequence(_)
        | Stop::Refusal
        | Stop::Pause
        | Stop::Other(_) => ("completed", None),
    }
}

/// Writes a reply for a caller.
pub(super) fn encode(reply: &Reply, context: &ReplyContext) -> Vec<u8> {
    let choice = reply.choices.first();
    let stop = choice.map_or(&Stop::End, |it| &it.stop);
    let mut output = Vec::new();
    for block in choice.map_or(&[][..], |it| &it.content) {
        if let Block::ToolUse { signature: Some(signature), .. } = block {
            output.push(carrier(signature, &item_id("rs", &context.id, output.len())));
        }
        if let Some(item) = words(block, context, output.len()) {
            output.push(item);
        }
    }
    let mut response = response(&reply.id, context, status(stop), &output);
    if let Value::Object(response) = &mut response {
        response.insert("usage".to_owned(), usage_words(&reply.usage));
        if let Some(created) = reply.created {
            response.insert("created_at".to_owned(), json!(created));
        }
    }
    json::write(&response)
}

/// The response object around its output, without usage.
pub(super) fn response(
    vendor: &str,
    context: &ReplyContext,
    (status, reason): (&str, Option<&str>),
    output: &[Value],
) -> Value {
    let id = if vendor.starts_with("resp_") {
        vendor.to_owned()
    } else {
        format!("resp_{}", context.id)
    };
    json!({
        "id": id,
        "object": "response",
        "created_at": context.created,
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": reason.map(|it| json!({"reason": it})),
        "instructions": null,
        "max_output_tokens": null,
        "model": context.model,
        "output": output,
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "store": false,
        "temperature": null,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": null,
        "truncation": "disabled",
        "usage": null,
        "user": null,
        "metadata": {},
    })
}

/// Writes usage.
pub(super) fn usage_words(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_input},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input.saturating_add(usage.output),
    })
}

/// An item's id: the same for the same place in the same response, and no other.
pub(super) fn item_id(kind: &str, response: &str, place: usize) -> String {
    format!("{kind}_{response}{place:04x}")
}

/// A whole block as the item at `place`. `None`: this dialect has no such item.
pub(super) fn words(block: &Block, context: &ReplyContext, place: usize) -> Option<Value> {
    let id = |kind: &str| item_id(kind, &context.id, place);
    Some(match block {
        Block::Text { text, citations, .. } => {
            let annotations: Vec<Value> = citations.iter().flat_map(flat_citations).collect();
            message(&id("msg"), "completed", &text_part(text, &annotations))
        }
        Block::Refusal { text } => {
            message(&id("msg"), "completed", &json!({"type": "refusal", "refusal": text}))
        }
        Block::ToolUse { id: call, name, arguments, .. } => {
            let arguments = if arguments.is_empty() { "{}" } else { arguments };
            let aliases = &context.aliases;
            let id = id(call_prefix(aliases, name));
            call_item(aliases, &id, "completed", (call, name), arguments)
        }
        Block::Thinking { text, signature, id: vendor } => {
            let token = signature.as_deref().map(|it| seal::bare(NAME, it));
            let own = vendor.clone().unwrap_or_else(|| id("rs"));
            reasoning_item(&own, text, token)
        }
        Block::RedactedThinking { data, id: vendor } => {
            let own = vendor.clone().unwrap_or_else(|| id("rs"));
            reasoning_item(&own, "", Some(&seals::redacted(data)))
        }
        Block::Opaque { dialect: NAME, value } => value.clone(),
        Block::Image { .. }
        | Block::Document { .. }
        | Block::Audio { .. }
        | Block::ToolResult { .. }
        | Block::Opaque { .. } => return None,
    })
}

pub(super) fn message(id: &str, status: &str, part: &Value) -> Value {
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": [part]})
}

pub(super) fn text_part(text: &str, annotations: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": annotations, "logprobs": []})
}

/// The item of a call, as what its function stands for.
pub(super) fn call_item(
    aliases: &[Alias],
    id: &str,
    status: &str,
    (call, function): (&str, &str),
    arguments: &str,
) -> Value {
    let mut item = alias::call_item(aliases, call, function, arguments);
    item.insert("id".to_owned(), json!(id));
    item.insert("status".to_owned(), json!(status));
    Value::Object(item)
}

/// The letters before the id of a call's item.
pub(super) fn call_prefix(aliases: &[Alias], function: &str) -> &'static str {
    match alias::find(aliases, function) {
        Some(Aliased::Custom { .. }) => "ctc",
        Some(Aliased::Namespaced { .. } | Aliased::Legacy) | None => "fc",
    }
}

pub(super) fn reasoning_item(id: &str, text: &str, encrypted: Option<&str>) -> Value {
    let summary =
        if text.is_empty() { json!([]) } else { json!([{"type": "summary_text", "text": text}]) };
    let mut item = json!({"id": id, "type": "reasoning", "summary": summary});
    if let (Value::Object(item), Some(token)) = (&mut item, encrypted) {
        item.insert("encrypted_content".to_owned(), json!(token));
    }
    item
}

/// The item that carries a call's seal.
pub(super) fn carrier(signature: &str, id: &str) -> Value {
    reasoning_item(id, "", Some(&seals::call(signature)))
}
