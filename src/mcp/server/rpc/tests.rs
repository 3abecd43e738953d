use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Incoming, Message, RpcError, failure, notification, read, success};
use crate::error::{Code, Error};

/// What `body` is, in a word; for a refusal its code and the id it is answered to.
fn is(body: &str) -> String {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let one = |it: &Result<Message<'_>, super::Refusal>| match it {
        Ok(Message::Request(request)) => format!("request {} {}", request.id, request.method),
        Ok(Message::Notification { method, .. }) => format!("notification {method}"),
        Ok(Message::Response) => "response".to_owned(),
        Err(refusal) => format!("refused {} {}", refusal.id, refusal.error.code),
    };
    match read(&bytes) {
        Ok(Incoming::One(it)) => one(&it),
        Ok(Incoming::Batch(all)) => all.iter().map(one).collect::<Vec<_>>().join(", "),
        Err(error) => format!("unreadable {}", error.code),
    }
}

#[test]
fn messages_are_told_apart() {
    let cases = [
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "request 1 ping"),
        (r#" {"jsonrpc":"2.0","id":"a\"b","method":"ping","params":{}}"#, r#"request "a\"b" ping"#),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            "notification notifications/initialized",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "response"),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#, "response"),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"x"},7]"#,
            "request 1 ping, notification x, refused null -32600",
        ),
        ("", "unreadable -32700"),
        ("nonsense", "unreadable -32700"),
        ("{\"jsonrpc\":\"2.0\"", "unreadable -32700"),
        ("[]", "unreadable -32600"),
        ("[{]", "unreadable -32700"),
        ("7", "refused null -32600"),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "refused 1 -32600"),
        (r#"{"id":1,"method":"ping"}"#, "refused 1 -32600"),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "refused null -32600"),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, "refused null -32600"),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "refused 1 -32600"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, "refused 1 -32600"),
        (r#"{"jsonrpc":"2.0","id":1}"#, "refused 1 -32600"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":{}}"#, "refused 1 -32600"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#, "refused null -32600"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}"#, "refused null -32600"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","PARAMS":{}}"#, "refused null -32600"),
    ];
    for (body, expected) in cases {
        assert_eq!(is(body), expected, "{body}");
    }
}

#[test]
fn a_batch_has_a_bound() {
    let one = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let batch = |n: usize| format!("[{}]", vec![one; n].join(","));
    assert!(is(&batch(64)).starts_with("request"));
    assert_eq!(is(&batch(65)), "unreadable -32600");
}

#[test]
fn answers_hold_the_id_and_the_result_as_they_came() {
    assert_eq!(
        success(r#""x""#, r#"{"a": 1.0}"#),
        r#"{"jsonrpc":"2.0","id":"x","result":{"a": 1.0}}"#
    );
    let error =
        RpcError { code: -32602, message: "no \"x\"".into(), data: Some(json!({ "a": 1 })) };
    let answer: Value = serde_json::from_slice(&failure("7", &error)).unwrap();
    assert_eq!(
        answer,
        json!({ "jsonrpc": "2.0", "id": 7, "error": { "code": -32602, "message": "no \"x\"", "data": { "a": 1 } } })
    );
    assert_eq!(notification("n/x", None), r#"{"jsonrpc":"2.0","method":"n/x"}"#);
}

#[test]
fn failures_carry_the_stable_code() {
    let error =
        Error::of(Code::RateLimited).with_retry_after(std::time::Duration::from_millis(1500));
    let rpc = RpcError::from(error);
    assert_eq!(rpc.code, -32005);
    assert_eq!(rpc.data, Some(json!({ "code": "rate_limited", "retryAfterSeconds": 2 })));
    // A forbidden tool must not be told from an unknown one.
    let forbidden = RpcError::from(Error::new(Code::ToolForbidden, "x"));
    let unknown = RpcError::from(Error::new(Code::ToolUnknown, "x"));
    assert_eq!(forbidden, unknown);
    let mut upstream = Error::of(Code::UpstreamFailed);
    upstream.upstream_type = Some("-32602".to_owned());
    assert_eq!(RpcError::from(upstream.clone()).code, -32602);
    upstream.upstream_type = Some("-32021".to_owned());
    upstream.upstream_data =
        Some(r#"{"requiredCapabilities":{"sampling":{}},"code":"theirs"}"#.into());
    let rpc = RpcError::from(upstream.clone());
    assert_eq!(rpc.code, -32021);
    let ours = json!({ "requiredCapabilities": { "sampling": {} }, "code": "upstream_failed", "upstreamCode": -32021 });
    assert_eq!(rpc.data, Some(ours));
    // What is wrong between the gateway and the upstream is not the caller's.
    upstream.upstream_type = Some("-32601".to_owned());
    assert_eq!(RpcError::from(upstream).code, -32010);
}

proptest! {
    #[test]
    fn noise_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&Bytes::from(body));
    }

    #[test]
    fn what_looks_like_a_message_never_panics(body in r#"[\[{]?("(jsonrpc|id|method|params|Id)":("2.0"|1|null|\{\}|\[\]),?){0,6}[\]}]?"#) {
        let _ = read(&Bytes::from(body));
    }
}
