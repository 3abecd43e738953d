//! Parts as Gemini writes them: read into blocks, and written for callers.

use std::collections::{HashMap, HashSet, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use super::NAME;
use crate::chat::{Block, Source};
use crate::dialect::Error;
use crate::hash::fnv;
use crate::json::{self, Fields, snake_case};
use crate::seal;

/// Set before sealed reasoning that has no text at all, which Gemini does not know.
const REDACTED: &str = "redacted:";

/// The calls of a conversation or a reply: makes ids where Gemini leaves them out, and finds the call that a result
/// answers.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// What makes ids differ from those of other replies.
    pub(super) scope: String,
    made: usize,
    /// Calls without a result: each once by its id, and by its function in order. One that was answered by its id
    /// stays in the other until it is come across.
    open: HashSet<String>,
    by_name: HashMap<String, VecDeque<String>>,
}

impl Calls {
    /// The calls of a reply, or of an alternative of it.
    pub(super) fn of(scope: String) -> Self {
        Self { scope, ..Self::default() }
    }

    /// The id of a call.
    fn begin(&mut self, given: Option<String>, name: &str, arguments: &str) -> String {
        let id = given.filter(|id| !id.is_empty()).unwrap_or_else(|| {
            let hash = fnv(&[self.scope.as_bytes(), name.as_bytes(), arguments.as_bytes()]);
            format!("call_{}_{hash:016x}", self.made)
        });
        self.made += 1;
        if self.open.insert(id.clone()) {
            self.by_name.entry(name.to_owned()).or_default().push_back(id.clone());
        }
        id
    }

    /// The id of the call that a result answers: the one it names, else the first open one of its function.
    fn end(&mut self, given: Option<String>, name: &str) -> String {
        if let Some(given) = given.filter(|id| !id.is_empty()) {
            self.open.remove(&given);
            return given;
        }
        if let Some(calls) = self.by_name.get_mut(name) {
            while let Some(id) = calls.pop_front() {
                if self.open.remove(&id) {
                    return id;
                }
            }
        }
        self.begin(None, name, "result")
    }
}

/// Whether a part has a field, in either spelling.
fn has(value: &Value, key: &str) -> bool {
    let there = |key: &str| value.get(key).is_some_and(|value| !value.is_null());
    there(key) || there(&snake_case(key))
}

/// Reads one part. A seal on a part that is neither thought nor call becomes a block of its own behind it.
pub(super) fn decode(
    value: Value,
    path: &str,
    calls: &mut Calls,
    into: &mut Vec<Block>,
) -> Result<(), Error> {
    if !value.is_object() {
        return Err(json::field(path, format!("must be an object, but is {}", json::kind(&value))));
    }
    let keys = ["text", "inlineData", "fileData", "functionCall", "functionResponse"];
    let known = keys.into_iter().find(|key| has(&value, key));
    if known.is_none() && !has(&value, "thoughtSignature")
        || has(&value, "toolCall")
        || has(&value, "toolResponse")
    {
        into.push(Block::Opaque { dialect: NAME, value });
        return Ok(());
    }
    let mut fields = Fields::new(value, path)?.or_snake();
    let seal =
        fields.text("thoughtSignature")?.filter(|seal| !seal.is_empty()).map(|seal| taken(&seal));
    let is_thought = fields.flag("thought")?.unwrap_or(false);
    let block = match known {
        Some("functionCall") => {
            let call = fields
                .object("functionCall")?
                .ok_or_else(|| fields.wrong("functionCall", "must be an object"))?;
            into.push(function_call(call, seal, calls)?);
            return Ok(());
        }
        Some("functionResponse") => {
            let said = fields.object("functionResponse")?;
            Some(function_response(
                said.ok_or_else(|| fields.wrong("functionResponse", "must be an object"))?,
                calls,
            )?)
        }
        Some(key @ ("inlineData" | "fileData")) => {
            let data = fields.object(key)?.ok_or_else(|| fields.wrong(key, "must be an object"))?;
            Some(media(data)?)
        }
        _ => {
            let text = fields.text("text")?.unwrap_or_default();
            if is_thought {
                into.push(thought(text, seal));
                return Ok(());
            }
            (!text.is_empty() || seal.is_none()).then(|| Block::text(text))
        }
    };
    into.extend(block);
    into.extend(seal.map(|seal| thought(String::new(), Some(seal))));
    Ok(())
}

