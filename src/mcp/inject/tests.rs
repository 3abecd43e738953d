use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Format, Prepared, Shelf, gemini};
use crate::mcp::scope::Scope;
use crate::mcp::scope::tests::{FakeCaller, catalog_of};

fn prepared(format: Format) -> Prepared {
    let schema = json!({ "$schema": "x", "type": "object", "properties": { "q": { "type": "string" } }, "required": ["q"] });
    let catalog = catalog_of(&[("a", &["x", "y"]), ("b", &["z"])], &schema);
    let scope = Scope::all(Arc::new(FakeCaller::new(&["a/*"])), Arc::default());
    Prepared::new(&scope, &catalog, format)
}

fn put(format: Format, body: &str) -> Option<String> {
    prepared(format).put_into(body.as_bytes()).unwrap().map(|it| String::from_utf8(it).unwrap())
}

#[test]
fn tools_are_prepared_once_for_who_may_use_them() {
    let catalog = catalog_of(&[("a", &["x"]), ("b", &["z"])], &json!({ "type": "object" }));
    let shelf = Shelf::default();
    let of = |name: &str, patterns: &[&str], format: Format| {
        let mut caller = FakeCaller::new(patterns);
        caller.name = name.to_owned();
        let scope = Scope::all(Arc::new(caller), Arc::default());
        shelf.all_of(&scope, &catalog, format)
    };
    let first = of("one", &["a/*"], Format::Chat);
    assert!(Arc::ptr_eq(&first, &of("one", &["a/*"], Format::Chat)));
    assert!(Arc::ptr_eq(&first, &of("another", &["a/*"], Format::Chat)), "its grants are equal");
    let body = |it: &Prepared| String::from_utf8(it.put_into(b"{}").unwrap().unwrap()).unwrap();
    assert!(body(&first).contains("a-x") && !body(&first).contains("b-z"));
    // Another key, the same one with other tools, another dialect: nothing of the first is given.
    assert!(!body(&of("two", &["b/*"], Format::Chat)).contains("a-x"));
    assert!(!body(&of("one", &["b/*"], Format::Chat)).contains("a-x"));
    assert!(body(&of("one", &["a/*"], Format::Anthropic)).contains("input_schema"));
}

#[test]
fn each_vendor_gets_its_own_format() {
    let parameters =
        json!({ "type": "object", "properties": { "q": { "type": "string" } }, "required": ["q"] });
    let tools = |format| {
        let body: Value = serde_json::from_str(&put(format, "{}").unwrap()).unwrap();
        body["tools"].clone()
    };
    assert_eq!(
        tools(Format::Chat)[0],
        json!({ "type": "function", "function": { "name": "a-x", "description": "does x", "parameters": parameters } })
    );
    assert_eq!(
        tools(Format::Responses)[1],
        json!({ "type": "function", "name": "a-y", "description": "does y", "parameters": parameters, "strict": false })
    );
    assert_eq!(
        tools(Format::Anthropic)[0],
        json!({ "name": "a-x", "description": "does x", "input_schema": parameters })
    );
    assert_eq!(
        tools(Format::Gemini),
        json!([{ "functionDeclarations": [
            { "name": "a-x", "description": "does x", "parameters": { "type": "OBJECT", "properties": { "q": { "type": "STRING" } }, "required": ["q"] } },
            { "name": "a-y", "description": "does y", "parameters": { "type": "OBJECT", "properties": { "q": { "type": "STRING" } }, "required": ["q"] } },
        ] }])
    );
    assert_eq!(tools(Format::Chat).as_array().unwrap().len(), 2, "b/z is not allowed");
}

#[test]
fn all_other_bytes_stay() {
    let body = "{ \"model\": \"m\",\n \"tools\" : [ {\"type\":\"function\",\"function\":{\"name\":\"own\"}} ] , \"n\":1.0 }\n";
    let out = put(Format::Chat, body).unwrap();
    assert!(out.starts_with("{ \"model\": \"m\",\n \"tools\" : [ {\"type\":\"function\",\"function\":{\"name\":\"own\"}},{\"type\""), "{out}");
    assert!(out.ends_with("}}] , \"n\":1.0 }\n"), "{out}");
    let out = put(Format::Chat, "{\"model\":\"m\", \"n\":{} }\n").unwrap();
    assert!(out.starts_with("{\"model\":\"m\", \"n\":{},\"tools\":[{"), "{out}");
    for body in [
        "{}",
        " { } ",
        r#"{"tools":null}"#,
        r#"{"tools":[]}"#,
        r#"{"tools":[ ],"a":{"tools":[1]}}"#,
    ] {
        let out: Value = serde_json::from_str(&put(Format::Chat, body).unwrap()).unwrap();
        assert_eq!(out["tools"].as_array().unwrap().len(), 2, "{body}");
    }
}

