//! One tool call in each vendor's shape, and the answer to it in the same.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Format;
use crate::error::{Code, Error};
use crate::mcp::json::{self, Fault, Fields, is_object};
use crate::mcp::result::{Part, Rendered};

const CALL: &[&str] =
    &["type", "id", "function", "name", "arguments", "call_id", "input", "functionCall"];
const FUNCTION: &[&str] = &["name", "arguments", "args", "id"];
const EXPECTED: &str = "the body must be one tool call as the model returned it: OpenAI chat \
    (`{\"id\", \"type\": \"function\", \"function\": {\"name\", \"arguments\"}}`), Responses (`function_call`), \
    Anthropic (`tool_use`) or Gemini (`functionCall`)";

/// A tool call.
#[derive(Debug, Clone)]
pub(super) struct ToolCall {
    /// Whose shape it has.
    pub(super) format: Format,
    /// The call's id. Gemini may have none.
    pub(super) id: Option<String>,
    /// The tool, in the flat name space.
    pub(super) name: String,
    /// The arguments: a JSON object, or what stands where one should.
    pub(super) arguments: Box<RawValue>,
}

impl ToolCall {
    /// Reads a body.
    pub(super) fn read(body: &Bytes, query: Option<&str>) -> Result<Self, Error> {
        let text = std::str::from_utf8(body)
            .map_err(|_| Error::new(Code::InvalidJson, "the body is not UTF-8"))?;
        let fields = Fields::read(text, CALL).map_err(|it| fault(&it, ""))?;
        let kind = fields.text("type");
        let call = match kind.as_deref() {
            Some("function_call") => Self::responses(&fields)?,
            Some("tool_use") => Self::anthropic(&fields)?,
            _ if fields.get("function").is_some() => Self::chat(&fields)?,
            _ if fields.get("functionCall").is_some() => Self::gemini(&fields)?,
            _ => return Err(Error::new(Code::InvalidField, EXPECTED)),
        };
        call.agrees(query)?;
        Ok(call)
    }

    fn chat(fields: &Fields<'_>) -> Result<Self, Error> {
        let function = nested(fields, "function")?;
        Ok(Self {
            format: Format::Chat,
            id: Some(text(fields, "id", "id")?),
            name: text(&function, "name", "function.name")?,
            arguments: written(&function, "arguments", "function.arguments")?,
        })
    }

    fn responses(fields: &Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            format: Format::Responses,
            id: Some(text(fields, "call_id", "call_id")?),
            name: text(fields, "name", "name")?,
            arguments: written(fields, "arguments", "arguments")?,
        })
    }

    fn anthropic(fields: &Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            format: Format::Anthropic,
            id: Some(text(fields, "id", "id")?),
            name: text(fields, "name", "name")?,
            arguments: object(fields, "input", "input")?,
        })
    }

    fn gemini(fields: &Fields<'_>) -> Result<Self, Error> {
        let function = nested(fields, "functionCall")?;
        let id =
            function.get("id").map(|_| text(&function, "id", "functionCall.id")).transpose()?;
        Ok(Self {
            format: Format::Gemini,
            id,
            name: text(&function, "name", "functionCall.name")?,
            arguments: object(&function, "args", "functionCall.args")?,
        })
    }

    /// `format=` must not contradict the shape.
    fn agrees(&self, query: Option<&str>) -> Result<(), Error> {
        let asked = query
            .into_iter()
            .flat_map(|it| url::form_urlencoded::parse(it.as_bytes()))
            .find(|(key, _)| key == "format");
        match (asked.as_ref().map(|it| it.1.as_ref()), self.format) {
            (None, _)
            | (Some("chat"), Format::Chat)
            | (Some("responses"), Format::Responses)
            | (Some("anthropic"), Format::Anthropic)
            | (Some("gemini"), Format::Gemini) => Ok(()),
            (Some("chat" | "responses" | "anthropic" | "gemini"), _) => Err(Error::field(
                "format",
                "names another shape than the body has; leave it out, or send that shape",
            )),
            (Some(_), _) => {
                Err(Error::field("format", "must be `chat`, `responses`, `anthropic` or `gemini`"))
            }
        }
    }

    /// Where the name stands.
    pub(super) const fn name_field(&self) -> &'static str {
        match self.format {
            Format::Chat => "function.name",
            Format::Responses | Format::Anthropic => "name",
            Format::Gemini => "functionCall.name",
        }
    }

    /// The message to append.
    pub(super) fn answer(&self, rendered: &Rendered) -> Bytes {
        let answer = match self.format {
            Format::Chat => {
                json!({ "role": "tool", "tool_call_id": self.id, "content": with_mark(rendered, rendered.text()) })
            }
            Format::Responses => {
                json!({ "type": "function_call_output", "call_id": self.id, "output": output(rendered) })
            }
            Format::Anthropic => {
                let content: Vec<Value> = rendered.parts.iter().map(anthropic_block).collect();
                let mut block =
                    json!({ "type": "tool_result", "tool_use_id": self.id, "content": content });
                if rendered.is_error {
                    block["is_error"] = true.into();
                }
                block
            }
            Format::Gemini => self.function_response(rendered),
        };
        json::text(&answer).into()
    }

    /// Gemini takes text as a JSON object and images beside it.
    fn function_response(&self, rendered: &Rendered) -> Value {
        let texts: Vec<&str> = rendered
            .parts
            .iter()
            .filter_map(|it| match it {
                Part::Text(text) => Some(text.as_str()),
                Part::Image { .. } => None,
            })
            .collect();
        let key = if rendered.is_error { "error" } else { "output" };
        let mut response = json!({ "name": self.name, "response": { key: texts.join("\n") } });
        if let Some(id) = &self.id {
            response["id"] = id.as_str().into();
        }
        let images: Vec<Value> = rendered
            .parts
            .iter()
            .filter_map(|it| match it {
                Part::Text(_) => None,
                Part::Image { mime, data } => {
                    Some(json!({ "inlineData": { "mimeType": mime, "data": data } }))
                }
            })
            .collect();
        if !images.is_empty() {
            response["parts"] = images.into();
        }
        json!({ "functionResponse": response })
    }
}

