//! A whole reply, read and written.

use serde_json::{Map, Value, json};

use super::part::{self, Calls, words};
use super::{error, logprobs};
use crate::chat::{Block, Choice, Reply, Stop, Usage};
use crate::dialect::{Error, ReplyContext};
use crate::json::{self, Fields};

/// Reads an upstream's reply.
pub(super) fn decode(body: &[u8]) -> Result<Reply, Error> {
    read(json::body(body).map_err(json::of_reply)?.or_snake()).map_err(json::of_reply)
}

fn read(mut fields: Fields) -> Result<Reply, Error> {
    if let Some(failure) = fields.any("error") {
        let failure = error::read(&json!({ "error": failure }));
        return Err(Error::Reply {
            problem: failure.message.unwrap_or_else(|| "an error without words".to_owned()),
        });
    }
    let id = fields.text("responseId")?.unwrap_or_default();
    let mut choices = Vec::new();
    for (at, candidate) in fields.list("candidates")?.unwrap_or_default().into_iter().enumerate() {
        let mut candidate = Fields::new(candidate, format!("candidates[{at}]"))?.or_snake();
        let index = candidate.count("index")?.and_then(|index| u32::try_from(index).ok());
        let index = index.or_else(|| u32::try_from(at).ok()).unwrap_or(u32::MAX);
        let mut calls = Calls::of(format!("{id}.{index}"));
        let mut content = Vec::new();
        if let Some(mut said) = candidate.object("content")? {
            for (at, value) in said.list("parts")?.unwrap_or_default().into_iter().enumerate() {
                part::decode(value, &said.at(&format!("parts[{at}]")), &mut calls, &mut content)?;
            }
        }
        let content = part::join(content);
        let calls = content.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        let stop = stop(candidate.text("finishReason")?.as_deref(), calls);
        let logprobs = candidate.any("logprobsResult").as_ref().and_then(logprobs::read);
        choices.push(Choice { index, content, stop, logprobs });
    }
    if choices.is_empty() {
        let feedback = fields.any("promptFeedback");
        if !feedback.as_ref().is_some_and(is_blocked) {
            return Err(fields.wrong("candidates", "is missing"));
        }
        choices.push(Choice {
            index: 0,
            content: Vec::new(),
            stop: Stop::ContentFilter,
            logprobs: None,
        });
    }
    let usage = fields.any("usageMetadata").map_or_else(Usage::default, |said| usage(&said));
    Ok(Reply {
        id,
        model: fields.text("modelVersion")?.unwrap_or_default(),
        created: None,
        choices,
        usage,
    })
}

/// Whether the prompt was blocked.
pub(super) fn is_blocked(feedback: &Value) -> bool {
    ["blockReason", "block_reason"]
        .iter()
        .any(|key| feedback.get(key).is_some_and(Value::is_string))
}

/// Reads a finish reason. Gemini has no word of its own for "call this".
pub(super) fn stop(reason: Option<&str>, calls: bool) -> Stop {
    match reason {
        None | Some("STOP" | "FINISH_REASON_UNSPECIFIED") if calls => Stop::ToolUse,
        None | Some("STOP" | "FINISH_REASON_UNSPECIFIED") => Stop::End,
        Some("MAX_TOKENS") => Stop::Length,
        Some(
            "SAFETY"
            | "RECITATION"
            | "BLOCKLIST"
            | "PROHIBITED_CONTENT"
            | "SPII"
            | "IMAGE_SAFETY"
            | "IMAGE_PROHIBITED_CONTENT"
            | "IMAGE_RECITATION"
            | "MODEL_ARMOR",
        ) => Stop::ContentFilter,
        Some("CONTINUATION") => Stop::Pause,
        Some(other) => Stop::Other(other.to_owned()),
    }
}

