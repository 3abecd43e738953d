use std::sync::Arc;

use althing_domain::id::Name;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{Inbox, NoResult};
use crate::mcp::call::Progress;

fn inbox() -> Arc<Inbox> {
    Inbox::new(Name::new("s"), 100, Arc::default())
}

#[tokio::test]
async fn answers_find_their_requests_in_any_order() {
    let inbox = inbox();
    let (first, second) =
        (inbox.register(None).expect("open"), inbox.register(None).expect("open"));
    inbox.accept(&format!(r#"{{"id":{},"result":{{"n":2}}}}"#, second.id));
    inbox.accept(&format!(r#"{{"id":{},"error":{{"code":-5,"message":"no"}}}}"#, first.id));
    let mut first = first;
    let mut second = second;
    assert_eq!(
        (&mut second.answer).await.expect("answered").expect("a result").get(),
        r#"{"n":2}"#
    );
    assert!(
        matches!((&mut first.answer).await.expect("answered"), Err(NoResult::Rpc(error)) if error.code == -5)
    );
}

#[tokio::test]
async fn a_result_over_the_limit_is_told_as_such() {
    let inbox = inbox();
    let mut ticket = inbox.register(None).expect("open");
    inbox.accept(&format!(r#"{{"id":{},"result":"{}"}}"#, ticket.id, "x".repeat(200)));
    assert!(matches!((&mut ticket.answer).await.expect("answered"), Err(NoResult::TooLarge)));
}

#[tokio::test]
async fn the_end_wakes_everybody_and_nobody_waits_after_it() {
    let inbox = inbox();
    let mut ticket = inbox.register(None).expect("open");
    inbox.end("it crashed");
    inbox.end("a later reason");
    assert!((&mut ticket.answer).await.is_err());
    assert_eq!(inbox.ended().as_deref(), Some("it crashed"));
    assert_eq!(inbox.register(None).err().as_deref(), Some("it crashed"));
    assert!(inbox.closed().is_cancelled());
}

#[tokio::test]
async fn a_dropped_request_leaves_nothing_behind() {
    let inbox = inbox();
    drop(inbox.register(None));
    assert!(inbox.waiting.lock().requests.is_empty());
}

#[test]
fn server_requests_are_answered_or_refused() {
    let inbox = inbox();
    assert_eq!(
        inbox.accept(r#"{"id":"a","method":"ping"}"#),
        [r#"{"jsonrpc":"2.0","id":"a","result":{}}"#]
    );
    assert_eq!(
        inbox.accept(r#"{"id":1,"method":"roots/list"}"#),
        [r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#]
    );
    let refused = inbox.accept(r#"{"id":2,"method":"sampling/createMessage","params":{}}"#);
    assert!(refused[0].contains("-32601"), "{refused:?}");
    for noise in [
        "",
        "hello",
        "null",
        "7",
        r#"{"id":99,"result":{}}"#,
        r#"{"method":"notifications/unknown"}"#,
        r#"{"method":"notifications/progress","params":[]}"#,
    ] {
        assert!(inbox.accept(noise).is_empty(), "{noise}");
    }
}

#[tokio::test]
async fn progress_reaches_its_caller_under_the_callers_own_token() {
    let inbox = inbox();
    let (sender, mut receiver) = mpsc::channel(1);
    let token = RawValue::from_string("\"mine\"".to_owned()).expect("JSON");
    let ticket = inbox.register(Some(Progress { token, sender })).expect("open");
    let notice = format!(
        r#"{{"method":"notifications/progress","params":{{"progressToken":{},"progress":1.50,"x":[1]}}}}"#,
        ticket.id
    );
    inbox.accept(&notice);
    // The second does not fit the queue and is dropped: it must not block.
    inbox.accept(&notice);
    let params = receiver.recv().await.expect("progress");
    assert_eq!(params.get(), r#"{"progressToken":"mine","progress":1.50,"x":[1]}"#);
    assert!(receiver.try_recv().is_err());
    inbox.accept(
        r#"{"method":"notifications/progress","params":{"progressToken":12345,"progress":1}}"#,
    );
    assert!(receiver.try_recv().is_err());
}
