use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::{Answer, Fixture, catalog, request, rpc};
use crate::error::{Code, Error};
use crate::mcp::json;
use crate::mcp::scope::tests::{FakeCaller, catalog_of};
use crate::mcp::server::{Limits, Target};

const LEGACY: [&str; 3] = ["2025-03-26", "2025-06-18", "2025-11-25"];

#[tokio::test]
async fn a_handshake_agrees_on_a_revision() {
    let fixture = Fixture::all();
    for (asked, got) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let answer = fixture
            .post(&[], &rpc("initialize", &json!({ "protocolVersion": asked, "capabilities": {} })))
            .await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body["id"], 7);
        let result = &answer.body["result"];
        assert_eq!(result["protocolVersion"], got, "{asked}");
        assert_eq!(result["serverInfo"]["name"], "althing");
        // What is not served is not advertised.
        assert_eq!(result["capabilities"], json!({ "tools": { "listChanged": true } }));
        assert!(
            answer.header("mcp-session-id").unwrap().bytes().all(|b| (0x21..0x7f).contains(&b))
        );
    }
    let answer = fixture.post(&[], &rpc("initialize", &json!({}))).await;
    assert_eq!(answer.failure(), (200, -32602));
    assert!(answer.header("mcp-session-id").is_none());
}

#[tokio::test]
async fn every_legacy_revision_lists_and_calls() {
    for revision in LEGACY {
        let fixture = Fixture::all();
        let session = fixture.session(revision).await;
        let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", revision)];
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let answer = fixture.post(&headers, &ready).await;
        assert_eq!((answer.status.as_u16(), answer.body), (202, Value::Null));
        let answer = fixture.post(&headers, &rpc("tools/list", &json!({}))).await;
        assert_eq!(answer.names(), ["a-x", "a-y", "b-z"]);
        assert_eq!(answer.body["result"]["_meta"], json!({ "althing/serversNotReady": ["late"] }));
        assert_eq!(answer.body["result"]["resultType"], Value::Null);
        let answer = fixture.post(&headers, &rpc("ping", &json!({}))).await;
        assert_eq!(answer.body["result"], json!({}));
        let call = rpc("tools/call", &json!({ "name": "a-x", "arguments": { "n": 1 } }));
        let answer = fixture.post(&headers, &call).await;
        assert_eq!(answer.body["result"]["content"][0]["text"], r#"a/x {"n":1}"#, "{revision}");
        assert_eq!(fixture.ran(), ["a/x"]);
    }
}

#[tokio::test]
async fn a_definition_passes_as_it_was_listed_but_for_its_name() {
    let fixture = Fixture::all();
    let answer = fixture.post(&[], &rpc("tools/list", &json!({}))).await;
    let text = answer.body["result"]["tools"][0].to_string();
    assert_eq!(
        text,
        r#"{"name":"a-x","description":"does x","inputSchema":{"type":"object","properties":{"n":{"type":"integer"}}},"x-vendor":1.0}"#
    );
}

#[tokio::test]
async fn what_is_not_served_is_refused_as_unknown() {
    let fixture = Fixture::all();
    let session = fixture.session("2025-11-25").await;
    let headers = [("mcp-session-id", session.as_str())];
    for method in [
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "resources/subscribe",
        "completion/complete",
        "logging/setLevel",
        "sampling/createMessage",
        "elicitation/create",
        "tasks/list",
        "roots/list",
        "Tools/list",
        "nonsense",
    ] {
        let answer = fixture.post(&headers, &rpc(method, &json!({}))).await;
        assert_eq!(answer.failure(), (200, -32601), "{method}");
        assert_eq!(answer.body["id"], 7);
    }
}

#[tokio::test]
async fn a_session_ends_and_stays_ended() {
    let fixture = Fixture::all();
    let session = fixture.session("2025-11-25").await;
    let headers = [("mcp-session-id", session.as_str())];
    assert_eq!(fixture.post(&headers, &rpc("ping", &json!({}))).await.status, 200);
    let gone =
        fixture.send(request(Method::DELETE, "/mcp", &headers, "".into()), Target::All).await;
    assert_eq!(gone.status(), 204);
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let body = rpc("ping", &json!({})).to_string();
        let answer =
            fixture.send(request(method.clone(), "/mcp", &headers, body.into()), Target::All).await;
        assert_eq!(answer.status(), 404, "{method}");
    }
    // A client whose session is over may shake hands again, still naming the old one.
    let again = rpc("initialize", &json!({ "protocolVersion": "2025-11-25" }));
    assert_eq!(fixture.post(&headers, &again).await.status, 200);
    let none = fixture.send(request(Method::DELETE, "/mcp", &[], "".into()), Target::All).await;
    assert_eq!(none.status(), 400);
}

