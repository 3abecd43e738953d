//! Counting tokens without a tokenizer: bounds that hold, and estimates that say they are.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::scan::Marks;

/// A request's fixed overhead beyond its bytes: roles and separators that vendors add.
const REQUEST_OVERHEAD: u64 = 64;
/// The most tokens that any vendor states for one image at its greatest detail, whatever its size in bytes.
const IMAGE_TOKENS_MAX: u64 = 16_384;
/// The most tokens of what is not in the request, be it a document or a conversation: more than any model's context holds.
const REMOTE_TOKENS_MAX: u64 = 1_000_000;
/// What vendors say before the model where it has tools: Anthropic states at most 735, for its own computer use.
const TOOLS_OVERHEAD: u64 = 1_024;
/// Tokens a byte of a document in the request: text compresses about as much.
const DOCUMENT_TOKENS_PER_BYTE: u64 = 4;

/// A bound on the input tokens of a request body, in any dialect. No call can use more than its model's context, which
/// the catalogue knows: bound the bound by that.
///
/// One a byte, which holds for every byte-level tokenizer. Images count by their vendor's bound, be they in the body or
/// elsewhere: only where they stand as a part of a message and, in the body, begin as an image does. The same
/// characters in a text or in a call's arguments are text to the model, and count as such. A document's bytes count
/// fourfold, which is an estimate: one of many empty pages can cost more. Sound counts by its bytes. `marks`: what the
/// body's scan has seen.
#[must_use]
pub fn upper_bound_input(body: &[u8], marks: Marks) -> u64 {
    let total = REQUEST_OVERHEAD + body.len() as u64;
    if !marks.may_hold_media() {
        return total;
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(request) => {
            let media = media(&request);
            (total + media.tokens).saturating_sub(media.bytes)
        }
        Err(_) => total,
    }
}

/// A bound on what a request's input is more than its bytes say.
///
/// `tools` is its list of tools, as written, and `is_elsewhere` whether it names what its vendor stores ([`crate::scan::Scan::leans_on_a_store`]).
#[must_use]
pub fn upper_bound_beside(tools: Option<&[u8]>, is_elsewhere: bool) -> u64 {
    let stored = if is_elsewhere { REMOTE_TOKENS_MAX } else { 0 };
    let around = match tools.map(serde_json::from_slice::<Vec<ToolHead<'_>>>) {
        None => 0,
        Some(Ok(tools)) if tools.is_empty() => 0,
        Some(Ok(tools)) if !tools.iter().any(ToolHead::is_run_by_its_vendor) => TOOLS_OVERHEAD,
        // What cannot be read one way only is read by the vendor in its own.
        Some(_) => REMOTE_TOKENS_MAX,
    };
    stored + around
}

/// What tells who runs a tool.
#[derive(Deserialize)]
struct ToolHead<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    name: Option<IgnoredAny>,
    #[serde(alias = "functionDeclarations", alias = "function_declarations")]
    function: Option<IgnoredAny>,
}

impl ToolHead<'_> {
    /// What such a tool finds becomes input that nobody here sees.
    fn is_run_by_its_vendor(&self) -> bool {
        /// Those that callers run, by the beginning of their type, and one that only looks through the request's tools.
        const RUN_HERE: [&str; 11] = [
            "function",
            "custom",
            "namespace",
            "local_shell",
            "shell",
            "apply_patch",
            "computer",
            "bash_",
            "text_editor_",
            "memory_",
            "tool_search",
        ];
        match &self.kind {
            Some(kind) => !RUN_HERE.iter().any(|it| kind.starts_with(it)),
            // Anthropic's own form, and Gemini's list of functions; what else Gemini has, Google runs.
            None => self.name.is_none() && self.function.is_none(),
        }
    }
}

/// What media cost, and how many bytes of the body they are.
#[derive(Debug, Clone, Copy, Default)]
struct Media {
    tokens: u64,
    bytes: u64,
}

impl std::iter::Sum for Media {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, it| Self {
            tokens: sum.tokens.saturating_add(it.tokens),
            bytes: sum.bytes.saturating_add(it.bytes),
        })
    }
}

fn media(request: &Value) -> Media {
    let lists =
        ["messages", "input", "contents"].iter().filter_map(|it| request.get(it)?.as_array());
    let system = ["systemInstruction", "system_instruction"];
    let turns = lists.flatten().chain(system.iter().filter_map(|it| request.get(it)));
    turns.map(of_turn).sum()
}

