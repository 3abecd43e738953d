//! JSON Schema as Gemini's `Schema`: a subset of `OpenAPI` 3.0 that refuses what it does not know.

use serde_json::{Map, Value, json};

/// How deep a schema goes; below stands anything.
const DEPTH_MAX: usize = 24;
/// How many schemas are written at most: references may multiply them.
const NODES_MAX: usize = 4096;

/// Keywords that both have and that mean the same.
const SAME: [&str; 12] = [
    "title",
    "description",
    "default",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minProperties",
    "maxProperties",
    "pattern",
];

/// The parameters of a function; `None` where it takes none.
pub(super) fn parameters(schema: &Value) -> Option<Value> {
    let mut writer = Writer { root: schema, nodes: 0 };
    let written = writer.schema(schema, 0);
    let is_empty = written.get("properties").and_then(Value::as_object).is_none_or(Map::is_empty);
    (!is_empty).then_some(written)
}

struct Writer<'a> {
    root: &'a Value,
    nodes: usize,
}

impl Writer<'_> {
    fn schema(&mut self, schema: &Value, depth: usize) -> Value {
        self.nodes += 1;
        let anything = || json!({ "type": "OBJECT" });
        let Some(object) = schema.as_object() else { return anything() };
        if DEPTH_MAX < depth || NODES_MAX < self.nodes {
            return anything();
        }
        if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
            let target = reference.strip_prefix('#').and_then(|it| self.root.pointer(it)).cloned();
            return target.map_or_else(anything, |it| self.schema(&it, depth + 1));
        }
        let mut out = Map::new();
        for key in SAME {
            if let Some(value) = object.get(key) {
                out.insert(key.to_owned(), value.clone());
            }
        }
        self.kind(object, &mut out);
        self.choices(object, depth, &mut out);
        self.parts(object, depth, &mut out);
        if out.get("type").is_none() && out.get("anyOf").is_none() {
            out.insert("type".to_owned(), "OBJECT".into());
        }
        Value::Object(out)
    }

    /// `type`, which may be a list with `null` in JSON Schema and is one word and `nullable` here.
    fn kind(&mut self, object: &Map<String, Value>, out: &mut Map<String, Value>) {
        let kinds: Vec<&str> = match object.get("type") {
            Some(Value::String(kind)) => vec![kind],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            _ if object.contains_key("properties") => vec!["object"],
            _ if object.contains_key("items") => vec!["array"],
            _ => Vec::new(),
        };
        let named: Vec<String> =
            kinds.iter().filter(|it| **it != "null").map(|it| it.to_ascii_uppercase()).collect();
        if kinds.len() != named.len() {
            out.insert("nullable".to_owned(), true.into());
        }
        match named.as_slice() {
            [] => {}
            [one] => {
                out.insert("type".to_owned(), one.as_str().into());
            }
            several => {
                let any: Vec<Value> = several.iter().map(|it| json!({ "type": it })).collect();
                out.insert("anyOf".to_owned(), any.into());
            }
        }
    }

    /// `enum`, `const`, `anyOf`, `oneOf`; `allOf` is merged. Enumerations are of text only here.
    fn choices(&mut self, object: &Map<String, Value>, depth: usize, out: &mut Map<String, Value>) {
        let constant = object.get("const").map(std::slice::from_ref);
        let listed = object.get("enum").and_then(Value::as_array).map(Vec::as_slice);
        if let Some(values) = constant.or(listed) {
            let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            if texts.len() == values.len() && !texts.is_empty() {
                out.insert("type".to_owned(), "STRING".into());
                out.insert("format".to_owned(), "enum".into());
                out.insert("enum".to_owned(), texts.into());
            }
        }
        for key in ["anyOf", "oneOf"] {
            let Some(any) = object.get(key).and_then(Value::as_array) else { continue };
            let is_null = |it: &Value| it.get("type").and_then(Value::as_str) == Some("null");
            if any.iter().any(is_null) {
                out.insert("nullable".to_owned(), true.into());
            }
            let mut rest: Vec<Value> =
                any.iter().filter(|it| !is_null(it)).map(|it| self.schema(it, depth + 1)).collect();
            match (rest.pop(), rest.is_empty()) {
                (Some(Value::Object(only)), true) => {
                    for (key, value) in only {
                        out.entry(key).or_insert(value);
                    }
                }
                (Some(last), _) => {
                    rest.push(last);
                    // Beside `anyOf` Gemini takes no other kind.
                    out.remove("type");
                    out.insert("anyOf".to_owned(), rest.into());
                }
                (None, _) => {}
            }
        }
        for part in object.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            if let Value::Object(part) = self.schema(part, depth + 1) {
                merge(out, part);
            }
        }
    }

    fn parts(&mut self, object: &Map<String, Value>, depth: usize, out: &mut Map<String, Value>) {
        if let Some(properties) = object.get("properties").and_then(Value::as_object) {
            let written: Map<String, Value> = properties
                .iter()
                .map(|(name, schema)| (name.clone(), self.schema(schema, depth + 1)))
                .collect();
            let mut part = Map::new();
            part.insert("properties".to_owned(), Value::Object(written));
            merge(out, part);
        }
        if let Some(required) = object.get("required").and_then(Value::as_array) {
            // A required name without a property is refused.
            let has = |name: &Value| {
                let properties = out.get("properties").and_then(Value::as_object);
                name.as_str().is_some_and(|it| properties.is_some_and(|all| all.contains_key(it)))
            };
            let required: Vec<Value> = required.iter().filter(|it| has(it)).cloned().collect();
            if !required.is_empty() {
                let mut part = Map::new();
                part.insert("required".to_owned(), required.into());
                merge(out, part);
            }
        }
        if out.get("type").and_then(Value::as_str) == Some("ARRAY") {
            let items =
                object.get("items").or_else(|| object.get("prefixItems").and_then(|it| it.get(0)));
            let items =
                items.map_or_else(|| json!({ "type": "STRING" }), |it| self.schema(it, depth + 1));
            out.insert("items".to_owned(), items);
        }
    }
}

/// Adds `part` to `out`: objects and lists grow, of other values the first stands.
fn merge(out: &mut Map<String, Value>, part: Map<String, Value>) {
    for (key, value) in part {
        match (out.get_mut(&key), value) {
            (Some(Value::Object(all)), Value::Object(more)) => all.extend(more),
            (Some(Value::Array(all)), Value::Array(more)) => {
                for value in more {
                    if !all.contains(&value) {
                        all.push(value);
                    }
                }
            }
            (Some(_), _) => {}
            (None, value) => {
                out.insert(key, value);
            }
        }
    }
}
