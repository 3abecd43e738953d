//! Reasoning in chat completions: `reasoning_content` for the eye, `reasoning_details` for the way back.

use serde_json::{Map, Value, json};

use super::NAME;
use crate::chat::Block;
use crate::dialect::Error;
use crate::json::Fields;
use crate::seal;

/// Takes the reasoning out of a message, in order.
///
/// Details hold seals, so they win over the plain text that says the same. A detail without its text (a seal that
/// came at the end of a stream) takes the plain text.
pub(super) fn take(message: &mut Fields) -> Result<Vec<Block>, Error> {
    let plain = match message.text("reasoning_content")? {
        Some(text) => Some(text),
        None => message.any_if("reasoning", Value::is_string).and_then(|it| match it {
            Value::String(text) => Some(text),
            _ => None,
        }),
    };
    let details = message.list("reasoning_details")?.unwrap_or_default();
    let mut blocks: Vec<Block> = details.iter().filter_map(detail).collect();
    let plain = plain.filter(|it| !it.is_empty());
    if let Some(plain) = plain
        && blocks.iter().all(|it| thought(it).is_none_or(str::is_empty))
    {
        match blocks.iter_mut().find(|it| thought(it).is_some()) {
            Some(Block::Thinking { text, .. }) => *text = plain,
            _ => blocks.insert(0, Block::Thinking { text: plain, signature: None, id: None }),
        }
    }
    Ok(blocks)
}

fn thought(block: &Block) -> Option<&str> {
    match block {
        Block::Thinking { text, .. } => Some(text),
        _ => None,
    }
}

/// Reads one detail. Kinds that are not known are left out: they are no part of what is said.
pub(super) fn detail(value: &Value) -> Option<Block> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let id = text("id");
    match value.get("type")?.as_str()? {
        "reasoning.text" => Some(Block::Thinking {
            text: text("text").unwrap_or_default(),
            signature: text("signature")
                .filter(|it| !it.is_empty())
                .map(|it| seal::marked(NAME, &it)),
            id,
        }),
        "reasoning.summary" => {
            Some(Block::Thinking { text: text("summary")?, signature: None, id })
        }
        "reasoning.encrypted" => {
            Some(Block::RedactedThinking { data: seal::marked(NAME, &text("data")?), id })
        }
        _ => None,
    }
}

/// Writes one detail. `None`: the block is no reasoning, or has nothing to send back.
pub(super) fn words(block: &Block, index: usize) -> Option<Value> {
    let (mut words, id) = match block {
        Block::Thinking { text, signature: Some(signature), id } => (
            json!({
                "type": "reasoning.text",
                "text": text,
                "signature": seal::bare(NAME, signature),
                "index": index,
            }),
            id,
        ),
        Block::RedactedThinking { data, id } => (
            json!({"type": "reasoning.encrypted", "data": seal::bare(NAME, data), "index": index}),
            id,
        ),
        _ => return None,
    };
    if let (Value::Object(words), Some(id)) = (&mut words, id) {
        words.insert("id".to_owned(), json!(id));
    }
    Some(words)
}

/// Puts a turn's reasoning into its message.
pub(super) fn put(content: &[Block], message: &mut Map<String, Value>) {
    let text: String = content.iter().filter_map(thought).collect();
    if !text.is_empty() {
        message.insert("reasoning_content".to_owned(), json!(text));
    }
    let reasoning = content
        .iter()
        .filter(|it| matches!(it, Block::Thinking { .. } | Block::RedactedThinking { .. }));
    let details: Vec<Value> =
        reasoning.enumerate().filter_map(|(index, it)| words(it, index)).collect();
    if !details.is_empty() {
        message.insert("reasoning_details".to_owned(), Value::Array(details));
    }
}
