//! Allowed tools, in each vendor's own format, put into a request on its way.
//!
//! A request's bytes stay as they are but for the `tools` array, which is filled in front of its end or made.

mod gemini;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::cache::Cache;
use super::catalog::{Catalog, ToolEntry};
use super::json::{self, Fields};
use super::scope::{Filter, Grants, Scope};
use crate::error::{Code, Error};

/// About how many bytes of prepared tools, and of what they are found by, are kept.
const SHELF_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A vendor's request format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI Responses.
    Responses,
    /// Anthropic messages.
    Anthropic,
    /// Gemini `generateContent`.
    Gemini,
}

impl Format {
    /// The format of the dialect of that name, where tools can be put into it.
    #[must_use]
    pub fn of_dialect(name: &str) -> Option<Self> {
        match name {
            "openai" | "openai_chat" | "chat" => Some(Self::Chat),
            "openai_responses" | "responses" => Some(Self::Responses),
            "anthropic" => Some(Self::Anthropic),
            "gemini" => Some(Self::Gemini),
            _ => None,
        }
    }
}

/// Tools ready to be put into requests. Built once for what a caller may use, not once a request.
#[derive(Debug, Default)]
pub struct Prepared {
    tools: Vec<(String, String)>,
    /// All definitions, as they stand in a request that brings none of these names.
    all: String,
    format: Option<Format>,
}