#[tokio::test]
async fn a_session_of_another_principal_is_no_session() {
    let fixture = Fixture::all();
    let session = fixture.session("2025-11-25").await;
    let mut other = FakeCaller::new(&["*"]);
    "other".clone_into(&mut other.name);
    let body = rpc("ping", &json!({})).to_string();
    let request = request(Method::POST, "/mcp", &[("mcp-session-id", &session)], body.into());
    let answer = fixture.server.handle(request, Arc::new(other), Target::All).await;
    assert_eq!(answer.status(), 404);
    let forged = fixture.post(&[("mcp-session-id", "AAAA")], &rpc("ping", &json!({}))).await;
    assert_eq!(forged.status, 404);
}

#[tokio::test]
async fn an_unknown_and_a_forbidden_tool_look_alike() {
    let fixture = Fixture::new(FakeCaller::new(&["a/x"]));
    let unknown = fixture.post(&[], &rpc("tools/call", &json!({ "name": "b-q" }))).await;
    let forbidden = fixture.post(&[], &rpc("tools/call", &json!({ "name": "b-z" }))).await;
    assert_eq!(unknown.failure(), (200, -32602));
    assert_eq!(unknown.body.to_string().replace("b-q", "b-z"), forbidden.body.to_string());
    assert!(fixture.ran().is_empty());
}

#[tokio::test]
async fn wrong_arguments_are_for_the_model_since_2025_11_25() {
    for revision in LEGACY {
        let fixture = Fixture::all();
        let headers = [("mcp-protocol-version", revision)];
        let call = rpc("tools/call", &json!({ "name": "a-x", "arguments": { "n": "one" } }));
        let answer = fixture.post(&headers, &call).await;
        if revision == "2025-11-25" {
            let result = &answer.body["result"];
            assert_eq!(result["isError"], true);
            assert!(result["content"][0]["text"].as_str().unwrap().contains("`/n`"), "{result}");
        } else {
            assert_eq!(answer.failure(), (200, -32602));
            assert_eq!(
                answer.body["error"]["data"],
                json!({ "code": "arguments_invalid", "path": "/n" })
            );
        }
        assert!(fixture.ran().is_empty(), "nothing was called");
    }
}

#[tokio::test]
async fn a_call_that_reads_two_ways_is_refused() {
    let fixture = Fixture::new(FakeCaller::new(&["a/x"]));
    for params in [
        r#"{"name":"a-x","name":"b-z"}"#,
        r#"{"name":"a-x","Name":"b-z"}"#,
        r#"{"name":"a-x","n\u0061me":"b-z"}"#,
        r#"{"name":"a-x","arguments":{},"ARGUMENTS":{"n":2}}"#,
        r#"{"name":"a-x","arguments":{"n":1,"n":2}}"#,
        r#"{"name":"a-x","_meta":{"progressToken":1,"progressToken":2}}"#,
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#);
        let answer = fixture.post_to("/mcp", Target::All, &[], body).await;
        assert_eq!(answer.failure(), (200, -32600), "{params}");
        assert_eq!(answer.body["error"]["data"]["code"], "duplicate_field", "{params}");
    }
    for params in [
        r#"{"name":7}"#,
        r#"{}"#,
        r#"{"name":"a-x","arguments":[]}"#,
        r#"{"name":"a-x","arguments":7}"#,
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#);
        let answer = fixture.post_to("/mcp", Target::All, &[], body).await;
        assert_eq!(answer.failure(), (200, -32602), "{params}");
    }
    assert!(fixture.ran().is_empty());
}

