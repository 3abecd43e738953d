use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use super::{Answer, Fixture, catalog, events, piece, request, rpc};
use crate::error::{Code, Error};
use crate::mcp::json;
use crate::mcp::scope::tests::{FakeCaller, catalog_of};
use crate::mcp::server::{Limits, Target};

fn slow_call() -> Value {
    rpc("tools/call", &json!({ "name": "a-x", "_meta": { "progressToken": "tok" } }))
}

/// A caller whose calls report progress twice and wait to be let go.
fn reporting(go: &Arc<Notify>) -> FakeCaller {
    let mut caller = FakeCaller::new(&["*"]);
    let go = Arc::clone(go);
    caller.answer = Arc::new(move |request| {
        let go = Arc::clone(&go);
        Box::pin(async move {
            let progress = request.progress.unwrap();
            for step in 1..=2 {
                let params = json!({ "progressToken": serde_json::from_str::<Value>(progress.token.get()).unwrap(), "progress": step });
                progress.sender.send(json::raw(params.to_string())).await.unwrap();
            }
            go.notified().await;
            Ok(json::raw(r#"{"content":[]}"#.to_owned()))
        })
    });
    caller
}

#[tokio::test]
async fn progress_comes_before_the_answer_under_the_callers_token() {
    let go = Arc::new(Notify::new());
    let fixture = Fixture::new(reporting(&go));
    go.notify_one();
    let answer = fixture.post(&[], &slow_call()).await;
    let methods: Vec<_> = answer.events.iter().map(|it| it["params"].clone()).collect();
    assert_eq!(
        methods,
        [
            json!({ "progressToken": "tok", "progress": 1 }),
            json!({ "progressToken": "tok", "progress": 2 }),
            Value::Null
        ]
    );
    assert_eq!(answer.body["result"], json!({ "content": [] }));
}

#[tokio::test(start_paused = true)]
async fn a_long_call_becomes_a_stream_that_stays_alive() {
    let mut caller = FakeCaller::new(&["*"]);
    caller.answer = Arc::new(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(45)).await;
            Ok(json::raw(r#"{"content":[]}"#.to_owned()))
        })
    });
    let fixture = Fixture::new(caller);
    let body = rpc("tools/call", &json!({ "name": "a-x" })).to_string();
    let request =
        |headers: &[(&str, &str)]| request(Method::POST, "/mcp", headers, body.clone().into());
    let mut stream = fixture.send(request(&[]), Target::All).await.into_body();
    assert_eq!(piece(&mut stream).await.unwrap(), ": keep-alive\n\n");
    assert_eq!(piece(&mut stream).await.unwrap(), ": keep-alive\n\n");
    let last = events(piece(&mut stream).await.unwrap().as_bytes());
    assert_eq!(last[0]["result"], json!({ "content": [] }));
    // Who takes only JSON waits.
    let answer =
        Answer::of(fixture.send(request(&[("accept", "application/json")]), Target::All).await)
            .await;
    assert!(answer.events.is_empty());
    assert_eq!(answer.body["result"], json!({ "content": [] }));
}

/// A caller whose calls never end by themselves; says when one ends otherwise.
fn endless() -> (FakeCaller, oneshot::Receiver<&'static str>) {
    struct Tell(Option<oneshot::Sender<&'static str>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            if let Some(tell) = self.0.take() {
                let _gone = tell.send("dropped");
            }
        }
    }
    let (sender, receiver) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let mut caller = FakeCaller::new(&["*"]);
    caller.answer = Arc::new(move |request| {
        let mut tell = Tell(sender.lock().take());
        Box::pin(async move {
            request.cancel.cancelled().await;
            if let Some(tell) = tell.0.take() {
                let _gone = tell.send("cancelled");
            }
            Err(Error::of(Code::Cancelled))
        })
    });
    (caller, receiver)
}

