use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Part, Rendered, render};
use crate::mcp::json;

fn rendered(result: &Value) -> Rendered {
    render(&json::raw(result.to_string()), 1000).unwrap()
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

#[test]
fn blocks_become_text_and_images_stay_images() {
    let result = json!({ "content": [
        { "type": "text", "text": "one" },
        { "type": "image", "data": "QUJD", "mimeType": "image/png" },
        { "type": "audio", "data": "QUJD", "mimeType": "audio/wav" },
        { "type": "resource_link", "uri": "file:///a", "name": "a", "description": "an a" },
        { "type": "resource", "resource": { "uri": "file:///b", "text": "bee" } },
        { "type": "resource", "resource": { "uri": "file:///c", "blob": "QUJD", "mimeType": "image/gif" } },
        { "type": "resource", "resource": { "uri": "file:///d", "blob": "QUJD" } },
        { "type": "from_the_future", "x": 1 },
    ], "isError": true });
    let rendered = rendered(&result);
    assert!(rendered.is_error && rendered.has_images());
    assert_eq!(
        rendered.parts,
        [
            text("one"),
            Part::Image { mime: "image/png".into(), data: "QUJD".into() },
            text("[audio/wav of 3 bytes left out: models are not given sound here]"),
            text("[a](file:///a): an a"),
            text("bee"),
            Part::Image { mime: "image/gif".into(), data: "QUJD".into() },
            text(
                "file:///d [application/octet-stream of 3 bytes left out: models are given text and images]"
            ),
            text(r#"{"type":"from_the_future","x":1}"#),
        ]
    );
    assert!(rendered.text().starts_with("one\n[image/png of 3 bytes left out"));
}

#[test]
fn structured_content_speaks_where_there_is_no_text() {
    assert_eq!(rendered(&json!({ "structuredContent": { "a": 1 } })).parts, [text(r#"{"a":1}"#)]);
    let both =
        json!({ "content": [{ "type": "text", "text": "x" }], "structuredContent": { "a": 1 } });
    assert_eq!(rendered(&both).parts, [text("x")]);
    assert_eq!(rendered(&json!({ "content": [] })).parts, [text("(the tool returned nothing)")]);
    assert_eq!(
        rendered(&json!({ "content": [{ "type": "text", "text": "" }] })).text(),
        "(the tool returned nothing)"
    );
}

#[test]
fn what_is_over_the_bound_is_cut_and_says_so() {
    let long = "é".repeat(600);
    let result = json!({ "content": [
        { "type": "image", "data": "QUJD".repeat(300), "mimeType": "image/png" },
        { "type": "text", "text": long },
        { "type": "text", "text": "never shown" },
    ] });
    let rendered = rendered(&result);
    assert_eq!(
        rendered.parts[0],
        text("[image/png of 900 bytes left out: the result is over its limit]")
    );
    let Part::Text(cut) = &rendered.parts[1] else { panic!("text") };
    assert!(cut.ends_with("[cut: 1000 of 1200 bytes shown]"), "{cut}");
    assert_eq!(rendered.parts.len(), 2);
}

#[test]
fn what_is_no_result_is_the_upstreams_fault() {
    for bad in ["[]", "7", r#"{"content":7}"#] {
        let error = render(&json::raw(bad.to_owned()), 1000).unwrap_err();
        assert_eq!(error.code.name(), "upstream_malformed", "{bad}");
    }
}

proptest! {
    #[test]
    fn a_rendering_is_never_much_over_its_bound(texts in proptest::collection::vec(".{0,80}", 0..20), max in 0_usize..200) {
        let content: Vec<_> = texts.iter().map(|it| json!({ "type": "text", "text": it })).collect();
        let rendered = render(&json::raw(json!({ "content": content }).to_string()), max).unwrap();
        let size: usize = rendered.parts.iter().map(|it| match it { Part::Text(it) => it.len(), Part::Image { data, .. } => data.len() }).sum();
        prop_assert!(size <= max + 64, "{size}");
    }
}
