//! What the document says of answers: objects with their number and version, and secrets as they are shown.

use std::collections::BTreeSet;

use althing_domain::object::Kind;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

/// Set before the name of a type whose answers have another form than what is sent.
const PREFIX: &str = "Shown";
const AT: &str = "#/components/schemas/";

/// The definitions of what is taken and what is given. References in `paths` are set right where both have one of a name.
pub(super) fn components(
    mut taken: SchemaGenerator,
    mut given: SchemaGenerator,
    paths: &mut Map<String, Value>,
) -> Map<String, Value> {
    let kinds: BTreeSet<String> =
        Kind::ALL.iter().filter_map(|it| name_of(&it.schema(&mut given).to_value())).collect();
    let mut all = taken.take_definitions(true);
    let mut answers = given.take_definitions(true);
    let twice: BTreeSet<String> =
        answers.keys().filter(|it| all.contains_key(*it)).cloned().collect();
    for (name, definition) in &mut answers {
        amend(name, definition, &kinds);
    }
    let mut renamed = Value::Object(answers);
    rename(&mut renamed, &twice);
    for (name, definition) in renamed.as_object_mut().into_iter().flatten() {
        let name = if twice.contains(name) { format!("{PREFIX}{name}") } else { name.clone() };
        all.insert(name, definition.take());
    }
    for path in paths.values_mut() {
        for operation in path.as_object_mut().into_iter().flat_map(|it| it.values_mut()) {
            if let Some(responses) = operation.get_mut("responses") {
                rename(responses, &twice);
            }
        }
    }
    all.insert("Error".to_owned(), super::error());
    all.sort_keys();
    all
}

fn name_of(schema: &Value) -> Option<String> {
    Some(schema.get("$ref")?.as_str()?.strip_prefix(AT)?.to_owned())
}

/// What is added to, or hidden of, a type in answers.
fn amend(name: &str, definition: &mut Value, kinds: &BTreeSet<String>) {
    let time = json!({ "type": "string", "format": "date-time" });
    if name == "Secret" {
        *definition = json!({
            "description": "The reference, where it is one; else that there is a value, which is never shown. A write may send it back to keep it.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "properties": { "set": { "const": true } }, "required": ["set"] },
            ],
        });
    }
    let Some(fields) = definition.as_object_mut() else { return };
    if let Some(resets_at) = fields
        .get_mut("properties")
        .and_then(|it| it.get_mut("resets_at"))
        .filter(|_| name == "View")
    {
        *resets_at = json!({ "type": ["string", "null"], "format": "date-time", "description": "When spending starts again from zero (or, rolling, when the next part of it stops to count)." });
    }
    if !kinds.contains(name) {
        return;
    }
    // A rehearsal shows what would be: without a number, and with fields that are as they were.
    fields.remove("additionalProperties");
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        for number in ["id", "version"] {
            properties.insert(number.to_owned(), json!({ "type": "integer" }));
        }
        for at in ["created_at", "updated_at"] {
            properties.insert(at.to_owned(), time.clone());
        }
    }
}

fn rename(value: &mut Value, twice: &BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "$ref" => {
                        if let Some(of) = text.strip_prefix(AT).filter(|it| twice.contains(*it)) {
                            *text = format!("{AT}{PREFIX}{of}");
                        }
                    }
                    other => rename(other, twice),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|it| rename(it, twice)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
