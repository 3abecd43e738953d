//! A federation against HTTP servers that behave, and that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::mcp::call::{CallError, Progress};
use crate::mcp::federation::tests::{
    PATIENCE, call, eventually, limits, options, raw, spec, status, text, until_state,
};
use crate::mcp::federation::{Federation, Limits, State};
use crate::mcp::upstream::fixture::{Fixture, Piece, Reply, Seen, error, result, usual};

/// A modern server: no session, no `initialize`.
fn modern(seen: &Seen) -> Reply {
    match seen.rpc() {
        "initialize" => Reply::json(&error(seen, -32601, "no such method")),
        "subscriptions/listen" => Reply::status(405),
        _ => Reply::json(&usual(seen)),
    }
}

/// A legacy server: wants `initialize` first and a session after it.
fn legacy(seen: &Seen) -> Reply {
    if seen.method == Method::GET {
        return Reply::status(405);
    }
    if seen.method == Method::DELETE {
        return Reply::status(204);
    }
    match (seen.rpc(), seen.header("mcp-session-id")) {
        ("initialize", _) => Reply::json(&usual(seen)).with("mcp-session-id", "session-1"),
        (_, None) => Reply::status(400)
            .with("content-type", "application/json")
            .text(error(seen, -32000, "Bad Request: no session").to_string()),
        ("notifications/initialized" | "notifications/cancelled", _) => Reply::status(202),
        _ => Reply::json(&usual(seen)),
    }
}

fn connect(fixture: &Fixture, more: &Value) -> Federation {
    let federation = Federation::new(options(limits()));
    let mut settings =
        json!({ "name": "s", "transport": "http", "url": format!("{}/mcp", fixture.origin) });
    settings
        .as_object_mut()
        .expect("an object")
        .extend(more.as_object().cloned().unwrap_or_default());
    federation.reconcile(&[spec(settings)]);
    federation
}

async fn ready(fixture: &Fixture) -> Federation {
    let federation = connect(fixture, &json!({}));
    until_state(&federation, "s", State::Ready).await;
    federation
}

