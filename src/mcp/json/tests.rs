use proptest::prelude::*;
use serde_json::json;

use super::{Fault, Fields, strict};

const KNOWN: &[&str] = &["jsonrpc", "id", "method", "params"];

#[test]
fn fields_keep_their_bytes_and_their_order() {
    let fields = Fields::read(r#"{"method": "a", "x":{"b" :1.0e2}}"#, KNOWN).unwrap();
    let read: Vec<_> = fields.iter().map(|(key, raw)| (key, raw.get())).collect();
    assert_eq!(read, [("method", r#""a""#), ("x", r#"{"b" :1.0e2}"#)]);
    assert_eq!(fields.text("method").as_deref(), Some("a"));
    assert_eq!(fields.text("x"), None);
}

#[test]
fn what_can_be_read_two_ways_is_refused() {
    let twice = |key: &str| Fault::Twice { key: key.to_owned() };
    let cases = [
        (r#"{"id":1,"id":2}"#, twice("id")),
        (r#"{"id":1,"\u0069d":2}"#, twice("id")),
        (r#"{"x":1,"x":1}"#, twice("x")),
        (r#"{"Method":"a"}"#, Fault::LooksLike { key: "Method".into(), known: "method" }),
        (r#"{"method\u0000":"a"}"#, Fault::Odd { key: "method\\0".into() }),
        (r#"{"ｍethod":"a"}"#, Fault::Odd { key: "ｍethod".into() }),
        ("[1]", Fault::NotObject),
    ];
    for (text, expected) in cases {
        assert_eq!(Fields::read(text, KNOWN).unwrap_err(), expected, "{text}");
    }
    assert!(matches!(Fields::read("{", KNOWN), Err(Fault::Syntax { .. })));
    assert!(matches!(Fields::read("{} x", KNOWN), Err(Fault::Syntax { .. })));
}

#[test]
fn a_key_that_stands_twice_is_found_at_any_depth() {
    assert_eq!(strict(r#"{"a":[{"b":1}],"b":1}"#).unwrap(), json!({ "a": [{ "b": 1 }], "b": 1 }));
    let fault = strict(r#"{"a":[{"b":1,"b":2}]}"#).unwrap_err();
    assert_eq!(fault, Fault::Twice { key: "b".into() });
    // Case variants are a tool's own business.
    assert!(strict(r#"{"a":1,"A":2}"#).is_ok());
    assert!(matches!(strict(&"[".repeat(100_000)), Err(Fault::Syntax { .. })));
    assert!(matches!(strict("{} x"), Err(Fault::Syntax { .. })));
}

proptest! {
    #[test]
    fn noise_never_panics(text in ".{0,200}") {
        let _ = Fields::read(&text, KNOWN);
        let _ = strict(&text);
    }
}
