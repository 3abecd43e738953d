//! Ends a stream that passes: in the vendor's own words, as a continuation of what the vendor sent.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Seen, Shape, read};
use crate::dialect::{Failure, StreamEncoder};
use crate::sse;
use crate::tokens;

/// How much of the first event is kept. Responses repeats instructions and tools there.
const FIRST_BYTES_MAX: usize = 1024 * 1024;

/// How much of the finished items is kept, in all.
const ITEMS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an ending must know of what came before.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// The first event's data.
    first: Vec<u8>,
    /// How many events came.
    count: u64,
    /// Anthropic's open block.
    open_block: Option<u64>,
    /// Items that Responses finished, as written, as many as fit.
    items: Vec<Box<RawValue>>,
    items_bytes: usize,
}

#[derive(Deserialize)]
struct Indexed {
    index: u64,
}

#[derive(Deserialize)]
struct Done {
    item: Box<RawValue>,
}

impl Trail {
    /// Notes one event.
    pub(super) fn note(&mut self, shape: Shape, name: Option<&str>, data: &[u8]) {
        if self.count == 0 && data.len() <= FIRST_BYTES_MAX && shape != Shape::Gemini {
            self.first = data.to_vec();
        }
        self.count += 1;
        match name {
            Some("content_block_start") if shape == Shape::Anthropic => {
                self.open_block = read::<Indexed>(data).map(|it| it.index);
            }
            Some("content_block_stop") if shape == Shape::Anthropic => self.open_block = None,
            Some("response.output_item.done") if shape == Shape::Responses => {
                let item = read::<Done>(data).map(|it| it.item);
                let room = ITEMS_BYTES_MAX.saturating_sub(self.items_bytes);
                if let Some(item) = item.filter(|it| it.get().len() <= room) {
                    self.items_bytes += item.get().len();
                    self.items.push(item);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
impl Trail {
    /// How much of finished items is kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.items.iter().map(|it| it.get().len()).sum()
    }
}

impl Seen {
    /// Appends the ending of a stream that must be cut; nothing where it has ended.
    pub(super) fn cut(&self, encoder: &mut dyn StreamEncoder, out: &mut Vec<u8>) {
        match self.shape {
            Shape::OpenAi => match read::<Map<String, Value>>(&self.trail.first) {
                Some(chunk) => cut_chat(chunk, out),
                None => encoder.cut(out),
            },
            Shape::Anthropic if self.trail.count > 0 => self.cut_messages(out),
            Shape::Responses => match self.response("incomplete") {
                Some(mut response) => {
                    response.insert(
                        "incomplete_details".to_owned(),
                        json!({"reason": "max_output_tokens"}),
                    );
                    self.say("response.incomplete", json!({"response": response}), 0, out);
                }
                None => encoder.cut(out),
            },
            Shape::Anthropic | Shape::Gemini => encoder.cut(out),
        }
    }

    /// Appends the error event of a stream that failed.
    pub(super) fn fail(
        &self,
        encoder: &mut dyn StreamEncoder,
        failure: &Failure<'_>,
        out: &mut Vec<u8>,
    ) {
        let response = if self.shape == Shape::Responses { self.response("failed") } else { None };
        let Some(mut response) = response else {
            encoder.fail(failure, out);
            return;
        };
        let error = json!({
            "type": failure.code,
            "code": failure.code,
            "message": failure.message,
            "param": failure.param,
        });
        let words = json!({
            "code": failure.code,
            "message": failure.message,
            "param": failure.param,
            "error": error,
        });
        self.say("error", words, 0, out);
        let error = json!({"code": failure.code, "message": failure.message});
        response.insert("error".to_owned(), error);
        self.say("response.failed", json!({"response": response}), 1, out);
    }

    fn cut_messages(&self, out: &mut Vec<u8>) {
        let mut write = |name: &str, words: Value| {
            sse::write(Some(name), words.to_string().as_bytes(), out);
        };
        if let Some(index) = self.trail.open_block {
            write("content_block_stop", json!({"type": "content_block_stop", "index": index}));
        }
        let counted = tokens::upper_bound_output(self.text_bytes);
        let output = self.usage.map_or(counted, |it| it.output.max(counted));
        let delta = json!({
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": null},
            "usage": {"output_tokens": output},
        });
        write("message_delta", delta);
        write("message_stop", json!({"type": "message_stop"}));
    }

    /// The response as it began, with what is finished of it.
    fn response(&self, status: &str) -> Option<Map<String, Value>> {
        let mut first: Map<String, Value> = read(&self.trail.first)?;
        let Some(Value::Object(mut response)) = first.remove("response") else { return None };
        let items = self.trail.items.iter().filter_map(|it| serde_json::from_str(it.get()).ok());
        response.insert("status".to_owned(), json!(status));
        response.insert("output".to_owned(), Value::Array(items.collect()));
        Some(response)
    }

    fn say(&self, name: &str, words: Value, after: u64, out: &mut Vec<u8>) {
        let mut event = Map::new();
        event.insert("type".to_owned(), json!(name));
        if let Value::Object(words) = words {
            event.extend(words);
        }
        event.insert("sequence_number".to_owned(), json!(self.trail.count + after));
        sse::write(Some(name), Value::Object(event).to_string().as_bytes(), out);
    }
}

/// The last chunk of a chat: the first one's head, and why it ended.
fn cut_chat(mut chunk: Map<String, Value>, out: &mut Vec<u8>) {
    let mut choice = json!({"index": 0, "logprobs": null, "finish_reason": "length"});
    let is_text = chunk.get("object").is_some_and(|it| it == "text_completion");
    let said = if is_text { ("text", json!("")) } else { ("delta", json!({})) };
    if let Value::Object(choice) = &mut choice {
        choice.insert(said.0.to_owned(), said.1);
    }
    chunk.insert("choices".to_owned(), json!([choice]));
    chunk.remove("obfuscation");
    sse::write(None, Value::Object(chunk).to_string().as_bytes(), out);
    sse::write(None, b"[DONE]", out);
}
