//! The subset of JSON schema that Anthropic's structured output takes.

use serde_json::{Map, Value, json};

/// String formats that are taken.
const FORMATS: &[&str] =
    &["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];

/// Fits a schema: objects are closed, `oneOf` becomes `anyOf`, and bounds that the grammar cannot keep
/// move into the description, where the model may still read them.
pub(super) fn fit(schema: Value) -> Value {
    let Value::Object(mut given) = schema else { return schema };
    let mut fitted = Map::new();
    if let Some(Value::Object(defs)) =
        given.shift_remove("$defs").or_else(|| given.shift_remove("definitions"))
    {
        fitted.insert(
            "$defs".to_owned(),
            Value::Object(defs.into_iter().map(|(name, def)| (name, fit(def))).collect()),
        );
    }
    if let Some(Value::String(target)) = given.shift_remove("$ref") {
        fitted
            .insert("$ref".to_owned(), Value::String(target.replace("#/definitions/", "#/$defs/")));
        return Value::Object(fitted);
    }
    given.shift_remove("$schema");
    given.shift_remove("$id");
    for key in ["type", "enum", "const", "title", "description", "default"] {
        keep(&mut given, &mut fitted, key);
    }
    for (key, target) in [("anyOf", "anyOf"), ("oneOf", "anyOf"), ("allOf", "allOf")] {
        if let Some(Value::Array(variants)) = given.shift_remove(key) {
            fitted.insert(target.to_owned(), variants.into_iter().map(fit).collect());
        }
    }
    object(&mut given, &mut fitted);
    array(&mut given, &mut fitted);
    if given.get("format").and_then(Value::as_str).is_some_and(|format| FORMATS.contains(&format)) {
        keep(&mut given, &mut fitted, "format");
    }
    describe(&given, &mut fitted);
    Value::Object(fitted)
}

fn keep(given: &mut Map<String, Value>, fitted: &mut Map<String, Value>, key: &str) {
    if let Some(value) = given.shift_remove(key) {
        fitted.insert(key.to_owned(), value);
    }
}

fn object(given: &mut Map<String, Value>, fitted: &mut Map<String, Value>) {
    let typed = match fitted.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => false,
    };
    if !typed && !given.contains_key("properties") {
        return;
    }
    if let Some(Value::Object(properties)) = given.shift_remove("properties") {
        let fitted_properties =
            properties.into_iter().map(|(name, property)| (name, fit(property))).collect();
        fitted.insert("properties".to_owned(), Value::Object(fitted_properties));
    }
    keep(given, fitted, "required");
    given.shift_remove("additionalProperties");
    fitted.insert("additionalProperties".to_owned(), Value::Bool(false));
}

fn array(given: &mut Map<String, Value>, fitted: &mut Map<String, Value>) {
    if let Some(items) = given.shift_remove("items") {
        fitted.insert("items".to_owned(), fit(items));
    }
    if given.get("minItems").and_then(Value::as_u64).is_some_and(|least| least <= 1) {
        keep(given, fitted, "minItems");
    }
}

fn describe(left: &Map<String, Value>, fitted: &mut Map<String, Value>) {
    if left.is_empty() {
        return;
    }
    let bounds =
        left.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ");
    let described = fitted.get("description").and_then(Value::as_str);
    let text =
        described.map_or_else(|| format!("{{{bounds}}}"), |text| format!("{text}\n\n{{{bounds}}}"));
    fitted.insert("description".to_owned(), json!(text));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::fit;

    #[test]
    fn objects_are_closed_and_bounds_become_words() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "n": {"type": "integer", "minimum": 1, "description": "How many."},
                "of": {"oneOf": [{"$ref": "#/definitions/A"}, {"type": "string", "format": "uri"}]},
                "minimum": {"type": "array", "items": {"type": "object", "properties": {}}, "minItems": 3}
            },
            "required": ["n"],
            "definitions": {"A": {"type": "object", "additionalProperties": true}}
        });
        assert_eq!(
            fit(schema),
            json!({
                "$defs": {"A": {"type": "object", "additionalProperties": false}},
                "type": "object",
                "properties": {
                    "n": {"type": "integer", "description": "How many.\n\n{minimum: 1}"},
                    "of": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "string", "format": "uri"}]},
                    "minimum": {
                        "type": "array",
                        "items": {"type": "object", "properties": {}, "additionalProperties": false},
                        "description": "{minItems: 3}"
                    }
                },
                "required": ["n"],
                "additionalProperties": false
            })
        );
    }
}
