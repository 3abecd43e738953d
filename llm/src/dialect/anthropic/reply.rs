//! A whole reply, read and written.

use serde_json::{Value, json};

use super::NAME;
use super::block::{self, Side};
use super::upstream::{input, set};
use crate::chat::{Block, Choice, Reply, Stop, Usage};
use crate::dialect::{Error, ReplyContext};
use crate::json;

/// Reads an upstream's reply.
pub(super) fn decode(body: &[u8]) -> Result<Reply, Error> {
    read(body).map_err(json::of_reply)
}

fn read(body: &[u8]) -> Result<Reply, Error> {
    let mut fields = json::body(body)?;
    let kind = fields.text("type")?;
    if kind.as_deref() == Some("error") {
        let failure = super::error::decode(body);
        return Err(Error::Reply {
            problem: failure.message.unwrap_or_else(|| "an error without words".to_owned()),
        });
    }
    if !fields.has("content") {
        return Err(fields.wrong("content", "is missing"));
    }
    let content = block::content(&mut fields, "content")?;
    let sequence = fields.text("stop_sequence")?;
    let stop = stop(fields.text("stop_reason")?.as_deref(), sequence);
    let mut tokens = Tokens::default();
    tokens.read(fields.any("usage").as_ref());
    Ok(Reply {
        id: fields.text("id")?.unwrap_or_default(),
        model: fields.text("model")?.unwrap_or_default(),
        created: None,
        choices: vec![Choice { index: 0, content, stop, logprobs: None }],
        usage: tokens.usage(),
    })
}

/// Reads a stop reason.
pub(super) fn stop(reason: Option<&str>, sequence: Option<String>) -> Stop {
    match reason {
        None | Some("end_turn") => Stop::End,
        Some("max_tokens" | "model_context_window_exceeded") => Stop::Length,
        Some("tool_use") => Stop::ToolUse,
        Some("stop_sequence") => Stop::Sequence(sequence),
        Some("refusal") => Stop::Refusal,
        Some("pause_turn") => Stop::Pause,
        Some(other) => Stop::Other(other.to_owned()),
    }
}

/// Writes a stop reason and the sequence with it.
pub(super) fn stop_words(stop: &Stop) -> (&'static str, Option<&str>) {
    match stop {
        Stop::End | Stop::Other(_) => ("end_turn", None),
        Stop::Length => ("max_tokens", None),
        Stop::ToolUse => ("tool_use", None),
        // Anthropic's word says which; where the vendor did not, the reply is merely done.
        Stop::Sequence(None) => ("end_turn", None),
        Stop::Sequence(Some(sequence)) => ("stop_sequence", Some(sequence)),
        Stop::Refusal | Stop::ContentFilter => ("refusal", None),
        Stop::Pause => ("pause_turn", None),
    }
}

/// Tokens as Anthropic counts them: input without what the cache read or wrote.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tokens {
    input: u64,
    read: u64,
    written: u64,
    output: u64,
    thinking: u64,
}

impl Tokens {
    /// Takes what `usage` says; what it does not say stands. Counts in a stream are cumulative.
    pub(super) fn read(&mut self, usage: Option<&Value>) {
        let Some(usage) = usage else { return };
        for (pointer, count) in [
            ("/input_tokens", &mut self.input),
            ("/cache_read_input_tokens", &mut self.read),
            ("/cache_creation_input_tokens", &mut self.written),
            ("/output_tokens", &mut self.output),
            ("/output_tokens_details/thinking_tokens", &mut self.thinking),
        ] {
            if let Some(said) = usage.pointer(pointer).and_then(Value::as_u64) {
                *count = said;
            }
        }
    }

    pub(super) fn usage(self) -> Usage {
        Usage {
            input: self.input.saturating_add(self.read).saturating_add(self.written),
            cached_input: self.read,
            cache_write: self.written,
            output: self.output,
            reasoning: self.thinking.min(self.output),
        }
    }
}

/// Writes usage.
pub(super) fn usage_words(usage: &Usage) -> Value {
    let mut words = json!({
        "input_tokens": usage.input.saturating_sub(usage.cached_input).saturating_sub(usage.cache_write),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output,
    });
    if usage.reasoning > 0 {
        set(
            &mut words,
            "output_tokens_details",
            Some(&json!({"thinking_tokens": usage.reasoning})),
        );
    }
    words
}

/// Anthropic's ids begin with `msg_`.
pub(super) fn message_id(vendor: &str, context: &ReplyContext) -> String {
    if vendor.starts_with("msg_") { vendor.to_owned() } else { format!("msg_{}", context.id) }
}

/// Writes a reply for a caller.
pub(super) fn encode(reply: &Reply, context: &ReplyContext) -> Vec<u8> {
    let choice = reply.choices.first();
    let blocks = choice.map_or(&[][..], |choice| &choice.content);
    let content: Vec<Value> = blocks.iter().flat_map(words).collect();
    let refuses = blocks.iter().any(|block| matches!(block, Block::Refusal { .. }));
    let stop = choice.map_or(&Stop::End, |choice| &choice.stop);
    let stop = if refuses && *stop == Stop::End { &Stop::Refusal } else { stop };
    let (reason, sequence) = stop_words(stop);
    let message = json!({
        "id": message_id(&reply.id, context),
        "type": "message",
        "role": "assistant",
        "model": context.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage_words(&reply.usage),
    });
    json::write(&message)
}

/// A block as a caller sees it: none, one, or a call behind the carrier of its seal.
pub(super) fn words(block: &Block) -> Vec<Value> {
    match block {
        Block::Text { text, citations, .. } => {
            let mut written = json!({"type": "text", "text": text});
            // Other vendors' annotations have other shapes; Anthropic's say where they point by `type` and `cited_text`.
            set(
                &mut written,
                "citations",
                citations.as_ref().filter(|citations| are_ours(citations)),
            );
            vec![written]
        }
        Block::Refusal { text } => vec![json!({"type": "text", "text": text})],
        Block::Thinking { text, signature, id } => {
            let shown = |signature: &str| block::shown(signature, id.as_deref());
            let signature = signature.as_deref().map(shown).unwrap_or_default();
            vec![json!({"type": "thinking", "thinking": text, "signature": signature})]
        }
        Block::RedactedThinking { data, id } => {
            vec![json!({"type": "redacted_thinking", "data": block::shown(data, id.as_deref())})]
        }
        Block::ToolUse { id, name, arguments, signature, .. } => {
            let call =
                json!({"type": "tool_use", "id": id, "name": name, "input": input(arguments)});
            let carrier = signature.as_deref().map(|seal| carrier(seal, Side::Next));
            carrier.into_iter().chain([call]).collect()
        }
        Block::Opaque { dialect: NAME, value } => vec![value.clone()],
        Block::Image { .. }
        | Block::Document { .. }
        | Block::Audio { .. }
        | Block::ToolResult { .. }
        | Block::Opaque { .. } => Vec::new(),
    }
}

/// The thinking block that carries a call's seal.
pub(super) fn carrier(seal: &str, side: Side) -> Value {
    json!({"type": "thinking", "thinking": "", "signature": block::call_seal(seal, side)})
}

/// Whether citations are of Anthropic's shape.
pub(super) fn are_ours(citations: &Value) -> bool {
    let is_ours = |citation: &Value| citation.get("cited_text").is_some();
    citations.as_array().is_some_and(|list| list.iter().all(is_ours))
}
