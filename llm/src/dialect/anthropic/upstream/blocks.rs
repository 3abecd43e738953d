//! Content blocks for Anthropic, written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Writer, set};
use crate::chat::{Block, Role, Source};
use crate::dialect::Error;
use crate::dialect::anthropic::NAME;
use crate::hash::fnv;
use crate::json;
use crate::seal;

impl Writer<'_> {
    /// One block. `None` where there is nothing to say or Anthropic cannot say it.
    pub(super) fn block(
        &mut self,
        block: &Block,
        role: Role,
        path: &str,
    ) -> Result<Option<Value>, Error> {
        Ok(match block {
            // An empty text is an error to Anthropic.
            Block::Text { text, .. } | Block::Refusal { text } if text.trim().is_empty() => None,
            Block::Text { text, cache, citations } => {
                let mut written = json!({"type": "text", "text": text});
                let citations = citations.as_ref().filter(|_| self.request.dialect == NAME);
                set(&mut written, "citations", citations);
                set(&mut written, "cache_control", cache.as_ref());
                Some(written)
            }
            Block::Refusal { text } => Some(json!({"type": "text", "text": text})),
            Block::Image { source, detail, cache } if role == Role::User => {
                if detail.as_deref().is_some_and(|detail| detail != "auto") {
                    self.lost.field("messages[].content[].image_url.detail");
                }
                let mut written = json!({"type": "image", "source": self.image(source, path)?});
                set(&mut written, "cache_control", cache.as_ref());
                Some(written)
            }
            Block::Document { source, title, cache } if role == Role::User => {
                let mut written =
                    json!({"type": "document", "source": self.document(source, path)?});
                set(&mut written, "title", title.as_ref().map(|title| json!(title)).as_ref());
                set(&mut written, "cache_control", cache.as_ref());
                Some(written)
            }
            Block::Audio { .. } if role == Role::User => {
                return Err(json::field(
                    path,
                    "Anthropic's models do not hear: send a transcript instead of sound",
                ));
            }
            Block::Image { .. } | Block::Document { .. } | Block::Audio { .. } => {
                self.lose("messages[].content[].media")
            }
            Block::ToolUse { id, name, arguments, cache, .. } => {
                let id = call_id(id);
                let mut written =
                    json!({"type": "tool_use", "id": id, "name": name, "input": input(arguments)});
                set(&mut written, "cache_control", cache.as_ref());
                Some(written)
            }
            Block::ToolResult { id, content, is_error, cache, .. } => {
                let mut written = json!({"type": "tool_result", "tool_use_id": call_id(id)});
                let mut blocks = Vec::with_capacity(content.len());
                for block in content {
                    blocks.extend(self.block(block, role, path)?);
                }
                set(
                    &mut written,
                    "content",
                    (!blocks.is_empty()).then_some(Value::Array(blocks)).as_ref(),
                );
                set(&mut written, "is_error", is_error.then_some(Value::Bool(true)).as_ref());
                set(&mut written, "cache_control", cache.as_ref());
                Some(written)
            }
            Block::Thinking { .. } | Block::RedactedThinking { .. } => self.thought(block),
            Block::Opaque { dialect: NAME, value } => Some(value.clone()),
            Block::Opaque { value, .. } => {
                let kind = value.get("type").and_then(Value::as_str).unwrap_or("part");
                self.lost.named(format!("messages[].{kind}"));
                None
            }
        })
    }

    /// Reasoning, if Anthropic sealed it: it takes back no other.
    fn thought(&mut self, block: &Block) -> Option<Value> {
        let own = |seal: &Option<String>| {
            seal.as_deref().and_then(|seal| seal::own(NAME, seal)).map(str::to_owned)
        };
        let written = match block {
            Block::Thinking { text, signature, .. } => own(signature).map(
                |signature| json!({"type": "thinking", "thinking": text, "signature": signature}),
            ),
            Block::RedactedThinking { data, .. } => {
                seal::own(NAME, data).map(|data| json!({"type": "redacted_thinking", "data": data}))
            }
            _ => None,
        };
        if written.is_none() {
            self.lost.field("messages[].reasoning");
        }
        written
    }

    fn lose(&mut self, name: &str) -> Option<Value> {
        self.lost.field(name);
        None
    }

    fn image(&mut self, source: &Source, path: &str) -> Result<Value, Error> {
        match source {
            Source::Text { .. } => Err(json::field(path, "an image must be base64 or an address")),
            other => self.source(other, path),
        }
    }

    fn document(&mut self, source: &Source, path: &str) -> Result<Value, Error> {
        match source {
            Source::Text { text } => {
                Ok(json!({"type": "text", "media_type": "text/plain", "data": text}))
            }
            Source::Base64 { media_type, data } if is_text(media_type) => {
                let text =
                    STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let text = text
                    .ok_or_else(|| json::field(path, "the document is not base64 of UTF-8 text"))?;
                Ok(json!({"type": "text", "media_type": "text/plain", "data": text}))
            }
            other => self.source(other, path),
        }
    }

    fn source(&mut self, source: &Source, path: &str) -> Result<Value, Error> {
        match source {
            Source::Base64 { media_type, data } => {
                Ok(json!({"type": "base64", "media_type": media_type, "data": data}))
            }
            Source::Url { url, .. } => Ok(json!({"type": "url", "url": url})),
            Source::File { id } if self.request.dialect == NAME => {
                self.files = true;
                Ok(json!({"type": "file", "file_id": id}))
            }
            Source::File { .. } => Err(json::field(
                path,
                "the file lies in another vendor's store: send its bytes as base64 or its address",
            )),
            Source::Text { text } => {
                Ok(json!({"type": "text", "media_type": "text/plain", "data": text}))
            }
        }
    }
}

fn is_text(media_type: &str) -> bool {
    media_type.starts_with("text/") || media_type == "application/json"
}

/// A call's arguments as the object that Anthropic demands.
pub(in crate::dialect::anthropic) fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(object)) => Value::Object(object),
        Ok(Value::Null) => json!({}),
        Err(_) if arguments.trim().is_empty() => json!({}),
        Ok(other) => json!({"arguments": other}),
        // A model's broken JSON: it may see what it did.
        Err(_) => json!({"arguments": arguments}),
    }
}

/// A call's id in the letters that Anthropic takes. Different ids stay different.
fn call_id(id: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if !id.is_empty() && id.chars().all(is_plain) {
        return id.to_owned();
    }
    let plain: String =
        id.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
    format!("{plain}_{:016x}", fnv(&[id.as_bytes()]))
}