/// A thought, or reasoning that is sealed as a whole.
fn thought(text: String, seal: Option<String>) -> Block {
    let Some((seal, id)) = seal.map(|seal| seal::split_item(&seal)) else {
        return Block::Thinking { text, signature: None, id: None };
    };
    let whole = seal::owner(&seal).and_then(|owner| {
        let data = seal::own(owner, &seal)?.strip_prefix(REDACTED)?;
        Some(seal::mark(owner, data))
    });
    match whole {
        Some(data) if text.is_empty() => Block::RedactedThinking { data, id },
        _ => Block::Thinking { text, signature: Some(seal), id },
    }
}

/// Joins what Gemini cut into parts: text with text, and thought with thought up to its seal.
pub(super) fn join(blocks: Vec<Block>) -> Vec<Block> {
    let mut joined: Vec<Block> = Vec::with_capacity(blocks.len());
    for block in blocks {
        match (joined.last_mut(), block) {
            (Some(Block::Text { text, .. }), Block::Text { text: more, .. }) => {
                text.push_str(&more);
            }
            (
                Some(Block::Thinking { text, signature: signature @ None, id }),
                Block::Thinking { text: more, signature: seal, id: item },
            ) => {
                text.push_str(&more);
                *signature = seal;
                *id = item;
            }
            (_, block) => joined.push(block),
        }
    }
    joined.retain(|block| *block != Block::text(""));
    joined
}

fn media(mut fields: Fields) -> Result<Block, Error> {
    let media_type = fields.text("mimeType")?;
    let title = fields.text("displayName")?;
    let source = match (fields.text("data")?, fields.text("fileUri")?) {
        (Some(data), _) => {
            let media_type = media_type
                .clone()
                .ok_or_else(|| fields.wrong("mimeType", "is required, as a string"))?;
            Source::Base64 { media_type, data }
        }
        (None, Some(url)) => Source::Url { url, media_type: media_type.clone() },
        (None, None) => return Err(fields.wrong("data", "is required, as base64 text")),
    };
    Ok(match media_type.as_deref().and_then(|media_type| media_type.split('/').next()) {
        Some("image") => Block::Image { source, detail: None, cache: None },
        Some("audio") => Block::Audio { source },
        _ => Block::Document { source, title, cache: None },
    })
}

fn function_call(
    mut call: Fields,
    signature: Option<String>,
    calls: &mut Calls,
) -> Result<Block, Error> {
    let name = call.need_text("name")?;
    let arguments = call
        .object("args")?
        .map_or_else(|| "{}".to_owned(), |args| Value::Object(args.rest()).to_string());
    let id = calls.begin(call.text("id")?, &name, &arguments);
    Ok(Block::ToolUse { id, name, arguments, signature, cache: None })
}

fn function_response(mut said: Fields, calls: &mut Calls) -> Result<Block, Error> {
    let name = said.need_text("name")?;
    let id = calls.end(said.text("id")?, &name);
    let response = said.object("response")?.map(Fields::rest).unwrap_or_default();
    let sole = |key: &str| {
        if response.len() == 1 { response.get(key).and_then(Value::as_str) } else { None }
    };
    let text = sole("output").or_else(|| sole("error")).map(str::to_owned);
    let is_error = response.len() == 1 && response.contains_key("error");
    let text = text.unwrap_or_else(|| Value::Object(response).to_string());
    let mut content = vec![Block::text(text)];
    for (at, part) in said.list("parts")?.unwrap_or_default().into_iter().enumerate() {
        decode(part, &said.at(&format!("parts[{at}]")), &mut Calls::default(), &mut content)?;
    }
    Ok(Block::ToolResult { id, name: Some(name), content, is_error, cache: None })
}

/// A seal from a part, marked. Gemini's are base64; a foreign one was made base64 by [`shown`].
pub(super) fn taken(seal: &str) -> String {
    let bytes = STANDARD.decode(seal).or_else(|_| URL_SAFE.decode(seal)).ok();
    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(text) if seal::owner(&text).is_some() => text,
        _ => seal::mark(NAME, seal),
    }
}

