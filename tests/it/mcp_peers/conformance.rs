//! The MCP conformance suite: what a fixture scores directly, it scores through the gateway.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::process::{Child, Command};

use super::{await_servers, node, yaml};
use crate::support::{Gateway, run, until};

/// Initialize or discover, ping, headers, tools and errors: what the gateway serves.
const SERVED: [(&str, &[&str]); 2] = [
    (
        "2025-11-25",
        &[
            "server-initialize",
            "server-session-lifecycle",
            "ping",
            "tools-list",
            "tools-call-simple-text",
            "tools-call-image",
            "tools-call-audio",
            "tools-call-embedded-resource",
            "tools-call-mixed-content",
            "tools-call-error",
            "tools-call-with-progress",
            "json-schema-2020-12",
            "server-sse-multiple-streams",
            "dns-rebinding-protection",
        ],
    ),
    (
        "2026-07-28",
        &[
            "server-stateless",
            "http-header-validation",
            "http-custom-header-server-validation",
            "tools-list",
            "tools-call-simple-text",
            "tools-call-image",
            "tools-call-audio",
            "tools-call-embedded-resource",
            "tools-call-mixed-content",
            "tools-call-error",
            "tools-call-with-progress",
            "json-schema-2020-12",
            "server-sse-multiple-streams",
            "dns-rebinding-protection",
        ],
    ),
];

/// Scenarios of what the gateway does not serve yet (a later issue): the fixture passes them directly.
const LATER: [(&str, &[&str]); 2] = [
    (
        "2025-11-25",
        &[
            "logging-set-level",
            "tools-call-with-logging",
            "tools-call-sampling",
            "tools-call-elicitation",
            "elicitation-sep1034-defaults",
            "elicitation-sep1330-enums",
            "completion-complete",
            "resources-list",
            "resources-read-text",
            "resources-read-binary",
            "resources-templates-read",
            "resources-subscribe",
            "resources-unsubscribe",
            "prompts-list",
            "prompts-get-simple",
            "prompts-get-with-args",
            "prompts-get-embedded-resource",
            "prompts-get-with-image",
        ],
    ),
    (
        "2026-07-28",
        &[
            "completion-complete",
            "resources-list",
            "resources-read-text",
            "resources-read-binary",
            "resources-templates-read",
            "sep-2164-resource-not-found",
            "prompts-list",
            "prompts-get-simple",
            "prompts-get-with-args",
            "prompts-get-embedded-resource",
            "prompts-get-with-image",
            "caching",
            "input-required-result-basic-elicitation",
            "input-required-result-basic-sampling",
            "input-required-result-basic-list-roots",
            "input-required-result-request-state",
            "input-required-result-multiple-input-requests",
            "input-required-result-multi-round",
            "input-required-result-missing-input-response",
            "input-required-result-non-tool-request",
            "input-required-result-result-type",
            "input-required-result-unsupported-methods",
            "input-required-result-tampered-state",
            "input-required-result-capability-check",
            "input-required-result-ignore-extra-params",
            "input-required-result-validate-input",
        ],
    ),
];

/// The one check of `server-stateless` that only a server with prompts is given.
const OF_PROMPTS: &str = "sep-2575-server-sends-prompts-list-changed-on-subscription";

/// Checks that a scenario passed, and those that it failed or warned of.
#[derive(Debug)]
struct Score {
    passed: usize,
    against: Vec<String>,
}

async fn score(url: &str, revision: &str, scenario: &str) -> Score {
    let output = node()
        .arg("node_modules/.bin/conformance")
        .args(["server", "--url", url, "--scenario", scenario, "--spec-version", revision])
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the suite starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let plain = without_colours(&text);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(plain.contains("Passed: "), "no score of {scenario}, {revision}:\n{plain}\n{failed}");
    let checks = || plain.lines().filter(|it| it.contains("] "));
    let passed = checks().filter(|it| it.contains(" SUCCESS ") && !it.contains(OF_PROMPTS)).count();
    let against = checks().filter(|it| it.contains(" FAILURE ") || it.contains(" WARNING "));
    Score { passed, against: against.map(str::to_owned).collect() }
}

/// Text without the escapes that colour it.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |it| it.1))
}

/// The fixture of this package, at an address of its own.
async fn fixture() -> (Child, String) {
    let folder = Path::new(env!("CARGO_BIN_EXE_althing")).parent().expect("a folder");
    let program: PathBuf = folder.join("examples/mcp-fixture");
    assert!(program.is_file(), "{} is missing: `cargo build --examples`", program.display());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let child = Command::new(program)
        .arg(&address)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    until("the fixture listens", async || tokio::net::TcpStream::connect(&address).await.ok())
        .await;
    (child, format!("http://{address}/mcp"))
}

async fn compare(revision: &str, scenarios: &[&str]) {
    let (_fixture, direct) = fixture().await;
    let gateway = Gateway::start(&yaml(&json!({
        "auth": "open",
        "mcp_servers": [{ "name": "fixture", "transport": "http", "url": direct }],
        "tool_groups": [{ "name": "fixture", "tools": ["fixture/*"] }],
    })))
    .await;
    await_servers(&gateway, "of-nobody", 1).await;
    let through = gateway.at("/mcp/fixture?names=plain");
    for scenario in scenarios {
        let wire = score(&direct, revision, scenario).await;
        assert!(wire.against.is_empty(), "the fixture itself: {scenario}, {revision}: {wire:?}");
        let ours = score(&through, revision, scenario).await;
        assert!(ours.against.is_empty(), "{scenario}, {revision}: {ours:?}");
        let is_as_good = 0 < ours.passed && wire.passed <= ours.passed;
        assert!(
            is_as_good,
            "{scenario}, {revision}: {} checks, {} directly",
            ours.passed, wire.passed
        );
    }
}

#[test]
fn what_a_fixture_scores_directly_it_scores_through_the_gateway_with_sessions() {
    let (revision, scenarios) = SERVED[0];
    run(compare(revision, scenarios));
}

#[test]
fn what_a_fixture_scores_directly_it_scores_through_the_gateway_without_sessions() {
    let (revision, scenarios) = SERVED[1];
    run(compare(revision, scenarios));
}

#[test]
fn what_is_for_later_passes_directly() {
    run(async {
        let (_fixture, direct) = fixture().await;
        for (revision, scenarios) in LATER {
            for scenario in scenarios {
                let wire = score(&direct, revision, scenario).await;
                let holds = wire.against.is_empty() && 0 < wire.passed;
                assert!(holds, "{scenario}, {revision}: {wire:?}");
            }
        }
    });
}
