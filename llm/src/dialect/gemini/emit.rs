//! A stream for a caller, written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::error;
use super::part::{shown, words};
use super::reply::{response_id, stop_word, usage_words};
use crate::chat::{Block, Event, Stop, Usage};
use crate::dialect::{Failure, ReplyContext, StreamEncoder};

/// How chunks are put behind each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// As server-sent events (`alt=sse`).
    Events,
    /// As items of one JSON array.
    Array,
}

/// Writes Gemini's chunks. Its calls come whole, so arguments are held until they are: what is held is bounded by the
/// reply's own length.
#[derive(Debug)]
pub(super) struct Encoder {
    context: ReplyContext,
    frame: Frame,
    id: String,
    is_begun: bool,
    has_ended: bool,
    /// Open blocks, by alternative and number.
    open: BTreeMap<(u32, u32), Block>,
    stops: BTreeMap<u32, Stop>,
    usage: Usage,
}

impl StreamEncoder for Encoder {
    fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.has_ended {
            return;
        }
        match event {
            Event::Start { id, .. } => self.id.clone_from(id),
            Event::BlockStart { choice, index, block } => self.start(*choice, *index, block, out),
            Event::Text { choice, index, text } => match self.open.get(&(*choice, *index)) {
                Some(Block::Thinking { .. }) => {
                    self.part(*choice, &json!({"text": text, "thought": true}), out);
                }
                Some(Block::Text { .. } | Block::Refusal { .. }) => {
                    self.part(*choice, &json!({"text": text}), out);
                }
                _ => {}
            },
            Event::Arguments { choice, index, json } => {
                if let Some(Block::ToolUse { arguments, .. }) =
                    self.open.get_mut(&(*choice, *index))
                {
                    arguments.push_str(json);
                }
            }
            Event::Signature { choice, index, signature: seal } => {
                match self.open.get_mut(&(*choice, *index)) {
                    Some(Block::ToolUse { signature, .. }) => *signature = Some(seal.clone()),
                    Some(Block::Thinking { id, .. }) => {
                        let seal = shown(seal, id.as_deref());
                        self.seal(*choice, &seal, out);
                    }
                    _ => {}
                }
            }
            Event::BlockStop { choice, index } => self.stop(*choice, *index, out),
            Event::Stop { choice, stop } => {
                self.stops.insert(*choice, stop.clone());
            }
            Event::Usage(usage) => self.usage = *usage,
            Event::Error { kind, message } => {
                let code =
                    if kind.contains("overloaded") || kind == "UNAVAILABLE" { 503 } else { 500 };
                let status = if code == 503 { "UNAVAILABLE" } else { "INTERNAL" };
                self.write(
                    &json!({"error": {"code": code, "message": message, "status": status}}),
                    out,
                );
                self.close(out);
            }
            Event::Done => self.end(out),
            // Gemini's citations belong to the candidate and have another shape.
            Event::Citation { .. } => {}
        }
    }

    fn cut(&mut self, out: &mut Vec<u8>) {
        if self.has_ended {
            return;
        }
        let choices: Vec<u32> = self.open.keys().map(|(choice, _)| *choice).chain([0]).collect();
        // A call cut in the middle is not said: half its arguments would be other arguments.
        self.open.clear();
        for choice in choices {
            self.stops.entry(choice).or_insert(Stop::Length);
        }
        self.end(out);
    }

    fn fail(&mut self, failure: &Failure<'_>, out: &mut Vec<u8>) {
        if !self.has_ended {
            self.write(&error::body(failure), out);
            self.close(out);
        }
    }
}

impl Encoder {
    pub(super) fn new(context: ReplyContext, frame: Frame) -> Self {
        Self {
            context,
            frame,
            id: String::new(),
            is_begun: false,
            has_ended: false,
            open: BTreeMap::new(),
            stops: BTreeMap::new(),
            usage: Usage::default(),
        }
    }

    fn start(&mut self, choice: u32, index: u32, block: &Block, out: &mut Vec<u8>) {
        match block {
            Block::ToolUse { .. } => {}
            Block::Thinking { text, signature, id } => {
                if !text.is_empty() {
                    self.part(choice, &json!({"text": text, "thought": true}), out);
                }
                if let Some(signature) = signature {
                    self.seal(choice, &shown(signature, id.as_deref()), out);
                }
            }
            other => {
                let mut parts = Vec::new();
                words(other, &mut parts);
                parts.iter().for_each(|part| self.part(choice, part, out));
            }
        }
        self.open.insert((choice, index), block.clone());
    }

    fn stop(&mut self, choice: u32, index: u32, out: &mut Vec<u8>) {
        if let Some(call @ Block::ToolUse { .. }) = self.open.remove(&(choice, index)) {
            let mut parts = Vec::new();
            words(&call, &mut parts);
            parts.iter().for_each(|part| self.part(choice, part, out));
        }
    }

    fn seal(&mut self, choice: u32, seal: &str, out: &mut Vec<u8>) {
        self.part(choice, &json!({"text": "", "thought": true, "thoughtSignature": seal}), out);
    }

    fn part(&mut self, choice: u32, part: &Value, out: &mut Vec<u8>) {
        let candidate = json!({"content": {"parts": [part], "role": "model"}, "index": choice});
        self.chunk(&json!([candidate]), None, out);
    }

    fn chunk(&mut self, candidates: &Value, usage: Option<Value>, out: &mut Vec<u8>) {
        let mut chunk = json!({ "candidates": candidates });
        if let Value::Object(chunk) = &mut chunk {
            chunk.extend(usage.map(|usage| ("usageMetadata".to_owned(), usage)));
            chunk.insert("modelVersion".to_owned(), json!(self.context.model));
            chunk.insert("responseId".to_owned(), json!(response_id(&self.id, &self.context)));
        }
        self.write(&chunk, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        for (choice, index) in self.open.keys().copied().collect::<Vec<_>>() {
            self.stop(choice, index, out);
        }
        if self.stops.is_empty() {
            self.stops.insert(0, Stop::End);
        }
        let candidates = self.stops.iter().map(|(choice, stop)| {
            let content = json!({"parts": [{"text": ""}], "role": "model"});
            json!({"content": content, "finishReason": stop_word(stop), "index": choice})
        });
        let candidates = Value::Array(candidates.collect());
        let usage = usage_words(&self.usage);
        self.chunk(&candidates, Some(usage), out);
        self.close(out);
    }

    fn write(&mut self, chunk: &Value, out: &mut Vec<u8>) {
        let (before, after): (&[u8], &[u8]) = match (self.frame, self.is_begun) {
            (Frame::Events, _) => (b"data: ", b"\r\n\r\n"),
            (Frame::Array, false) => (b"[", b""),
            (Frame::Array, true) => (b",\r\n", b""),
        };
        self.is_begun = true;
        out.extend_from_slice(before);
        out.extend_from_slice(chunk.to_string().as_bytes());
        out.extend_from_slice(after);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        self.has_ended = true;
        if self.frame == Frame::Array {
            out.extend_from_slice(b"]");
        }
    }
}