#[tokio::test]
async fn bad_requests_get_their_answer() {
    let fixture = Fixture::all();
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c str, (u16, i64));
    let bad: &[Case<'_>] = &[
        (&[], "nonsense", (400, -32700)),
        (&[], r#"{"jsonrpc":"2.0","id":7}"#, (400, -32600)),
        (&[], "[]", (400, -32600)),
        (&[("content-type", "text/plain")], "{}", (415, -32600)),
        (&[("accept", "text/html")], "{}", (406, -32600)),
        (
            &[("mcp-protocol-version", "1999-01-01")],
            r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
            (400, -32022),
        ),
        (
            &[("x-althing-tools", "\u{e9}")],
            r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
            (400, -32600),
        ),
    ];
    for (headers, body, expected) in bad {
        let answer = fixture.post_to("/mcp", Target::All, headers, *body).await;
        assert_eq!(answer.failure(), *expected, "{headers:?} {body}");
    }
    for method in [Method::PUT, Method::PATCH, Method::HEAD] {
        let answer = fixture.send(request(method, "/mcp", &[], "".into()), Target::All).await;
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"], "GET, POST, DELETE");
    }
}

#[tokio::test]
async fn a_client_gets_the_form_it_names_first() {
    let fixture = Fixture::all();
    for (accept, is_stream) in [
        ("application/json, text/event-stream", false),
        ("text/event-stream, application/json", true),
        ("text/event-stream", true),
        ("text/event-stream;q=0, application/json", false),
        ("*/*", false),
    ] {
        let answer = fixture.post(&[("accept", accept)], &rpc("ping", &json!({}))).await;
        assert_eq!(answer.events.len(), usize::from(is_stream), "{accept}");
        assert_eq!(answer.body["result"], json!({}), "{accept}");
    }
}

#[tokio::test]
async fn batches_are_for_2025_03_26_alone() {
    let fixture = Fixture::all();
    let batch = json!([
        { "jsonrpc": "2.0", "id": 1, "method": "ping" },
        { "jsonrpc": "2.0", "method": "notifications/initialized" },
        { "jsonrpc": "2.0", "id": "two", "method": "tools/call", "params": { "name": "a-x" } },
        { "jsonrpc": "2.0", "id": 3, "method": "initialize", "params": { "protocolVersion": "2025-03-26" } },
        7,
    ]);
    let answer = fixture.post(&[("mcp-protocol-version", "2025-03-26")], &batch).await;
    let answers = answer.body.as_array().unwrap();
    assert_eq!(answers[0], json!({ "jsonrpc": "2.0", "id": 1, "result": {} }));
    assert_eq!(answers[1]["id"], "two");
    assert_eq!(answers[1]["result"]["content"][0]["text"], "a/x null");
    assert_eq!(answers[2]["error"]["code"], -32600);
    assert_eq!(answers[3]["id"], Value::Null);
    assert_eq!(answers.len(), 4);
    let silent = json!([{ "jsonrpc": "2.0", "method": "notifications/initialized" }]);
    assert_eq!(fixture.post(&[], &silent).await.status, 202);
    for revision in ["2025-06-18", "2025-11-25", "2026-07-28"] {
        let answer = fixture.post(&[("mcp-protocol-version", revision)], &batch).await;
        assert_eq!(answer.failure(), (400, -32600), "{revision}");
    }
}

#[tokio::test]
async fn a_group_serves_its_own_and_no_more() {
    let caller = FakeCaller::new(&["a/*", "b/*"])
        .with_group("one", &["a/x", "c/*"])
        .with_group("only", &["a/*"]);
    let fixture = Fixture::new(caller);
    let list = rpc("tools/list", &json!({})).to_string();
    let group = |name: &str| Target::Group(name.to_owned());
    assert_eq!(fixture.post_to("/mcp/one", group("one"), &[], list.clone()).await.names(), ["a-x"]);
    let plain = "/mcp/only?names=plain";
    assert_eq!(fixture.post_to(plain, group("only"), &[], list.clone()).await.names(), ["x", "y"]);
    let call = |name: &str| rpc("tools/call", &json!({ "name": name })).to_string();
    assert_eq!(
        fixture.post_to("/mcp/one", group("one"), &[], call("a-y")).await.failure().1,
        -32602
    );
    assert_eq!(fixture.post_to(plain, group("only"), &[], call("a-y")).await.failure().1, -32602);
    assert!(fixture.ran().is_empty());
    fixture.post_to(plain, group("only"), &[], call("y")).await;
    assert_eq!(fixture.ran(), ["a/y"]);
    // Some clients drop the query of an address: a name that can mean one tool only is understood without it.
    fixture.post_to("/mcp/only", group("only"), &[], call("x")).await;
    assert_eq!(fixture.ran(), ["a/y", "a/x"]);
    assert_eq!(
        fixture.post_to("/mcp/none", group("none"), &[], list).await.failure(),
        (404, -32601)
    );
}

