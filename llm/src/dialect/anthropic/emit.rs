//! A stream for a caller, written.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::NAME;
use super::block::{self, Side};
use super::error;
use super::reply::{are_ours, message_id, stop_words, usage_words, words};
use crate::chat::{Block, Event, Stop, Usage};
use crate::dialect::{Failure, ReplyContext, StreamEncoder};

/// Writes Anthropic's server-sent events. Its blocks come strictly one after another, so a tool's call that begins
/// while another is open waits for it: what waits is bounded by the reply's own length.
#[derive(Debug)]
pub(super) struct Encoder {
    context: ReplyContext,
    stage: Stage,
    /// Blocks in the order of their beginnings: the first is being written, the others wait.
    blocks: VecDeque<Pending>,
    written: u32,
    stop: Option<Stop>,
    refuses: bool,
    usage: Usage,
}

#[derive(Debug, PartialEq)]
enum Stage {
    /// Nothing came.
    New,
    /// The reply began; its start is written with the first thing that follows, so that usage may be in it.
    Begun(String),
    /// The start is written.
    Open,
    /// The end is written.
    Ended,
}

#[derive(Debug)]
struct Pending {
    index: u32,
    block: Block,
    is_begun: bool,
    pieces: Vec<Event>,
    /// A call's seal that came when its beginning was written.
    late: Option<String>,
    is_whole: bool,
}

impl Pending {
    /// Takes a piece. A call's seal goes before its call, or behind it if that has begun.
    fn add(&mut self, piece: &Event) {
        match (piece, &mut self.block) {
            (Event::Signature { signature: seal, .. }, Block::ToolUse { signature, .. }) => {
                let place = if self.is_begun { &mut self.late } else { signature };
                *place = Some(seal.clone());
            }
            _ => self.pieces.push(piece.clone()),
        }
    }
}

impl StreamEncoder for Encoder {
    fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.stage == Stage::Ended {
            return;
        }
        match event {
            Event::Start { id, .. } => {
                if self.stage == Stage::New {
                    self.stage = Stage::Begun(id.clone());
                }
            }
            Event::Usage(usage) => {
                self.usage = *usage;
                if matches!(self.stage, Stage::Begun(_)) {
                    self.begin(out);
                }
            }
            Event::BlockStart { choice: 0, index, block } => {
                self.begin(out);
                self.refuses |= matches!(block, Block::Refusal { .. });
                let pending = Pending {
                    index: *index,
                    block: block.clone(),
                    is_begun: false,
                    pieces: Vec::new(),
                    late: None,
                    is_whole: false,
                };
                self.blocks.push_back(pending);
                self.flush(out);
            }
            Event::Text { choice: 0, index, .. }
            | Event::Arguments { choice: 0, index, .. }
            | Event::Signature { choice: 0, index, .. }
            | Event::Citation { choice: 0, index, .. } => {
                if let Some(pending) =
                    self.blocks.iter_mut().find(|pending| pending.index == *index)
                {
                    pending.add(event);
                }
                self.flush(out);
            }
            Event::BlockStop { choice: 0, index } => {
                if let Some(pending) =
                    self.blocks.iter_mut().find(|pending| pending.index == *index)
                {
                    pending.is_whole = true;
                }
                self.flush(out);
            }
            Event::Stop { choice: 0, stop } => self.stop = Some(stop.clone()),
            Event::Error { kind, message } => {
                let kind = error::word(kind);
                let error = json!({"type": "error", "error": {"type": kind, "message": message}});
                self.stage = Stage::Ended;
                write("error", &error, out);
            }
            Event::Done => {
                let stop = self.stop.take().unwrap_or(Stop::End);
                let stop = if self.refuses && stop == Stop::End { Stop::Refusal } else { stop };
                self.end(&stop, out);
            }
            // Anthropic has one alternative.
            Event::BlockStart { .. }
            | Event::Text { .. }
            | Event::Arguments { .. }
            | Event::Signature { .. }
            | Event::Citation { .. }
            | Event::BlockStop { .. }
            | Event::Stop { .. } => {}
        }
    }

    fn cut(&mut self, out: &mut Vec<u8>) {
        if self.stage != Stage::Ended {
            self.end(&Stop::Length, out);
        }
    }

    fn fail(&mut self, failure: &Failure<'_>, out: &mut Vec<u8>) {
        if self.stage != Stage::Ended {
            self.stage = Stage::Ended;
            write("error", &error::body(failure), out);
        }
    }
}

