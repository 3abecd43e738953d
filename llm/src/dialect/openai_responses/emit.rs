//! A stream for a caller, written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::reply::{
    call_item, call_prefix, carrier, item_id, message, reasoning_item, response, status, text_part,
    usage_words, words,
};
use super::{NAME, alias};
use crate::chat::{Alias, Aliased, Block, Event, Stop, Usage};
use crate::dialect::openai::flat_citations;
use crate::dialect::{Failure, ReplyContext, StreamEncoder};
use crate::seal;
use crate::sse;

/// Writes Responses events. Every block is an item of its own; items that a model writes at once (calls) interleave,
/// told apart by their place in the output.
#[derive(Debug)]
pub(super) struct Encoder {
    context: ReplyContext,
    vendor_id: String,
    sequence: u64,
    has_started: bool,
    has_ended: bool,
    /// Items by their place: `null` until they are whole.
    output: Vec<Value>,
    open: BTreeMap<u32, Open>,
    stop: Option<Stop>,
    usage: Option<Usage>,
}

/// An item that is being written.
#[derive(Debug)]
struct Open {
    place: usize,
    id: String,
    kind: Kind,
    /// Its text or arguments so far.
    said: String,
}

#[derive(Debug)]
enum Kind {
    Text { annotations: Vec<Value> },
    Refusal,
    Thinking { token: Option<String>, has_part: bool },
    Call { call: String, name: String, is_custom: bool },
}

impl StreamEncoder for Encoder {
    fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.has_ended {
            return;
        }
        match event {
            Event::Start { id, .. } => {
                self.vendor_id.clone_from(id);
                self.start(out);
            }
            Event::BlockStart { choice: 0, index, block } => {
                self.start(out);
                self.begin(*index, block, out);
            }
            Event::Text { choice: 0, index, text: piece }
            | Event::Arguments { choice: 0, index, json: piece } => self.more(*index, piece, out),
            Event::Signature { choice: 0, index, signature } => self.sign(*index, signature),
            Event::Citation { choice: 0, index, value } => self.cite(*index, value, out),
            Event::BlockStop { choice: 0, index } => self.end(*index, "completed", out),
            Event::Stop { choice: 0, stop } => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Error { kind, message } => self.fail_with(kind, message, None, out),
            Event::Done => {
                let stop = self.stop.take().unwrap_or(Stop::End);
                self.finish(&stop, "completed", out);
            }
            // This dialect has one alternative.
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
        if !self.has_ended {
            self.finish(&Stop::Length, "incomplete", out);
        }
    }

    fn fail(&mut self, failure: &Failure<'_>, out: &mut Vec<u8>) {
        if !self.has_ended {
            self.fail_with(failure.code, failure.message, failure.param, out);
        }
    }
}

