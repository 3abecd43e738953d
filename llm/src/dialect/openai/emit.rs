//! A stream for a caller, written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::reply::{completion_id, extra_content, finish_reason, url_citations, usage_words};
use super::{NAME, error, legacy, reasoning};
use crate::chat::{Block, Event, Stop, Usage};
use crate::dialect::{Failure, ReplyContext, StreamEncoder};
use crate::sse;

/// Writes chunks. A sealed reasoning block's details follow whole when the block ends: what goes back on the next turn
/// must hold text and seal together, and few clients join them.
#[derive(Debug)]
pub(super) struct Encoder {
    context: ReplyContext,
    id: String,
    /// Calls are written as `function_call`.
    is_legacy: bool,
    choices: BTreeMap<u32, Voice>,
    usage: Option<Usage>,
    has_ended: bool,
}

/// One alternative.
#[derive(Debug, Default)]
struct Voice {
    blocks: BTreeMap<u32, Open>,
    calls: u32,
    details: usize,
    refuses: bool,
    has_stopped: bool,
}

/// A block that is being written.
#[derive(Debug)]
enum Open {
    Text,
    Refusal,
    Thinking(Block),
    Call(u32),
    Silent,
}

impl StreamEncoder for Encoder {
    fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.has_ended {
            return;
        }
        match event {
            Event::Start { id, .. } => {
                self.id = completion_id(id, &self.context);
                self.voice(0, out);
            }
            Event::BlockStart { choice, index, block } => self.begin(*choice, *index, block, out),
            Event::Text { choice, index, text } => self.text(*choice, *index, text, out),
            Event::Arguments { choice, index, json } => {
                if let Some(Open::Call(call)) = self.block(*choice, *index) {
                    let function = json!({"arguments": json});
                    let call = json!({"index": call, "function": function});
                    self.delta(*choice, &json!({"tool_calls": [call]}), out);
                }
            }
            Event::Signature { choice, index, signature } => {
                self.sign(*choice, *index, signature, out);
            }
            Event::Citation { choice, value, .. } => {
                let annotations = url_citations(value);
                if !annotations.is_empty() {
                    self.delta(*choice, &json!({"annotations": annotations}), out);
                }
            }
            Event::BlockStop { choice, index } => self.end(*choice, *index, out),
            Event::Stop { choice, stop } => self.stop(*choice, stop, out),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Error { kind, message } => {
                let error = json!({"message": message, "type": kind, "param": null, "code": null});
                self.has_ended = true;
                sse::write(None, json!({"error": error}).to_string().as_bytes(), out);
            }
            Event::Done => self.finish(out),
        }
    }

    fn cut(&mut self, out: &mut Vec<u8>) {
        if self.has_ended {
            return;
        }
        self.voice(0, out);
        let choices: Vec<u32> = self.choices.keys().copied().collect();
        for choice in choices {
            let open: Vec<u32> = self
                .choices
                .get(&choice)
                .map(|it| it.blocks.keys().copied().collect())
                .unwrap_or_default();
            for index in open {
                self.end(choice, index, out);
            }
            self.stop(choice, &Stop::Length, out);
        }
        self.finish(out);
    }

    fn fail(&mut self, failure: &Failure<'_>, out: &mut Vec<u8>) {
        if !self.has_ended {
            self.has_ended = true;
            sse::write(None, &error::encode(failure), out);
        }
    }
}

impl Encoder {
    pub(super) fn new(context: ReplyContext) -> Self {
        let id = completion_id("", &context);
        let is_legacy = legacy::is_asked(&context.aliases);
        Self { context, id, is_legacy, choices: BTreeMap::new(), usage: None, has_ended: false }
    }

    /// The alternative, whose first chunk says who speaks.
    fn voice(&mut self, choice: u32, out: &mut Vec<u8>) {
        if self.choices.contains_key(&choice) {
            return;
        }
        self.choices.insert(choice, Voice::default());
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        self.delta(choice, &delta, out);
    }

    fn block(&self, choice: u32, index: u32) -> Option<&Open> {
        self.choices.get(&choice)?.blocks.get(&index)
    }