/// A seal for a part: `thoughtSignature` is bytes to SDKs, so a foreign seal is made base64, mark and all.
pub(super) fn shown(seal: &str, id: Option<&str>) -> String {
    seal::own(NAME, seal).map_or_else(|| STANDARD.encode(seal::with_item(seal, id)), str::to_owned)
}

/// Writes a block for a caller.
pub(super) fn words(block: &Block, parts: &mut Vec<Value>) {
    match block {
        Block::Text { text, .. } | Block::Refusal { text } => {
            if !text.is_empty() {
                parts.push(json!({"text": text}));
            }
        }
        Block::Thinking { text, signature, id } if text.is_empty() => {
            if let Some(signature) = signature {
                sign(&shown(signature, id.as_deref()), parts);
            }
        }
        Block::Thinking { text, signature, id } => {
            let mut part = json!({"text": text, "thought": true});
            set_seal(&mut part, signature.as_deref().map(|seal| shown(seal, id.as_deref())));
            parts.push(part);
        }
        Block::RedactedThinking { data, id } => {
            let owner = seal::owner(data).unwrap_or_default();
            let whole = seal::mark(owner, &format!("{REDACTED}{}", seal::bare(owner, data)));
            parts.push(json!({"text": "", "thought": true, "thoughtSignature": shown(&whole, id.as_deref())}));
        }
        Block::ToolUse { id, name, arguments, signature, .. } => {
            let mut part =
                json!({"functionCall": {"id": id, "name": name, "args": object(arguments)}});
            set_seal(&mut part, signature.as_deref().map(|seal| shown(seal, None)));
            parts.push(part);
        }
        Block::Image { source, .. } | Block::Audio { source } | Block::Document { source, .. } => {
            parts.extend(data(source));
        }
        Block::Opaque { dialect: NAME, value } => parts.push(value.clone()),
        Block::Opaque { .. } | Block::ToolResult { .. } => {}
    }
}

/// Puts a seal that stands alone on the text before it, or on an empty part.
pub(super) fn sign(seal: &str, parts: &mut Vec<Value>) {
    match parts.last_mut() {
        Some(Value::Object(last))
            if last.contains_key("text")
                && !last.contains_key("thought")
                && !last.contains_key("thoughtSignature") =>
        {
            last.insert("thoughtSignature".to_owned(), json!(seal));
        }
        _ => parts.push(json!({"text": "", "thoughtSignature": seal})),
    }
}

/// Sets a part's seal.
pub(super) fn set_seal(part: &mut Value, seal: Option<String>) {
    if let (Value::Object(part), Some(seal)) = (part, seal) {
        part.insert("thoughtSignature".to_owned(), Value::String(seal));
    }
}

/// A part of data. Text in a document is a text part.
pub(super) fn data(source: &Source) -> Option<Value> {
    match source {
        Source::Base64 { media_type, data } => {
            Some(json!({"inlineData": {"mimeType": media_type, "data": data}}))
        }
        Source::Url { url, media_type } => {
            let mut file = json!({"fileUri": url});
            let media_type = media_type.as_deref().or_else(|| type_of(url));
            if let (Value::Object(file), Some(media_type)) = (&mut file, media_type) {
                file.insert("mimeType".to_owned(), json!(media_type));
            }
            Some(json!({"fileData": file}))
        }
        Source::Text { text } => Some(json!({"text": text})),
        Source::File { .. } => None,
    }
}

/// The media type that an address's ending tells of.
fn type_of(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next()?;
    let (_, ending) = path.rsplit_once('.')?;
    Some(match ending.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "heic" => "image/heic",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        "mp3" => "audio/mp3",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        _ => return None,
    })
}

/// A call's arguments as an object.
pub(super) fn object(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(object)) => Value::Object(object),
        Ok(Value::Null) => json!({}),
        Err(_) if arguments.trim().is_empty() => json!({}),
        Ok(other) => json!({"arguments": other}),
        // A model's broken JSON: it may see what it did.
        Err(_) => json!({"arguments": arguments}),
    }
}
