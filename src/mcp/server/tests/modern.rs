use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::{Answer, Fixture, events, piece, request, rpc};
use crate::mcp::json;
use crate::mcp::scope::tests::{FakeCaller, catalog_of};
use crate::mcp::server::{Limits, Target};

const V: &str = "2026-07-28";

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": V,
        "io.modelcontextprotocol/clientInfo": { "name": "t", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

fn modern(method: &str, mut params: Value) -> Value {
    params["_meta"] = meta();
    rpc(method, &params)
}

fn headers(method: &str) -> Vec<(&str, &str)> {
    vec![("mcp-protocol-version", V), ("mcp-method", method)]
}

#[tokio::test]
async fn a_server_is_discovered_without_a_handshake() {
    let answer = Fixture::all()
        .post(&headers("server/discover"), &modern("server/discover", json!({})))
        .await;
    assert_eq!(answer.status, 200);
    let result = &answer.body["result"];
    assert_eq!(result["resultType"], "complete");
    assert_eq!(
        result["supportedVersions"],
        json!(["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"])
    );
    assert_eq!(result["capabilities"], json!({ "tools": { "listChanged": true } }));
    assert_eq!(result["cacheScope"], "private");
    assert!(result["ttlMs"].is_u64());
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "althing");
    assert!(answer.header("mcp-session-id").is_none());
}