#[tokio::test(start_paused = true)]
async fn a_legacy_call_is_cancelled_by_its_notification_in_its_session_only() {
    let (caller, mut ended) = endless();
    let fixture = Fixture::new(caller);
    let session = fixture.session("2025-11-25").await;
    let other = fixture.session("2025-11-25").await;
    let body = rpc("tools/call", &json!({ "name": "a-x" })).to_string();
    let call = request(Method::POST, "/mcp", &[("mcp-session-id", &session)], body.into());
    let mut stream = fixture.send(call, Target::All).await.into_body();
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 7 } });
    fixture.post(&[("mcp-session-id", &other)], &cancel).await;
    fixture.post(&[], &cancel).await;
    assert!(ended.try_recv().is_err(), "another session's request of that id");
    fixture.post(&[("mcp-session-id", &session)], &cancel).await;
    assert_eq!(ended.await.unwrap(), "cancelled");
    let last = events(piece(&mut stream).await.unwrap().as_bytes());
    assert_eq!(last[0]["error"]["data"]["code"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_legacy_call_can_be_cancelled_after_its_connection_was_lost() {
    for seconds_until_lost in [1, 30] {
        let (caller, ended) = endless();
        let fixture = Fixture::new(caller);
        let session = fixture.session("2025-11-25").await;
        let body = rpc("tools/call", &json!({ "name": "a-x" })).to_string();
        let call = request(Method::POST, "/mcp", &[("mcp-session-id", &session)], body.into());
        // Lost before its answer began, and after it had become a stream.
        let waiting = async {
            let stream = fixture.send(call, Target::All).await;
            std::future::pending::<()>().await;
            drop(stream);
        };
        let lost = tokio::time::timeout(Duration::from_secs(seconds_until_lost), waiting).await;
        assert!(lost.is_err());
        // What runs behind a stream notices that it is gone.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 7 } });
        fixture.post(&[("mcp-session-id", &session)], &cancel).await;
        let told = tokio::time::timeout(Duration::from_secs(1), ended).await;
        assert_eq!(told.expect("it ends").unwrap(), "cancelled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_legacy_call_survives_its_connection_and_a_modern_one_does_not() {
    let (caller, mut ended) = endless();
    let fixture = Fixture::new(caller);
    let body = rpc("tools/call", &json!({ "name": "a-x" })).to_string();
    let stream = fixture.send(request(Method::POST, "/mcp", &[], body.into()), Target::All).await;
    drop(stream);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(ended.try_recv().is_err());

    let (caller, ended) = endless();
    let fixture = Fixture::new(caller);
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let body = rpc("tools/call", &json!({ "name": "a-x", "_meta": meta })).to_string();
    let headers =
        [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "a-x")];
    let stream =
        fixture.send(request(Method::POST, "/mcp", &headers, body.into()), Target::All).await;
    drop(stream);
    assert_eq!(ended.await.unwrap(), "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_modern_call_whose_answer_nobody_waits_for_is_cancelled() {
    let (caller, ended) = endless();
    let fixture = Fixture::new(caller);
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let body = rpc("tools/call", &json!({ "name": "a-x", "_meta": meta })).to_string();
    let headers =
        [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "a-x")];
    let waiting = fixture.send(request(Method::POST, "/mcp", &headers, body.into()), Target::All);
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
    assert_eq!(ended.await.unwrap(), "cancelled");
}

async fn open(fixture: &Fixture, headers: &[(&str, &str)]) -> super::Body {
    let get = request(Method::GET, "/mcp", headers, "".into());
    let mut stream = fixture.send(get, Target::All).await.into_body();
    assert_eq!(piece(&mut stream).await.unwrap(), ": keep-alive\n\n");
    stream
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_of_changes_of_the_callers_own_list_alone() {
    let fixture = Fixture::new(FakeCaller::new(&["a/*"]));
    let mut stream = open(&fixture, &[]).await;
    // Another server's tools change: nothing that this caller sees.
    fixture.catalogs.change(catalog_of(
        &[("a", &["x", "y"]), ("b", &["other"]), ("late", &[])],
        &super::schema(),
    ));
    assert_eq!(piece(&mut stream).await.unwrap(), ": keep-alive\n\n");
    fixture.catalogs.change(catalog_of(&[("a", &["x"])], &super::schema()));
    let told = events(piece(&mut stream).await.unwrap().as_bytes());
    assert_eq!(told, [json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" })]);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_ends_its_streams_at_once() {
    let fixture = Fixture::all();
    let mut stream = open(&fixture, &[]).await;
    *fixture.caller.revoked.lock() = true;
    let before = tokio::time::Instant::now();
    fixture.law.send_modify(|it| *it += 1);
    assert_eq!(piece(&mut stream).await, None);
    assert!(before.elapsed() < Duration::from_secs(1));
    // Expiry is no change of the law: the next beat notices it.
    *fixture.caller.revoked.lock() = false;
    let mut stream = open(&fixture, &[]).await;
    *fixture.caller.revoked.lock() = true;
    assert_eq!(piece(&mut stream).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_and_an_ended_session_close_their_streams() {
    let fixture = Fixture::all();
    let session = fixture.session("2025-11-25").await;
    let mut of_session = open(&fixture, &[("mcp-session-id", &session)]).await;
    let mut without = open(&fixture, &[]).await;
    let delete = request(Method::DELETE, "/mcp", &[("mcp-session-id", &session)], "".into());
    fixture.send(delete, Target::All).await;
    assert_eq!(piece(&mut of_session).await, None);
    fixture.tasks.stop().cancel();
    assert_eq!(piece(&mut without).await, None);
    assert!(fixture.tasks.shutdown(Duration::from_secs(1)).await, "no task is left");
    assert_eq!(fixture.tasks.panics(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_principal_cannot_take_all_streams() {
    let limits = Limits { streams_per_principal: 2, ..Limits::default() };
    let fixture = Fixture::with(FakeCaller::new(&["*"]), catalog(), limits);
    let (first, _second) = (open(&fixture, &[]).await, open(&fixture, &[]).await);
    let get = || request(Method::GET, "/mcp", &[], "".into());
    let refused = fixture.send(get(), Target::All).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "5");
    drop(first);
    tokio::time::sleep(Duration::from_millis(10)).await;
    open(&fixture, &[]).await;
}
