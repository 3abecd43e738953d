use serde_json::json;

use super::{Fields, body, snake_case};

#[test]
fn a_wrong_type_is_named_by_its_path() {
    let mut fields = Fields::new(json!({"a": {"n": "x"}}), "messages[2]").unwrap();
    let mut inner = fields.object("a").unwrap().unwrap();
    assert_eq!(
        inner.count("n").unwrap_err().to_string(),
        "messages[2].a.n: must be a number, but is a string"
    );
}

#[test]
fn whole_numbers_may_be_written_with_a_fraction_of_nothing() {
    let mut fields = body(br#"{"a": 40.0, "b": 0.5, "c": -1, "d": 1e300}"#).unwrap();
    assert_eq!(fields.count("a").unwrap(), Some(40));
    assert!(fields.count("b").is_err());
    assert!(fields.count("c").is_err());
    assert!(fields.integer("d").is_err());
}

#[test]
fn both_spellings_are_taken_where_asked() {
    let mut fields = body(br#"{"inline_data": 1, "file_data": null}"#).unwrap().or_snake();
    assert!(fields.any("inlineData").is_some());
    assert!(fields.has("fileData"));
    assert!(fields.any("fileData").is_none());
    assert_eq!(snake_case("responseJsonSchema"), "response_json_schema");
}
