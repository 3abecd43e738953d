//! An upstream's stream, read.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::reply::{call_id, stop, usage};
use super::{error, part, reasoning};
use crate::chat::{Block, Event};
use crate::dialect::{Error, StreamDecoder};
use crate::json::Fields;
use crate::seal;

/// Reads chunks.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    id: String,
    has_started: bool,
    has_failed: bool,
    is_done: bool,
    choices: BTreeMap<u32, Voice>,
}

/// One alternative.
#[derive(Debug, Default)]
struct Voice {
    next: u32,
    /// The open block that is not a call.
    open: Option<(u32, Kind)>,
    calls: Vec<Call>,
    refuses: bool,
    /// Reasoning came as plain text: what details say of it is said.
    is_plain: bool,
    has_stopped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    Refusal,
}

#[derive(Debug)]
struct Call {
    /// The vendor's number of it. Vendors that do not count say nothing, or zero each time.
    number: Option<u64>,
    id: String,
    block: u32,
}

impl StreamDecoder for Decoder {
    fn push(&mut self, _name: Option<&str>, data: &str, out: &mut Vec<Event>) -> Result<(), Error> {
        let data = data.trim();
        if data.is_empty() || self.is_done || self.has_failed {
            return Ok(());
        }
        if data == "[DONE]" {
            self.close(out);
            return Ok(());
        }
        self.chunk(data, out).map_err(crate::json::of_reply)
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Error> {
        if self.is_done || self.has_failed {
            return Ok(());
        }
        let whole = self.has_started && self.choices.values().all(|it| it.has_stopped);
        if whole && !self.choices.is_empty() {
            self.close(out);
            return Ok(());
        }
        for (choice, voice) in &mut self.choices {
            voice.close(*choice, out);
        }
        Err(Error::Reply { problem: "the stream ended before its `[DONE]`".to_owned() })
    }
}

impl Decoder {
    fn close(&mut self, out: &mut Vec<Event>) {
        for (choice, voice) in &mut self.choices {
            voice.close(*choice, out);
        }
        self.is_done = true;
        out.push(Event::Done);
    }

    fn chunk(&mut self, data: &str, out: &mut Vec<Event>) -> Result<(), Error> {
        let mut chunk = crate::json::body(data.as_bytes())?;
        if let Some(error) = chunk.any("error") {
            let failure = error::read(&json!({ "error": error }));
            self.has_failed = true;
            out.push(Event::Error {
                kind: failure.kind.or(failure.code).unwrap_or_else(|| "upstream_error".to_owned()),
                message: failure.message.unwrap_or_else(|| "the provider gave no words".to_owned()),
            });
            return Ok(());
        }
        if !self.has_started {
            self.has_started = true;
            self.id = chunk.text("id")?.unwrap_or_default();
            let model = chunk.text("model")?.unwrap_or_default();
            out.push(Event::Start { id: self.id.clone(), model });
        }
        for (at, value) in chunk.list("choices")?.unwrap_or_default().into_iter().enumerate() {
            self.choice(Fields::new(value, format!("choices[{at}]"))?, out)?;
        }
        let said = chunk.any("usage").or_else(|| chunk.any("x_groq")?.get("usage").cloned());
        if let Some(said) = said.filter(Value::is_object) {
            out.push(Event::Usage(usage(said)));
        }
        Ok(())
    }

    fn choice(&mut self, mut fields: Fields, out: &mut Vec<Event>) -> Result<(), Error> {
        let number = fields.count("index")?.and_then(|it| u32::try_from(it).ok()).unwrap_or(0);
        let voice = self.choices.entry(number).or_default();
        if voice.has_stopped {
            return Ok(());
        }
        if let Some(mut delta) = fields.object("delta")? {
            voice.reasoning(number, &mut delta, out)?;
            voice.said(number, &mut delta, out)?;
            for call in delta.list("tool_calls")?.unwrap_or_default() {
                voice.call(number, call, &self.id, out)?;
            }
        }
        if let Some(reason) = fields.text("finish_reason")?.filter(|it| !it.is_empty()) {
            voice.close(number, out);
            voice.has_stopped = true;
            let stop = stop(Some(&reason), !voice.calls.is_empty(), voice.refuses);
            out.push(Event::Stop { choice: number, stop });
        }
        Ok(())
    }
}

impl Voice {
    fn take_index(&mut self) -> u32 {
        let index = self.next;
        self.next = self.next.saturating_add(1);
        index
    }

    fn reasoning(
        &mut self,
        choice: u32,
        delta: &mut Fields,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let mut taken = false;
        for key in ["reasoning_content", "reasoning"] {
            let Some(Value::String(text)) = delta.any_if(key, Value::is_string) else { continue };
            self.is_plain |= !text.is_empty();
            if !taken {
                self.text(choice, Kind::Thinking, text, out);
            }
            taken = true;
        }
        for detail in delta.list("reasoning_details")?.unwrap_or_default() {
            match reasoning::detail(&detail) {
                Some(Block::Thinking { text, signature, .. }) => {
                    if !self.is_plain {
                        self.text(choice, Kind::Thinking, text, out);
                    }
                    if let (Some(signature), Some((index, Kind::Thinking))) = (signature, self.open)
                    {
                        out.push(Event::Signature { choice, index, signature });
                    }
                }
                Some(block) => self.whole(choice, block, out),
                None => {}
            }
        }
        Ok(())
    }