impl Encoder {
    pub(super) fn new(context: ReplyContext) -> Self {
        Self {
            context,
            vendor_id: String::new(),
            sequence: 0,
            has_started: false,
            has_ended: false,
            output: Vec::new(),
            open: BTreeMap::new(),
            stop: None,
            usage: None,
        }
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.has_started, true) {
            return;
        }
        let response = self.snapshot(("in_progress", None));
        self.write("response.created", json!({"response": response}), out);
        self.write("response.in_progress", json!({"response": response}), out);
    }

    fn snapshot(&self, status: (&str, Option<&str>)) -> Value {
        let output: Vec<Value> = self.output.iter().filter(|it| !it.is_null()).cloned().collect();
        response(&self.vendor_id, &self.context, status, &output)
    }

    fn begin(&mut self, index: u32, block: &Block, out: &mut Vec<u8>) {
        let (prefix, kind, said) = match block {
            Block::Text { text, .. } => ("msg", Kind::Text { annotations: Vec::new() }, text),
            Block::Refusal { text } => ("msg", Kind::Refusal, text),
            Block::Thinking { text, signature, .. } => {
                let token = signature.as_deref().map(|it| seal::bare(NAME, it).to_owned());
                ("rs", Kind::Thinking { token, has_part: false }, text)
            }
            Block::ToolUse { id, name, arguments, signature, .. } => {
                if let Some(signature) = signature {
                    let id = item_id("rs", &self.context.id, self.output.len());
                    self.whole(carrier(signature, &id), out);
                }
                let aliases = &self.context.aliases;
                let is_custom = matches!(alias::find(aliases, name), Some(Aliased::Custom { .. }));
                let kind = Kind::Call { call: id.clone(), name: name.clone(), is_custom };
                (call_prefix(aliases, name), kind, arguments)
            }
            other => {
                if let Some(item) = words(other, &self.context, self.output.len()) {
                    self.whole(item, out);
                }
                return;
            }
        };
        let place = self.output.len();
        let vendor = match block {
            Block::Thinking { id, .. } => id.clone(),
            _ => None,
        };
        let id = vendor.unwrap_or_else(|| item_id(prefix, &self.context.id, place));
        let open = Open { place, id, kind, said: String::new() };
        self.output.push(Value::Null);
        let mut item = open.item("in_progress", &self.context.aliases);
        if let (Kind::Text { .. } | Kind::Refusal, Value::Object(item)) = (&open.kind, &mut item) {
            item.insert("content".to_owned(), json!([]));
        }
        self.write("response.output_item.added", json!({"output_index": place, "item": item}), out);
        if let Some(part) = open.part() {
            self.at(
                &open,
                "response.content_part.added",
                json!({"content_index": 0, "part": part}),
                out,
            );
        }
        self.open.insert(index, open);
        self.more(index, said, out);
    }

    /// An item that comes whole.
    fn whole(&mut self, item: Value, out: &mut Vec<u8>) {
        let place = self.output.len();
        self.write("response.output_item.added", json!({"output_index": place, "item": item}), out);
        self.write("response.output_item.done", json!({"output_index": place, "item": item}), out);
        self.output.push(item);
    }

    fn more(&mut self, index: u32, piece: &str, out: &mut Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        let Some(mut open) = self.open.remove(&index) else { return };
        open.said.push_str(piece);
        if let Kind::Thinking { has_part, .. } = &mut open.kind
            && !std::mem::replace(has_part, true)
        {
            let part = json!({"type": "summary_text", "text": ""});
            let part = json!({"summary_index": 0, "part": part});
            self.at(&open, "response.reasoning_summary_part.added", part, out);
        }
        let (name, place) = match &open.kind {
            Kind::Text { .. } => {
                ("response.output_text.delta", json!({"content_index": 0, "logprobs": []}))
            }
            Kind::Refusal => ("response.refusal.delta", json!({"content_index": 0})),
            Kind::Thinking { .. } => {
                ("response.reasoning_summary_text.delta", json!({"summary_index": 0}))
            }
            // Its input is known when its arguments are whole.
            Kind::Call { is_custom: true, .. } => ("", json!({})),
            Kind::Call { .. } => ("response.function_call_arguments.delta", json!({})),
        };
        if !name.is_empty() {
            self.at(&open, name, with(place, "delta", json!(piece)), out);
        }
        self.open.insert(index, open);
    }

    fn sign(&mut self, index: u32, signature: &str) {
        // A call's seal that comes late has no item to go before; clients of this dialect send it never back.
        if let Some(Open { kind: Kind::Thinking { token, .. }, .. }) = self.open.get_mut(&index) {
            token.get_or_insert_default().push_str(seal::bare(NAME, signature));
        }
    }

    fn cite(&mut self, index: u32, value: &Value, out: &mut Vec<u8>) {
        let Some(mut open) = self.open.remove(&index) else { return };
        for annotation in flat_citations(value) {
            let Kind::Text { annotations } = &mut open.kind else { break };
            let place = json!({
                "content_index": 0,
                "annotation_index": annotations.len(),
                "annotation": annotation,
            });
            annotations.push(annotation);
            self.at(&open, "response.output_text.annotation.added", place, out);
        }
        self.open.insert(index, open);
    }

    fn end(&mut self, index: u32, status: &str, out: &mut Vec<u8>) {
        let Some(open) = self.open.remove(&index) else { return };
        let said = &open.said;
        match &open.kind {
            Kind::Text { .. } => {
                let text = json!({"content_index": 0, "text": said, "logprobs": []});
                self.at(&open, "response.output_text.done", text, out);
            }
            Kind::Refusal => {
                let refusal = json!({"content_index": 0, "refusal": said});
                self.at(&open, "response.refusal.done", refusal, out);
            }
            Kind::Thinking { has_part: true, .. } => {
                let text = json!({"summary_index": 0, "text": said});
                self.at(&open, "response.reasoning_summary_text.done", text, out);
                let part = json!({"type": "summary_text", "text": said});
                let part = json!({"summary_index": 0, "part": part});
                self.at(&open, "response.reasoning_summary_part.done", part, out);
            }
            Kind::Thinking { .. } => {}
            Kind::Call { is_custom: true, .. } => {
                let input = alias::input(open.arguments());
                let delta = json!({"delta": input});
                self.at(&open, "response.custom_tool_call_input.delta", delta, out);
                let done = json!({"input": input});
                self.at(&open, "response.custom_tool_call_input.done", done, out);
            }
            Kind::Call { name, .. } => {
                let arguments = json!({"name": name, "arguments": open.arguments()});
                self.at(&open, "response.function_call_arguments.done", arguments, out);
            }
        }
        if let Some(part) = open.part() {
            self.at(
                &open,
                "response.content_part.done",
                json!({"content_index": 0, "part": part}),
                out,
            );
        }
        let item = open.item(status, &self.context.aliases);
        let done = json!({"output_index": open.place, "item": item});
        self.write("response.output_item.done", done, out);
        if let Some(place) = self.output.get_mut(open.place) {
            *place = item;
        }
    }

    fn finish(&mut self, stop: &Stop, items: &str, out: &mut Vec<u8>) {
        self.start(out);
        let open: Vec<u32> = self.open.keys().copied().collect();
        for index in open {
            self.end(index, items, out);
        }
        let status = status(stop);
        let mut response = self.snapshot(status);
        if let (Value::Object(response), Some(usage)) = (&mut response, self.usage) {
            response.insert("usage".to_owned(), usage_words(&usage));
        }
        let name =
            if status.0 == "completed" { "response.completed" } else { "response.incomplete" };
        self.has_ended = true;
        self.write(name, json!({"response": response}), out);
    }

    /// OpenAI says a failure twice: as an event that clients raise, and as the response's end.
    fn fail_with(&mut self, code: &str, message: &str, param: Option<&str>, out: &mut Vec<u8>) {
        self.start(out);
        let error = json!({"type": code, "code": code, "message": message, "param": param});
        let event = json!({"code": code, "message": message, "param": param, "error": error});
        self.write("error", event, out);
        let mut response = self.snapshot(("failed", None));
        if let Value::Object(response) = &mut response {
            response.insert("error".to_owned(), json!({"code": code, "message": message}));
        }
        self.has_ended = true;
        self.write("response.failed", json!({"response": response}), out);
    }

    /// An event about an item.
    fn at(&mut self, open: &Open, name: &str, fields: Value, out: &mut Vec<u8>) {
        let fields = with(fields, "item_id", json!(open.id));
        self.write(name, with(fields, "output_index", json!(open.place)), out);
    }

    fn write(&mut self, name: &str, fields: Value, out: &mut Vec<u8>) {
        let mut event = Map::new();
        event.insert("type".to_owned(), json!(name));
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        event.insert("sequence_number".to_owned(), json!(self.sequence));
        self.sequence += 1;
        sse::write(Some(name), Value::Object(event).to_string().as_bytes(), out);
    }
}

impl Open {
    fn arguments(&self) -> &str {
        if self.said.is_empty() { "{}" } else { &self.said }
    }

    /// The one content part of a message.
    fn part(&self) -> Option<Value> {
        match &self.kind {
            Kind::Text { annotations } => Some(text_part(&self.said, annotations)),
            Kind::Refusal => Some(json!({"type": "refusal", "refusal": self.said})),
            Kind::Thinking { .. } | Kind::Call { .. } => None,
        }
    }

    fn item(&self, status: &str, aliases: &[Alias]) -> Value {
        match &self.kind {
            Kind::Text { .. } | Kind::Refusal => {
                message(&self.id, status, &self.part().unwrap_or_default())
            }
            Kind::Thinking { token, .. } => reasoning_item(&self.id, &self.said, token.as_deref()),
            Kind::Call { call, name, .. } => {
                let arguments = if status == "in_progress" { "" } else { self.arguments() };
                call_item(aliases, &self.id, status, (call, name), arguments)
            }
        }
    }
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    if let Value::Object(object) = &mut object {
        object.insert(key.to_owned(), value);
    }
    object
}
