//! Coming, changing and going of servers and of the gateway itself.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use althing_domain::policy::McpServer;
use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{
    PATIENCE, call, eventually, limits, options, ready, scripted, spec, status, text, until_state,
};
use crate::mcp::call::CallError;
use crate::mcp::federation::{Federation, Limits, State};

fn is_alive(pid: i32) -> bool {
    // A zombie is dead: only its status is left.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|it| it.rsplit_once(')').map(|(_, rest)| !rest.trim_start().starts_with('Z')))
        .unwrap_or(false)
}

async fn spawn_all(federation: &Federation) -> Vec<i32> {
    let pids = text(&federation.call(call("spawn", &json!({}))).await.expect("a result"));
    let pids: Vec<i32> = serde_json::from_str(&pids).expect("pids");
    assert!(pids.len() == 4 && pids.iter().all(|it| is_alive(*it)), "{pids:?}");
    pids
}

async fn until_dead(pids: &[i32]) {
    eventually(&format!("{pids:?} are dead"), || !pids.iter().any(|it| is_alive(*it))).await;
}

#[tokio::test]
async fn shutdown_ends_the_server_with_grandchildren_sessions_and_orphans() {
    let federation = ready(json!({})).await;
    let pids = spawn_all(&federation).await;
    assert!(federation.shutdown(PATIENCE).await);
    until_dead(&pids).await;
}

#[tokio::test]
async fn a_server_that_dies_takes_its_grandchildren_along() {
    let federation = ready(json!({})).await;
    let pids = spawn_all(&federation).await;
    drop(federation.call(call("crash", &json!({}))).await);
    until_dead(&pids).await;
}

#[tokio::test]
async fn a_server_that_takes_no_input_is_ended_and_its_callers_are_told() {
    let federation = ready(json!({})).await;
    let hung = federation.call(call("hang_input", &json!({})));
    let removal = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        federation.reconcile(&[]);
    };
    let deadline = tokio::time::timeout(Duration::from_millis(500), hung);
    let (hung, ()) = tokio::join!(deadline, removal);
    assert!(hung.is_err(), "it was removed, but its call in flight has the drain's bound");
    assert!(federation.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_removed_server_finishes_its_calls_and_is_gone_for_new_ones() {
    let federation = ready(json!({})).await;
    let running = federation.call(call("slow", &json!({ "ms": 800 })));
    let removal = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        federation.reconcile(&[]);
        assert!(matches!(
            federation.call(call("echo", &json!({}))).await,
            Err(CallError::UnknownTool)
        ));
    };
    let (running, ()) = tokio::join!(running, removal);
    assert_eq!(text(&running.expect("a result")), "slept");
    assert!(federation.catalog().tools.is_empty() && federation.status().is_empty());
}

#[tokio::test]
async fn a_changed_price_keeps_the_process_and_a_changed_variable_starts_another() {
    let federation = ready(json!({})).await;
    let pid = async || text(&federation.call(call("pid", &json!({}))).await.expect("a result"));
    let first = pid().await;
    let mut dearer = McpServer::clone(&scripted("s", &json!({})));
    dearer.prices.insert("echo".to_owned(), "0.5".parse().expect("an amount"));
    dearer.tools = vec!["echo".into(), "pid".into(), "slow".into()];
    federation.reconcile(&[Arc::new(dearer.clone())]);
    assert_eq!(federation.catalog().tools.len(), 3);
    assert_eq!(federation.catalog().tools[0].price.0, 500_000_000);
    assert_eq!(pid().await, first);
    // The old process finishes what it runs while the new one starts.
    let running = federation.call(call("slow", &json!({ "ms": 1500 })));
    let change = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        dearer.env.insert("X".to_owned(), "y".to_owned().pipe_secret());
        federation.reconcile(&[Arc::new(dearer)]);
        until_state(&federation, "s", State::Ready).await;
        assert_ne!(pid().await, first);
    };
    let (running, ()) = tokio::join!(running, change);
    assert_eq!(text(&running.expect("a result")), "slept");
}

#[tokio::test]
async fn no_call_is_dropped_while_a_server_is_changed_again_and_again() {
    let federation = ready(json!({})).await;
    let changes = async {
        for number in 0..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            federation.reconcile(&[scripted("s", &json!({ "NUMBER": number.to_string() }))]);
            assert_eq!(
                federation.catalog().tools.len(),
                20,
                "the list stays while the server is changed"
            );
        }
    };
    let calls = async {
        for number in 0..60 {
            let outcome = federation.call(call("slow", &json!({ "ms": 20 }))).await;
            assert!(outcome.is_ok(), "call {number}: {outcome:?}");
        }
    };
    tokio::join!(changes, calls, async {
        for _ in 0..20 {
            federation.call(call("slow", &json!({ "ms": 150 }))).await.expect("a result");
        }
    });
    assert!(federation.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn a_program_or_folder_that_is_not_there_is_named() {
    let federation = Federation::new(options(limits()));
    let no_program =
        json!({ "name": "a", "transport": "stdio", "command": ["no-such-program-anywhere"] });
    let no_folder =
        json!({ "name": "b", "transport": "stdio", "command": ["true"], "cwd": "/no/such/folder" });
    let no_command = json!({ "name": "c", "transport": "stdio", "command": "'unclosed" });
    federation.reconcile(&[spec(no_program), spec(no_folder), spec(no_command)]);
    for (server, expected) in [("a", "cannot be started"), ("b", "`cwd`"), ("c", "`command`")] {
        until_state(&federation, server, State::Down).await;
        let error = status(&federation, server).last_error.expect("an error");
        assert!(error.contains(expected), "{error}");
    }
}

/// The process above `pid`.
fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, rest) = stat.rsplit_once(')').expect("a status");
    rest.split_ascii_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a parent")
}