/// Writes a finish reason.
pub(super) fn stop_word(stop: &Stop) -> &str {
    match stop {
        Stop::End | Stop::ToolUse | Stop::Sequence(_) | Stop::Pause => "STOP",
        Stop::Length => "MAX_TOKENS",
        Stop::Refusal | Stop::ContentFilter => "SAFETY",
        // Google's words are in capitals; another vendor's would not fit its SDKs' enum.
        Stop::Other(word) if word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') => {
            word
        }
        Stop::Other(_) => "OTHER",
    }
}

/// Reads usage. Google counts thoughts beside the candidates' tokens, and tool results beside the prompt's.
pub(super) fn usage(said: &Value) -> Usage {
    let count = |camel: &str| {
        let value = said.get(camel).or_else(|| said.get(json::snake_case(camel)));
        value.and_then(Value::as_u64).unwrap_or(0)
    };
    let thoughts = count("thoughtsTokenCount");
    Usage {
        input: count("promptTokenCount").saturating_add(count("toolUsePromptTokenCount")),
        cached_input: count("cachedContentTokenCount"),
        cache_write: 0,
        output: count("candidatesTokenCount").saturating_add(thoughts),
        reasoning: thoughts,
    }
}

/// Writes usage.
pub(super) fn usage_words(usage: &Usage) -> Value {
    let mut words = Map::new();
    words.insert("promptTokenCount".to_owned(), json!(usage.input));
    words.insert(
        "candidatesTokenCount".to_owned(),
        json!(usage.output.saturating_sub(usage.reasoning)),
    );
    words.insert("totalTokenCount".to_owned(), json!(usage.input.saturating_add(usage.output)));
    for (name, count) in
        [("cachedContentTokenCount", usage.cached_input), ("thoughtsTokenCount", usage.reasoning)]
    {
        if count > 0 {
            words.insert(name.to_owned(), json!(count));
        }
    }
    Value::Object(words)
}

/// The id that a caller sees: Google's own where it is Google's.
pub(super) fn response_id<'a>(vendor: &'a str, context: &'a ReplyContext) -> &'a str {
    // Other vendors' ids begin with what they are (`msg_`, `chatcmpl-`, `resp_`).
    let is_foreign = vendor.is_empty()
        || ["msg_", "chatcmpl-", "resp_"].iter().any(|kind| vendor.starts_with(kind));
    if is_foreign { &context.id } else { vendor }
}

/// Writes a reply for a caller.
pub(super) fn encode(reply: &Reply, context: &ReplyContext) -> Vec<u8> {
    let candidates: Vec<Value> = reply
        .choices
        .iter()
        .map(|choice| {
            let mut parts = Vec::new();
            choice.content.iter().for_each(|block| words(block, &mut parts));
            let mut candidate = json!({
                "content": {"parts": parts, "role": "model"},
                "finishReason": stop_word(&choice.stop),
                "index": choice.index,
            });
            if let (Value::Object(candidate), Some(result)) =
                (&mut candidate, choice.logprobs.as_ref().and_then(logprobs::write))
            {
                candidate.insert("logprobsResult".to_owned(), result);
            }
            candidate
        })
        .collect();
    // A vendor that said nothing at all: to Google's clients a reply without candidates is a blocked prompt.
    let nothing = || {
        vec![
            json!({"content": {"parts": [], "role": "model"}, "finishReason": "OTHER", "index": 0}),
        ]
    };
    let candidates = if candidates.is_empty() { nothing() } else { candidates };
    let body = json!({
        "candidates": candidates,
        "usageMetadata": usage_words(&reply.usage),
        "modelVersion": context.model,
        "responseId": response_id(&reply.id, context),
    });
    json::write(&body)
}

/// Reads a number of tokens.
pub(super) fn decode_count(body: &[u8]) -> Result<u64, Error> {
    let mut fields = json::body(body).map_err(json::of_reply)?.or_snake();
    let count = fields.count("totalTokens").map_err(json::of_reply)?;
    count.ok_or_else(|| Error::Reply { problem: "totalTokens is missing".to_owned() })
}
