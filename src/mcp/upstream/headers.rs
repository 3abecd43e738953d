//! Headers that repeat parts of a modern request, so that what stands between can route without parsing bodies.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// `Mcp-Method` and, where the request names something, `Mcp-Name`.
pub(crate) fn modern(method: &'static str, name: Option<&str>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = vec![(METHOD, HeaderValue::from_static(method))];
    if let Some(value) = name.and_then(|it| HeaderValue::from_str(&encode(it)).ok()) {
        headers.push((NAME, value));
    }
    headers
}

/// `Mcp-Param-…` for the arguments whose schema asks for it with `x-mcp-header`.
pub(crate) fn parameters(schema: &Value, arguments: &Value) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    collect(schema, arguments, &mut headers, 0);
    headers
}

/// How deep annotated properties are looked for. Deeper ones get no header, and the server says so.
const DEPTH_MAX: usize = 8;

fn collect(
    schema: &Value,
    arguments: &Value,
    headers: &mut Vec<(HeaderName, HeaderValue)>,
    depth: usize,
) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (key, property) in properties {
        let Some(argument) = arguments.get(key) else { continue };
        if let Some(header) = property.get("x-mcp-header").and_then(Value::as_str)
            && let Some(text) = primitive(argument)
            && let Ok(name) = HeaderName::from_bytes(format!("mcp-param-{header}").as_bytes())
            && let Ok(value) = HeaderValue::from_str(&encode(&text))
        {
            headers.push((name, value));
        }
        if depth < DEPTH_MAX {
            collect(property, argument, headers, depth + 1);
        }
    }
}

fn primitive(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(it) => Some(it.to_string()),
        Value::Number(it) => Some(it.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `text` as a header value: as it is where it can be, else Base64 in the marks of the specification.
fn encode(text: &str) -> String {
    let is_edge = |it: char| it == ' ' || it == '\t';
    let is_printable = text.chars().all(|c| (' '..='~').contains(&c));
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    let is_plain = is_printable && text.trim_matches(is_edge) == text && !looks_encoded;
    if is_plain { text.to_owned() } else { format!("=?base64?{}?=", BASE64_STANDARD.encode(text)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{encode, modern, parameters};

    #[test]
    fn names_that_cannot_stand_in_a_header_are_encoded() {
        for (text, expected) in [
            ("read_file", "read_file"),
            ("ä", "=?base64?w6Q=?="),
            (" a", "=?base64?IGE=?="),
            ("a\nb", "=?base64?YQpi?="),
            ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
        ] {
            assert_eq!(encode(text), expected);
        }
        assert_eq!(modern("tools/call", Some("t")).len(), 2);
    }

    #[test]
    fn annotated_arguments_become_headers_where_they_are_given() {
        let schema = json!({ "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "n": { "type": "integer", "x-mcp-header": "N" },
            "absent": { "type": "string", "x-mcp-header": "Absent" },
            "bad": { "type": "string", "x-mcp-header": "no good" },
            "deep": { "properties": { "flag": { "type": "boolean", "x-mcp-header": "Flag" } } } } });
        let headers = parameters(
            &schema,
            &json!({ "region": "eu", "n": 3, "bad": "x", "deep": { "flag": true } }),
        );
        let mut shown: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().expect("ASCII")))
            .collect();
        shown.sort();
        assert_eq!(shown, ["mcp-param-flag=true", "mcp-param-n=3", "mcp-param-region=eu"]);
    }
}