#[tokio::test]
async fn a_guard_that_is_killed_takes_the_servers_group_along_and_the_server_comes_back() {
    let federation = ready(json!({})).await;
    let pids = spawn_all(&federation).await;
    let guard = Pid::from_raw(parent(pids[0])).expect("a pid");
    rustix::process::kill_process(guard, Signal::KILL).expect("ours");
    // The server and the grandchild in its group. What left the group escapes in this case, as documented.
    until_dead(&pids[..2]).await;
    for escaped in &pids[2..] {
        let _ =
            rustix::process::kill_process(Pid::from_raw(*escaped).expect("a pid"), Signal::KILL);
    }
    eventually("it was restarted", || 0 < status(&federation, "s").restarts).await;
    until_state(&federation, "s", State::Ready).await;
}

#[tokio::test]
async fn a_server_that_is_busy_is_not_taken_for_dead() {
    let impatient = Limits {
        health_every: Duration::from_millis(50),
        health_timeout: Duration::from_millis(100),
        ..limits()
    };
    let federation = Federation::new(options(impatient));
    federation.reconcile(&[scripted("s", &json!({}))]);
    until_state(&federation, "s", State::Ready).await;
    // It reads nothing for the length of the call, so many pings are not answered.
    let outcome =
        federation.call(call("hang_input", &json!({ "ms": 2_000 }))).await.expect("a result");
    assert_eq!(text(&outcome), "awake");
    assert_eq!(status(&federation, "s").restarts, 0);
}

#[tokio::test]
async fn a_server_that_hangs_without_a_call_is_started_anew() {
    let impatient = Limits {
        health_every: Duration::from_millis(50),
        health_timeout: Duration::from_millis(100),
        ..limits()
    };
    let federation = Federation::new(options(impatient));
    federation.reconcile(&[scripted("s", &json!({}))]);
    until_state(&federation, "s", State::Ready).await;
    let mut hang = call("hang_input", &json!({}));
    hang.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(100));
    assert!(matches!(federation.call(hang).await, Err(CallError::Timeout { .. })));
    eventually("it was restarted", || 0 < status(&federation, "s").restarts).await;
    until_state(&federation, "s", State::Ready).await;
}

#[tokio::test]
async fn a_server_that_leaves_calls_unanswered_is_given_up_though_others_still_wait() {
    let impatient = Limits {
        call_timeout: Duration::from_millis(300),
        health_every: Duration::from_secs(3600),
        health_timeout: Duration::from_millis(100),
        ..limits()
    };
    let federation = Federation::new(options(impatient));
    federation.reconcile(&[scripted("s", &json!({}))]);
    until_state(&federation, "s", State::Ready).await;
    let calls = (0..40).map(async |at| {
        tokio::time::sleep(Duration::from_millis(50 * at)).await;
        federation.call(call("hang_input", &json!({}))).await.is_err()
    });
    let given_up = eventually("it is given up", || status(&federation, "s").state == State::Down);
    tokio::select! {
        () = given_up => {}
        _ = futures_util::future::join_all(calls) => panic!("it counted as busy for as long as somebody waited"),
    }
}

trait PipeSecret {
    fn pipe_secret(self) -> althing_domain::secret::Secret;
}

impl PipeSecret for String {
    fn pipe_secret(self) -> althing_domain::secret::Secret {
        althing_domain::secret::Secret::new(self)
    }
}

#[tokio::test]
async fn a_slow_server_delays_nobody_and_is_named_as_not_ready() {
    let federation = Federation::new(options(limits()));
    federation.reconcile(&[scripted("slow", &json!({ "DELAY": "2" })), scripted("s", &json!({}))]);
    until_state(&federation, "s", State::Ready).await;
    let catalog = federation.catalog();
    assert_eq!(catalog.not_ready.iter().map(|it| it.as_str()).collect::<Vec<_>>(), ["slow"]);
    until_state(&federation, "slow", State::Ready).await;
    // In the order of creation, whoever was first.
    assert_eq!(federation.catalog().tools[0].server.as_str(), "slow");
    assert!(federation.catalog().not_ready.is_empty());
}