impl Prepared {
    /// The tools that `scope` permits, in the catalogue's order.
    #[must_use]
    pub fn new(scope: &Scope, catalog: &Catalog, format: Format) -> Self {
        let tools: Vec<(String, String)> = scope
            .tools(catalog)
            .map(|tool| (scope.name(tool).to_owned(), definition(scope.name(tool), tool, format)))
            .collect();
        let all = joined(tools.iter().map(|it| it.1.as_str()), format);
        Self { tools, all, format: Some(format) }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tools.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// The request with the tools in it; `None` where nothing is added, so that its bytes pass as they are.
    ///
    /// Tools whose name the caller sent itself are left out: its own definition stands. With `tool_choice: none`
    /// nothing is added.
    ///
    /// # Errors
    ///
    /// [`Code::InvalidJson`], [`Code::DuplicateField`] or [`Code::InvalidField`] where the request cannot be read
    /// one way only.
    pub fn put_into(&self, body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Some(format) = self.format.filter(|_| !self.tools.is_empty()) else { return Ok(None) };
        let text = std::str::from_utf8(body)
            .map_err(|_| Error::new(Code::InvalidJson, "the body is not UTF-8"))?;
        let fields = Fields::read(text, &["tools", "tool_choice"]).map_err(|it| fault(&it))?;
        if wants_none(&fields) {
            return Ok(None);
        }
        let present = fields.get("tools").filter(|it| it.get() != "null");
        let taken = present.map_or_else(|| Ok(HashSet::new()), |it| names(it, format))?;
        if !self.tools.iter().any(|(name, _)| taken.contains(name)) {
            return Ok(Some(splice(text, &fields, &self.all)));
        }
        let mut wanted =
            self.tools.iter().filter(|(name, _)| !taken.contains(name)).map(|it| it.1.as_str());
        let Some(first) = wanted.next() else { return Ok(None) };
        let addition = joined(std::iter::once(first).chain(wanted), format);
        Ok(Some(splice(text, &fields, &addition)))
    }

    fn bytes(&self) -> usize {
        let tools = self.tools.iter().map(|(name, definition)| name.len() + definition.len());
        self.all.len() + tools.sum::<usize>()
    }
}

/// Definitions as they stand in a list of tools.
fn joined<'d>(definitions: impl Iterator<Item = &'d str>, format: Format) -> String {
    let mut text = String::new();
    for definition in definitions {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(definition);
    }
    if format == Format::Gemini { format!(r#"{{"functionDeclarations":[{text}]}}"#) } else { text }
}

/// What prepared tools follow from. Not who asked: keys that may use the same tools share them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PreparedKey {
    grants: Grants,
    filter: Arc<Filter>,
    format: Format,
}

/// Tools that were prepared before.
#[derive(Debug)]
pub struct Shelf(Cache<PreparedKey, Prepared>);

impl Default for Shelf {
    fn default() -> Self {
        Self(Cache::new(SHELF_BYTES_MAX))
    }
}

impl Shelf {
    /// Every tool that the caller of `scope` may use, narrowed by its filter.
    #[must_use]
    pub fn all_of(&self, scope: &Scope, catalog: &Arc<Catalog>, format: Format) -> Arc<Prepared> {
        let key = PreparedKey {
            grants: scope.caller().grants(),
            filter: Arc::clone(scope.filter()),
            format,
        };
        self.0.get_or_make(
            catalog,
            key,
            |_| Prepared::new(scope, catalog, format),
            |key, it| key.grants.bytes() + key.filter.bytes() + it.bytes(),
        )
    }
}

/// The body with `addition` at the end of its `tools`.
fn splice(text: &str, fields: &Fields<'_>, addition: &str) -> Vec<u8> {
    let mut out = String::with_capacity(text.len() + addition.len() + 16);
    match fields.get("tools") {
        Some(tools) => {
            // The raw value is a part of `text`, so where it begins is where it lies in it.
            let start = tools.get().as_ptr().addr() - text.as_ptr().addr();
            let end = start + tools.get().len();
            let array = if tools.get() == "null" { "[]" } else { tools.get() };
            let inner = array.strip_suffix(']').unwrap_or(array).trim_end();
            out.push_str(&text[..start]);
            out.push_str(inner);
            if !inner.ends_with('[') {
                out.push(',');
            }
            out.push_str(addition);
            out.push(']');
            out.push_str(&text[end..]);
        }
        None => {
            let body = text.trim_end();
            let inner = body.trim_end_matches('}').trim_end();
            let cut = if fields.iter().next().is_none() { inner.len() } else { body.len() - 1 };
            out.push_str(body[..cut].trim_end());
            if fields.iter().next().is_some() {
                out.push(',');
            }
            out.push_str(r#""tools":["#);
            out.push_str(addition);
            out.push_str("]}");
        }
    }
    out.into_bytes()
}

/// Whether the caller wants no tool called at all. Only OpenAI's and Anthropic's spellings; Gemini's mode is left
/// to Gemini, which accepts tools beside it.
fn wants_none(fields: &Fields<'_>) -> bool {
    match fields.get("tool_choice").map(RawValue::get) {
        Some(r#""none""#) => true,
        Some(choice) => serde_json::from_str::<Value>(choice)
            .is_ok_and(|it| it.get("type").and_then(Value::as_str) == Some("none")),
        None => false,
    }
}

/// The names of the tools that the caller sent.
fn names(tools: &RawValue, format: Format) -> Result<HashSet<String>, Error> {
    let tools: Vec<Value> = serde_json::from_str(tools.get())
        .map_err(|_| Error::field("tools", "must be a list of tools"))?;
    let mut names = HashSet::new();
    for tool in &tools {
        let text = |it: &Value| it.get("name").and_then(Value::as_str).map(str::to_owned);
        match format {
            Format::Chat => names.extend(tool.get("function").and_then(text)),
            Format::Responses | Format::Anthropic => names.extend(text(tool)),
            Format::Gemini => {
                for key in ["functionDeclarations", "function_declarations"] {
                    let declared = tool.get(key).and_then(Value::as_array);
                    names.extend(declared.into_iter().flatten().filter_map(text));
                }
            }
        }
    }
    Ok(names)
}

/// One tool in a vendor's format, as JSON text.
fn definition(name: &str, tool: &ToolEntry, format: Format) -> String {
    let description = (!tool.description.is_empty()).then_some(&*tool.description);
    let schema = object_schema(&tool.input_schema);
    let mut out = serde_json::Map::new();
    out.insert("name".to_owned(), name.into());
    if let Some(description) = description {
        out.insert("description".to_owned(), description.into());
    }
    match format {
        Format::Chat => {
            out.insert("parameters".to_owned(), schema);
            json::text(&serde_json::json!({ "type": "function", "function": out }))
        }
        Format::Responses => {
            out.insert("parameters".to_owned(), schema);
            // Responses is strict where nothing is said, and strict schemas are a narrower kind than MCP's.
            out.insert("strict".to_owned(), false.into());
            let mut tool = serde_json::Map::new();
            tool.insert("type".to_owned(), "function".into());
            tool.extend(out);
            json::text(&tool)
        }
        Format::Anthropic => {
            out.insert("input_schema".to_owned(), schema);
            json::text(&out)
        }
        Format::Gemini => {
            // A function without parameters has none: Gemini refuses an object without properties.
            if let Some(schema) = gemini::parameters(&schema) {
                out.insert("parameters".to_owned(), schema);
            }
            json::text(&out)
        }
    }
}

/// The schema as an object schema: vendors refuse one without `type: object` and `properties`.
fn object_schema(schema: &Value) -> Value {
    let mut object = schema.as_object().cloned().unwrap_or_default();
    object.remove("$schema");
    object.insert("type".to_owned(), "object".into());
    if !object.get("properties").is_some_and(Value::is_object) {
        object.insert("properties".to_owned(), Value::Object(serde_json::Map::new()));
    }
    Value::Object(object)
}

fn fault(fault: &json::Fault) -> Error {
    match fault {
        json::Fault::Syntax { .. } | json::Fault::NotObject => {
            Error::new(Code::InvalidJson, format!("the body {fault}"))
        }
        json::Fault::Twice { key }
        | json::Fault::LooksLike { key, .. }
        | json::Fault::Odd { key } => {
            let key = key.clone();
            Error::new(Code::DuplicateField, fault.to_string()).with_param(key)
        }
    }
}

#[cfg(test)]
mod tests;
