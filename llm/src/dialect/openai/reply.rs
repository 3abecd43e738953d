//! A whole reply, read and written.

use serde_json::{Map, Value, json};

use super::{NAME, error, legacy, message, part, reasoning};
use crate::chat::{Block, Choice, Reply, Stop, Usage};
use crate::dialect::{Error, ReplyContext};
use crate::hash::fnv;
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
    let id = fields.text("id")?.unwrap_or_default();
    let list = fields.list("choices")?.ok_or_else(|| fields.wrong("choices", "is missing"))?;
    let mut choices = Vec::with_capacity(list.len());
    for (at, value) in list.into_iter().enumerate() {
        choices.push(choice(Fields::new(value, format!("choices[{at}]"))?, at, &id)?);
    }
    Ok(Reply {
        id,
        model: fields.text("model")?.unwrap_or_default(),
        created: fields.any("created").and_then(|it| it.as_u64()),
        choices,
        usage: fields.any("usage").map(usage).unwrap_or_default(),
    })
}

/// Reads usage; what is not understood is zero.
pub(super) fn usage(value: Value) -> Usage {
    serde_json::from_value::<wire::OpenAi>(value).map(|it| it.usage()).unwrap_or_default()
}

fn choice(mut fields: Fields, at: usize, id: &str) -> Result<Choice, Error> {
    let index = fields.count("index")?.and_then(|it| u32::try_from(it).ok());
    let index = index.unwrap_or_else(|| u32::try_from(at).unwrap_or(u32::MAX));
    let mut message =
        fields.object("message")?.ok_or_else(|| fields.wrong("message", "is missing"))?;
    let mut content = reasoning::take(&mut message)?;
    content.extend(part::content(&mut message, "content")?);
    annotate(&mut content, message.any("annotations"));
    if let Some(text) = message.text("refusal")?.filter(|it| !it.is_empty()) {
        content.push(Block::Refusal { text });
    }
    if let Some(audio) = message.any("audio") {
        content.push(Block::Opaque { dialect: NAME, value: json!({"audio": audio}) });
    }
    let calls = message.list("tool_calls")?.unwrap_or_default();
    for (nth, call) in calls.into_iter().enumerate() {
        content.push(tool_call(call, &[id, &index.to_string(), &nth.to_string()])?);
    }
    if let Some(mut call) = message.object("function_call")? {
        let name = call.need_text("name")?;
        let arguments = message::arguments(&mut call)?;
        let id = call_id(&[id, &index.to_string(), "function"]);
        content.push(Block::ToolUse { id, name, arguments, signature: None, cache: None });
    }
    let reason = fields.text("finish_reason")?;
    let stop = stop(reason.as_deref(), content.iter().any(is_call), content.iter().any(is_refusal));
    let logprobs = fields.any("logprobs");
    Ok(Choice { index, content, stop, logprobs })
}

fn annotate(content: &mut [Block], annotations: Option<Value>) {
    let annotations = annotations.filter(|it| it.as_array().is_some_and(|it| !it.is_empty()));
    if let Some(Block::Text { citations, .. }) =
        content.iter_mut().rfind(|it| matches!(it, Block::Text { .. }))
    {
        *citations = annotations;
    }
}

fn tool_call(value: Value, place: &[&str]) -> Result<Block, Error> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("function");
    if kind == "custom" {
        return Ok(Block::Opaque { dialect: NAME, value });
    }
    let mut fields = Fields::new(value, "tool_calls[]")?;
    let id = fields.text("id")?.filter(|it| !it.is_empty()).unwrap_or_else(|| call_id(place));
    let signature = message::signature(&mut fields);
    let mut function =
        fields.object("function")?.ok_or_else(|| fields.wrong("function", "is missing"))?;
    let name = function.need_text("name")?;
    let arguments = message::arguments(&mut function)?;
    Ok(Block::ToolUse { id, name, arguments, signature, cache: None })
}

/// An id for a call whose vendor gave none: the same for the same place in the same reply, and no other.
pub(crate) fn call_id(place: &[&str]) -> String {
    let parts: Vec<&[u8]> = place.iter().map(|it| it.as_bytes()).collect();
    format!("call_{:016x}", fnv(&parts))
}

pub(super) fn is_call(block: &Block) -> bool {
    matches!(block, Block::ToolUse { .. })
}

fn is_refusal(block: &Block) -> bool {
    matches!(block, Block::Refusal { .. })
}

/// Reads a finish reason. OpenAI says `stop` where a named tool was forced, and where the model declined.
pub(super) fn stop(reason: Option<&str>, calls: bool, refuses: bool) -> Stop {
    match reason {
        Some("tool_calls" | "function_call") => Stop::ToolUse,
        None | Some("stop" | "eos" | "end_turn") if calls => Stop::ToolUse,
        None | Some("stop" | "eos" | "end_turn") if refuses => Stop::Refusal,
        None | Some("stop" | "eos" | "end_turn") => Stop::End,
        Some("length" | "max_tokens" | "model_length") => Stop::Length,
        Some("content_filter") => Stop::ContentFilter,
        Some(other) => Stop::Other(other.to_owned()),
    }
}

/// Writes a finish reason.
pub(super) fn finish_reason(stop: &Stop, refuses: bool) -> &'static str {
    match stop {
        Stop::End | Stop::Sequence(_) | Stop::Pause | Stop::Other(_) => "stop",
        Stop::Length => "length",
        Stop::ToolUse => "tool_calls",
        // Where the model gave its reason in words, OpenAI's own models say `stop`.
        Stop::Refusal if refuses => "stop",
        Stop::Refusal | Stop::ContentFilter => "content_filter",
    }
}