#[tokio::test]
async fn a_disabled_server_runs_no_process_and_offers_nothing() {
    let federation = ready(json!({})).await;
    let mut disabled = McpServer::clone(&scripted("s", &json!({})));
    disabled.enabled = false;
    federation.reconcile(&[Arc::new(disabled)]);
    assert_eq!(status(&federation, "s").state, State::Disabled);
    assert!(federation.catalog().tools.is_empty());
    assert!(!federation.reconnect("s"));
    federation.reconcile(&[scripted("s", &json!({}))]);
    until_state(&federation, "s", State::Ready).await;
}

#[tokio::test]
async fn an_old_revision_is_spoken_and_an_unknown_one_refused() {
    let federation = Federation::new(options(limits()));
    federation.reconcile(&[
        scripted("s", &json!({ "VERSION": "2024-11-05" })),
        scripted("odd", &json!({ "VERSION": "1999-01-01" })),
    ]);
    until_state(&federation, "s", State::Ready).await;
    assert_eq!(status(&federation, "s").protocol_version.as_deref(), Some("2024-11-05"));
    until_state(&federation, "odd", State::Down).await;
    assert!(status(&federation, "odd").last_error.is_some_and(|it| it.contains("1999-01-01")));
}

#[tokio::test]
async fn a_modern_process_is_called_without_a_handshake_and_tells_of_changed_tools() {
    let federation = ready(json!({ "MODERN": "1" })).await;
    assert_eq!(status(&federation, "s").protocol_version.as_deref(), Some("2026-07-28"));
    assert!(
        text(&federation.call(call("echo", &json!({}))).await.expect("a result"))
            .contains("clientInfo")
    );
    federation.call(call("add_tool", &json!({ "name": "brand_new" }))).await.expect("a result");
    eventually("it is listed", || federation.catalog().by_name("s", "brand_new").is_some()).await;
}

#[tokio::test]
async fn a_listing_that_never_ends_is_given_up() {
    let federation = Federation::new(options(limits()));
    federation.reconcile(&[scripted("s", &json!({ "SAME_CURSOR": "1" }))]);
    until_state(&federation, "s", State::Down).await;
    assert!(status(&federation, "s").last_error.is_some_and(|it| it.contains("cursor")));
}

#[tokio::test]
async fn a_silent_end_of_output_is_noticed() {
    let federation = ready(json!({})).await;
    let lost = federation.call(call("close_stdout", &json!({}))).await;
    assert!(
        matches!(&lost, Err(CallError::OutcomeUnknown { reason }) if reason.contains("closed its output")),
        "{lost:?}"
    );
    eventually("it was restarted", || 0 < status(&federation, "s").restarts).await;
    until_state(&federation, "s", State::Ready).await;
}

#[tokio::test]
async fn calls_over_the_bound_are_told_that_the_server_is_busy() {
    let federation = Federation::new(options(Limits { in_flight_max: 1, ..limits() }));
    federation.reconcile(&[scripted("s", &json!({}))]);
    until_state(&federation, "s", State::Ready).await;
    let long = federation.call(call("slow", &json!({ "ms": 1500 })));
    let other = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut other = call("echo", &json!({}));
        other.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(300));
        federation.call(other).await
    };
    let (long, other) = tokio::join!(long, other);
    long.expect("a result");
    assert!(matches!(other, Err(CallError::Busy { in_flight_max: 1 })), "{other:?}");
}

#[tokio::test]
async fn an_admin_can_have_a_server_connected_anew() {
    let federation = ready(json!({})).await;
    let pid = async || text(&federation.call(call("pid", &json!({}))).await.expect("a result"));
    let first = pid().await;
    assert!(federation.reconnect("s"));
    eventually("another process", || 0 < status(&federation, "s").restarts).await;
    until_state(&federation, "s", State::Ready).await;
    assert_ne!(pid().await, first);
    assert!(!federation.reconnect("nobody"));
}

/// The name of the test that plays the gateway when this program is started as one.
const AS_GATEWAY: &str =
    "mcp::federation::tests::life::this_program_is_a_gateway_when_started_as_one";

#[tokio::test]
async fn this_program_is_a_gateway_when_started_as_one() {
    let federation = ready(json!({})).await;
    let pids = spawn_all(&federation).await;
    if std::env::args().any(|it| it == "as-gateway") {
        println!("\npids {}", json!(pids));
        std::future::pending::<()>().await;
    }
    assert!(federation.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn nothing_of_a_server_outlives_a_gateway_that_was_killed() {
    let mut gateway = tokio::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--nocapture", "--exact", AS_GATEWAY, "as-gateway"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a gateway");
    let mut lines = BufReader::new(gateway.stdout.take().expect("piped")).lines();
    let reading = async {
        loop {
            let line = lines.next_line().await.expect("readable").expect("pids before the end");
            if let Some(pids) = line.strip_prefix("pids ") {
                return serde_json::from_str::<Vec<i32>>(pids).expect("pids");
            }
        }
    };
    let pids = tokio::time::timeout(PATIENCE, reading).await.expect("in time");
    assert!(pids.iter().all(|it| is_alive(*it)), "{pids:?}");
    let pid =
        gateway.id().and_then(|it| i32::try_from(it).ok()).and_then(Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("ours");
    until_dead(&pids).await;
}
