use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Executed, Executor};
use crate::error::{Code, Error};
use crate::mcp::json;
use crate::mcp::scope::tests::{FakeCaller, FakeCatalogs, catalog_of};
use crate::tasks::Tasks;

fn executor() -> Executor {
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } } });
    Executor::new(
        FakeCatalogs::new(catalog_of(&[("a", &["x", "y"]), ("b", &["z"])], &schema)),
        Tasks::default(),
    )
}

/// A caller whose tools answer `result`.
fn answering(result: &Value) -> FakeCaller {
    let mut caller = FakeCaller::new(&["a/*"]);
    let result = result.to_string();
    caller.answer = Arc::new(move |_| {
        let result = result.clone();
        Box::pin(async move { Ok(json::raw(result)) })
    });
    caller
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

async fn execute(
    caller: &FakeCaller,
    query: Option<&str>,
    body: &Value,
) -> Result<Executed, Error> {
    let body = Bytes::from(body.to_string());
    executor().execute(Arc::new(caller.clone()), &HeaderMap::new(), query, &body).await
}

async fn message(caller: &FakeCaller, body: &Value) -> Value {
    serde_json::from_slice(&execute(caller, None, body).await.unwrap().body).unwrap()
}

fn chat(name: &str, arguments: &str) -> Value {
    json!({ "id": "call_1", "type": "function", "function": { "name": name, "arguments": arguments } })
}

fn every_shape(name: &str) -> [Value; 4] {
    [
        chat(name, r#"{"n":1}"#),
        json!({ "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": r#"{"n":1}"#, "status": "completed" }),
        json!({ "type": "tool_use", "id": "toolu_1", "name": name, "input": { "n": 1 } }),
        json!({ "functionCall": { "name": name, "args": { "n": 1 } }, "thoughtSignature": "s" }),
    ]
}

#[tokio::test]
async fn each_shape_is_answered_in_kind() {
    let caller = answering(
        &json!({ "content": [{ "type": "text", "text": "one" }, { "type": "image", "data": "QUJD", "mimeType": "image/png" }] }),
    );
    let [of_chat, of_responses, of_anthropic, of_gemini] = every_shape("a-x");
    assert_eq!(
        message(&caller, &of_chat).await,
        json!({ "role": "tool", "tool_call_id": "call_1", "content": "one\n[image/png of 3 bytes left out: this format has no images here]" })
    );
    assert_eq!(
        message(&caller, &of_responses).await,
        json!({ "type": "function_call_output", "call_id": "call_1", "output": [
            { "type": "input_text", "text": "one" },
            { "type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto" },
        ] })
    );
    assert_eq!(
        message(&caller, &of_anthropic).await,
        json!({ "type": "tool_result", "tool_use_id": "toolu_1", "content": [
            { "type": "text", "text": "one" },
            { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "QUJD" } },
        ] })
    );
    assert_eq!(
        message(&caller, &of_gemini).await,
        json!({ "functionResponse": { "name": "a-x", "response": { "output": "one" }, "parts": [{ "inlineData": { "mimeType": "image/png", "data": "QUJD" } }] } })
    );
}

#[tokio::test]
async fn a_tool_that_failed_says_so_in_every_shape() {
    let caller = answering(
        &json!({ "content": [{ "type": "text", "text": "no such city" }], "isError": true }),
    );
    let [of_chat, of_responses, of_anthropic, of_gemini] = every_shape("a-x");
    assert!(execute(&caller, None, &of_chat).await.unwrap().is_error);
    assert_eq!(message(&caller, &of_chat).await["content"], "Error: no such city");
    assert_eq!(message(&caller, &of_responses).await["output"], "Error: no such city");
    assert_eq!(message(&caller, &of_anthropic).await["is_error"], true);
    assert_eq!(
        message(&caller, &of_gemini).await["functionResponse"]["response"],
        json!({ "error": "no such city" })
    );
    let caller =
        answering(&json!({ "content": [{ "type": "text", "text": "error: x" }], "isError": true }));
    assert_eq!(message(&caller, &of_chat).await["content"], "error: x");
}

#[tokio::test]
async fn arguments_come_as_text_as_an_object_or_not_at_all() {
    let caller = FakeCaller::new(&["a/*"]);
    let with = |arguments: Value| json!({ "id": "c", "function": { "name": "a-x", "arguments": arguments } });
    for (arguments, seen) in [
        (json!(r#"{"n": 1.0e0}"#), r#"a/x {"n": 1.0e0}"#),
        (json!({ "n": 1 }), r#"a/x {"n":1}"#),
        (json!(""), "a/x {}"),
        (json!(null), "a/x {}"),
    ] {
        assert_eq!(message(&caller, &with(arguments)).await["content"], seen);
    }
    let absent = json!({ "id": "c", "function": { "name": "a-x" } });
    assert_eq!(message(&caller, &absent).await["content"], "a/x {}");
}

#[tokio::test]
async fn what_is_no_tool_call_is_told_where_it_is_not() {
    let caller = FakeCaller::new(&["a/*"]);
    let cases = [
        ("{", "invalid_json", None),
        ("[]", "invalid_field", None),
        ("{}", "invalid_field", None),
        (r#"{"tool_calls":[]}"#, "invalid_field", None),
        (r#"{"id":"c","function":"x"}"#, "invalid_field", Some("function")),
        (r#"{"id":"c","function":{"arguments":"{}"}}"#, "invalid_field", Some("function.name")),
        (r#"{"function":{"name":"a-x","arguments":"{}"}}"#, "invalid_field", Some("id")),
        (
            r#"{"id":"c","function":{"name":"a-x","arguments":"{"}}"#,
            "invalid_field",
            Some("function.arguments"),
        ),
        (
            r#"{"id":"c","function":{"name":"a-x","arguments":"[]"}}"#,
            "invalid_field",
            Some("function.arguments"),
        ),
        (
            r#"{"id":"c","function":{"name":"a-x","arguments":7}}"#,
            "invalid_field",
            Some("function.arguments"),
        ),
        (
            r#"{"id":"c","function":{"name":"a-x","name":"b-z"}}"#,
            "duplicate_field",
            Some("function.name"),
        ),
        (
            r#"{"id":"c","function":{"name":"a-x","Name":"b-z"}}"#,
            "duplicate_field",
            Some("function.Name"),
        ),
        (
            r#"{"id":"c","function":{"name":"a-x"},"Function":{"name":"b-z"}}"#,
            "duplicate_field",
            Some("Function"),
        ),
        (
            r#"{"id":"c","function":{"name":"a-x","arguments":"{\"n\":1,\"n\":2}"}}"#,
            "duplicate_field",
            Some("arguments"),
        ),
        (
            r#"{"id":"c","function":{"name":"a-x","arguments":"{\"n\":\"one\"}"}}"#,
            "arguments_invalid",
            Some("arguments/n"),
        ),
        (r#"{"id":"c","function":{"name":"a-q"}}"#, "tool_unknown", Some("function.name")),
        (
            r#"{"type":"tool_use","id":"c","name":"a-x","input":"{}"}"#,
            "invalid_field",
            Some("input"),
        ),
    ];
    for (body, code, param) in cases {
        let error = executor()
            .execute(Arc::new(caller.clone()), &HeaderMap::new(), None, &Bytes::from(body))
            .await
            .unwrap_err();
        assert_eq!((error.code.name(), error.param.as_deref()), (code, param), "{body}: {error}");
    }
    assert!(caller.ran.lock().is_empty());
}

#[tokio::test]
async fn an_unknown_and_a_forbidden_tool_look_alike() {
    let caller = FakeCaller::new(&["a/x"]);
    for (known, unknown) in every_shape("b-z").into_iter().zip(every_shape("b-q")) {
        let known = execute(&caller, None, &known).await.unwrap_err();
        let unknown = execute(&caller, None, &unknown).await.unwrap_err();
        assert_eq!(known.to_string(), unknown.to_string().replace("b-q", "b-z"));
        assert_eq!((known.code, known.param), (Code::ToolUnknown, unknown.param));
    }
    assert!(caller.ran.lock().is_empty());
}

#[tokio::test]
async fn a_format_must_not_contradict_the_shape() {
    let caller = FakeCaller::new(&["a/*"]);
    let [of_chat, of_responses, ..] = every_shape("a-x");
    assert!(execute(&caller, Some("format=chat"), &of_chat).await.is_ok());
    assert!(execute(&caller, Some("x=1&format=responses"), &of_responses).await.is_ok());
    for (query, body) in
        [("format=responses", &of_chat), ("format=chat", &of_responses), ("format=xml", &of_chat)]
    {
        let error = execute(&caller, Some(query), body).await.unwrap_err();
        assert_eq!(error.param.as_deref(), Some("format"), "{query}");
    }
}

/// A caller that counts and waits to be let go.
fn waiting(go: &Arc<Notify>, outcome: Result<(), Code>) -> FakeCaller {
    let mut caller = FakeCaller::new(&["a/*"]);
    let (go, count) = (Arc::clone(go), Arc::new(Mutex::new(0)));
    caller.answer = Arc::new(move |_| {
        let (go, count) = (Arc::clone(&go), Arc::clone(&count));
        Box::pin(async move {
            go.notified().await;
            *count.lock() += 1;
            let text = format!("run {}", count.lock());
            outcome.map_err(Error::of)?;
            Ok(json::raw(json!({ "content": [{ "type": "text", "text": text }] }).to_string()))
        })
    });
    caller
}

#[tokio::test(start_paused = true)]
async fn one_key_one_call_one_answer() {
    let go = Arc::new(Notify::new());
    let caller = waiting(&go, Ok(()));
    let executor = executor();
    let keyed = headers(&[("idempotency-key", "k")]);
    let body = Bytes::from(chat("a-x", "{}").to_string());
    let run = |caller: &FakeCaller, body: &Bytes| {
        let (executor, caller, headers, body) =
            (executor.clone(), Arc::new(caller.clone()), keyed.clone(), body.clone());
        async move { executor.execute(caller, &headers, None, &body).await }
    };
    // The first asks and leaves; two more ask while it runs.
    assert!(tokio::time::timeout(Duration::from_secs(1), run(&caller, &body)).await.is_err());
    let (second, third) = (run(&caller, &body), run(&caller, &body));
    go.notify_one();
    let (second, third) = tokio::join!(second, third);
    assert_eq!(second, third);
    let fourth = run(&caller, &body).await.unwrap();
    assert!(String::from_utf8(fourth.body.to_vec()).unwrap().contains("run 1"));
    assert_eq!(caller.ran.lock().len(), 1);
    // Another call under the same key is a mistake; the same key of another principal is another key.
    let other = Bytes::from(chat("a-x", r#"{"n":2}"#).to_string());
    assert_eq!(run(&caller, &other).await.unwrap_err().code, Code::Conflict);
    let mut stranger = caller.clone();
    "stranger".clone_into(&mut stranger.name);
    go.notify_one();
    run(&stranger, &other).await.unwrap();
    assert_eq!(caller.ran.lock().len(), 2);
    // After a day it is forgotten.
    tokio::time::advance(Duration::from_secs(24 * 60 * 60 + 1)).await;
    go.notify_one();
    run(&caller, &other).await.unwrap();
    assert_eq!(caller.ran.lock().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_before_is_for_who_may_call_the_tool_now() {
    let go = Arc::new(Notify::new());
    let caller = waiting(&go, Ok(()));
    let catalogs = FakeCatalogs::new(catalog_of(&[("a", &["x"])], &json!({ "type": "object" })));
    let executor = Executor::new(Arc::<FakeCatalogs>::clone(&catalogs), Tasks::default());
    let keyed = headers(&[("idempotency-key", "k")]);
    let body = Bytes::from(chat("a-x", "{}").to_string());
    let run = |caller: &FakeCaller, body: &Bytes| {
        let (executor, caller, headers, body) =
            (executor.clone(), Arc::new(caller.clone()), keyed.clone(), body.clone());
        async move { executor.execute(caller, &headers, None, &body).await }
    };
    let code = |outcome: Result<Executed, Error>| outcome.map(drop).map_err(|it| it.code);
    go.notify_one();
    run(&caller, &body).await.unwrap();

    // The law forbids the tool now; also of another call under the key nothing is told.
    let mut forbidden = caller.clone();
    forbidden.tools = vec!["a/other".into()];
    assert_eq!(code(run(&forbidden, &body).await), Err(Code::ToolUnknown));
    let other = Bytes::from(chat("a-x", r#"{"n":2}"#).to_string());
    assert_eq!(code(run(&forbidden, &other).await), Err(Code::ToolUnknown));
    let refused = ("a-x".to_owned(), Code::ToolUnknown.name());
    assert_eq!(caller.refused.lock().as_slice(), [refused.clone(), refused.clone()]);
    // Its server is gone, and with it what the catalogue says of the tool.
    catalogs.change(catalog_of(&[], &json!({})));
    assert_eq!(code(run(&forbidden, &body).await), Err(Code::ToolUnknown));
    assert_eq!(code(run(&caller, &body).await), Ok(()), "what it came back for");
    // Another principal that has got the name.
    let mut heir = caller.clone();
    heir.number = 8;
    assert_eq!(code(run(&heir, &body).await), Err(Code::ToolUnknown), "the call is not made");
    // The key is revoked while its second request waits.
    catalogs.change(catalog_of(&[("a", &["x"])], &json!({ "type": "object" })));
    let keyed = headers(&[("idempotency-key", "another")]);
    let first = executor.execute(Arc::new(caller.clone()), &keyed, None, &body);
    let second = executor.execute(Arc::new(caller.clone()), &keyed, None, &body);
    let revoke = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        *caller.revoked.lock() = true;
        go.notify_one();
    };
    let (first, second, ()) = tokio::join!(first, second, revoke);
    assert_eq!((code(first), code(second)), (Ok(()), Err(Code::ToolUnknown)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_made_can_be_tried_again_and_one_that_may_have_been_cannot() {
    for (code, runs) in [
        (Code::RateLimited, 2),
        (Code::BudgetExhausted, 2),
        (Code::ServerUnavailable, 2),
        (Code::OutcomeUnknown, 1),
        (Code::UpstreamTimeout, 1),
    ] {
        let go = Arc::new(Notify::new());
        let caller = waiting(&go, Err(code));
        let executor = executor();
        let keyed = headers(&[("idempotency-key", "k")]);
        let body = Bytes::from(chat("a-x", "{}").to_string());
        for _ in 0..2 {
            go.notify_one();
            let error =
                executor.execute(Arc::new(caller.clone()), &keyed, None, &body).await.unwrap_err();
            assert_eq!(error.code, code);
        }
        assert_eq!(caller.ran.lock().len(), runs, "{code:?}");
    }
}

#[tokio::test]
async fn headers_that_decide_must_be_usable() {
    let caller = Arc::new(FakeCaller::new(&["a/*"]));
    let body = Bytes::from(chat("a-x", "{}").to_string());
    for (name, value) in [
        ("idempotency-key", ""),
        ("idempotency-key", &*"k".repeat(256)),
        ("x-althing-parent", "\u{e9}"),
    ] {
        let error = executor()
            .execute(caller.clone(), &headers(&[(name, value)]), None, &body)
            .await
            .unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), (Code::InvalidHeader, Some(name)));
    }
    let narrowed = headers(&[("x-althing-tools", "a/y")]);
    let error = executor().execute(caller.clone(), &narrowed, None, &body).await.unwrap_err();
    assert_eq!(error.code, Code::ToolUnknown);
    assert!(caller.ran.lock().is_empty());
}

proptest! {
    #[test]
    fn noise_never_panics_and_never_runs(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let caller = Arc::new(FakeCaller::new(&["*"]));
        let outcome = runtime.block_on(executor().execute(caller.clone(), &HeaderMap::new(), None, &Bytes::from(body)));
        prop_assert!(outcome.is_err() && caller.ran.lock().is_empty());
    }
}