/// OpenAI's ids begin with `chatcmpl-`.
pub(super) fn completion_id(vendor: &str, context: &ReplyContext) -> String {
    if vendor.starts_with("chatcmpl-") {
        vendor.to_owned()
    } else {
        format!("chatcmpl-{}", context.id)
    }
}

/// Writes usage.
pub(crate) fn usage_words(usage: &Usage) -> Value {
    let mut input = json!({"cached_tokens": usage.cached_input, "audio_tokens": 0});
    if let (Value::Object(input), true) = (&mut input, usage.cache_write > 0) {
        input.insert("cache_write_tokens".to_owned(), json!(usage.cache_write));
    }
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": input,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// Writes a reply for a caller.
pub(super) fn encode(reply: &Reply, context: &ReplyContext) -> Vec<u8> {
    let is_legacy = legacy::is_asked(&context.aliases);
    let choices = reply.choices.iter().map(|it| choice_words(it, is_legacy));
    let choices: Vec<Value> = choices.collect();
    json::write(&json!({
        "id": completion_id(&reply.id, context),
        "object": "chat.completion",
        "created": reply.created.unwrap_or(context.created),
        "model": context.model,
        "choices": choices,
        "usage": usage_words(&reply.usage),
    }))
}

fn choice_words(choice: &Choice, is_legacy: bool) -> Value {
    let refuses = choice.content.iter().any(is_refusal);
    let mut message = message_words(&choice.content);
    let mut reason = finish_reason(&choice.stop, refuses);
    if is_legacy {
        legacy::put(&mut message);
        reason = legacy::finish_reason(reason);
    }
    json!({
        "index": choice.index,
        "message": message,
        "logprobs": choice.logprobs,
        "finish_reason": reason,
    })
}

/// An assistant's message, as a reply holds it.
fn message_words(content: &[Block]) -> Map<String, Value> {
    let mut words = Map::new();
    let (mut text, mut refusal) = (String::new(), None::<String>);
    let (mut calls, mut annotations) = (Vec::new(), Vec::new());
    let mut audio = None;
    for block in content {
        match block {
            Block::Text { text: more, citations, .. } => {
                text.push_str(more);
                annotations.extend(citations.iter().flat_map(url_citations));
            }
            Block::Refusal { text } => refusal.get_or_insert_default().push_str(text),
            Block::ToolUse { id, name, arguments, signature, .. } => {
                calls.push(call_words(id, name, arguments, signature.as_deref()));
            }
            Block::Opaque { dialect: NAME, value } => match value.get("audio") {
                Some(value) => audio = Some(value.clone()),
                None => calls.push(value.clone()),
            },
            Block::Image { .. }
            | Block::Document { .. }
            | Block::Audio { .. }
            | Block::ToolResult { .. }
            | Block::Thinking { .. }
            | Block::RedactedThinking { .. }
            | Block::Opaque { .. } => {}
        }
    }
    let silent = text.is_empty() && (!calls.is_empty() || refusal.is_some() || audio.is_some());
    words.insert("role".to_owned(), json!("assistant"));
    words.insert("content".to_owned(), if silent { Value::Null } else { json!(text) });
    words.insert("refusal".to_owned(), json!(refusal));
    words.insert("annotations".to_owned(), Value::Array(annotations));
    reasoning::put(content, &mut words);
    if let Some(audio) = audio {
        words.insert("audio".to_owned(), audio);
    }
    if !calls.is_empty() {
        words.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    words
}

/// Other vendors' citations as OpenAI's annotations, where they say an address.
pub(super) fn url_citations(citations: &Value) -> Vec<Value> {
    let one = std::slice::from_ref(citations);
    citations.as_array().map_or(one, Vec::as_slice).iter().filter_map(url_citation).collect()
}

/// Citations as the Responses API writes them: without the object around an address.
pub(crate) fn flat_citations(citations: &Value) -> Vec<Value> {
    let flat = |mut it: Value| match it.get_mut("url_citation").map(Value::take) {
        Some(Value::Object(mut inner)) => {
            inner.insert("type".to_owned(), json!("url_citation"));
            Value::Object(inner)
        }
        _ => it,
    };
    url_citations(citations).into_iter().map(flat).collect()
}

fn url_citation(citation: &Value) -> Option<Value> {
    if citation.get("type").is_some_and(|it| it == "url_citation")
        && citation.get("url_citation").is_some()
    {
        return Some(citation.clone());
    }
    let url = citation.get("url").or_else(|| citation.get("uri"))?.as_str()?;
    let title = citation.get("title").and_then(Value::as_str).unwrap_or(url);
    let place = |keys: [&str; 2]| {
        let found = keys.iter().find_map(|it| citation.get(*it)).and_then(Value::as_u64);
        found.unwrap_or(0)
    };
    let (start, end) = (place(["start_index", "startIndex"]), place(["end_index", "endIndex"]));
    let place = json!({"url": url, "title": title, "start_index": start, "end_index": end});
    Some(json!({"type": "url_citation", "url_citation": place}))
}

fn call_words(id: &str, name: &str, arguments: &str, signature: Option<&str>) -> Value {
    let arguments = if arguments.is_empty() { "{}" } else { arguments };
    let function = json!({"name": name, "arguments": arguments});
    let mut call = json!({"id": id, "type": "function", "function": function});
    if let (Value::Object(call), Some(signature)) = (&mut call, signature) {
        call.insert("extra_content".to_owned(), extra_content(signature));
    }
    call
}

/// A call's seal where Google's own endpoint in this dialect puts it.
pub(super) fn extra_content(signature: &str) -> Value {
    json!({"google": {"thought_signature": seal::bare("gemini", signature)}})
}