#[test]
fn what_the_caller_sent_itself_stands() {
    let body = r#"{"tools":[{"type":"function","function":{"name":"a-x","description":"mine"}}]}"#;
    let out: Value = serde_json::from_str(&put(Format::Chat, body).unwrap()).unwrap();
    let names: Vec<_> = out["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["function"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a-x", "a-y"]);
    assert_eq!(out["tools"][0]["function"]["description"], "mine");
    let both = r#"{"tools":[{"name":"a-x"},{"name":"a-y"}]}"#;
    assert_eq!(put(Format::Anthropic, both), None);
    let both = r#"{"tools":[{"functionDeclarations":[{"name":"a-x"}]},{"function_declarations":[{"name":"a-y"}]}]}"#;
    assert_eq!(put(Format::Gemini, both), None);
}

#[test]
fn who_wants_no_tool_gets_none() {
    assert_eq!(put(Format::Chat, r#"{"tool_choice":"none"}"#), None);
    assert_eq!(put(Format::Anthropic, r#"{"tool_choice":{"type":"none"}}"#), None);
    assert!(put(Format::Chat, r#"{"tool_choice":"auto"}"#).is_some());
    assert_eq!(Prepared::default().put_into(b"not even JSON").unwrap(), None);
}

#[test]
fn a_request_that_reads_two_ways_is_refused() {
    let code = |body: &[u8]| prepared(Format::Chat).put_into(body).unwrap_err().code.name();
    assert_eq!(code(br#"{"tools":[],"tools":[]}"#), "duplicate_field");
    assert_eq!(code(br#"{"Tools":[]}"#), "duplicate_field");
    assert_eq!(code(br#"{"tools":{}}"#), "invalid_field");
    assert_eq!(code(b"{"), "invalid_json");
    assert_eq!(code(b"\xff"), "invalid_json");
}

#[test]
fn schemas_become_what_gemini_takes() {
    let check = |schema: Value, expected: Value| {
        let whole = json!({ "type": "object", "properties": { "p": schema }, "$defs": { "d": { "type": "integer", "minimum": 1 }, "loop": { "type": "array", "items": { "$ref": "#/$defs/loop" } } } });
        assert_eq!(gemini::parameters(&whole).unwrap()["properties"]["p"], expected, "{whole}");
    };
    check(json!({ "type": ["string", "null"] }), json!({ "nullable": true, "type": "STRING" }));
    check(
        json!({ "type": ["string", "integer"] }),
        json!({ "anyOf": [{ "type": "STRING" }, { "type": "INTEGER" }] }),
    );
    check(json!({ "$ref": "#/$defs/d" }), json!({ "minimum": 1, "type": "INTEGER" }));
    check(json!({ "const": "a" }), json!({ "type": "STRING", "format": "enum", "enum": ["a"] }));
    check(json!({ "type": "integer", "enum": [1, 2] }), json!({ "type": "INTEGER" }));
    check(json!({ "type": "array" }), json!({ "type": "ARRAY", "items": { "type": "STRING" } }));
    check(
        json!({ "anyOf": [{ "type": "number" }, { "type": "null" }], "title": "t" }),
        json!({ "title": "t", "nullable": true, "type": "NUMBER" }),
    );
    check(
        json!({ "allOf": [{ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"] }, { "properties": { "b": { "type": "boolean" } }, "required": ["b", "ghost"] }] }),
        json!({ "type": "OBJECT", "properties": { "a": { "type": "STRING" }, "b": { "type": "BOOLEAN" } }, "required": ["a", "b"] }),
    );
    check(
        json!({ "type": "object", "additionalProperties": false, "properties": {}, "x-mcp-header": "H" }),
        json!({ "type": "OBJECT", "properties": {} }),
    );
    check(json!(true), json!({ "type": "OBJECT" }));
    // A schema that contains itself ends.
    let endless = json!({ "type": "object", "properties": { "p": { "$ref": "#/$defs/loop" } }, "$defs": { "loop": { "type": "array", "items": { "$ref": "#/$defs/loop" } } } });
    assert!(gemini::parameters(&endless).is_some());
    assert_eq!(gemini::parameters(&json!({ "type": "object" })), None);
}

proptest! {
    #[test]
    fn noise_never_panics_and_good_json_stays_good(body in r#"\{("(a|tools|x)":(\[\]|\[\{\}\]|1|null|"\}"|\{\}) ?,? ?){0,4}\} ?"#) {
        if let Ok(Some(out)) = prepared(Format::Chat).put_into(body.as_bytes()) {
            let out: Value = serde_json::from_slice(&out).unwrap();
            prop_assert!(2 <= out["tools"].as_array().unwrap().len());
        }
    }
}
