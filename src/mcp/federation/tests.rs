//! A federation with real child processes: the guard is this test program, the server `tests/fixtures/mcp_stdio.py`.

use std::sync::Arc;
use std::time::Duration;

use althing_domain::id::Name;
use althing_domain::policy::McpServer;
use althing_domain::secret::{Form, Secret};
use async_trait::async_trait;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Federation, Limits, Options, ServerStatus, State};
use crate::clock::SystemClock;
use crate::mcp::call::{Call, CallError, CallOutcome, Progress};
use crate::mcp::upstream::{Secrets, TokenStore, guard};
use crate::secret::Place;
use crate::tasks::Tasks;

mod life;

/// Longer than anything takes on a busy machine; a condition that never comes true fails after it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const SECRET: &str = "s3cret-token-value";

/// Literals stand for themselves.
struct Literals;

#[async_trait]
impl Secrets for Literals {
    async fn resolve(&self, secret: &Secret, _: &Place<'_>) -> Result<SecretString, String> {
        match secret.form() {
            Form::Literal(value) => Ok(SecretString::from(value.to_owned())),
            _ => Err("only literals here".to_owned()),
        }
    }
}

/// Keeps grants in memory.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Mutex<std::collections::HashMap<Name, String>>);

#[async_trait]
impl TokenStore for Memory {
    async fn load(&self, server: &Name) -> Result<Option<SecretString>, String> {
        Ok(self.0.lock().get(server).map(|it| SecretString::from(it.clone())))
    }

    async fn save(&self, server: &Name, grant: SecretString) -> Result<(), String> {
        self.0.lock().insert(server.clone(), grant.expose_secret().to_owned());
        Ok(())
    }

    async fn forget(&self, server: &Name) -> Result<(), String> {
        self.0.lock().remove(server);
        Ok(())
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        connect_timeout: Duration::from_secs(30),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(500),
        ..Limits::default()
    }
}

pub(crate) fn options(limits: Limits) -> Options {
    Options {
        tasks: Tasks::default(),
        clock: Arc::new(SystemClock),
        secrets: Arc::new(Literals),
        tokens: Arc::new(Memory::default()),
        guard: guard::tests::program(),
        limits,
    }
}

pub(crate) fn spec(settings: Value) -> Arc<McpServer> {
    Arc::new(serde_json::from_value(settings).expect("settings"))
}

pub(crate) fn scripted(name: &str, env: &Value) -> Arc<McpServer> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/mcp_stdio.py");
    spec(json!({ "name": name, "transport": "stdio", "command": ["python3", script], "env": env }))
}

