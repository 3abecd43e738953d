//! Tools that only this dialect has, as functions, and back.
//!
//! A custom tool takes a text where a function takes JSON: as a function it has one argument, `input`. A namespace holds
//! functions: each becomes one whose name begins with the namespace's. Codex has both.

use serde_json::{Value, json};

use super::NAME;
use crate::chat::{Alias, Aliased, Request, Tool};
use crate::dialect::Error;
use crate::hash::fnv;
use crate::json::{Fields, field};

/// The longest name that every vendor takes.
const NAME_BYTES_MAX: usize = 64;

/// The most functions that stand for something else. No vendor takes a tenth of them.
const ALIASES_MAX: usize = 4_096;

/// Notes what a function stands for, once, in the order of functions' names.
pub(super) fn note(request: &mut Request, function: &str, tool: Aliased) -> Result<(), Error> {
    let aliases = &mut request.aliases;
    let Err(place) = aliases.binary_search_by(|it| it.function.as_str().cmp(function)) else {
        return Ok(());
    };
    if aliases.len() == ALIASES_MAX {
        let problem =
            format!("has more than {ALIASES_MAX} custom tools and functions in namespaces");
        return Err(field("tools", problem));
    }
    aliases.insert(place, Alias { function: function.to_owned(), tool });
    Ok(())
}

/// What a function stands for, if for anything but itself. `aliases` are as [`note`] left them.
pub(super) fn find<'a>(aliases: &'a [Alias], function: &str) -> Option<&'a Aliased> {
    let place = aliases.binary_search_by(|it| it.function.as_str().cmp(function)).ok()?;
    aliases.get(place).map(|it| &it.tool)
}

/// The function that stands for a namespace's. The same for the same, and in letters that every vendor takes.
pub(super) fn flat(namespace: &str, name: &str) -> String {
    let separator = if namespace.ends_with("__") { "" } else { "__" };
    let whole = format!("{namespace}{separator}{name}");
    let is_plain = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '-';
    if whole.len() <= NAME_BYTES_MAX && whole.chars().all(is_plain) {
        return whole;
    }
    let plain = whole.chars().map(|it| if is_plain(it) { it } else { '_' });
    let plain: String = plain.take(NAME_BYTES_MAX - 17).collect();
    format!("{plain}_{:016x}", fnv(&[namespace.as_bytes(), name.as_bytes()]))
}

/// A custom tool as a function beside its own definition.
pub(super) fn custom(
    mut fields: Fields,
    written: Value,
    request: &mut Request,
) -> Result<Tool, Error> {
    let name = fields.need_text("name")?;
    let description = fields.text("description")?;
    let mut input = "The tool's input, as plain text.".to_owned();
    if let Some(mut format) = fields.object("format")?
        && let (Some(syntax), Some(definition)) =
            (format.text("syntax")?, format.text("definition")?)
    {
        input = format!(
            "The tool's input, as plain text. It must match this {syntax} grammar:\n{definition}"
        );
    }
    note(request, &name, Aliased::Custom { name: name.clone() })?;
    let parameters = json!({
        "type": "object",
        "properties": {"input": {"type": "string", "description": input}},
        "required": ["input"],
    });
    Ok(Tool {
        name,
        description,
        parameters: Some(parameters),
        strict: None,
        cache: None,
        opaque: Some((NAME, written)),
    })
}

/// A namespace's functions. The first bears the definition of the whole; what is no function is lost elsewhere.
pub(super) fn namespace(
    mut fields: Fields,
    written: Value,
    request: &mut Request,
) -> Result<Vec<Tool>, Error> {
    let namespace = fields.need_text("name")?;
    let path = fields.at("tools");
    let mut written = Some(written);
    let mut tools = Vec::new();
    for (at, value) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        let mut inner = Fields::new(value, format!("{path}[{at}]"))?;
        let name = inner.need_text("name")?;
        let is_function = inner.text("type")?.is_none_or(|it| it == "function");
        let function = flat(&namespace, &name);
        note(request, &function, Aliased::Namespaced { namespace: namespace.clone(), name })?;
        let empty = || json!({"type": "object", "properties": {}});
        let parameters =
            inner.object("parameters")?.map_or_else(empty, |it| Value::Object(it.rest()));
        tools.push(Tool {
            name: function,
            description: inner.text("description")?,
            parameters: is_function.then_some(parameters),
            strict: inner.flag("strict")?,
            cache: None,
            opaque: Some((NAME, written.take().unwrap_or_default())),
        });
    }
    if let Some(written) = written {
        let opaque = Some((NAME, written));
        tools.push(Tool {
            name: namespace,
            description: None,
            parameters: None,
            strict: None,
            cache: None,
            opaque,
        });
    }
    Ok(tools)
}

/// A custom tool's input as a function's arguments.
pub(super) fn arguments(input: &str) -> String {
    json!({"input": input}).to_string()
}

/// A custom tool's input from a function's arguments; whatever a model wrote instead, as it is.
pub(super) fn input(arguments: &str) -> String {
    let parsed = serde_json::from_str::<Value>(arguments).ok();
    match parsed.as_ref().and_then(|it| it.get("input")).and_then(Value::as_str) {
        Some(input) => input.to_owned(),
        None => arguments.to_owned(),
    }
}

/// The item of a call to `function`, as what it stands for. `arguments` is a function's, whole or empty.
pub(super) fn call_item(
    aliases: &[Alias],
    call: &str,
    function: &str,
    arguments: &str,
) -> serde_json::Map<String, Value> {
    let mut item = serde_json::Map::new();
    let mut set = |key: &str, value: Value| item.insert(key.to_owned(), value);
    match find(aliases, function) {
        Some(Aliased::Custom { name }) => {
            set("type", json!("custom_tool_call"));
            set("call_id", json!(call));
            set("name", json!(name));
            set("input", json!(input(arguments)));
        }
        Some(Aliased::Namespaced { namespace, name }) => {
            set("type", json!("function_call"));
            set("call_id", json!(call));
            set("namespace", json!(namespace));
            set("name", json!(name));
            set("arguments", json!(arguments));
        }
        Some(Aliased::Legacy) | None => {
            set("type", json!("function_call"));
            set("call_id", json!(call));
            set("name", json!(function));
            set("arguments", json!(arguments));
        }
    }
    item
}
