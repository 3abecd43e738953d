//! Content parts as the Responses API writes them.

use serde_json::{Value, json};

use super::NAME;
use crate::chat::{Block, Source};
use crate::dialect::Error;
use crate::dialect::openai::part::{address, data_address};
use crate::json::{self, Fields};
use crate::lost::Lost;

/// Reads `key` of `fields`, a string or a list of parts. Absent or null is none.
pub(super) fn content(fields: &mut Fields, key: &str) -> Result<Vec<Block>, Error> {
    match fields.any(key) {
        None => Ok(Vec::new()),
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
    let mut fields = Fields::new(value.clone(), path)?;
    match fields.need_text("type")?.as_str() {
        "input_text" | "output_text" | "text" => Ok(Block::Text {
            text: fields.need_text("text")?,
            cache: None,
            citations: fields
                .any("annotations")
                .filter(|it| it.as_array().is_some_and(|it| !it.is_empty())),
        }),
        "refusal" => Ok(Block::Refusal { text: fields.need_text("refusal")? }),
        "input_image" => image(fields),
        "input_file" => file(fields),
        "input_audio" => audio(fields),
        _ => Ok(Block::Opaque { dialect: NAME, value }),
    }
}

fn image(mut fields: Fields) -> Result<Block, Error> {
    let detail = fields.text("detail")?;
    let source = match (fields.text("image_url")?, fields.text("file_id")?) {
        (Some(url), None) => address(url, None),
        (None, Some(id)) => Source::File { id },
        _ => return Err(fields.wrong("image_url", "is required, or `file_id`, but not both")),
    };
    Ok(Block::Image { source, detail, cache: None })
}

fn file(mut fields: Fields) -> Result<Block, Error> {
    let title = fields.text("filename")?;
    let (data, id, url) =
        (fields.text("file_data")?, fields.text("file_id")?, fields.text("file_url")?);
    let source = match (data, id, url) {
        (Some(data), None, None) => address(data, Some("application/pdf")),
        (None, Some(id), None) => Source::File { id },
        (None, None, Some(url)) => address(url, None),
        _ => {
            return Err(
                fields.wrong("file_data", "is required, or `file_id`, or `file_url`, but one only")
            );
        }
    };
    Ok(Block::Document { source, title, cache: None })
}

fn audio(mut fields: Fields) -> Result<Block, Error> {
    let mut audio = fields
        .object("input_audio")?
        .ok_or_else(|| fields.wrong("input_audio", "is required, as an object"))?;
    let format = audio.need_text("format")?;
    let data = audio.need_text("data")?;
    let media_type =
        if format == "mp3" { "audio/mpeg".to_owned() } else { format!("audio/{format}") };
    Ok(Block::Audio { source: Source::Base64 { media_type, data } })
}

/// Writes a part of a turn. `None`: this dialect has no such part; it is noted in `lost`.
pub(super) fn encode(
    block: &Block,
    caller: &str,
    path: &str,
    lost: &mut Lost,
) -> Result<Option<Value>, Error> {
    let foreign = |caller: &str| !caller.starts_with("openai");
    Ok(match block {
        Block::Text { text, .. } => Some(json!({"type": "input_text", "text": text})),
        Block::Refusal { text } => Some(json!({"type": "refusal", "refusal": text})),
        Block::Image { source, detail, .. } => {
            let detail = detail.as_deref().unwrap_or("auto");
            Some(match source {
                Source::Base64 { media_type, data } => {
                    let url = data_address(media_type, data);
                    json!({"type": "input_image", "image_url": url, "detail": detail})
                }
                Source::Url { url, .. } => {
                    json!({"type": "input_image", "image_url": url, "detail": detail})
                }
                Source::File { id } if !foreign(caller) => {
                    json!({"type": "input_image", "file_id": id, "detail": detail})
                }
                Source::File { .. } | Source::Text { .. } => return Err(not_here(path)),
            })
        }
        Block::Document { source, title, .. } => Some(match source {
            Source::Base64 { media_type, data } => {
                let name = title.as_deref().unwrap_or("document.pdf");
                json!({"type": "input_file", "filename": name, "file_data": data_address(media_type, data)})
            }
            Source::Url { url, .. } => json!({"type": "input_file", "file_url": url}),
            Source::Text { text } => {
                let text =
                    title.as_ref().map_or_else(|| text.clone(), |it| format!("{it}\n\n{text}"));
                json!({"type": "input_text", "text": text})
            }
            Source::File { id } if !foreign(caller) => json!({"type": "input_file", "file_id": id}),
            Source::File { .. } => return Err(not_here(path)),
        }),
        Block::Audio { source: Source::Base64 { media_type, data } } => {
            let format = media_type.strip_prefix("audio/").unwrap_or(media_type);
            let format = if format == "mpeg" { "mp3" } else { format };
            Some(json!({"type": "input_audio", "input_audio": {"data": data, "format": format}}))
        }
        Block::Audio { .. } => {
            return Err(json::field(path, "OpenAI takes sound as base64 only"));
        }
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

fn not_here(path: &str) -> Error {
    json::field(
        path,
        "the file lies in another vendor's store: send its bytes as base64 or its address",
    )
}
