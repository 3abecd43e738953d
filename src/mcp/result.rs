//! A tool's result as a model can take it: blocks become text, images stay images, and it has a bound.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::is_object;
use crate::error::{Code, Error};

/// The most bytes of a result that a model is given. What is over it is cut, and says so.
pub const MODEL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What stands where a tool returned nothing at all: dialects refuse empty text.
const NOTHING: &str = "(the tool returned nothing)";

/// A result, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What came out, in order. Never empty.
    pub parts: Vec<Part>,
    /// Whether the tool says that it failed.
    pub is_error: bool,
}

/// A piece of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
    /// An image, as base64.
    Image {
        /// Its media type.
        mime: String,
        /// The bytes, as base64 text.
        data: String,
    },
}

impl Rendered {
    /// All of it as text, blocks on lines of their own. Where an image stood, a note in brackets.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            if !text.is_empty() {
                text.push('\n');
            }
            match part {
                Part::Text(it) => text.push_str(it),
                Part::Image { mime, data } => {
                    text.push_str(&left_out(mime, data, "this format has no images here"));
                }
            }
        }
        text
    }

    /// Whether there is an image in it.
    #[must_use]
    pub fn has_images(&self) -> bool {
        self.parts.iter().any(|it| matches!(it, Part::Image { .. }))
    }
}

#[derive(Deserialize)]
struct ToolResult<'a> {
    #[serde(borrow, default)]
    content: Vec<&'a RawValue>,
    #[serde(borrow, default, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(default, rename = "isError")]
    is_error: Option<bool>,
}

/// Every field that some kind of block has.
#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    data: Option<String>,
    #[serde(rename = "mimeType")]
    mime: Option<String>,
    uri: Option<String>,
    name: Option<String>,
    description: Option<String>,
    resource: Option<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    uri: Option<String>,
    #[serde(rename = "mimeType")]
    mime: Option<String>,
    text: Option<String>,
    blob: Option<String>,
}

/// Renders a `CallToolResult` within `bytes_max`.
///
/// # Errors
///
/// [`Code::UpstreamMalformed`] where it is not one.
pub fn render(result: &RawValue, bytes_max: usize) -> Result<Rendered, Error> {
    let malformed = || {
        Error::new(
            Code::UpstreamMalformed,
            "the tool's server sent something that is not a tool result",
        )
    };
    if !is_object(result) {
        return Err(malformed());
    }
    let result: ToolResult<'_> = serde_json::from_str(result.get()).map_err(|_| malformed())?;
    let mut parts: Vec<Part> = result.content.iter().map(|it| part(it)).collect();
    // Servers repeat structured content as text for those who cannot read it; where one did not, we do.
    if parts.is_empty()
        && let Some(structured) = result.structured
    {
        parts.push(Part::Text(structured.get().to_owned()));
    }
    let mut rendered =
        Rendered { parts: fit(parts, bytes_max), is_error: result.is_error == Some(true) };
    rendered.parts.retain(|it| !matches!(it, Part::Text(text) if text.is_empty()));
    if rendered.parts.is_empty() {
        rendered.parts.push(Part::Text(NOTHING.to_owned()));
    }
    Ok(rendered)
}

fn part(raw: &RawValue) -> Part {
    let Ok(mut block) = serde_json::from_str::<Block>(raw.get()) else {
        return Part::Text(raw.get().to_owned());
    };
    let kind = std::mem::take(&mut block.kind);
    match (kind.as_str(), block) {
        ("text", Block { text: Some(text), .. }) => Part::Text(text),
        ("image", Block { data: Some(data), mime: Some(mime), .. }) => Part::Image { mime, data },
        ("audio", Block { data: Some(data), mime: Some(mime), .. }) => {
            Part::Text(left_out(&mime, &data, "models are not given sound here"))
        }
        ("resource_link", Block { uri: Some(uri), name, description, .. }) => {
            let mut text = format!("[{}]({uri})", name.as_deref().unwrap_or(&uri));
            if let Some(description) = description {
                // Writing to a `String` cannot fail.
                let _infallible = write!(text, ": {description}");
            }
            Part::Text(text)
        }
        ("resource", Block { resource: Some(resource), .. }) => embedded(resource),
        // A kind from after our time: the model sees it as it came.
        _ => Part::Text(raw.get().to_owned()),
    }
}

fn embedded(resource: Resource) -> Part {
    let mime = resource.mime.unwrap_or_else(|| "application/octet-stream".to_owned());
    match (resource.text, resource.blob) {
        (Some(text), _) => Part::Text(text),
        (None, Some(data)) if mime.starts_with("image/") => Part::Image { mime, data },
        (None, Some(data)) => {
            let uri = resource.uri.unwrap_or_default();
            Part::Text(format!(
                "{uri} {}",
                left_out(&mime, &data, "models are given text and images")
            ))
        }
        (None, None) => Part::Text(resource.uri.unwrap_or_default()),
    }
}

/// What stands where something could not be given.
fn left_out(mime: &str, base64: &str, why: &str) -> String {
    format!("[{mime} of {} bytes left out: {why}]", base64.len() / 4 * 3)
}

/// Cuts what is over the bound. An image goes whole or not at all.
fn fit(parts: Vec<Part>, bytes_max: usize) -> Vec<Part> {
    let mut left = bytes_max;
    let mut fitted = Vec::with_capacity(parts.len());
    for part in parts {
        let size = match &part {
            Part::Text(text) => text.len(),
            Part::Image { data, .. } => data.len(),
        };
        if size <= left {
            left -= size;
            fitted.push(part);
            continue;
        }
        fitted.push(Part::Text(match part {
            Part::Text(text) => {
                let kept = boundary(&text, left);
                left = 0;
                format!("{}\n[cut: {kept} of {size} bytes shown]", &text[..kept])
            }
            Part::Image { mime, data } => left_out(&mime, &data, "the result is over its limit"),
        }));
        if left == 0 {
            break;
        }
    }
    fitted
}

/// The last place at or before `at` where `text` can be cut.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|it| text.is_char_boundary(*it)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