#[tokio::test]
async fn a_filter_narrows_lists_and_calls() {
    let fixture = Fixture::new(FakeCaller::new(&["a/*"]));
    let headers = [("x-althing-tools", "a/x, b/z")];
    assert_eq!(fixture.post(&headers, &rpc("tools/list", &json!({}))).await.names(), ["a-x"]);
    assert_eq!(fixture.post(&[], &rpc("tools/list", &json!({}))).await.names(), ["a-x", "a-y"]);
    let call = rpc("tools/call", &json!({ "name": "a-y" }));
    assert_eq!(fixture.post(&headers, &call).await.failure().1, -32602);
    assert!(fixture.ran().is_empty());
}

#[tokio::test]
async fn a_long_list_comes_in_pages_by_sealed_cursors() {
    let limits = Limits { tools_per_page: 2, ..Limits::default() };
    let fixture = Fixture::with(FakeCaller::new(&["*"]), catalog(), limits);
    let first = fixture.post(&[], &rpc("tools/list", &json!({ "cursor": null }))).await;
    assert_eq!(first.names(), ["a-x", "a-y"]);
    let cursor = first.body["result"]["nextCursor"].as_str().unwrap().to_owned();
    let second = fixture.post(&[], &rpc("tools/list", &json!({ "cursor": cursor }))).await;
    assert_eq!(second.names(), ["b-z"]);
    assert_eq!(second.body["result"]["nextCursor"], Value::Null);
    for bad in [json!("x"), json!(7), json!("")] {
        let answer = fixture.post(&[], &rpc("tools/list", &json!({ "cursor": bad }))).await;
        assert_eq!(answer.failure(), (200, -32602), "{bad}");
    }
    // A cursor of another list would skip or repeat tools.
    fixture
        .catalogs
        .change(catalog_of(&[("a", &["x", "y", "w"]), ("b", &["z"])], &super::schema()));
    let stale = fixture.post(&[], &rpc("tools/list", &json!({ "cursor": cursor }))).await;
    assert_eq!(stale.failure(), (200, -32602));
}