    fn begin(&mut self, choice: u32, index: u32, block: &Block, out: &mut Vec<u8>) {
        self.voice(choice, out);
        let Some(voice) = self.choices.get_mut(&choice) else { return };
        let (open, delta, text) = match block {
            Block::Text { text, .. } => (Open::Text, None, Some(text.clone())),
            Block::Refusal { text } => {
                voice.refuses = true;
                (Open::Refusal, None, Some(text.clone()))
            }
            Block::Thinking { text, signature, id } => {
                let empty = Block::Thinking {
                    text: String::new(),
                    signature: signature.clone(),
                    id: id.clone(),
                };
                (Open::Thinking(empty), None, Some(text.clone()))
            }
            Block::RedactedThinking { .. } => {
                let details = reasoning::words(block, voice.details);
                voice.details += 1;
                (Open::Silent, details.map(|it| json!({"reasoning_details": [it]})), None)
            }
            Block::ToolUse { id, name, arguments, signature, .. } => {
                let call = voice.next_call();
                let function = json!({"name": name, "arguments": arguments});
                let mut words =
                    json!({"index": call, "id": id, "type": "function", "function": function});
                if let (Value::Object(words), Some(signature)) = (&mut words, signature) {
                    words.insert("extra_content".to_owned(), extra_content(signature));
                }
                (Open::Call(call), Some(json!({"tool_calls": [words]})), None)
            }
            Block::Opaque { dialect: NAME, value } if value.get("audio").is_some() => {
                (Open::Silent, Some(value.clone()), None)
            }
            Block::Opaque { dialect: NAME, value } => {
                let mut words = value.clone();
                if let Value::Object(words) = &mut words {
                    words.insert("index".to_owned(), json!(voice.next_call()));
                }
                (Open::Silent, Some(json!({"tool_calls": [words]})), None)
            }
            Block::Image { .. }
            | Block::Document { .. }
            | Block::Audio { .. }
            | Block::ToolResult { .. }
            | Block::Opaque { .. } => (Open::Silent, None, None),
        };
        voice.blocks.insert(index, open);
        if let Some(delta) = delta {
            self.delta(choice, &delta, out);
        }
        if let Some(text) = text {
            self.text(choice, index, &text, out);
        }
    }

    fn text(&mut self, choice: u32, index: u32, more: &str, out: &mut Vec<u8>) {
        let voice = self.choices.get_mut(&choice);
        let key = match voice.and_then(|it| it.blocks.get_mut(&index)) {
            _ if more.is_empty() => return,
            Some(Open::Text) => "content",
            Some(Open::Refusal) => "refusal",
            Some(Open::Thinking(block)) => {
                if let Block::Thinking { text, .. } = block {
                    text.push_str(more);
                }
                "reasoning_content"
            }
            Some(Open::Call(_) | Open::Silent) | None => return,
        };
        self.delta(choice, &json!({ key: more }), out);
    }

    fn sign(&mut self, choice: u32, index: u32, seal: &str, out: &mut Vec<u8>) {
        let voice = self.choices.get_mut(&choice);
        match voice.and_then(|it| it.blocks.get_mut(&index)) {
            Some(Open::Thinking(Block::Thinking { signature, .. })) => {
                signature.get_or_insert_default().push_str(seal);
            }
            Some(Open::Call(call)) => {
                let call = json!({"index": *call, "extra_content": extra_content(seal)});
                self.delta(choice, &json!({"tool_calls": [call]}), out);
            }
            _ => {}
        }
    }

    fn end(&mut self, choice: u32, index: u32, out: &mut Vec<u8>) {
        let Some(voice) = self.choices.get_mut(&choice) else { return };
        if let Some(Open::Thinking(block)) = voice.blocks.remove(&index) {
            let details = reasoning::words(&block, voice.details);
            voice.details += 1;
            if let Some(details) = details {
                self.delta(choice, &json!({"reasoning_details": [details]}), out);
            }
        }
    }

    fn stop(&mut self, choice: u32, stop: &Stop, out: &mut Vec<u8>) {
        self.voice(choice, out);
        let Some(voice) = self.choices.get_mut(&choice) else { return };
        if std::mem::replace(&mut voice.has_stopped, true) {
            return;
        }
        let mut reason = finish_reason(stop, voice.refuses);
        if self.is_legacy {
            reason = legacy::finish_reason(reason);
        }
        let choice =
            json!({"index": choice, "delta": {}, "logprobs": null, "finish_reason": reason});
        self.chunk(&json!([choice]), None, out);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.has_ended = true;
        if let (true, Some(usage)) = (self.context.stream_usage, self.usage) {
            self.chunk(&json!([]), Some(&usage), out);
        }
        sse::write(None, b"[DONE]", out);
    }

    fn delta(&self, choice: u32, delta: &Value, out: &mut Vec<u8>) {
        let in_old_words = if self.is_legacy { legacy::delta(delta) } else { None };
        if self.is_legacy && in_old_words.is_none() {
            return;
        }
        let delta = in_old_words.as_ref().unwrap_or(delta);
        let choice =
            json!({"index": choice, "delta": delta, "logprobs": null, "finish_reason": null});
        self.chunk(&json!([choice]), None, out);
    }

    fn chunk(&self, choices: &Value, usage: Option<&Usage>, out: &mut Vec<u8>) {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.context.created,
            "model": self.context.model,
            "choices": choices,
        });
        if let (Value::Object(chunk), true) = (&mut chunk, self.context.stream_usage) {
            chunk.insert("usage".to_owned(), usage.map_or(Value::Null, usage_words));
        }
        sse::write(None, chunk.to_string().as_bytes(), out);
    }
}

impl Voice {
    fn next_call(&mut self) -> u32 {
        let call = self.calls;
        self.calls = self.calls.saturating_add(1);
        call
    }
}