    fn said(&mut self, choice: u32, delta: &mut Fields, out: &mut Vec<Event>) -> Result<(), Error> {
        for block in part::content(delta, "content")? {
            match block {
                Block::Text { text, .. } => self.text(choice, Kind::Text, text, out),
                Block::Thinking { text, .. } => self.text(choice, Kind::Thinking, text, out),
                Block::Refusal { text } => self.text(choice, Kind::Refusal, text, out),
                other => self.whole(choice, other, out),
            }
        }
        if let Some(text) = delta.text("refusal")? {
            self.text(choice, Kind::Refusal, text, out);
        }
        for annotation in delta.list("annotations")?.unwrap_or_default() {
            if let Some((index, Kind::Text)) = self.open {
                out.push(Event::Citation { choice, index, value: annotation });
            }
        }
        Ok(())
    }

    /// More of the open block if it is of that kind, else a new one.
    fn text(&mut self, choice: u32, kind: Kind, text: String, out: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        let index = match self.open {
            Some((index, open)) if open == kind => index,
            _ => {
                self.close_open(choice, out);
                let index = self.take_index();
                let block = match kind {
                    Kind::Text => Block::text(""),
                    Kind::Thinking => {
                        Block::Thinking { text: String::new(), signature: None, id: None }
                    }
                    Kind::Refusal => {
                        self.refuses = true;
                        Block::Refusal { text: String::new() }
                    }
                };
                out.push(Event::BlockStart { choice, index, block });
                self.open = Some((index, kind));
                index
            }
        };
        out.push(Event::Text { choice, index, text });
    }

    /// A block that comes whole.
    fn whole(&mut self, choice: u32, block: Block, out: &mut Vec<Event>) {
        self.close_open(choice, out);
        let index = self.take_index();
        out.push(Event::BlockStart { choice, index, block });
        out.push(Event::BlockStop { choice, index });
    }

    fn call(
        &mut self,
        choice: u32,
        value: Value,
        reply: &str,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let mut fields = Fields::new(value, "tool_calls[]")?;
        let number = fields.count("index")?;
        let id = fields.text("id")?.filter(|it| !it.is_empty());
        let extra = fields.any("extra_content");
        let signature = extra.as_ref().and_then(|it| it.pointer("/google/thought_signature"));
        let signature = signature.and_then(Value::as_str).map(|it| seal::marked("gemini", it));
        let custom = fields.object("custom")?;
        let mut function = match (fields.object("function")?, custom) {
            (Some(function), _) => function,
            (None, Some(custom)) => custom,
            (None, None) => Fields::new(json!({}), "tool_calls[].function")?,
        };
        let name = function.text("name")?.filter(|it| !it.is_empty());
        let block = match self.known(number, id.as_deref(), name.is_some()) {
            Some(block) => block,
            None => {
                let Some(name) = name else {
                    return Err(function.wrong("name", "is missing at the call's beginning"));
                };
                self.close_open(choice, out);
                let block = self.take_index();
                let place = [reply, &choice.to_string(), &self.calls.len().to_string()];
                let id = id.unwrap_or_else(|| call_id(&place));
                self.calls.push(Call { number, id: id.clone(), block });
                let call = Block::ToolUse {
                    id,
                    name,
                    arguments: String::new(),
                    signature: signature.clone(),
                    cache: None,
                };
                out.push(Event::BlockStart { choice, index: block, block: call });
                arguments(choice, block, &mut function, out)?;
                return Ok(());
            }
        };
        arguments(choice, block, &mut function, out)?;
        if let Some(signature) = signature {
            out.push(Event::Signature { choice, index: block, signature });
        }
        Ok(())
    }

    /// The call that a piece belongs to. A piece with another id than its number's call begins a new one: some
    /// vendors number every call zero.
    fn known(&self, number: Option<u64>, id: Option<&str>, named: bool) -> Option<u32> {
        let last = self.calls.iter().rev().find(|it| it.number == number);
        match (last, id) {
            (Some(call), Some(id)) => (call.id == id).then_some(call.block),
            // Without number and id only a name tells a new call from more of the last.
            (Some(call), None) => (number.is_some() || !named).then_some(call.block),
            (None, _) if number.is_none() && !named => self.calls.last().map(|it| it.block),
            (None, _) => None,
        }
    }

    fn close_open(&mut self, choice: u32, out: &mut Vec<Event>) {
        if let Some((index, _)) = self.open.take() {
            out.push(Event::BlockStop { choice, index });
        }
    }

    fn close(&mut self, choice: u32, out: &mut Vec<Event>) {
        self.close_open(choice, out);
        if !self.has_stopped {
            for call in &self.calls {
                out.push(Event::BlockStop { choice, index: call.block });
            }
        }
    }
}

fn arguments(
    choice: u32,
    index: u32,
    function: &mut Fields,
    out: &mut Vec<Event>,
) -> Result<(), Error> {
    let json = match function.text("input")? {
        Some(input) => input,
        None => super::message::arguments(function)?,
    };
    if !json.is_empty() {
        out.push(Event::Arguments { choice, index, json });
    }
    Ok(())
}