#[tokio::test]
async fn a_result_passes_as_it_came() {
    let raw = r#"{ "content" : [ {"type":"hologram","x":1.0e0} ],"isError" : true, "structuredContent":{"total": 1.0}, "_meta":{"v/k":null} }"#;
    let mut caller = FakeCaller::new(&["*"]);
    caller.answer = Arc::new(move |_| Box::pin(async move { Ok(json::raw(raw.to_owned())) }));
    let fixture = Fixture::new(caller);
    let body = rpc("tools/call", &json!({ "name": "a-x" })).to_string();
    let response = fixture.send(request(Method::POST, "/mcp", &[], body.into()), Target::All).await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(bytes, format!(r#"{{"jsonrpc":"2.0","id":7,"result":{raw}}}"#));
}

#[tokio::test]
async fn what_legacy_clients_choke_on_is_left_out() {
    let mut caller = FakeCaller::new(&["*"]);
    caller.answer = Arc::new(|_| {
        Box::pin(async {
            Ok(json::raw(
                r#"{"resultType":"complete","content":[],"structuredContent":[1]}"#.to_owned(),
            ))
        })
    });
    let fixture = Fixture::new(caller);
    let answer = fixture.post(&[], &rpc("tools/call", &json!({ "name": "a-x" }))).await;
    assert_eq!(answer.body["result"], json!({ "content": [] }));
}

#[tokio::test]
async fn failures_are_errors_with_their_code() {
    let cases = [
        (Error::of(Code::BudgetExhausted), -32003, "budget_exhausted"),
        (Error::of(Code::RateLimited), -32005, "rate_limited"),
        (Error::of(Code::ServerUnavailable), -32010, "server_unavailable"),
        (Error::of(Code::OutcomeUnknown), -32011, "outcome_unknown"),
        (Error::of(Code::ToolForbidden), -32602, "tool_unknown"),
    ];
    for (error, code, name) in cases {
        let mut caller = FakeCaller::new(&["*"]);
        caller.answer = Arc::new(move |_| {
            let error = error.clone();
            Box::pin(async move { Err(error) })
        });
        let answer =
            Fixture::new(caller).post(&[], &rpc("tools/call", &json!({ "name": "a-x" }))).await;
        assert_eq!(answer.failure(), (200, code));
        assert_eq!(answer.body["error"]["data"]["code"], name);
    }
}

#[tokio::test]
async fn headers_of_the_request_reach_the_call() {
    let seen = Arc::new(parking_lot::Mutex::new(None));
    let mut caller = FakeCaller::new(&["*"]);
    let note = Arc::clone(&seen);
    caller.answer = Arc::new(move |request| {
        *note.lock() = Some((
            request.parent.clone(),
            request.idempotency_key.clone(),
            request.meta.as_ref().map(|it| it.get().to_owned()),
        ));
        Box::pin(async { Ok(json::raw(r#"{"content":[]}"#.to_owned())) })
    });
    let fixture = Fixture::new(caller);
    let headers = [("x-althing-parent", "req_1"), ("idempotency-key", "k")];
    fixture
        .post(&headers, &rpc("tools/call", &json!({ "name": "a-x", "_meta": { "v/k": 1 } })))
        .await;
    let seen = seen.lock().clone().unwrap();
    assert_eq!(seen, (Some("req_1".into()), Some("k".into()), Some(r#"{"v/k":1}"#.into())));
}

#[tokio::test]
async fn the_old_transport_answers_in_its_stream() {
    let fixture = Fixture::all();
    let open = request(Method::GET, "/sse", &[], "".into());
    let caller = || Arc::clone(&fixture.caller) as _;
    let mut stream = fixture.server.handle_sse(&open, caller(), Target::All).into_body();
    let endpoint = super::piece(&mut stream).await.unwrap();
    let path = endpoint.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
    assert!(path.starts_with("/sse/message?session="), "{path}");
    let mut say = async |body: Value| {
        let post = request(Method::POST, &path, &[], body.to_string().into());
        let answer = fixture.server.handle_sse_message(&post, caller());
        assert_eq!(answer.status(), 202);
        let piece = super::piece(&mut stream).await.unwrap();
        super::events(piece.as_bytes()).remove(0)
    };
    let hello = say(rpc("initialize", &json!({ "protocolVersion": "2024-11-05" }))).await;
    assert_eq!(hello["result"]["protocolVersion"], "2024-11-05");
    let listed = say(rpc("tools/list", &json!({}))).await;
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 3);
    let called = say(rpc("tools/call", &json!({ "name": "b-z", "arguments": { "n": 2 } }))).await;
    assert_eq!(called["result"]["content"][0]["text"], r#"b/z {"n":2}"#);
    let batch = say(json!([rpc("ping", &json!({}))])).await;
    assert_eq!(batch["error"]["code"], -32600);
    // Another principal cannot post into it, and nobody can once it is closed.
    let mut other = FakeCaller::new(&["*"]);
    "other".clone_into(&mut other.name);
    let ping = || request(Method::POST, &path, &[], rpc("ping", &json!({})).to_string().into());
    assert_eq!(fixture.server.handle_sse_message(&ping(), Arc::new(other)).status(), 404);
    drop(stream);
    fixture.tasks.shutdown(std::time::Duration::from_secs(5)).await;
    assert_eq!(fixture.server.handle_sse_message(&ping(), caller()).status(), 404);
}

#[tokio::test]
async fn a_get_that_takes_no_events_is_refused() {
    let fixture = Fixture::all();
    let get = request(Method::GET, "/mcp", &[("accept", "application/json")], "".into());
    assert_eq!(Answer::of(fixture.send(get, Target::All).await).await.failure(), (406, -32600));
    let get = request(Method::GET, "/mcp", &[("mcp-protocol-version", "2026-07-28")], "".into());
    assert_eq!(fixture.send(get, Target::All).await.status(), 405);
}
