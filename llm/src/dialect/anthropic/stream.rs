//! An upstream's stream, read.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::reply::{Tokens, stop};
use super::{NAME, block};
use crate::chat::{Block, Event};
use crate::dialect::{Error, StreamDecoder};
use crate::json;
use crate::seal;

/// The most input of one server tool's call that we hold until it is whole.
const HELD_BYTES_MAX: usize = 4 << 20;

/// Reads Anthropic's server-sent events.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    open: BTreeMap<u32, Open>,
    tokens: Tokens,
    is_done: bool,
}

/// A block that has begun.
#[derive(Debug)]
enum Open {
    /// Its pieces are passed on.
    Passing,
    /// A tool's call, passed on, and whether arguments have come.
    Call(bool),
    /// A block that only Anthropic knows, held until it is whole, with the JSON of its input so far.
    Held(Value, String),
}

impl StreamDecoder for Decoder {
    fn push(&mut self, _name: Option<&str>, data: &str, out: &mut Vec<Event>) -> Result<(), Error> {
        if self.is_done {
            return Ok(());
        }
        let mut event: Value =
            serde_json::from_str(data).map_err(|error| malformed(format!("not JSON: {error}")))?;
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "message_start" => self.start(&event, out),
            "content_block_start" => {
                let value = event.get_mut("content_block").map(Value::take);
                self.block_start(index(&event)?, value.unwrap_or_default(), out)?;
            }
            "content_block_delta" => {
                let delta = event.get_mut("delta").map(Value::take);
                self.delta(index(&event)?, delta.unwrap_or_default(), out)?;
            }
            "content_block_stop" => self.block_stop(index(&event)?, out)?,
            "message_delta" => self.message_delta(&event, out),
            "message_stop" => {
                self.close(out);
                self.is_done = true;
                out.push(Event::Done);
            }
            "error" => {
                let failure = super::error::decode(data.as_bytes());
                self.is_done = true;
                out.push(Event::Error {
                    kind: failure.kind.unwrap_or_else(|| "api_error".to_owned()),
                    message: failure.message.unwrap_or_default(),
                });
            }
            // Pings, and events that Anthropic may add: its versioning policy asks us to pass over them.
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Error> {
        if self.is_done {
            return Ok(());
        }
        self.is_done = true;
        self.close(out);
        Err(malformed("the stream ended before message_stop".to_owned()))
    }
}

impl Decoder {
    fn start(&mut self, event: &Value, out: &mut Vec<Event>) {
        let text = |pointer: &str| {
            event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        out.push(Event::Start { id: text("/message/id"), model: text("/message/model") });
        self.tokens.read(event.pointer("/message/usage"));
        out.push(Event::Usage(self.tokens.usage()));
    }

    fn block_start(&mut self, index: u32, value: Value, out: &mut Vec<Event>) -> Result<(), Error> {
        let block = block::decode(value, "content_block").map_err(json::of_reply)?;
        let mut pieces = Vec::new();
        let (open, begun) = match block {
            Block::Opaque { value, .. } => {
                self.open.insert(index, Open::Held(value, String::new()));
                return Ok(());
            }
            Block::Text { text, citations, cache } => {
                pieces.extend(text_piece(index, text));
                (Open::Passing, Block::Text { text: String::new(), citations, cache })
            }
            Block::Thinking { text, signature, id } => {
                pieces.extend(text_piece(index, text));
                pieces.extend(signature.map(|signature| Event::Signature {
                    choice: 0,
                    index,
                    signature,
                }));
                (Open::Passing, Block::Thinking { text: String::new(), signature: None, id })
            }
            Block::ToolUse { id, name, arguments, signature, cache } => {
                // Some who speak this dialect send the whole input at once.
                let has_come = arguments != "{}";
                if has_come {
                    pieces.push(Event::Arguments { choice: 0, index, json: arguments });
                }
                (
                    Open::Call(has_come),
                    Block::ToolUse { id, name, arguments: String::new(), signature, cache },
                )
            }
            whole => (Open::Passing, whole),
        };
        self.open.insert(index, open);
        out.push(Event::BlockStart { choice: 0, index, block: begun });
        out.append(&mut pieces);
        Ok(())
    }

    fn delta(&mut self, index: u32, mut delta: Value, out: &mut Vec<Event>) -> Result<(), Error> {
        let open = self
            .open
            .get_mut(&index)
            .ok_or_else(|| malformed(format!("a delta for block {index}, which is not open")))?;
        let kind = delta.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut text = |key: &str| match delta.get_mut(key).map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(malformed(format!("{kind} without its {key}"))),
        };
        match (kind.as_str(), open) {
            ("text_delta", Open::Passing) => out.extend(text_piece(index, text("text")?)),
            ("thinking_delta", Open::Passing) => out.extend(text_piece(index, text("thinking")?)),
            ("signature_delta", Open::Passing) => {
                let signature = seal::marked(NAME, &text("signature")?);
                out.push(Event::Signature { choice: 0, index, signature });
            }
            ("citations_delta", Open::Passing) => {
                if let Some(value) = delta.get_mut("citation").map(Value::take) {
                    out.push(Event::Citation { choice: 0, index, value });
                }
            }
            ("input_json_delta", Open::Call(has_come)) => {
                let json = text("partial_json")?;
                if !json.is_empty() {
                    *has_come = true;
                    out.push(Event::Arguments { choice: 0, index, json });
                }
            }
            ("input_json_delta", Open::Held(_, input)) => {
                input.push_str(&text("partial_json")?);
                if input.len() > HELD_BYTES_MAX {
                    return Err(malformed(format!(
                        "a server tool's input is over {HELD_BYTES_MAX} bytes"
                    )));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn block_stop(&mut self, index: u32, out: &mut Vec<Event>) -> Result<(), Error> {
        match self.open.remove(&index) {
            None => return Err(malformed(format!("block {index} ends, but is not open"))),
            Some(Open::Held(mut value, input)) => {
                if let Ok(input @ Value::Object(_)) = serde_json::from_str(&input) {
                    super::upstream::set(&mut value, "input", Some(&input));
                }
                out.push(Event::BlockStart {
                    choice: 0,
                    index,
                    block: Block::Opaque { dialect: NAME, value },
                });
            }
            Some(Open::Call(false)) => out.push(no_arguments(index)),
            Some(Open::Passing | Open::Call(true)) => {}
        }
        out.push(Event::BlockStop { choice: 0, index });
        Ok(())
    }

    fn message_delta(&mut self, event: &Value, out: &mut Vec<Event>) {
        self.tokens.read(event.get("usage"));
        let reason = event.pointer("/delta/stop_reason").and_then(Value::as_str);
        let sequence =
            event.pointer("/delta/stop_sequence").and_then(Value::as_str).map(str::to_owned);
        if reason.is_some() {
            self.close(out);
            out.push(Event::Stop { choice: 0, stop: stop(reason, sequence) });
        }
        out.push(Event::Usage(self.tokens.usage()));
    }

    /// Ends blocks that the vendor left open.
    fn close(&mut self, out: &mut Vec<Event>) {
        for (index, open) in std::mem::take(&mut self.open) {
            match open {
                Open::Held(..) => continue,
                Open::Call(false) => out.push(no_arguments(index)),
                Open::Call(true) | Open::Passing => {}
            }
            out.push(Event::BlockStop { choice: 0, index });
        }
    }
}

/// A call without arguments streams none; to others that would not be JSON.
fn no_arguments(index: u32) -> Event {
    Event::Arguments { choice: 0, index, json: "{}".to_owned() }
}

fn text_piece(index: u32, text: String) -> Option<Event> {
    (!text.is_empty()).then_some(Event::Text { choice: 0, index, text })
}

fn index(event: &Value) -> Result<u32, Error> {
    let index =
        event.get("index").and_then(Value::as_u64).and_then(|index| u32::try_from(index).ok());
    index.ok_or_else(|| {
        malformed(format!("an event without its index: {}", json!(event.get("type"))))
    })
}

fn malformed(problem: String) -> Error {
    Error::Reply { problem }
}