/// OpenAI's dialects have no flag for a tool that failed, so the text says it.
fn with_mark(rendered: &Rendered, text: String) -> String {
    let says_so = text.get(..5).is_some_and(|it| it.eq_ignore_ascii_case("error"));
    if rendered.is_error && !says_so { format!("Error: {text}") } else { text }
}

/// Responses takes text, or a list of text and images.
fn output(rendered: &Rendered) -> Value {
    if !rendered.has_images() {
        return with_mark(rendered, rendered.text()).into();
    }
    let mut parts: Vec<Value> = Vec::new();
    if rendered.is_error {
        parts.push(json!({ "type": "input_text", "text": "Error:" }));
    }
    parts.extend(rendered.parts.iter().map(|it| match it {
        Part::Text(text) => json!({ "type": "input_text", "text": text }),
        Part::Image { mime, data } => {
            json!({ "type": "input_image", "image_url": format!("data:{mime};base64,{data}"), "detail": "auto" })
        }
    }));
    parts.into()
}

fn anthropic_block(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Image { mime, data } => {
            json!({ "type": "image", "source": { "type": "base64", "media_type": mime, "data": data } })
        }
    }
}

fn nested<'a>(fields: &Fields<'a>, key: &'static str) -> Result<Fields<'a>, Error> {
    let raw = fields.get(key).map_or("null", RawValue::get);
    Fields::read(raw, FUNCTION).map_err(|it| fault(&it, key))
}

fn text(fields: &Fields<'_>, key: &str, path: &'static str) -> Result<String, Error> {
    match fields.text(key) {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(Error::field(path, "must be a text that is not empty")),
    }
}

/// Arguments that stand as JSON in a text; some models write the object itself, or nothing.
fn written(fields: &Fields<'_>, key: &str, path: &'static str) -> Result<Box<RawValue>, Error> {
    if fields.get(key).is_some_and(is_object) {
        return object(fields, key, path);
    }
    let text = match fields.get(key).map(|it| serde_json::from_str::<Option<String>>(it.get())) {
        None | Some(Ok(None)) => String::new(),
        Some(Ok(Some(text))) => text,
        Some(Err(_)) => return Err(Error::field(path, "must be the arguments as JSON in a text")),
    };
    if text.trim().is_empty() {
        return Ok(json::raw("{}".to_owned()));
    }
    match RawValue::from_string(text) {
        Ok(raw) if is_object(&raw) => Ok(raw),
        Ok(_) => Err(Error::field(path, "must hold a JSON object")),
        Err(problem) => Err(Error::field(path, format!("is not valid JSON: {problem}"))),
    }
}

fn object(fields: &Fields<'_>, key: &str, path: &'static str) -> Result<Box<RawValue>, Error> {
    match fields.get(key) {
        None => Ok(json::raw("{}".to_owned())),
        Some(raw) if raw.get() == "null" => Ok(json::raw("{}".to_owned())),
        Some(raw) if is_object(raw) => Ok(raw.to_owned()),
        Some(_) => Err(Error::field(path, "must be a JSON object")),
    }
}

fn fault(fault: &Fault, inside: &str) -> Error {
    match fault {
        Fault::Syntax { .. } => Error::new(Code::InvalidJson, format!("the body is {fault}")),
        Fault::NotObject if inside.is_empty() => Error::new(Code::InvalidField, EXPECTED),
        Fault::NotObject => Error::field(inside, "must be a JSON object"),
        Fault::Twice { key } | Fault::LooksLike { key, .. } | Fault::Odd { key } => {
            let dot = if inside.is_empty() { "" } else { "." };
            Error::new(Code::DuplicateField, fault.to_string())
                .with_param(format!("{inside}{dot}{key}"))
        }
    }
}
