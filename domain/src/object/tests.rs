use serde_json::json;

use super::{Kind, Object};

fn provider() -> Object {
    let json = json!({
        "name": "p", "headers": {"a/b~c": "sealed:HEADER", "plain": "env:HEADER"},
        "keys": [{"name": "one", "value": "sealed:ONE"}, {"name": "two", "value": "file:/two"}]
    });
    Object::deserialize_as(Kind::Provider, json).expect("provider")
}

#[test]
fn a_kind_is_found_by_its_route() {
    for kind in Kind::ALL {
        assert_eq!(kind.route().parse(), Ok(*kind));
        assert_eq!(kind.field(), kind.route().replace('-', "_"));
    }
    assert!("users".parse::<Kind>().is_err());
}

#[test]
fn what_is_shown_holds_references_and_no_value() {
    let json = provider().to_public_json().expect("json");
    assert_eq!(json["keys"][0]["value"], json!({"set": true}));
    assert_eq!(json["keys"][1]["value"], "file:/two");
    assert_eq!(json["headers"], json!({"a/b~c": {"set": true}, "plain": "env:HEADER"}));
    assert!(!format!("{:?}", provider()).contains("ONE"));
}

#[test]
fn what_was_read_can_be_written_back_in_another_order() {
    let mut json = provider().to_public_json().expect("json");
    json["keys"].as_array_mut().expect("keys").reverse();
    json["keys"].as_array_mut().expect("keys").push(json!({"name": "three", "value": "env:THREE"}));
    provider().keep_secrets(&mut json);
    assert_eq!(
        json["keys"][1],
        json!({"name": "one", "value": "sealed:ONE", "weight": 1, "models": ["*"], "enabled": true})
    );
    assert_eq!(json["keys"][2]["value"], "env:THREE");
    assert!(Object::deserialize_as(Kind::Provider, json).is_ok());
    // A value that nobody has is no secret: it does not read.
    let new = json!({"name": "p", "keys": [{"name": "new", "value": {"set": true}}]});
    assert!(Object::deserialize_as(Kind::Provider, new).is_err());
}

#[test]
fn every_secret_is_visited_once_and_can_be_sealed() {
    let json = json!({
        "name": "s", "transport": "http", "url": "https://x", "headers": {"a": "LITERAL"}, "env": {"B": "LITERAL"},
        "auth": {"type": "oauth", "client_secret": "LITERAL"}
    });
    let mut server = Object::deserialize_as(Kind::McpServer, json).expect("server");
    let paths: Vec<_> = server.literal_secrets().iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["env/B", "headers/a", "auth/client_secret"]);
    server.visit_secrets(&mut |path, secret| {
        *secret = crate::secret::Secret::new(format!("sealed:{path}"));
    });
    assert_eq!(server.literal_secrets(), []);
    let text = server.to_json().expect("json").to_string();
    assert!(!text.contains("LITERAL") && text.contains("sealed:auth/client_secret"), "{text}");
}

#[test]
fn the_text_that_is_signed_is_that_of_the_value() {
    let key = json!({
        "name": "k", "team": "t", "providers": [{"name": "p", "models": ["a", "b*"], "budget": {"limit_usd": "0.000000001"}}],
        "tools": ["s/*"], "tool_groups": ["g"], "rate": {"requests": 18_446_744_073_709_551_615_u64, "per": "7d"},
        "budget": [{"limit_usd": "1.5", "period": "6h", "mode": "soft", "warn_at": [0.25]}, {"limit_usd": "2"}],
        "expires_at": "2030-01-01T00:00:00Z", "description": "\u{1f511} \"quoted\"\n"
    });
    let server = json!({"name": "s", "transport": "http", "url": "https://x", "headers": {"b": "env:B", "a": "file:/a"}});
    let others = [
        (Kind::VirtualKey, key),
        (Kind::McpServer, server),
        (Kind::Team, json!({"name": "t", "customer": "c"})),
        (Kind::Customer, json!({"name": "c", "rate": {"tokens": 5}})),
        (Kind::ToolGroup, json!({"name": "g", "tools": ["s/*"]})),
    ];
    let others = others.map(|(kind, json)| Object::deserialize_as(kind, json).expect("object"));
    for object in others.iter().chain([&provider()]) {
        let value = object.to_json().expect("json").to_string();
        assert_eq!(object.to_json_text().expect("text"), value);
    }
}