#[tokio::test]
async fn each_request_stands_alone() {
    let fixture = Fixture::all();
    let answer = fixture.post(&headers("tools/list"), &modern("tools/list", json!({}))).await;
    assert_eq!(answer.names(), ["a-x", "a-y", "b-z"]);
    let result = &answer.body["result"];
    assert_eq!(
        (&result["resultType"], &result["ttlMs"], &result["cacheScope"]),
        (&json!("complete"), &json!(0), &json!("private"))
    );
    assert_eq!(result["_meta"]["althing/serversNotReady"], json!(["late"]));
    let mut named = headers("tools/call");
    named.push(("mcp-name", "a-x"));
    let call = modern("tools/call", json!({ "name": "a-x", "arguments": { "n": 1 } }));
    let answer = fixture.post(&named, &call).await;
    assert_eq!(
        answer.body["result"],
        json!({ "resultType": "complete", "content": [{ "type": "text", "text": r#"a/x {"n":1}"# }] })
    );
    // A name may be wrapped, and stands with or without space around it.
    for name in ["=?base64?YS14?=", " a-x "] {
        named.pop();
        named.push(("mcp-name", name));
        assert_eq!(fixture.post(&named, &call).await.status, 200, "{name}");
    }
}

/// A list request whose `_meta` was changed.
fn list_with(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Value {
    let mut body = modern("tools/list", json!({}));
    change(body["params"]["_meta"].as_object_mut().unwrap());
    body
}

fn of_version(version: &str) -> Value {
    list_with(|meta| {
        meta.insert("io.modelcontextprotocol/protocolVersion".to_owned(), version.into());
    })
}

/// What is sent, and the status and code that come back.
type Case<'c> = (&'c str, Vec<(&'c str, &'c str)>, Value, (u16, i64));

async fn check(cases: Vec<Case<'_>>) {
    let fixture = Fixture::all();
    for (what, headers, body, expected) in cases {
        let answer = fixture.post(&headers, &body).await;
        assert_eq!(answer.failure(), expected, "{what}: {}", answer.body);
        assert_eq!(answer.body["id"], 7, "{what}");
    }
    assert!(fixture.ran().is_empty());
}

#[tokio::test]
async fn meta_must_say_what_a_handshake_would() {
    let all = headers("tools/list");
    let without = |key: &str| {
        list_with(|meta| {
            meta.remove(&format!("io.modelcontextprotocol/{key}"));
        })
    };
    check(vec![
        ("no meta", all.clone(), rpc("tools/list", &json!({})), (400, -32602)),
        ("no version", all.clone(), without("protocolVersion"), (400, -32602)),
        ("no capabilities", all.clone(), without("clientCapabilities"), (400, -32602)),
        ("no client info is fine", all.clone(), without("clientInfo"), (200, 0)),
    ])
    .await;
}

#[tokio::test]
async fn headers_must_be_there_and_agree() {
    let all = headers("tools/list");
    let list = || modern("tools/list", json!({}));
    let call = || modern("tools/call", json!({ "name": "a-x" }));
    let named = |name| [headers("tools/call"), vec![("mcp-name", name)]].concat();
    let version = |version| vec![("mcp-protocol-version", version), ("mcp-method", "tools/list")];
    check(vec![
        ("no version", vec![("mcp-method", "tools/list")], list(), (400, -32020)),
        ("other version", version("2025-11-25"), list(), (400, -32020)),
        ("other version in meta", all.clone(), of_version("v999"), (400, -32020)),
        ("unknown version", version("v999"), of_version("v999"), (400, -32022)),
        ("no method", vec![("mcp-protocol-version", V)], list(), (400, -32020)),
        ("other method", headers("prompts/list"), list(), (400, -32020)),
        ("method in another case", headers("TOOLS/LIST"), list(), (400, -32020)),
        ("method twice", [all, vec![("mcp-method", "tools/list")]].concat(), list(), (400, -32020)),
        ("no name", headers("tools/call"), call(), (400, -32020)),
        ("other name", named("a-y"), call(), (400, -32020)),
        ("name in bad base64", named("=?base64?YS14?"), call(), (400, -32020)),
    ])
    .await;
    let answer = Fixture::all().post(&version("v999"), &of_version("v999")).await;
    assert_eq!(answer.body["error"]["data"]["requested"], "v999");
    assert_eq!(answer.body["error"]["data"]["supported"][0], V);
}

#[tokio::test]
async fn arguments_that_a_schema_marks_are_repeated_in_headers() {
    let schema = json!({ "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": "Region" } } });
    let fixture = Fixture::with(
        FakeCaller::new(&["*"]),
        catalog_of(&[("a", &["x"])], &schema),
        Limits::default(),
    );
    let call =
        |arguments: Value| modern("tools/call", json!({ "name": "a-x", "arguments": arguments }));
    let named = |extra: &[(&'static str, &'static str)]| {
        [headers("tools/call"), vec![("mcp-name", "a-x")], extra.to_vec()].concat()
    };
    let cases = [
        (named(&[("mcp-param-region", "eu")]), call(json!({ "region": "eu" })), 200),
        (named(&[("mcp-param-region", "=?base64?ZXU=?=")]), call(json!({ "region": "eu" })), 200),
        (named(&[]), call(json!({})), 200),
        (named(&[]), call(json!({ "region": "eu" })), 400),
        (named(&[("mcp-param-region", "us")]), call(json!({ "region": "eu" })), 400),
        (named(&[("mcp-param-region", "eu")]), call(json!({})), 400),
        (named(&[("mcp-param-region", "=?base64?ZXU?=")]), call(json!({ "region": "eu" })), 400),
    ];
    for (headers, body, status) in cases {
        let answer = fixture.post(&headers, &body).await;
        assert_eq!(answer.status, status, "{headers:?} {body} {}", answer.body);
    }
}

#[tokio::test]
async fn what_this_revision_removed_is_not_found() {
    let fixture = Fixture::all();
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "prompts/list",
        "unknown/method",
    ] {
        let answer = fixture.post(&headers(method), &modern(method, json!({}))).await;
        assert_eq!(answer.failure(), (404, -32601), "{method}");
    }
}

#[tokio::test]
async fn wrong_arguments_are_a_result() {
    let named = [headers("tools/call"), vec![("mcp-name", "a-x")]].concat();
    let call = modern("tools/call", json!({ "name": "a-x", "arguments": { "n": "one" } }));
    let answer = Fixture::all().post(&named, &call).await;
    assert_eq!(answer.body["result"]["isError"], true);
    assert_eq!(answer.body["result"]["resultType"], "complete");
    let unknown = modern("tools/call", json!({ "name": "no" }));
    let named = [headers("tools/call"), vec![("mcp-name", "no")]].concat();
    assert_eq!(Fixture::all().post(&named, &unknown).await.failure(), (200, -32602));
}

#[tokio::test]
async fn structured_content_of_any_kind_passes() {
    let mut caller = FakeCaller::new(&["*"]);
    caller.answer = Arc::new(|_| {
        Box::pin(async { Ok(json::raw(r#"{"content":[],"structuredContent":[1]}"#.to_owned())) })
    });
    let named = [headers("tools/call"), vec![("mcp-name", "a-x")]].concat();
    let answer =
        Fixture::new(caller).post(&named, &modern("tools/call", json!({ "name": "a-x" }))).await;
    assert_eq!(
        answer.body["result"],
        json!({ "resultType": "complete", "content": [], "structuredContent": [1] })
    );
}

#[tokio::test]
async fn notifications_are_taken_if_their_header_agrees() {
    let fixture = Fixture::all();
    let body = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } });
    assert_eq!(fixture.post(&headers("notifications/cancelled"), &body).await.status, 202);
    assert_eq!(fixture.post(&headers("other"), &body).await.failure(), (400, -32020));
}

#[tokio::test(start_paused = true)]
async fn who_listens_is_told_what_it_asked_for() {
    let fixture = Fixture::all();
    let listen = async |filter: Value| {
        let body = modern("subscriptions/listen", json!({ "notifications": filter })).to_string();
        let request = request(Method::POST, "/mcp", &headers("subscriptions/listen"), body.into());
        fixture.send(request, Target::All).await.into_body()
    };
    let mut tools = listen(json!({ "toolsListChanged": true, "promptsListChanged": true })).await;
    let mut prompts = listen(json!({ "promptsListChanged": true })).await;
    let next =
        async |body: &mut _| events(piece(body).await.unwrap().as_bytes()).into_iter().next();
    let id = json!({ "io.modelcontextprotocol/subscriptionId": 7 });
    let acknowledged = next(&mut tools).await.unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(
        acknowledged["params"],
        json!({ "_meta": id, "notifications": { "toolsListChanged": true } })
    );
    assert_eq!(next(&mut prompts).await.unwrap()["params"]["notifications"], json!({}));
    fixture.catalogs.change(catalog_of(&[("a", &["x"])], &json!({})));
    let changed = next(&mut tools).await.unwrap();
    assert_eq!(changed["method"], "notifications/tools/list_changed");
    assert_eq!(changed["params"]["_meta"], id);
    assert_eq!(next(&mut prompts).await, None, "a keep-alive and nothing else");
    fixture.tasks.stop().cancel();
    let mut last = next(&mut tools).await;
    while last.is_none() {
        last = next(&mut tools).await;
    }
    assert_eq!(last.unwrap()["result"], json!({ "resultType": "complete", "_meta": id }));
    assert_eq!(piece(&mut tools).await, None);
}

#[tokio::test]
async fn listening_needs_a_filter_and_a_stream() {
    let fixture = Fixture::all();
    let answer = fixture
        .post(&headers("subscriptions/listen"), &modern("subscriptions/listen", json!({})))
        .await;
    assert_eq!(answer.failure(), (200, -32602));
    let body = modern("subscriptions/listen", json!({ "notifications": {} })).to_string();
    let headers = [headers("subscriptions/listen"), vec![("accept", "application/json")]].concat();
    let request = request(Method::POST, "/mcp", &headers, body.into());
    assert_eq!(Answer::of(fixture.send(request, Target::All).await).await.status, 406);
}