/// Waits until `it` holds.
pub(crate) async fn eventually(what: &str, mut it: impl FnMut() -> bool) {
    let waiting = async {
        while !it() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) fn status(federation: &Federation, server: &str) -> ServerStatus {
    federation.status().into_iter().find(|it| it.name.as_str() == server).expect("such a server")
}

pub(crate) async fn until_state(federation: &Federation, server: &str, state: State) {
    eventually(&format!("{server} is {state}"), || status(federation, server).state == state).await;
}

/// A federation of one scripted server that is ready.
async fn ready(env: Value) -> Federation {
    let federation = Federation::new(options(limits()));
    federation.reconcile(&[scripted("s", &env)]);
    until_state(&federation, "s", State::Ready).await;
    federation
}

pub(crate) fn call(tool: &str, arguments: &Value) -> Call {
    let mut call = Call::new(Name::new("s"), tool);
    call.arguments = Some(raw(&arguments.to_string()));
    call
}

pub(crate) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

/// The text of a result's first block.
pub(crate) fn text(outcome: &CallOutcome) -> String {
    let result: Value = serde_json::from_str(outcome.result.get()).expect("JSON");
    result["content"][0]["text"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_real_process_is_listed_page_by_page_and_called() {
    let federation = ready(json!({})).await;
    let catalog = federation.catalog();
    assert_eq!(catalog.tools.len(), 20);
    assert_eq!(&*catalog.tools[0].flat, "s-echo");
    assert!(catalog.tools[0].raw.get().contains(r#""execution": {"taskSupport": "forbidden"}"#));
    let status = status(&federation, "s");
    assert_eq!((status.tools, status.protocol_version.as_deref()), (20, Some("2025-11-25")));
    assert_eq!(
        status.server_info.as_deref().map(RawValue::get),
        Some(r#"{"name": "scripted", "version": "1", "x": [1.0]}"#)
    );
    let outcome = federation.call(call("echo", &json!({ "a": 1 }))).await.expect("a result");
    assert!(outcome.result.get().ends_with(r#""vendor": {"kept": 1.0}}"#), "{}", outcome.result);
    assert!(federation.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn meta_goes_through_without_what_is_the_gateways_own() {
    let federation = ready(json!({})).await;
    let mut with_meta = call("echo", &json!({}));
    with_meta.meta = Some(raw(
        r#"{"traceparent":"00-a","progressToken":7,"io.modelcontextprotocol/clientInfo":{},"v":1.50}"#,
    ));
    let echoed = text(&federation.call(with_meta).await.expect("a result"));
    assert_eq!(echoed, r#"{"_meta": {"traceparent": "00-a", "v": 1.5}, "arguments": {}}"#);
}

#[tokio::test]
async fn progress_is_passed_on_in_order() {
    let federation = ready(json!({})).await;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
    let mut progress = call("progress", &json!({ "steps": 3 }));
    progress.progress = Some(Progress { token: raw("\"abc\""), sender });
    federation.call(progress).await.expect("a result");
    let mut seen = Vec::new();
    while let Ok(it) = receiver.try_recv() {
        seen.push(it.get().to_owned());
    }
    assert_eq!(seen[2], r#"{"progressToken":"abc","progress":2,"message":"step"}"#);
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_crash_answers_every_waiting_call_and_the_server_comes_back() {
    let federation = ready(json!({ "TOKEN": SECRET })).await;
    let waiting = federation.call(call("never", &json!({})));
    let crash = federation.call(call("crash", &json!({})));
    let (waiting, crash) = tokio::join!(waiting, crash);
    for lost in [waiting, crash] {
        assert!(
            matches!(&lost, Err(CallError::OutcomeUnknown { reason }) if reason.contains("exit code")),
            "{lost:?}"
        );
    }
    eventually("it was restarted", || 0 < status(&federation, "s").restarts).await;
    until_state(&federation, "s", State::Ready).await;
    federation.call(call("echo", &json!({}))).await.expect("a result");
}

#[tokio::test]
async fn last_words_are_shown_without_secrets() {
    let federation = ready(json!({ "TOKEN": SECRET })).await;
    let spec_down = scripted("s", &json!({ "TOKEN": SECRET, "REFUSE_TO_START": "1" }));
    federation.reconcile(&[spec_down]);
    until_state(&federation, "s", State::Down).await;
    let error = status(&federation, "s").last_error.expect("an error");
    assert!(error.contains("no licence") && error.contains("exit code"), "{error}");
    assert!(!error.contains(SECRET));
    assert!(matches!(
        federation.call(call("echo", &json!({}))).await,
        Err(CallError::Unavailable { .. })
    ));
}

#[tokio::test]
async fn an_idempotent_call_whose_answer_was_lost_is_sent_once_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let marker = folder.path().join("crashed");
    let federation = ready(json!({})).await;
    let outcome = federation
        .call(call("crash_once", &json!({ "marker": marker })))
        .await
        .expect("the second attempt");
    assert!(text(&outcome).contains("marker"));
    assert!(marker.exists());
}

#[tokio::test]
async fn a_call_that_was_given_up_before_it_was_written_does_not_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let marker = folder.path().join("ran");
    let federation = ready(json!({})).await;
    let busy = federation.call(call("hang_input", &json!({ "ms": 800 })));
    // Larger than a pipe: what comes after it waits in the gateway.
    let large = federation.call(call("echo", &json!({ "text": "x".repeat(1024 * 1024) })));
    let hurried = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut hurried = call("crash_once", &json!({ "marker": marker }));
        hurried.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(200));
        federation.call(hurried).await
    };
    let (busy, large, hurried) = tokio::join!(busy, large, hurried);
    assert!(matches!(hurried, Err(CallError::Timeout { .. })), "{hurried:?}");
    assert!(busy.is_ok() && large.is_ok());
    federation.call(call("slow", &json!({ "ms": 200 }))).await.expect("a result");
    assert!(!marker.exists());
}

#[tokio::test]
async fn a_large_result_is_told_as_too_large_and_the_connection_lives() {
    let federation = ready(json!({})).await;
    let pid = text(&federation.call(call("pid", &json!({}))).await.expect("a result"));
    let big = federation.call(call("big", &json!({ "bytes": 50 * 1024 * 1024 }))).await;
    assert!(
        matches!(big, Err(CallError::TooLarge { limit_bytes }) if limit_bytes == 32 * 1024 * 1024),
        "{:?}",
        big.err()
    );
    let same = text(&federation.call(call("pid", &json!({}))).await.expect("a result"));
    assert_eq!(pid, same);
}

#[tokio::test]
async fn a_line_over_the_bound_ends_the_connection_not_the_node() {
    let federation = ready(json!({})).await;
    let lost = federation.call(call("long_line", &json!({ "bytes": 65 * 1024 * 1024 }))).await;
    assert!(
        matches!(&lost, Err(CallError::OutcomeUnknown { reason }) if reason.contains("64 MiB")),
        "{lost:?}"
    );
    eventually("it was restarted", || 0 < status(&federation, "s").restarts).await;
    until_state(&federation, "s", State::Ready).await;
}

#[tokio::test]
async fn floods_and_garbage_are_survived() {
    let federation = ready(json!({})).await;
    assert_eq!(
        text(&federation.call(call("flood", &json!({ "lines": 20_000 }))).await.expect("a result")),
        "flooded"
    );
    assert_eq!(
        text(&federation.call(call("garbage", &json!({}))).await.expect("a result")),
        "after garbage"
    );
    assert_eq!(status(&federation, "s").restarts, 0);
}

#[tokio::test]
async fn a_tools_own_failure_is_a_result_and_other_failures_are_errors() {
    let federation = ready(json!({})).await;
    let failed = federation.call(call("fail", &json!({}))).await.expect("a result");
    assert!(failed.result.get().contains(r#""isError": true"#));
    let malformed = federation.call(call("not_a_result", &json!({}))).await;
    assert!(matches!(malformed, Err(CallError::Malformed { .. })), "{malformed:?}");
    let rpc = federation.call(call("crash_once", &json!({}))).await;
    assert!(
        matches!(&rpc, Err(CallError::Rpc { code: -32603, message, .. }) if message.contains("KeyError")),
        "{rpc:?}"
    );
    let unknown = federation.call(call("no_such_tool", &json!({}))).await;
    assert!(matches!(unknown, Err(CallError::UnknownTool)));
    let mut elsewhere = call("echo", &json!({}));
    elsewhere.server = Name::new("other");
    assert!(matches!(federation.call(elsewhere).await, Err(CallError::UnknownTool)));
}

#[tokio::test]
async fn a_call_that_is_never_answered_times_out_and_the_server_is_told() {
    let federation = ready(json!({})).await;
    let mut timed = call("never", &json!({}));
    timed.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(200));
    assert!(matches!(federation.call(timed).await, Err(CallError::Timeout { .. })));
    let cancelled = call("never", &json!({}));
    let token = cancelled.cancel.clone();
    let (outcome, ()) = tokio::join!(federation.call(cancelled), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        token.cancel();
    });
    assert!(matches!(outcome, Err(CallError::Cancelled)));
    let dropped = tokio::time::timeout(
        Duration::from_millis(200),
        federation.call(call("never", &json!({}))),
    )
    .await;
    assert!(dropped.is_err());
    let seen = text(&federation.call(call("cancelled", &json!({}))).await.expect("a result"));
    assert_eq!(serde_json::from_str::<Vec<u64>>(&seen).expect("ids").len(), 3, "{seen}");
}

#[tokio::test]
async fn a_server_that_asks_is_answered_or_refused() {
    let federation = ready(json!({})).await;
    let ask = async |method: &str| {
        text(&federation.call(call("ask", &json!({ "method": method }))).await.expect("a result"))
    };
    assert!(ask("ping").await.contains(r#""result": {}"#));
    assert!(ask("roots/list").await.contains(r#""roots": []"#));
    assert!(ask("sampling/createMessage").await.contains("-32601"));
    assert!(ask("elicitation/create").await.contains("-32601"));
}

#[tokio::test]
async fn changed_tools_appear_and_the_version_grows() {
    let federation = ready(json!({})).await;
    let mut version = federation.version();
    version.mark_unchanged();
    federation.call(call("add_tool", &json!({ "name": "brand_new" }))).await.expect("a result");
    tokio::time::timeout(PATIENCE, version.changed())
        .await
        .expect("in time")
        .expect("a federation");
    let catalog = federation.catalog();
    assert_eq!(catalog.tools.last().map(|it| &*it.policy), Some("s/brand_new"));
}

#[tokio::test]
async fn a_server_sees_only_the_listed_variables_and_its_own() {
    let federation = ready(json!({ "TOKEN": SECRET, "LC_TIME": "C" })).await;
    let seen: std::collections::BTreeMap<String, String> = serde_json::from_str(&text(
        &federation.call(call("env", &json!({}))).await.expect("a result"),
    ))
    .expect("variables");
    assert_eq!(seen.get("TOKEN").map(String::as_str), Some(SECRET));
    assert!(seen.contains_key("PATH"));
    // Cargo sets these for this program.
    assert!(!seen.keys().any(|it| it.starts_with("CARGO") || it.starts_with("RUST")), "{seen:?}");
}
