//! Content parts as OpenAI writes them, in chat completions.

use serde_json::{Value, json};

use super::NAME;
use crate::chat::{Block, Source};
use crate::dialect::Error;
use crate::json::{self, Fields};
use crate::lost::Lost;

/// Reads `key` of `fields`, a string or a list of parts. Absent or null is none.
pub(crate) fn content(fields: &mut Fields, key: &str) -> Result<Vec<Block>, Error> {
    match fields.any(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Block::text(text)]),
        Some(Value::Array(list)) => {
            let path = fields.at(key);
            let parts = list.into_iter().enumerate();
            parts.map(|(at, value)| decode(value, &format!("{path}[{at}]"))).collect()
        }
        Some(other) => Err(fields.wrong(
            key,
            format!("must be a string or a list of content parts, but is {}", json::kind(&other)),
        )),
    }
}

fn decode(value: Value, path: &str) -> Result<Block, Error> {
    if let Value::String(text) = value {
        return Ok(Block::text(text));
    }
    let mut fields = Fields::new(value.clone(), path)?;
    match fields.need_text("type")?.as_str() {
        "text" => Ok(Block::Text {
            text: fields.need_text("text")?,
            cache: fields.any("cache_control"),
            citations: None,
        }),
        "refusal" => Ok(Block::Refusal { text: fields.need_text("refusal")? }),
        "image_url" => image(fields),
        "input_audio" => audio(fields),
        "file" => file(fields),
        "thinking" => thinking(fields),
        _ => Ok(Block::Opaque { dialect: NAME, value }),
    }
}

fn image(mut fields: Fields) -> Result<Block, Error> {
    let cache = fields.any("cache_control");
    // Some clients write the address without its object.
    if let Some(Value::String(url)) = fields.any_if("image_url", Value::is_string) {
        return Ok(Block::Image { source: address(url, None), detail: None, cache });
    }
    let mut image = fields
        .object("image_url")?
        .ok_or_else(|| fields.wrong("image_url", "is required, as an object with a `url`"))?;
    let source = address(image.need_text("url")?, None);
    Ok(Block::Image { source, detail: image.text("detail")?, cache })
}

fn audio(mut fields: Fields) -> Result<Block, Error> {
    let mut audio = fields
        .object("input_audio")?
        .ok_or_else(|| fields.wrong("input_audio", "is required, as an object"))?;
    let format = audio.need_text("format")?;
    let data = audio.need_text("data")?;
    let media_type = match format.as_str() {
        "mp3" => "audio/mpeg".to_owned(),
        other => format!("audio/{other}"),
    };
    Ok(Block::Audio { source: Source::Base64 { media_type, data } })
}

fn file(mut fields: Fields) -> Result<Block, Error> {
    let cache = fields.any("cache_control");
    let mut file =
        fields.object("file")?.ok_or_else(|| fields.wrong("file", "is required, as an object"))?;
    let title = file.text("filename")?;
    let source = match (file.text("file_data")?, file.text("file_id")?) {
        (Some(data), None) => address(data, Some("application/pdf")),
        (None, Some(id)) => Source::File { id },
        _ => return Err(file.wrong("file_data", "is required, or `file_id`, but not both")),
    };
    Ok(Block::Document { source, title, cache })
}

/// Mistral's reasoning: a part that holds text parts.
fn thinking(mut fields: Fields) -> Result<Block, Error> {
    let parts = content(&mut fields, "thinking")?;
    let text = parts.iter().filter_map(text_of).collect();
    Ok(Block::Thinking { text, signature: None, id: None })
}

/// The text of a text block.
pub(super) fn text_of(block: &Block) -> Option<&str> {
    match block {
        Block::Text { text, .. } => Some(text),
        _ => None,
    }
}