impl Encoder {
    pub(super) fn new(context: ReplyContext) -> Self {
        Self {
            context,
            stage: Stage::New,
            blocks: VecDeque::new(),
            written: 0,
            stop: None,
            refuses: false,
            usage: Usage::default(),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        let id = match &self.stage {
            Stage::New => message_id("", &self.context),
            Stage::Begun(id) => message_id(id, &self.context),
            Stage::Open | Stage::Ended => return,
        };
        let message = json!({
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": self.context.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage_words(&self.usage),
        });
        self.stage = Stage::Open;
        write("message_start", &json!({"type": "message_start", "message": message}), out);
    }

    fn end(&mut self, stop: &Stop, out: &mut Vec<u8>) {
        self.begin(out);
        for pending in &mut self.blocks {
            pending.is_whole = true;
        }
        self.flush(out);
        let (reason, sequence) = stop_words(stop);
        let delta = json!({
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": usage_words(&self.usage),
        });
        write("message_delta", &delta, out);
        write("message_stop", &json!({"type": "message_stop"}), out);
        self.stage = Stage::Ended;
    }

    /// Writes what is due of the first block, and of those behind it if it is whole.
    fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some(first) = self.blocks.front_mut() {
            if !first.is_begun {
                first.is_begun = true;
                self.written = begin_block(&first.block, self.written, out);
            }
            // Nothing of a block is written where Anthropic has no such block.
            if let (true, Some(index)) = (is_said(&first.block), self.written.checked_sub(1)) {
                for piece in first.pieces.drain(..) {
                    write_piece(&first.block, &piece, index, out);
                }
                if first.is_whole {
                    stop_block(index, out);
                    if let Some(seal) = &first.late {
                        write_carrier(seal, Side::Last, &mut self.written, out);
                    }
                }
            }
            if !first.is_whole {
                return;
            }
            self.blocks.pop_front();
        }
    }
}

fn is_said(block: &Block) -> bool {
    match block {
        Block::Opaque { dialect, .. } => *dialect == NAME,
        Block::Image { .. }
        | Block::Document { .. }
        | Block::Audio { .. }
        | Block::ToolResult { .. } => false,
        Block::Text { .. }
        | Block::Refusal { .. }
        | Block::Thinking { .. }
        | Block::RedactedThinking { .. }
        | Block::ToolUse { .. } => true,
    }
}

/// Writes a block's beginning, that of a seal's carrier before it, and whatever text it already has. Answers how many
/// blocks there are now.
fn begin_block(block: &Block, mut written: u32, out: &mut Vec<u8>) -> u32 {
    match block {
        Block::ToolUse { id, name, arguments, signature, .. } => {
            if let Some(seal) = signature {
                write_carrier(seal, Side::Next, &mut written, out);
            }
            let empty = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
            let index = start_block(&mut written, &empty, out);
            if !arguments.is_empty() {
                delta(index, &json!({"type": "input_json_delta", "partial_json": arguments}), out);
            }
        }
        Block::Text { text, .. } | Block::Refusal { text } => {
            let index = start_block(&mut written, &json!({"type": "text", "text": ""}), out);
            if !text.is_empty() {
                delta(index, &json!({"type": "text_delta", "text": text}), out);
            }
        }
        Block::Thinking { text, signature, id } => {
            let index = start_block(&mut written, &no_thought(), out);
            if !text.is_empty() {
                delta(index, &json!({"type": "thinking_delta", "thinking": text}), out);
            }
            if let Some(signature) = signature {
                delta(index, &signed(signature, id.as_deref()), out);
            }
        }
        other => {
            for whole in words(other) {
                start_block(&mut written, &whole, out);
            }
        }
    }
    written
}

/// Begins the next block and answers its number.
fn start_block(written: &mut u32, content: &Value, out: &mut Vec<u8>) -> u32 {
    let index = *written;
    *written = written.saturating_add(1);
    let event = json!({"type": "content_block_start", "index": index, "content_block": content});
    write("content_block_start", &event, out);
    index
}

fn stop_block(index: u32, out: &mut Vec<u8>) {
    write("content_block_stop", &json!({"type": "content_block_stop", "index": index}), out);
}

/// Writes the block that carries a call's seal.
fn write_carrier(seal: &str, side: Side, written: &mut u32, out: &mut Vec<u8>) {
    let index = start_block(written, &no_thought(), out);
    let signature = block::call_seal(seal, side);
    delta(index, &json!({"type": "signature_delta", "signature": signature}), out);
    stop_block(index, out);
}

fn no_thought() -> Value {
    json!({"type": "thinking", "thinking": "", "signature": ""})
}

fn write_piece(block: &Block, piece: &Event, index: u32, out: &mut Vec<u8>) {
    match (piece, block) {
        (Event::Text { text, .. }, Block::Thinking { .. }) => {
            delta(index, &json!({"type": "thinking_delta", "thinking": text}), out);
        }
        (Event::Text { text, .. }, Block::Text { .. } | Block::Refusal { .. }) => {
            delta(index, &json!({"type": "text_delta", "text": text}), out);
        }
        (Event::Arguments { json, .. }, Block::ToolUse { .. }) => {
            delta(index, &json!({"type": "input_json_delta", "partial_json": json}), out);
        }
        (Event::Signature { signature, .. }, Block::Thinking { id, .. }) => {
            delta(index, &signed(signature, id.as_deref()), out);
        }

        (Event::Citation { value, .. }, Block::Text { .. }) if are_ours(&json!([value])) => {
            delta(index, &json!({"type": "citations_delta", "citation": value}), out);
        }
        _ => {}
    }
}

fn signed(signature: &str, id: Option<&str>) -> Value {
    json!({"type": "signature_delta", "signature": block::shown(signature, id)})
}

fn delta(index: u32, delta: &Value, out: &mut Vec<u8>) {
    write(
        "content_block_delta",
        &json!({"type": "content_block_delta", "index": index, "delta": delta}),
        out,
    );
}

fn write(name: &str, data: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data.to_string().as_bytes());
    out.extend_from_slice(b"\n\n");
}