fn of_turn(turn: &Value) -> Media {
    if turn.get("type").is_some_and(|it| it == "item_reference") {
        return document(None);
    }
    let lists = ["content", "output", "parts"].iter().filter_map(|it| turn.get(it));
    lists.map(of_parts).sum()
}

/// A list of parts, or one where dialects allow that.
fn of_parts(parts: &Value) -> Media {
    match parts {
        Value::Array(list) => list.iter().map(of_part).sum(),
        other => of_part(other),
    }
}

fn of_part(part: &Value) -> Media {
    let at = |pointer: &str| part.pointer(pointer).and_then(Value::as_str);
    let either = |one: &str, other: &str| at(one).or_else(|| at(other));
    match part.get("type").and_then(Value::as_str) {
        Some("image_url" | "input_image") => {
            image(either("/image_url/url", "/image_url").and_then(in_address))
        }
        Some("image") => image(at("/source/data")),
        Some("file") => document(at("/file/file_data")),
        Some("input_file") => document(at("/file_data")),
        Some("video_url" | "input_video") => {
            document(either("/video_url/url", "/video_url").and_then(in_address))
        }
        Some("document") => match part.pointer("/source/content") {
            Some(parts) => of_parts(parts),
            None => document(either("/source/data", "/source/text")),
        },
        Some("tool_result") => part.get("content").map(of_parts).unwrap_or_default(),
        Some(_) => Media::default(),
        None => of_gemini(part),
    }
}

/// A part of Gemini's, which has no type but the key of what it is.
fn of_gemini(part: &Value) -> Media {
    let either = |camel: &str, snake: &str| part.get(camel).or_else(|| part.get(snake));
    let kind = |it: &Value| either_text(it, "mimeType", "mime_type").starts_with("image/");
    let result = either("functionResponse", "function_response").and_then(|it| it.get("parts"));
    if let Some(file) = either("fileData", "file_data") {
        return if kind(file) { image(None) } else { document(None) };
    }
    if let Some(inline) = either("inlineData", "inline_data").filter(|_| part.get("text").is_none())
    {
        let data = inline.get("data").and_then(Value::as_str).unwrap_or_default();
        let is_pdf = either_text(inline, "mimeType", "mime_type") == "application/pdf";
        return if is_pdf {
            document(Some(data))
        } else if kind(inline) {
            image(Some(data))
        } else {
            Media::default()
        };
    }
    result.map(of_parts).unwrap_or_default()
}

fn either_text<'v>(value: &'v Value, camel: &str, snake: &str) -> &'v str {
    value.get(camel).or_else(|| value.get(snake)).and_then(Value::as_str).unwrap_or_default()
}

/// An image in the request, or, without data, elsewhere.
fn image(data: Option<&str>) -> Media {
    let bytes = match data {
        None => 0,
        Some(data) if is_image(data.as_bytes()) => data.len() as u64,
        // Whatever it is, its bytes count too.
        Some(_) => 0,
    };
    Media { tokens: IMAGE_TOKENS_MAX, bytes }
}

/// A document in the request, or, without data, elsewhere.
fn document(data: Option<&str>) -> Media {
    match data {
        None => Media { tokens: REMOTE_TOKENS_MAX, bytes: 0 },
        Some(data) => {
            let bytes = data.len() as u64;
            Media { tokens: bytes.saturating_mul(DOCUMENT_TOKENS_PER_BYTE), bytes }
        }
    }
}

/// The base64 in a `data:` address.
fn in_address(address: &str) -> Option<&str> {
    address.strip_prefix("data:")?.split_once(";base64,").map(|it| it.1)
}

/// Whether base64 text begins as PNG, JPEG, GIF or WebP do: what vendors take as images.
fn is_image(base64: &[u8]) -> bool {
    const STARTS: [&[u8]; 3] = [b"iVBORw0KGgo", b"/9j/", b"R0lGOD"];
    let is_webp = base64.starts_with(b"UklGR") && base64.get(12..16) == Some(b"RUJQ");
    is_webp || STARTS.iter().any(|it| base64.starts_with(it))
}

/// A bound on the tokens of so many bytes of output text, for a stream whose vendor has not stated usage yet.
///
/// One a byte is too much to hold a stream to; text runs at three bytes a token or more in the languages models write.
#[must_use]
pub const fn upper_bound_output(text_bytes: u64) -> u64 {
    text_bytes.div_ceil(3)
}

/// A guess at the tokens of a text: four bytes a token, as vendors' own rule of thumb has it.
#[must_use]
pub const fn estimate(text_bytes: u64) -> u64 {
    text_bytes.div_ceil(4)
}

#[cfg(test)]
mod tests;