/// An address, or the bytes in it where it is a `data:` address. `bare` is the media type of text that is neither.
pub(crate) fn address(text: String, bare: Option<&str>) -> Source {
    if let Some((media_type, data)) =
        text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"))
    {
        let media_type = media_type.split(';').next().unwrap_or_default();
        return Source::Base64 { media_type: media_type.to_owned(), data: data.to_owned() };
    }
    match bare {
        Some(media_type) if !text.contains("://") => {
            Source::Base64 { media_type: media_type.to_owned(), data: text }
        }
        _ => Source::Url { url: text, media_type: None },
    }
}

/// Bytes as a `data:` address.
pub(crate) fn data_address(media_type: &str, data: &str) -> String {
    format!("data:{media_type};base64,{data}")
}

/// Writes a part of a user's turn. `None`: this dialect has no such part; it is noted in `lost`.
pub(super) fn encode(
    block: &Block,
    caller: &str,
    path: &str,
    lost: &mut Lost,
) -> Result<Option<Value>, Error> {
    Ok(match block {
        Block::Text { text, .. } => Some(json!({"type": "text", "text": text})),
        Block::Refusal { text } => Some(json!({"type": "refusal", "refusal": text})),
        Block::Image { source, detail, .. } => {
            let mut image = json!({"url": image_address(source, path)?});
            if let (Value::Object(image), Some(detail)) = (&mut image, detail) {
                image.insert("detail".to_owned(), json!(detail));
            }
            Some(json!({"type": "image_url", "image_url": image}))
        }
        Block::Document { source, title, .. } => {
            Some(document(source, title.as_deref(), caller, path)?)
        }
        Block::Audio { source } => Some(sound(source, path)?),
        Block::Opaque { dialect: NAME, value } => Some(value.clone()),
        Block::Opaque { value, .. } => {
            let kind = value.get("type").and_then(Value::as_str).unwrap_or("part");
            lost.named(format!("messages[].{kind}"));
            None
        }
        Block::ToolUse { .. }
        | Block::ToolResult { .. }
        | Block::Thinking { .. }
        | Block::RedactedThinking { .. } => None,
    })
}

fn image_address(source: &Source, path: &str) -> Result<String, Error> {
    match source {
        Source::Base64 { media_type, data } => Ok(data_address(media_type, data)),
        Source::Url { url, .. } => Ok(url.clone()),
        Source::File { .. } => Err(json::field(
            path,
            "the image lies in another vendor's store: send its bytes as base64 or its address",
        )),
        Source::Text { .. } => Err(json::field(path, "an image must be base64 or an address")),
    }
}

fn document(
    source: &Source,
    title: Option<&str>,
    caller: &str,
    path: &str,
) -> Result<Value, Error> {
    match source {
        Source::Text { text } => {
            let text = title.map_or_else(|| text.clone(), |title| format!("{title}\n\n{text}"));
            Ok(json!({"type": "text", "text": text}))
        }
        Source::Base64 { media_type, data } => {
            let name = title.unwrap_or("document.pdf");
            let file = json!({"filename": name, "file_data": data_address(media_type, data)});
            Ok(json!({"type": "file", "file": file}))
        }
        Source::File { id } if caller.starts_with(NAME) => {
            Ok(json!({"type": "file", "file": {"file_id": id}}))
        }
        Source::File { .. } => Err(json::field(
            path,
            "the file lies in another vendor's store: send its bytes as base64",
        )),
        Source::Url { .. } => Err(json::field(
            path,
            "OpenAI's chat completions take no address of a document: send its bytes as base64",
        )),
    }
}

fn sound(source: &Source, path: &str) -> Result<Value, Error> {
    let Source::Base64 { media_type, data } = source else {
        return Err(json::field(path, "OpenAI takes sound as base64 only"));
    };
    let format = match media_type.as_str() {
        "audio/mpeg" | "audio/mp3" => "mp3",
        "audio/wav" | "audio/x-wav" | "audio/wave" => "wav",
        other => other.strip_prefix("audio/").unwrap_or(other),
    };
    Ok(json!({"type": "input_audio", "input_audio": {"data": data, "format": format}}))
}
