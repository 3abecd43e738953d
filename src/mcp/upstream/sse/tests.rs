use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;

use crate::mcp::call::CallError;
use crate::mcp::federation::tests::{
    PATIENCE, call, eventually, limits, options, spec, status, text, until_state,
};
use crate::mcp::federation::{Federation, State};
use crate::mcp::upstream::fixture::{Fixture, Piece, Reply, Seen, usual};

type Streams = Arc<Mutex<HashMap<String, mpsc::Sender<String>>>>;

/// A server of the old transport. `hook` may take a message; `None` leaves it to the usual answers.
fn server(
    streams: Streams,
    endpoint: &'static str,
    hook: impl Fn(&Seen, &mpsc::Sender<String>) -> bool + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    move |seen| {
        if seen.method == Method::GET {
            let (sender, receiver) = mpsc::channel(64);
            let mut streams = streams.lock();
            let session = streams.len().to_string();
            streams.insert(session.clone(), sender);
            let opening =
                format!("event: endpoint\ndata: {}\n\n", endpoint.replace("SESSION", &session));
            return Reply::events().text(opening).piece(Piece::Live(receiver));
        }
        let session = seen.target.rsplit('=').next().unwrap_or_default();
        let Some(sender) = streams.lock().get(session).cloned() else { return Reply::status(404) };
        if !hook(seen, &sender) && seen.json["id"].is_number() {
            drop(sender.try_send(format!("event: message\ndata: {}\n\n", usual(seen))));
        }
        Reply::status(202).text("Accepted")
    }
}

fn connect(fixture: &Fixture) -> Federation {
    let federation = Federation::new(options(limits()));
    federation.reconcile(&[spec(
        json!({ "name": "s", "transport": "sse", "url": format!("{}/sse", fixture.origin) }),
    )]);
    federation
}

#[tokio::test]
async fn the_old_transport_lists_and_calls() {
    let streams = Streams::default();
    let fixture =
        Fixture::start(server(Arc::clone(&streams), "/messages?session=SESSION", |_, _| false))
            .await;
    let federation = connect(&fixture);
    until_state(&federation, "s", State::Ready).await;
    let outcome = federation.call(call("echo", &json!({ "a": 1 }))).await.expect("a result");
    assert!(text(&outcome).contains(r#""arguments":{"a":1}"#));
    assert_eq!(fixture.count("server/discover"), 0);
    assert!(federation.shutdown(PATIENCE).await);
    eventually("the stream is closed", || streams.lock().values().all(mpsc::Sender::is_closed))
        .await;
}

#[tokio::test]
async fn a_foreign_endpoint_is_refused() {
    let elsewhere = Fixture::start(|_| Reply::status(202)).await;
    let endpoint: &'static str =
        Box::leak(format!("{}/messages", elsewhere.origin).into_boxed_str());
    let fixture = Fixture::start(server(Streams::default(), endpoint, |_, _| false)).await;
    let federation = connect(&fixture);
    until_state(&federation, "s", State::Down).await;
    assert!(status(&federation, "s").last_error.is_some_and(|it| it.contains("another host")));
    assert!(elsewhere.seen.lock().is_empty());
}

#[tokio::test]
async fn the_end_of_the_stream_answers_waiting_calls_and_the_server_is_reached_again() {
    let streams = Streams::default();
    let cut = Arc::clone(&streams);
    let hook = move |seen: &Seen, _: &mpsc::Sender<String>| {
        let is_first = seen.rpc() == "tools/call" && seen.target.ends_with("=0");
        if is_first {
            // Only the closure's own clone of the sender is left after this, and that one goes with the request.
            cut.lock().insert("0".to_owned(), mpsc::channel(1).0);
        }
        is_first
    };
    let fixture =
        Fixture::start(server(Arc::clone(&streams), "messages?session=SESSION", hook)).await;
    let federation = connect(&fixture);
    until_state(&federation, "s", State::Ready).await;
    let lost = federation.call(call("echo", &json!({}))).await;
    assert!(
        matches!(&lost, Err(CallError::OutcomeUnknown { reason }) if reason.contains("stream")),
        "{lost:?}"
    );
    eventually("reached again", || 0 < status(&federation, "s").restarts).await;
    until_state(&federation, "s", State::Ready).await;
    federation.call(call("echo", &json!({}))).await.expect("a result");
}

#[tokio::test]
async fn a_call_that_is_given_up_is_cancelled_at_the_server_and_a_ping_is_answered() {
    let hook = |seen: &Seen, sender: &mpsc::Sender<String>| {
        if seen.rpc() == "tools/call" {
            drop(sender.try_send(
                "data: {\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}\n\n".to_owned(),
            ));
        }
        seen.rpc() == "tools/call"
    };
    let fixture =
        Fixture::start(server(Streams::default(), "/messages?session=SESSION", hook)).await;
    let federation = connect(&fixture);
    until_state(&federation, "s", State::Ready).await;
    let dropped =
        tokio::time::timeout(Duration::from_millis(200), federation.call(call("echo", &json!({}))))
            .await;
    assert!(dropped.is_err());
    eventually("cancelled", || fixture.count("notifications/cancelled") == 1).await;
    eventually("answered", || {
        fixture.seen.lock().iter().any(|it| it.body.contains(r#""id":"p","result""#))
    })
    .await;
}

#[tokio::test]
async fn a_server_of_another_transport_is_named() {
    let fixture = Fixture::start(|_| Reply::json(&json!({}))).await;
    let federation = connect(&fixture);
    until_state(&federation, "s", State::Down).await;
    assert!(status(&federation, "s").last_error.is_some_and(|it| it.contains("transport")));
}