#[tokio::test]
async fn a_modern_server_is_called_without_a_handshake_and_with_its_headers() {
    let fixture = Fixture::start(modern).await;
    let federation = ready(&fixture).await;
    let status = status(&federation, "s");
    assert_eq!(status.protocol_version.as_deref(), Some("2026-07-28"));
    assert_eq!(
        status.server_info.as_deref().map(serde_json::value::RawValue::get),
        Some(r#"{"name":"modern","version":"1"}"#)
    );
    let outcome =
        federation.call(call("echo", &json!({ "region": "eu ä" }))).await.expect("a result");
    let params: Value = serde_json::from_str(&text(&outcome)).expect("JSON");
    assert_eq!(params["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(params["_meta"]["io.modelcontextprotocol/clientInfo"]["name"], "althing");
    let seen = fixture.last("tools/call");
    assert_eq!(
        (seen.header("mcp-method"), seen.header("mcp-name")),
        (Some("tools/call"), Some("echo"))
    );
    assert_eq!(
        (seen.header("mcp-protocol-version"), seen.header("mcp-param-region")),
        (Some("2026-07-28"), Some("=?base64?ZXUgw6Q=?="))
    );
    assert_eq!(seen.header("accept"), Some("application/json, text/event-stream"));
    assert_eq!((seen.header("mcp-session-id"), fixture.count("initialize")), (None, 0));
    assert!(federation.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_legacy_server_gets_its_handshake_its_session_and_its_goodbye() {
    let fixture = Fixture::start(legacy).await;
    let federation = ready(&fixture).await;
    assert_eq!(status(&federation, "s").protocol_version.as_deref(), Some("2025-11-25"));
    federation.call(call("echo", &json!({}))).await.expect("a result");
    let seen = fixture.last("tools/call");
    assert_eq!(
        (seen.header("mcp-session-id"), seen.header("mcp-protocol-version")),
        (Some("session-1"), Some("2025-11-25"))
    );
    assert_eq!(seen.header("mcp-method"), None);
    assert!(!seen.body.contains("io.modelcontextprotocol"), "{}", seen.body);
    assert_eq!(fixture.last("initialize").header("mcp-protocol-version"), None);
    assert_eq!(fixture.count("notifications/initialized"), 1);
    assert!(federation.shutdown(PATIENCE).await);
    assert!(
        fixture
            .seen
            .lock()
            .iter()
            .any(|it| it.method == Method::DELETE
                && it.header("mcp-session-id") == Some("session-1"))
    );
}

#[tokio::test]
async fn servers_that_refuse_the_probe_in_other_ways_are_greeted_the_old_way() {
    for refusal in [404, 405, 415, 500, 501] {
        let fixture = Fixture::start(move |seen| {
            if seen.rpc() == "server/discover" {
                Reply::status(refusal).text("<html>no")
            } else {
                legacy(seen)
            }
        })
        .await;
        let federation = ready(&fixture).await;
        assert_eq!(
            status(&federation, "s").protocol_version.as_deref(),
            Some("2025-11-25"),
            "{refusal}"
        );
    }
    let old = |seen: &Seen| match seen.rpc() {
        "server/discover" => Reply::json(
            &json!({ "jsonrpc": "2.0", "id": seen.json["id"], "error": { "code": -32022, "message": "no", "data": { "supported": ["2025-06-18"], "requested": "2026-07-28" } } }),
        ),
        "initialize" => Reply::json(&result(
            seen,
            &json!({ "protocolVersion": "2025-06-18", "capabilities": {} }),
        ))
        .with("mcp-session-id", "x"),
        _ => legacy(seen),
    };
    let fixture = Fixture::start(old).await;
    let federation = ready(&fixture).await;
    assert_eq!(status(&federation, "s").protocol_version.as_deref(), Some("2025-06-18"));
    federation.call(call("echo", &json!({}))).await.expect("a result");
    assert_eq!(fixture.last("tools/call").header("mcp-protocol-version"), Some("2025-06-18"));
}

#[tokio::test]
async fn an_answer_may_come_as_a_stream_with_progress_and_a_ping_in_it() {
    let fixture = Fixture::start(|seen| match seen.rpc() {
        "tools/call" => {
            let token = &seen.json["params"]["_meta"]["progressToken"];
            Reply::events()
                .event(&json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": 1 } }))
                .event(&json!({ "jsonrpc": "2.0", "id": "p", "method": "ping" }))
                .event(&usual(seen))
                .piece(Piece::Wait(Duration::from_millis(100)))
        }
        "" if seen.method == Method::POST => Reply::status(202),
        _ => legacy(seen),
    })
    .await;
    let federation = ready(&fixture).await;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let mut progressing = call("echo", &json!({ "a": 1 }));
    progressing.progress = Some(Progress { token: raw("5"), sender });
    federation.call(progressing).await.expect("a result");
    assert_eq!(
        receiver.recv().await.map(|it| it.get().to_owned()).as_deref(),
        Some(r#"{"progressToken":5,"progress":1}"#)
    );
    eventually("the ping is answered", || {
        fixture.seen.lock().iter().any(|it| it.body == r#"{"jsonrpc":"2.0","id":"p","result":{}}"#)
    })
    .await;
}

#[tokio::test]
async fn a_forgotten_session_is_begun_anew_and_the_call_runs_once() {
    for (status_code, body) in [
        (404, ""),
        (
            400,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
        ),
    ] {
        let initialized = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&initialized);
        let fixture = Fixture::start(move |seen| match seen.rpc() {
            "initialize" => {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                Reply::json(&usual(seen)).with("mcp-session-id", format!("session-{number}"))
            }
            "tools/call" if seen.header("mcp-session-id") == Some("session-0") => {
                Reply::status(status_code).with("content-type", "application/json").text(body)
            }
            _ => legacy(seen),
        })
        .await;
        let federation = ready(&fixture).await;
        federation.call(call("echo", &json!({}))).await.expect("a result in the second session");
        assert_eq!(initialized.load(Ordering::SeqCst), 2);
        assert_eq!(fixture.count("tools/call"), 2);
    }
}

#[tokio::test]
async fn a_cut_stream_is_taken_up_where_it_was_cut() {
    let call_id = parking_lot::Mutex::new(Value::Null);
    let fixture = Fixture::start(move |seen| match (seen.rpc(), seen.header("last-event-id")) {
        ("tools/call", _) => {
            *call_id.lock() = seen.json["id"].clone();
            Reply::events().text("id: e-1\nretry: 50\ndata:\n\n").piece(Piece::Cut)
        }
        (_, Some("e-1")) => Reply::events().text("id: e-2\nretry: 1\n\n"),
        (_, Some("e-2")) => Reply::events().event(&json!({ "jsonrpc": "2.0", "id": *call_id.lock(), "result": { "content": [{ "type": "text", "text": "resumed" }] } })),
        _ => legacy(seen),
    })
    .await;
    let federation = ready(&fixture).await;
    let outcome = federation.call(call("echo", &json!({}))).await.expect("a result");
    assert_eq!(text(&outcome), "resumed");
    assert_eq!(fixture.count("tools/call"), 1);
}

#[tokio::test]
async fn a_stream_that_ends_without_an_answer_is_told_as_such_and_never_repeated() {
    for piece in [|| Piece::Cut, || Piece::Text(String::new())] {
        let fixture = Fixture::start(move |seen| match seen.rpc() {
            "tools/call" => Reply::events().text(": hello\n\n").piece(piece()),
            _ => legacy(seen),
        })
        .await;
        let federation = ready(&fixture).await;
        let lost = federation.call(call("echo", &json!({}))).await;
        assert!(matches!(lost, Err(CallError::OutcomeUnknown { .. })), "{lost:?}");
        assert_eq!(fixture.count("tools/call"), 1);
    }
}

#[tokio::test]
async fn the_servers_own_stream_tells_of_changed_tools() {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let stream = parking_lot::Mutex::new(Some(receiver));
    let fixture = Fixture::start(move |seen| match seen.rpc() {
        "" if seen.method == Method::GET => match stream.lock().take() {
            Some(live) => Reply::events().piece(Piece::Live(live)),
            None => Reply::status(405),
        },
        _ => legacy(seen),
    })
    .await;
    let federation = ready(&fixture).await;
    let before = fixture.count("tools/list");
    sender
        .send(
            "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n"
                .to_owned(),
        )
        .await
        .expect("open");
    eventually("listed again", || before < fixture.count("tools/list")).await;
    assert_eq!(status(&federation, "s").restarts, 0);
}

#[tokio::test]
async fn a_modern_server_tells_of_changed_tools_by_subscription() {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let stream = parking_lot::Mutex::new(Some(receiver));
    let fixture = Fixture::start(move |seen| match seen.rpc() {
        "subscriptions/listen" => match stream.lock().take() {
            Some(live) => Reply::events().piece(Piece::Live(live)),
            None => Reply::status(405),
        },
        _ => modern(seen),
    })
    .await;
    let federation = ready(&fixture).await;
    eventually("subscribed", || fixture.count("subscriptions/listen") == 1).await;
    let seen = fixture.last("subscriptions/listen");
    assert_eq!(seen.json["params"]["notifications"]["toolsListChanged"], true);
    let before = fixture.count("tools/list");
    sender.send("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{}}\n\n".to_owned()).await.expect("open");
    eventually("listed again", || before < fixture.count("tools/list")).await;
    drop(federation);
}

#[tokio::test]
async fn too_large_answers_are_refused_in_both_forms_and_not_read_to_the_end() {
    for kind in ["application/json", "text/event-stream"] {
        let fixture = Fixture::start(move |seen| match seen.rpc() {
            "tools/call" => Reply::status(200)
                .with("content-type", kind)
                .text("data: ")
                .piece(Piece::Zeros(50 * 1024 * 1024))
                .piece(Piece::Hang),
            _ => legacy(seen),
        })
        .await;
        let federation = ready(&fixture).await;
        let large = federation.call(call("echo", &json!({}))).await;
        assert!(matches!(large, Err(CallError::TooLarge { .. })), "{kind}: {large:?}");
        assert_eq!(status(&federation, "s").state, State::Ready);
    }
}

#[tokio::test]
async fn no_answer_in_time_is_told_to_both_sides() {
    let hang = |reply: fn(&Seen) -> Reply| {
        move |seen: &Seen| {
            if seen.rpc() == "tools/call" {
                Reply::events().text(":\n\n").piece(Piece::Hang)
            } else {
                reply(seen)
            }
        }
    };
    let timed = || {
        let mut timed = call("echo", &json!({}));
        timed.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(300));
        timed
    };
    let fixture = Fixture::start(hang(legacy)).await;
    let federation = ready(&fixture).await;
    assert!(matches!(federation.call(timed()).await, Err(CallError::Timeout { .. })));
    eventually("the server is told", || fixture.count("notifications/cancelled") == 1).await;
    assert_eq!(
        fixture.last("notifications/cancelled").json["params"]["requestId"],
        fixture.last("tools/call").json["id"]
    );
    let fixture = Fixture::start(hang(modern)).await;
    let federation = ready(&fixture).await;
    assert!(matches!(federation.call(timed()).await, Err(CallError::Timeout { .. })));
    // The end of the stream says it; there is no such notification for a stateless server.
    assert_eq!(fixture.count("notifications/cancelled"), 0);
    drop(federation);
}

#[tokio::test]
async fn garbage_instead_of_an_answer_is_told_as_such_without_its_content() {
    let page = "<html>secret page</html>";
    let cases: Vec<(u16, &'static str, &'static str)> = vec![
        (200, "text/html", page),
        (200, "application/json", page),
        (200, "application/json", "[1,2]"),
        (200, "application/json", ""),
        (200, "application/json", r#"{"jsonrpc":"2.0"}"#),
        (502, "text/html", page),
        (500, "application/json", page),
    ];
    for (code, kind, body) in cases {
        let fixture = Fixture::start(move |seen| match seen.rpc() {
            "tools/call" => Reply::status(code).with("content-type", kind).text(body),
            _ => legacy(seen),
        })
        .await;
        let federation = ready(&fixture).await;
        let garbage = federation.call(call("echo", &json!({}))).await.expect_err("no result");
        assert!(
            matches!(garbage, CallError::Malformed { .. } | CallError::OutcomeUnknown { .. }),
            "{code} {body}: {garbage:?}"
        );
        assert!(!garbage.to_string().contains("secret"), "{garbage}");
    }
}

#[tokio::test]
async fn an_rpc_error_under_an_http_error_is_the_servers_own_word() {
    let fixture = Fixture::start(|seen| match seen.rpc() {
        "tools/call" => Reply::status(400)
            .with("content-type", "application/json")
            .text(error(seen, -32602, "bad arguments").to_string()),
        _ => modern(seen),
    })
    .await;
    let federation = ready(&fixture).await;
    let refused = federation.call(call("echo", &json!({}))).await;
    assert!(
        matches!(&refused, Err(CallError::Rpc { code: -32602, message, .. }) if message == "bad arguments"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_header_that_a_server_repeats_in_its_error_is_taken_out() {
    let fixture = Fixture::start(|seen| match seen.rpc() {
        "tools/call" => {
            let proof = seen.header("authorization").unwrap_or_default().to_owned();
            let token = proof.trim_start_matches("Bearer ").to_owned();
            let data = json!({ "jsonrpc": "2.0", "id": seen.json["id"], "error": { "code": -5, "message": format!("who is {proof}? {token}?"), "data": { "seen": token } } });
            Reply::status(seen.json["params"]["arguments"]["status"].as_u64().and_then(|it| it.try_into().ok()).unwrap_or(200)).with("content-type", "application/json").text(data.to_string())
        }
        _ => modern(seen),
    })
    .await;
    let federation =
        connect(&fixture, &json!({ "headers": { "authorization": "Bearer s3cret-header-token" } }));
    until_state(&federation, "s", State::Ready).await;
    for status in [200, 400] {
        let refused = federation.call(call("echo", &json!({ "status": status }))).await;
        let Err(CallError::Rpc { message, data, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(message, "who is [secret]? [secret]?");
        assert_eq!(data.map(|it| it.get().to_owned()).as_deref(), Some(r#"{"seen":"[secret]"}"#));
    }
}

#[tokio::test]
async fn a_question_back_is_not_taken_for_a_result() {
    let fixture = Fixture::start(|seen| match seen.rpc() {
        "tools/call" => Reply::json(&result(
            seen,
            &json!({ "resultType": "input_required", "inputRequests": {}, "requestState": "x" }),
        )),
        _ => modern(seen),
    })
    .await;
    let federation = ready(&fixture).await;
    assert!(matches!(
        federation.call(call("echo", &json!({}))).await,
        Err(CallError::InputRequired { .. })
    ));
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only_and_headers_go_nowhere_else() {
    let elsewhere = Fixture::start(modern).await;
    let target = elsewhere.origin.clone();
    let fixture = Fixture::start(move |seen| match seen.target.as_str() {
        "/mcp" => Reply::status(307).with("location", "/mcp/"),
        "/away" => Reply::status(307).with("location", format!("{target}/mcp")),
        _ => modern(seen),
    })
    .await;
    let federation = connect(&fixture, &json!({ "headers": { "x-token": "s3cret-value" } }));
    until_state(&federation, "s", State::Ready).await;
    federation.call(call("echo", &json!({}))).await.expect("a result");
    assert_eq!(fixture.last("tools/call").header("x-token"), Some("s3cret-value"));
    let away = json!({ "url": format!("{}/away", fixture.origin), "headers": { "x-token": "s3cret-value" } });
    let federation = connect(&fixture, &away);
    until_state(&federation, "s", State::Down).await;
    assert!(status(&federation, "s").last_error.is_some_and(|it| it.contains("another host")));
    assert!(elsewhere.seen.lock().is_empty());
}

#[tokio::test]
async fn settings_that_cannot_work_say_which_and_why() {
    let fixture = Fixture::start(modern).await;
    for (more, expected) in [
        (json!({ "url": "ftp://x/" }), "`url`"),
        (json!({ "headers": { "mcp-session-id": "x" } }), "headers.mcp-session-id"),
        (json!({ "headers": { "a b": "x" } }), "headers.a b"),
        (json!({ "headers": { "x-token": "s3cret\nvalue" } }), "headers.x-token"),
        (json!({ "headers": { "x-token": "env:NOT_THERE" } }), "headers.x-token"),
        (json!({ "url": "http://127.0.0.1:1/mcp" }), "onnect"),
    ] {
        let federation = connect(&fixture, &more);
        until_state(&federation, "s", State::Down).await;
        let error = status(&federation, "s").last_error.expect("an error");
        assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_us_waits_for_a_person() {
    let fixture = Fixture::start(|_| Reply::status(401)).await;
    let federation = connect(&fixture, &json!({}));
    until_state(&federation, "s", State::Held).await;
    let tried = fixture.seen.lock().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fixture.seen.lock().len(), tried, "it is not asked again and again");
    assert!(federation.reconnect("s"));
    eventually("asked again", || tried < fixture.seen.lock().len()).await;
}

#[tokio::test]
async fn a_server_that_refused_us_once_is_tried_again_by_itself() {
    let refuses = Arc::new(AtomicBool::new(true));
    let script = Arc::clone(&refuses);
    let fixture = Fixture::start(move |seen| {
        if script.load(Ordering::SeqCst) { Reply::status(401) } else { modern(seen) }
    })
    .await;
    let limits = Limits { refresh_every: Duration::from_millis(100), ..limits() };
    let federation = Federation::new(options(limits));
    let url = format!("{}/mcp", fixture.origin);
    federation.reconcile(&[spec(json!({ "name": "s", "transport": "http", "url": url }))]);
    until_state(&federation, "s", State::Held).await;
    refuses.store(false, Ordering::SeqCst);
    until_state(&federation, "s", State::Ready).await;
}

#[tokio::test]
async fn a_server_that_went_away_is_noticed_by_the_first_call_and_found_again() {
    let fixture = Fixture::start(modern).await;
    let federation = ready(&fixture).await;
    let address = fixture.origin.trim_start_matches("http://").to_owned();
    drop(fixture);
    eventually("the port is closed", || std::net::TcpStream::connect(&address).is_err()).await;
    let refused = federation.call(call("echo", &json!({}))).await;
    assert!(matches!(refused, Err(CallError::Unavailable { .. })), "{refused:?}");
    until_state(&federation, "s", State::Down).await;
    let listener = tokio::net::TcpListener::bind(&address).await.expect("the same port");
    let _again = Fixture::serve(listener, modern);
    until_state(&federation, "s", State::Ready).await;
    federation.call(call("echo", &json!({}))).await.expect("a result");
}

#[tokio::test]
async fn connections_are_used_again_after_json_and_after_streams() {
    let fixture = Fixture::start(|seen| match seen.rpc() {
        "tools/call" => {
            Reply::events().event(&usual(seen)).piece(Piece::Wait(Duration::from_millis(20)))
        }
        _ => modern(seen),
    })
    .await;
    let federation = ready(&fixture).await;
    for _ in 0..10 {
        federation.call(call("echo", &json!({}))).await.expect("a result");
        // The rest of the stream is read behind the answer.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(fixture.count("tools/call"), 10);
    let connections = fixture.connections.load(Ordering::SeqCst);
    assert!(connections <= 4, "{connections} connections for 10 calls");
}
