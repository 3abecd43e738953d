//! An upstream's stream, read.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::reply::{stop, usage};
use super::seals::Sealed;
use super::{NAME, item};
use crate::chat::{Block, Event, Stop};
use crate::dialect::openai::error;
use crate::dialect::{Error, StreamDecoder};
use crate::json::{self, Fields};

/// Reads Responses events.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    has_started: bool,
    has_ended: bool,
    next: u32,
    open: BTreeMap<Place, u32>,
    /// Calls whose arguments came in pieces.
    said: BTreeMap<u64, bool>,
    /// Ends that the whole has shown.
    calls: bool,
    refuses: bool,
    waiting: Option<String>,
}

/// Where a block stands: its item, and its part within it.
type Place = (u64, Option<u64>);

impl StreamDecoder for Decoder {
    fn push(&mut self, name: Option<&str>, data: &str, out: &mut Vec<Event>) -> Result<(), Error> {
        let data = data.trim();
        if data.is_empty() || data == "[DONE]" || self.has_ended {
            return Ok(());
        }
        self.event(name, data, out).map_err(json::of_reply)
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Error> {
        if self.has_ended {
            return Ok(());
        }
        self.close(out);
        Err(Error::Reply { problem: "the stream ended before the response did".to_owned() })
    }
}

impl Decoder {
    fn event(&mut self, name: Option<&str>, data: &str, out: &mut Vec<Event>) -> Result<(), Error> {
        let mut fields = json::body(data.as_bytes())?;
        let kind = fields.text("type")?.or_else(|| name.map(str::to_owned)).unwrap_or_default();
        let kind = kind.strip_prefix("response.").unwrap_or(&kind);
        match kind {
            "created" | "in_progress" | "queued" => self.start(&mut fields, out)?,
            "output_item.added" => self.item_added(&mut fields, out)?,
            "output_item.done" => self.item_done(&mut fields, out)?,
            "content_part.added" => {
                let refuses = fields
                    .any("part")
                    .is_some_and(|it| it.get("type").is_some_and(|it| it == "refusal"));
                self.ensure(
                    part_place(&mut fields)?,
                    if refuses { refusal() } else { Block::text("") },
                    out,
                );
            }
            "content_part.done" => {
                if let Some(index) = self.open.remove(&part_place(&mut fields)?) {
                    out.push(Event::BlockStop { choice: 0, index });
                }
            }
            "output_text.delta" => self.piece(&mut fields, Block::text(""), out)?,
            "refusal.delta" => self.piece(&mut fields, refusal(), out)?,
            "output_text.annotation.added" => {
                if let Some(index) = self.open.get(&part_place(&mut fields)?)
                    && let Some(value) = fields.any("annotation")
                {
                    out.push(Event::Citation { choice: 0, index: *index, value });
                }
            }
            "function_call_arguments.delta" => {
                let item = output_index(&mut fields)?;
                if let (Some(index), Some(json)) =
                    (self.open.get(&(item, None)), fields.text("delta")?)
                {
                    self.said.insert(item, true);
                    out.push(Event::Arguments { choice: 0, index: *index, json });
                }
            }
            "reasoning_summary_part.added" => {
                let is_later = fields.count("summary_index")?.is_some_and(|it| it > 0);
                self.thought(&mut fields, is_later.then(|| "\n\n".to_owned()), out)?;
            }
            "reasoning_summary_text.delta" | "reasoning_text.delta" => {
                let delta = fields.text("delta")?;
                self.thought(&mut fields, delta, out)?;
            }
            "completed" | "incomplete" | "failed" | "error" => self.end(kind, fields, data, out)?,
            // What repeats what was said, and what only this vendor's tools say.
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, fields: &mut Fields, out: &mut Vec<Event>) -> Result<(), Error> {
        if std::mem::replace(&mut self.has_started, true) {
            return Ok(());
        }
        let (mut id, mut model) = (String::new(), String::new());
        if let Some(mut response) = fields.object("response")? {
            id = response.text("id")?.unwrap_or_default();
            model = response.text("model")?.unwrap_or_default();
        }
        out.push(Event::Start { id, model });
        Ok(())
    }

    /// The block at a place, begun if it was not.
    fn ensure(&mut self, place: Place, block: Block, out: &mut Vec<Event>) -> u32 {
        if let Some(index) = self.open.get(&place) {
            return *index;
        }
        self.calls |= matches!(block, Block::ToolUse { .. });
        self.refuses |= matches!(block, Block::Refusal { .. });
        let index = self.next;
        self.next = self.next.saturating_add(1);
        self.open.insert(place, index);
        out.push(Event::BlockStart { choice: 0, index, block });
        index
    }

    fn piece(
        &mut self,
        fields: &mut Fields,
        block: Block,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let place = part_place(fields)?;
        if let Some(text) = fields.text("delta")?.filter(|it| !it.is_empty()) {
            let index = self.ensure(place, block, out);
            out.push(Event::Text { choice: 0, index, text });
        }
        Ok(())
    }

    fn thought(
        &mut self,
        fields: &mut Fields,
        text: Option<String>,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let item = output_index(fields)?;
        if let Some(text) = text.filter(|it| !it.is_empty()) {
            let id = fields.text("item_id")?;
            let block = Block::Thinking { text: String::new(), signature: None, id };
            let index = self.ensure((item, None), block, out);
            out.push(Event::Text { choice: 0, index, text });
        }
        Ok(())
    }

    fn item_added(&mut self, fields: &mut Fields, out: &mut Vec<Event>) -> Result<(), Error> {
        let place = output_index(fields)?;
        let Some(mut item) = fields.object("item")? else { return Ok(()) };
        if item.text("type")?.as_deref() == Some("function_call") {
            let block = self.call(&mut item)?;
            self.ensure((place, None), block, out);
        }
        Ok(())
    }

    fn call(&mut self, item: &mut Fields) -> Result<Block, Error> {
        Ok(Block::ToolUse {
            id: item.need_text("call_id")?,
            name: item.need_text("name")?,
            arguments: String::new(),
            signature: self.waiting.take(),
            cache: None,
        })
    }

    /// An item is whole: what did not come in pieces comes now.
    fn item_done(&mut self, fields: &mut Fields, out: &mut Vec<Event>) -> Result<(), Error> {
        let place = output_index(fields)?;
        let Some(value) = fields.any("item") else { return Ok(()) };
        match value.get("type").and_then(Value::as_str) {
            Some("message") => {}
            Some("function_call") => {
                let mut item = Fields::new(value, "item")?;
                let arguments = item.text("arguments")?.unwrap_or_default();
                let index = match self.open.get(&(place, None)) {
                    Some(index) => *index,
                    None => {
                        let block = self.call(&mut item)?;
                        self.ensure((place, None), block, out)
                    }
                };
                if !self.said.contains_key(&place) && !arguments.is_empty() {
                    out.push(Event::Arguments { choice: 0, index, json: arguments });
                }
            }
            Some("reasoning") => self.reasoning_done(place, value, out)?,
            _ => {
                self.ensure((place, None), Block::Opaque { dialect: NAME, value }, out);
            }
        }
        self.close_item(place, out);
        Ok(())
    }

    fn reasoning_done(
        &mut self,
        place: u64,
        value: Value,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let block = match item::reasoning(Fields::new(value, "item")?)? {
            Sealed::Thought(block) => block,
            Sealed::Call(seal) => {
                self.waiting = Some(seal);
                return Ok(());
            }
        };
        match (self.open.get(&(place, None)), block) {
            (Some(index), Block::Thinking { signature: Some(signature), .. }) => {
                out.push(Event::Signature { choice: 0, index: *index, signature });
            }
            (Some(_), _) => {}
            // Nothing was shown and nothing is sealed: there is nothing.
            (None, Block::Thinking { text, signature: None, .. }) if text.is_empty() => {}
            (None, block) => {
                self.ensure((place, None), block, out);
            }
        }
        Ok(())
    }

    fn close_item(&mut self, place: u64, out: &mut Vec<Event>) {
        let closed: Vec<Place> = self.open.keys().filter(|it| it.0 == place).copied().collect();
        for place in closed {
            if let Some(index) = self.open.remove(&place) {
                out.push(Event::BlockStop { choice: 0, index });
            }
        }
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        for (_, index) in std::mem::take(&mut self.open) {
            out.push(Event::BlockStop { choice: 0, index });
        }
    }

    fn end(
        &mut self,
        kind: &str,
        mut fields: Fields,
        data: &str,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        self.has_ended = true;
        let mut response = fields.object("response")?;
        if matches!(kind, "failed" | "error") {
            let error = response.as_mut().and_then(|it| it.any("error"));
            let failure = match error {
                Some(error) => error::read(&json!({ "error": error })),
                None => error::decode(data.as_bytes()),
            };
            let kind = failure.code.or(failure.kind).filter(|it| it != "error");
            out.push(Event::Error {
                kind: kind.unwrap_or_else(|| "upstream_error".to_owned()),
                message: failure.message.unwrap_or_else(|| "the provider gave no words".to_owned()),
            });
            return Ok(());
        }
        self.close(out);
        let mut details = None;
        if let Some(response) = &mut response {
            details = response.any("incomplete_details");
            if let Some(said) = response.any("usage") {
                out.push(Event::Usage(usage(said)));
            }
        }
        let stop = match stop(Some(kind), details.as_ref(), &[]) {
            Stop::End if self.calls => Stop::ToolUse,
            Stop::End if self.refuses => Stop::Refusal,
            other => other,
        };
        out.push(Event::Stop { choice: 0, stop });
        out.push(Event::Done);
        Ok(())
    }
}

fn refusal() -> Block {
    Block::Refusal { text: String::new() }
}

fn output_index(fields: &mut Fields) -> Result<u64, Error> {
    Ok(fields.count("output_index")?.unwrap_or(0))
}

fn part_place(fields: &mut Fields) -> Result<Place, Error> {
    Ok((output_index(fields)?, Some(fields.count("content_index")?.unwrap_or(0))))
}
