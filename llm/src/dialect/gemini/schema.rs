//! Gemini's `Schema`, which is nearly that of `OpenAPI` 3.0, and JSON schema.

use serde_json::{Map, Value, json};

use crate::json::snake_case;

/// What means the same in both and has no schema inside.
const PLAIN: &[&str] = &[
    "title",
    "description",
    "default",
    "required",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minProperties",
    "maxProperties",
    "pattern",
];

/// Formats that `Schema` has, by type.
const FORMATS: &[(&str, &str)] = &[
    ("string", "date-time"),
    ("number", "float"),
    ("number", "double"),
    ("integer", "int32"),
    ("integer", "int64"),
];

/// JSON schema as a `Schema` that says exactly the same, or `None` where it cannot.
pub(super) fn to_gemini(schema: &Value) -> Option<Value> {
    let given = schema.as_object()?;
    let mut written = Map::new();
    let (kind, nullable) = kind_of(given)?;
    if let Some(kind) = kind {
        written.insert("type".to_owned(), json!(kind.to_ascii_uppercase()));
    }
    if nullable {
        written.insert("nullable".to_owned(), Value::Bool(true));
    }
    for (key, value) in given {
        match key.as_str() {
            "type" | "nullable" | "$schema" => continue,
            "enum" => {
                // Values of a `Schema` are strings.
                let is_text =
                    kind == Some("string") && value.as_array()?.iter().all(Value::is_string);
                is_text.then_some(())?;
            }
            "format" => {
                let format = value.as_str()?;
                FORMATS.iter().find(|(of, known)| kind == Some(*of) && format == *known)?;
            }
            "properties" => {
                let properties = value.as_object()?.iter();
                let properties =
                    properties.map(|(name, property)| Some((name.clone(), to_gemini(property)?)));
                written.insert(key.clone(), Value::Object(properties.collect::<Option<_>>()?));
                continue;
            }
            "items" => {
                written.insert(key.clone(), to_gemini(value)?);
                continue;
            }
            "anyOf" => {
                let variants = value.as_array()?.iter().map(to_gemini).collect::<Option<_>>()?;
                written.insert(key.clone(), Value::Array(variants));
                continue;
            }
            plain => {
                PLAIN.contains(&plain).then_some(())?;
            }
        }
        written.insert(key.clone(), value.clone());
    }
    Some(Value::Object(written))
}

/// The one type that is not null, and whether null is allowed.
fn kind_of(given: &Map<String, Value>) -> Option<(Option<&str>, bool)> {
    let nullable = given.get("nullable").and_then(Value::as_bool).unwrap_or(false);
    match given.get("type") {
        None => Some((None, nullable)),
        Some(Value::String(kind)) => Some((Some(kind), nullable)),
        Some(Value::Array(kinds)) => {
            let mut others = kinds.iter().filter(|kind| *kind != "null");
            let kind = others.next()?.as_str()?;
            others.next().is_none().then_some((Some(kind), kinds.iter().any(|kind| kind == "null")))
        }
        Some(_) => None,
    }
}

/// A `Schema` as JSON schema. What is not a `Schema` stays as it is.
pub(super) fn from_gemini(schema: Value) -> Value {
    let Value::Object(mut given) = schema else { return schema };
    let mut take = |key: &str| {
        let value = given.shift_remove(key);
        value.or_else(|| given.shift_remove(&snake_case(key)))
    };
    let mut written = Map::new();
    let nullable = take("nullable") == Some(Value::Bool(true));
    match take("type") {
        Some(Value::String(kind)) if kind != "TYPE_UNSPECIFIED" => {
            let kind = kind.to_ascii_lowercase();
            let kind = if nullable { json!([kind, "null"]) } else { json!(kind) };
            written.insert("type".to_owned(), kind);
        }
        Some(Value::String(_)) | None => {}
        Some(other) => {
            written.insert("type".to_owned(), other);
        }
    }
    for key in PLAIN {
        if let Some(value) = take(key) {
            written.insert((*key).to_owned(), unquoted(key, value));
        }
    }
    if let Some(format) = take("format").filter(|format| format != "enum") {
        written.insert("format".to_owned(), format);
    }
    if let Some(values) = take("enum") {
        written.insert("enum".to_owned(), values);
    }
    if let Some(Value::Object(properties)) = take("properties") {
        let properties =
            properties.into_iter().map(|(name, property)| (name, from_gemini(property))).collect();
        written.insert("properties".to_owned(), Value::Object(properties));
    }
    if let Some(items) = take("items") {
        written.insert("items".to_owned(), from_gemini(items));
    }
    if let Some(Value::Array(variants)) = take("anyOf") {
        written.insert("anyOf".to_owned(), variants.into_iter().map(from_gemini).collect());
    }
    if let Some(example) = take("example") {
        written.insert("examples".to_owned(), json!([example]));
    }
    take("propertyOrdering");
    written.extend(given);
    Value::Object(written)
}

/// Protobuf writes 64-bit integers as strings.
fn unquoted(key: &str, value: Value) -> Value {
    let is_count = key.starts_with("min") || key.starts_with("max");
    match value.as_str().and_then(|text| text.parse::<i64>().ok()) {
        Some(number) if is_count => json!(number),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{from_gemini, to_gemini};

    #[test]
    fn a_schema_goes_there_and_back() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where.", "enum": ["Paris", "Oslo"]},
                "days": {"type": ["integer", "null"], "format": "int32", "minimum": 1},
                "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
                "either": {"anyOf": [{"type": "number"}, {"type": "boolean"}]}
            },
            "required": ["city"]
        });
        let gemini = to_gemini(&schema).unwrap();
        assert_eq!(
            gemini["properties"]["days"],
            json!({"type": "INTEGER", "nullable": true, "format": "int32", "minimum": 1})
        );
        assert_eq!(from_gemini(gemini), schema);
    }

    #[test]
    fn what_a_schema_cannot_say_is_not_half_said() {
        for schema in [
            json!({"type": "object", "additionalProperties": false}),
            json!({"$ref": "#/$defs/A"}),
            json!({"type": ["integer", "string"]}),
            json!({"type": "integer", "enum": [1, 2]}),
            json!({"type": "string", "format": "email"}),
            json!({"type": "array", "items": {"oneOf": []}}),
            json!(true),
        ] {
            assert_eq!(to_gemini(&schema), None, "{schema}");
        }
    }

    #[test]
    fn protobufs_spellings_are_read() {
        let schema = json!({"type": "ARRAY", "min_items": "2", "any_of": [{"type": "STRING", "format": "enum", "enum": ["a"]}], "property_ordering": ["x"]});
        let expected: Value =
            json!({"type": "array", "minItems": 2, "anyOf": [{"type": "string", "enum": ["a"]}]});
        assert_eq!(from_gemini(schema), expected);
    }
}
