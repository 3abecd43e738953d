use std::sync::Arc;

use althing_domain::policy::McpServer;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Catalog, Offer, build};

fn spec(settings: serde_json::Value) -> Arc<McpServer> {
    Arc::new(serde_json::from_value(settings).expect("settings"))
}

fn raw(definition: &serde_json::Value) -> Arc<RawValue> {
    RawValue::from_string(definition.to_string()).expect("JSON").into()
}

fn offer(settings: serde_json::Value, tools: &[serde_json::Value]) -> Offer {
    Offer { spec: spec(settings), tools: tools.iter().map(raw).collect(), is_ready: true }
}

fn stdio(name: &str) -> serde_json::Value {
    json!({ "name": name, "transport": "stdio", "command": "true" })
}

fn tool(name: &str) -> serde_json::Value {
    json!({ "name": name, "inputSchema": { "type": "object" } })
}

fn names(catalog: &Catalog) -> Vec<&str> {
    catalog.tools.iter().map(|it| &*it.policy).collect()
}

#[test]
fn tools_stand_in_the_order_of_servers_then_as_listed() {
    let offers =
        [offer(stdio("zeta"), &[tool("b"), tool("a")]), offer(stdio("alpha"), &[tool("c")])];
    let catalog = build(&offers, &Catalog::default());
    assert_eq!(names(&catalog), ["zeta/b", "zeta/a", "alpha/c"]);
    assert_eq!(catalog.by_flat("zeta-a").map(|it| &*it.name), Some("a"));
    assert_eq!(catalog.by_name("alpha", "c").map(|it| &*it.flat), Some("alpha-c"));
    assert!(catalog.by_policy("alpha/a").is_none());
}

#[test]
fn only_tools_that_the_settings_name_are_offered_with_their_price() {
    let settings = json!({
        "name": "s", "transport": "http", "url": "http://x/mcp",
        "tools": ["read_*"], "auto_execute": ["read_one"], "prices": { "read_one": "0.002" }
    });
    let catalog = build(
        &[offer(settings, &[tool("read_one"), tool("write"), tool("read_two")])],
        &Catalog::default(),
    );
    assert_eq!(names(&catalog), ["s/read_one", "s/read_two"]);
    assert_eq!(catalog.tools[0].price.0, 2_000_000);
    assert!(catalog.tools[0].auto_execute && !catalog.tools[1].auto_execute);
}

#[test]
fn a_tool_listed_twice_or_without_a_usable_name_is_left_out_and_the_rest_stays() {
    let offers = [offer(
        stdio("s"),
        &[tool("a"), tool("a"), tool(""), tool("b\n"), json!({ "no": "name" }), tool("c")],
    )];
    assert_eq!(names(&build(&offers, &Catalog::default())), ["s/a", "s/c"]);
}

#[test]
fn what_the_gateway_does_not_know_stays_in_the_definition() {
    let definition = json!({ "zz": 1, "name": "t", "execution": { "taskSupport": "optional" }, "inputSchema": {}, "annotations": { "category": "x", "readOnlyHint": true, "idempotentHint": "yes" } });
    let catalog =
        build(&[offer(stdio("s"), std::slice::from_ref(&definition))], &Catalog::default());
    assert_eq!(catalog.tools[0].raw.get(), definition.to_string());
    let hints = catalog.tools[0].hints;
    assert!(hints.read_only && !hints.idempotent && hints.destructive);
}

#[test]
fn an_unchanged_tool_keeps_its_entry_across_snapshots() {
    let first = build(&[offer(stdio("s"), &[tool("a"), tool("b")])], &Catalog::default());
    let second = build(
        &[offer(
            stdio("s"),
            &[tool("b"), json!({ "name": "a", "inputSchema": { "type": "array" } })],
        )],
        &first,
    );
    assert!(Arc::ptr_eq(&first.tools[1], &second.tools[0]));
    assert!(!Arc::ptr_eq(&first.tools[0], &second.tools[1]));
}

#[test]
fn arguments_are_checked_and_the_complaint_names_the_place_not_the_value() {
    let definition = json!({ "name": "t", "inputSchema": {
        "type": "object", "required": ["path"], "properties": { "path": { "type": "string" }, "depth": { "type": "integer" } } } });
    let catalog = build(&[offer(stdio("s"), &[definition])], &Catalog::default());
    let tool = &catalog.tools[0];
    assert!(tool.validate(&json!({ "path": "/x" })).is_ok());
    let wrong = tool
        .validate(&json!({ "path": "/x", "depth": "s3cret" }))
        .expect_err("a string is no integer");
    assert_eq!(wrong.path, "/depth");
    assert!(!wrong.problem.contains("s3cret"), "{wrong}");
    assert!(tool.validate(&json!({})).is_err());
    assert!(tool.validate(&json!([])).is_err());
}

#[test]
fn a_schema_that_does_not_compile_or_reaches_outside_checks_nothing() {
    for schema in [
        json!({ "type": 7 }),
        json!({ "$ref": "http://127.0.0.1:1/schema.json" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!(null),
    ] {
        let definition = json!({ "name": "t", "inputSchema": schema });
        let catalog = build(&[offer(stdio("s"), &[definition])], &Catalog::default());
        assert!(catalog.tools[0].validate(&json!({ "a": 1 })).is_ok());
    }
}
