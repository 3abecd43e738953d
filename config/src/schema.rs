//! The JSON schema of the file, and the manual that is made of it.

use std::fmt::Write as _;

use althing_domain::object::Kind;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::load::{SETTINGS, Settings};

/// The JSON schema of the whole file.
#[must_use]
pub fn file() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let lists: Vec<(&str, Value)> = Kind::ALL
        .iter()
        .map(|kind| {
            let items = kind.schema(&mut generator);
            (
                kind.field(),
                json!({ "type": "array", "description": list_text(*kind), "items": items }),
            )
        })
        .collect();
    let mut root = generator.into_root_schema_for::<Settings>().to_value();
    if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
        for (field, schema) in lists {
            properties.insert(field.to_owned(), schema);
        }
    }
    if let Some(fields) = root.as_object_mut() {
        fields.insert("title".to_owned(), "Althing configuration".into());
        fields.insert("description".to_owned(), "The file of `althing serve --config`.".into());
    }
    root
}

fn list_text(kind: Kind) -> String {
    format!(
        "Each {kind}. Proposed where the law has no policy yet; afterwards with `althing apply`."
    )
}

/// The manual, as Markdown.
#[must_use]
pub fn manual() -> String {
    let schema = file();
    let mut text = String::from(HEAD);
    let names = SETTINGS.iter().copied().chain(Kind::ALL.iter().map(|it| it.field()));
    let definitions = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in names {
        let Some(property) = schema.pointer(&format!("/properties/{name}")) else { continue };
        section(&mut text, name, property, &definitions);
    }
    text.push_str("\n# Types\n");
    for (name, definition) in &definitions {
        if !SECTION_TYPES.contains(&name.as_str()) {
            let _ = write!(text, "\n<a id=\"{}\"></a>\n## {name}\n", name.to_lowercase());
            about(&mut text, definition);
            describe(&mut text, definition);
        }
    }
    text
}

const HEAD: &str = "<!-- Generated from the types in config/ and domain/ by a test. Do not edit. -->\n
# Configuration

One YAML (or JSON) file, given with `althing serve --config FILE`. Every setting has a default, so no file is needed to start.
Settings of the node come from the file, then from variables such as `ALTHING__LIMITS__BODY`, then from flags; a change needs a
restart. Policy (the lists from `providers` on) is proposed when the node has none yet; afterwards `althing diff` shows what
differs and `althing apply` changes it without a restart. `althing check FILE` tells everything that is wrong with a file.

Lengths of time are written `500ms`, `30s`, `5m`, `6h`, `7d`; sizes `64KiB`, `32MiB`. Secrets are references, `env:NAME` or
`file:/path`, or values, which are sealed before they are stored.
";

/// Types that a section shows in full.
const SECTION_TYPES: [&str; 16] = [
    "Node",
    "Admin",
    "Limits",
    "Browsers",
    "Records",
    "Telemetry",
    "Secrets",
    "Cluster",
    "Tls",
    "Provider",
    "McpServer",
    "ToolGroup",
    "Customer",
    "Team",
    "VirtualKey",
    "Partition",
];

fn section(text: &mut String, name: &str, property: &Value, definitions: &Map<String, Value>) {
    let _ = write!(text, "\n## `{name}`\n");
    if let Some(about) = property.get("description").and_then(Value::as_str) {
        let _ = write!(text, "\n{about}\n");
    }
    if let Some(default) = property.get("default").filter(|it| !it.is_object()) {
        let _ = write!(text, "\nDefault: `{default}`.\n");
    }
    let target = property.get("items").unwrap_or(property);
    match reference(target).and_then(|it| definitions.get(it)) {
        Some(definition) => {
            if property.get("items").is_some() {
                about(text, definition);
            }
            describe(text, definition);
        }
        None => {
            let _ = write!(text, "\nType: {}.\n", type_of(target));
        }
    }
}

fn about(text: &mut String, definition: &Value) {
    if let Some(about) = definition.get("description").and_then(Value::as_str) {
        let _ = write!(text, "\n{}\n", one_line(about));
    }
}

fn describe(text: &mut String, definition: &Value) {
    let variants = definition.get("oneOf").and_then(Value::as_array);
    let maps = variants.into_iter().flatten().filter(|it| it.get("properties").is_some());
    let maps: Vec<_> = maps.collect();
    if !maps.is_empty() && definition.get("properties").is_none() {
        let _ = write!(text, "\nType: {}.\n", type_of(definition));
        maps.into_iter().for_each(|it| describe(text, it));
        return;
    }
    let Some(properties) = definition.get("properties").and_then(Value::as_object) else {
        let _ = write!(text, "\nType: {}.\n", type_of(definition));
        return;
    };
    let required =
        definition.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    text.push_str("\n| field | type | default | |\n|---|---|---|---|\n");
    for (name, field) in properties {
        let about = one_line(field.get("description").and_then(Value::as_str).unwrap_or_default());
        let is_required = required.iter().any(|it| it.as_str() == Some(name));
        let default = match field.get("default") {
            _ if is_required => "required".to_owned(),
            Some(Value::Null) | None => String::new(),
            Some(default) => format!("`{default}`"),
        };
        let _ = writeln!(text, "| `{name}` | {} | {default} | {about} |", type_of(field));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").and_then(Value::as_str);
    let among = || schema.get("anyOf")?.as_array()?.iter().find_map(|it| it.get("$ref")?.as_str());
    direct.or_else(among)?.rsplit('/').next()
}

fn type_of(schema: &Value) -> String {
    if let Some(name) = reference(schema) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let words = |it: &Value| {
        it.as_array().map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
    };
    if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
        let variants: Vec<String> =
            variants.iter().map(|it| constant(it).unwrap_or_else(|| type_of(it))).collect();
        return variants.join(", ");
    }
    if let Some(all) = schema.get("anyOf").and_then(Value::as_array) {
        return all.iter().map(type_of).collect::<Vec<_>>().join(" or ");
    }
    if let Some(all) = schema.get("enum").and_then(words) {
        return all;
    }
    match schema.get("type") {
        Some(Value::String(kind)) if kind == "array" => {
            format!(
                "list of {}",
                schema.get("items").map_or_else(|| "anything".to_owned(), type_of)
            )
        }
        Some(Value::String(kind)) if kind == "object" => match schema.get("additionalProperties") {
            Some(values @ Value::Object(_)) => format!("map to {}", type_of(values)),
            _ => "map".to_owned(),
        },
        Some(Value::String(kind)) => kind.clone(),
        Some(kinds @ Value::Array(_)) => {
            let kinds = words(kinds).unwrap_or_default();
            kinds.replace(", null", "").replace(", ", " or ")
        }
        _ => "anything".to_owned(),
    }
}

fn constant(schema: &Value) -> Option<String> {
    let value = schema.get("const").or_else(|| schema.get("enum")?.as_array()?.first())?;
    Some(format!("`{}`", value.as_str()?))
}

#[cfg(test)]
mod tests;
