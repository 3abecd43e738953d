use proptest::prelude::{any, prop_assert_eq, proptest};
use serde_json::value::RawValue;

use super::{Inbound, error, members, object, parse, refusal};

fn kind(text: &str) -> String {
    match parse(text) {
        Err(problem) => format!("noise: {problem}"),
        Ok(messages) => messages
            .iter()
            .map(|it| match it {
                Inbound::Answer { id, body: Ok(result) } => {
                    format!("result {id:?} {}", result.get())
                }
                Inbound::Answer { id, body: Err(error) } => format!("error {id:?} {}", error.get()),
                Inbound::Request { id, method } => format!("request {} {method}", id.get()),
                Inbound::Notification { method, .. } => format!("notification {method}"),
            })
            .collect::<Vec<_>>()
            .join("; "),
    }
}

#[test]
fn messages_are_told_apart_by_their_envelope_and_bodies_stay_raw() {
    let cases = [
        (
            r#"{"jsonrpc":"2.0","id":7,"result":{"b":1.0,"a":[]}}"#,
            r#"result Some(7) {"b":1.0,"a":[]}"#,
        ),
        (r#"{"id":"7","result":{}}"#, "result Some(7) {}"),
        (r#"{"id":"x","result":{}}"#, "result None {}"),
        (
            r#"{"id":7,"error":{"code":-1,"message":"m"}}"#,
            r#"error Some(7) {"code":-1,"message":"m"}"#,
        ),
        (r#"{"id":null,"error":{"code":-1}}"#, r#"error None {"code":-1}"#),
        (r#"{"id":"s-1","method":"ping"}"#, r#"request "s-1" ping"#),
        (
            r#"{"method":"notifications/progress","params":{}}"#,
            "notification notifications/progress",
        ),
        (r#"[{"id":1,"result":{}},{"method":"n"}]"#, "result Some(1) {}; notification n"),
        ("[]", ""),
        ("Server started", "noise: no JSON (line 1, column 1)"),
        ("{\"id\":1", "noise: JSON that ends half way (line 1, column 7)"),
        (r#"{"id":1}"#, "noise: a JSON object that is no JSON-RPC message"),
    ];
    for (text, expected) in cases {
        assert_eq!(kind(text), expected, "{text}");
    }
}

#[test]
fn a_key_that_stands_twice_makes_a_message_noise() {
    assert!(kind(r#"{"id":1,"id":2,"result":{}}"#).starts_with("noise"));
    assert!(members(r#"{"a":1,"a":2}"#).is_err());
}

#[test]
fn an_error_is_bounded_and_read_leniently() {
    let read = |text: &str| error(&RawValue::from_string(text.to_owned()).expect("JSON"));
    let long = format!(
        r#"{{"code":-32000,"message":"{}","data":"{}"}}"#,
        "é".repeat(9000),
        "d".repeat(100_000)
    );
    let long = read(&long).expect("an error");
    assert!(long.message.len() <= 4096 && long.data.is_none());
    assert_eq!(read(r#"{"code":5.5}"#).map(|it| it.code), Some(-32603));
    assert!(read("[]").is_none());
}

#[test]
fn members_keep_order_and_bytes() {
    let read = members(r#"{"z": 1.00, "a b": {"k":[1,2]}}"#).expect("an object");
    let read: Vec<(&str, &str)> = read.iter().map(|(key, value)| (&**key, value.get())).collect();
    assert_eq!(read, [("z", "1.00"), ("a b", r#"{"k":[1,2]}"#)]);
    assert_eq!(object(read), r#"{"z":1.00,"a b":{"k":[1,2]}}"#);
    let id = RawValue::from_string("\"q\"".to_owned()).expect("JSON");
    assert_eq!(
        refusal(&id, -1, "a \"b\""),
        r#"{"jsonrpc":"2.0","id":"q","error":{"code":-1,"message":"a \"b\""}}"#
    );
}

proptest! {
    #[test]
    fn noise_never_panics(text in any::<String>()) {
        drop(parse(&text));
        drop(members(&text));
    }

    #[test]
    fn what_is_built_is_read_back(key in any::<String>(), text in any::<String>()) {
        let value = super::quote(&text);
        let built = object([(key.as_str(), value.as_str())]);
        let read = members(&built).expect("an object");
        prop_assert_eq!(&*read[0].0, key.as_str());
        prop_assert_eq!(read[0].1.get(), value);
    }
}
