//! Real MCP clients, real MCP servers and the conformance suite, through a running gateway.

mod conformance;

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Gateway, peers, run, until};

fn node() -> Command {
    let mut command = Command::new(peers().join("node/node_modules/.bin/node"));
    // Modules are looked for from the folder it runs in.
    command.current_dir(peers().join("node"));
    command
}

/// What a program prints; it must succeed.
async fn said(mut command: Command) -> String {
    command.env_remove("HTTP_PROXY").env_remove("HTTPS_PROXY").env("NO_PROXY", "127.0.0.1");
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|it| panic!("{it}: {text}"))
}

/// What the official Python client saw of `path` with `key`.
async fn python(gateway: &Gateway, path: &str, key: &str, mode: &str, call: &[&str]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/mcp_client.py");
    let mut command = Command::new(peers().join("venv/bin/python"));
    command.args([script, &gateway.at(path), key, mode]).args(call);
    read(&said(command).await)
}

/// What the official TypeScript client saw.
async fn typescript(gateway: &Gateway, path: &str, key: &str, call: &[&str]) -> Value {
    let script = include_str!("../peers/mcp_client.mjs");
    let mut command = node();
    command.args(["--input-type=module", "-e", script, "mcp_client", &gateway.at(path), key]);
    command.args(call);
    read(&said(command).await)
}

/// What the Inspector saw.
async fn inspector(gateway: &Gateway, path: &str, key: &str, extra: &[&str]) -> Value {
    let mut command = node();
    command.arg("node_modules/.bin/mcp-inspector").args(["--cli", &gateway.at(path)]);
    command.args(["--transport", "http", "--header", &format!("Authorization: Bearer {key}")]);
    command.args(extra);
    read(&said(command).await)
}

fn names(seen: &Value) -> Vec<&str> {
    let tools = seen["tools"].as_array().unwrap_or_else(|| panic!("{seen}"));
    tools.iter().filter_map(|it| it.as_str().or_else(|| it["name"].as_str())).collect()
}

fn node_server(name: &str, package: &str, argument: Option<&str>) -> Value {
    let modules = peers().join("node/node_modules");
    let program = modules.join(format!("@modelcontextprotocol/{package}/dist/index.js"));
    let mut command = vec![json!(modules.join(".bin/node")), json!(program)];
    command.extend(argument.map(Value::from));
    json!({ "name": name, "transport": "stdio", "command": command })
}

/// Settings as YAML, of which JSON is a part.
fn yaml(settings: &Value) -> String {
    let fields = settings.as_object().expect("an object");
    fields.iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
}

/// Waits until `key` can list tools of that many servers.
async fn await_servers(gateway: &Gateway, key: &str, count: usize) {
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    until("the servers are ready", async || {
        let answer = gateway.post("/mcp", key, &list).await.json();
        let tools = answer["result"]["tools"].as_array().cloned().unwrap_or_default();
        let mut servers: Vec<&str> = tools
            .iter()
            .filter_map(|it| it["name"].as_str()?.split_once('-'))
            .map(|it| it.0)
            .collect();
        servers.dedup();
        (servers.len() == count).then_some(())
    })
    .await;
}

/// A gateway before four servers as their authors ship them.
async fn with_real_servers(files: &Path) -> Gateway {
    std::fs::write(files.join("hello.txt"), "hello from a file").expect("a file");
    let files = files.display().to_string();
    let gateway = Gateway::start(&yaml(&json!({
        "mcp_servers": [
            node_server("everything", "server-everything", None),
            node_server("filesystem", "server-filesystem", Some(&files)),
            node_server("memory", "server-memory", None),
            { "name": "time", "transport": "stdio", "command": [peers().join("venv/bin/mcp-server-time")] },
        ],
        "tool_groups": [
            { "name": "clock", "tools": ["time/*"] },
            { "name": "mixed", "tools": ["time/get_current_time", "memory/read_graph"] },
        ],
        "virtual_keys": [
            { "name": "all", "value": ALL, "tools": ["*"], "tool_groups": ["clock", "mixed"] },
            { "name": "app", "value": APP, "tools": ["filesystem/read_text_file", "time/*"] },
            { "name": "grouped", "value": GROUPED, "tool_groups": ["mixed"] },
        ],
    })))
    .await;
    await_servers(&gateway, ALL, 4).await;
    gateway
}

const ALL: &str = "sk-test-of-mcp-peers-all";
const APP: &str = "sk-test-of-mcp-peers-app";
const GROUPED: &str = "sk-test-of-mcp-peers-group";
const OF_APP: [&str; 3] =
    ["filesystem-read_text_file", "time-get_current_time", "time-convert_time"];

#[test]
fn real_clients_see_and_call_exactly_what_their_key_names() {
    run(async {
        let files = tempfile::tempdir().expect("a folder");
        let gateway = with_real_servers(files.path()).await;
        let of_group = ["memory-read_graph", "time-get_current_time"];
        let path = json!({ "path": files.path().join("hello.txt") }).to_string();
        let open = ["filesystem-read_text_file", &path];
        for mode in ["legacy", "2026-07-28", "auto"] {
            let seen = python(&gateway, "/mcp", APP, mode, &open).await;
            assert_eq!(names(&seen), OF_APP, "{mode}");
            assert_eq!(seen["result"]["content"][0]["text"], "hello from a file", "{mode}: {seen}");
            let refused = python(&gateway, "/mcp", APP, mode, &["memory-read_graph"]).await;
            assert!(refused["error"].to_string().contains("there is no tool"), "{mode}: {refused}");
            let grouped = python(&gateway, "/mcp", GROUPED, mode, &[]).await;
            assert_eq!(names(&grouped), of_group, "{mode}");
        }
        let seen = typescript(&gateway, "/mcp", APP, &open).await;
        assert_eq!(names(&seen), OF_APP);
        assert_eq!(seen["result"]["content"][0]["text"], "hello from a file");
        assert_eq!(names(&typescript(&gateway, "/mcp", GROUPED, &[]).await), of_group);
        let listed = inspector(&gateway, "/mcp", APP, &["--method", "tools/list"]).await;
        assert_eq!(names(&listed), OF_APP);
        let modern = ["--protocol-era", "modern", "--method", "tools/list"];
        assert_eq!(names(&inspector(&gateway, "/mcp", APP, &modern).await), OF_APP);
    });
}

#[test]
fn real_clients_see_a_group_as_a_server_of_its_own() {
    run(async {
        let files = tempfile::tempdir().expect("a folder");
        let gateway = with_real_servers(files.path()).await;
        let call = ["get_current_time", r#"{"timezone":"UTC"}"#];
        let seen = python(&gateway, "/mcp/clock?names=plain", ALL, "auto", &call).await;
        assert_eq!(names(&seen), ["get_current_time", "convert_time"]);
        assert!(seen["result"]["content"][0]["text"].to_string().contains("UTC"), "{seen}");
        let seen = typescript(&gateway, "/mcp/mixed", ALL, &["memory-read_graph"]).await;
        assert_eq!(names(&seen), ["memory-read_graph", "time-get_current_time"]);
        assert!(seen["result"]["content"].is_array(), "{seen}");
        let listed = inspector(&gateway, "/mcp/clock", ALL, &["--method", "tools/list"]).await;
        assert_eq!(names(&listed), ["time-get_current_time", "time-convert_time"]);
        // A group that the key does not name is not there for it.
        let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        assert_eq!(gateway.post("/mcp/clock", APP, &list).await.status, 404);
    });
}

#[test]
fn progress_of_a_real_server_reaches_real_clients() {
    run(async {
        let files = tempfile::tempdir().expect("a folder");
        let gateway = with_real_servers(files.path()).await;
        let work = ["everything-trigger-long-running-operation", r#"{"duration":1,"steps":3}"#];
        for seen in [
            python(&gateway, "/mcp", ALL, "legacy", &work).await,
            python(&gateway, "/mcp", ALL, "2026-07-28", &work).await,
            typescript(&gateway, "/mcp", ALL, &work).await,
        ] {
            assert!(
                seen["result"]["content"][0]["text"].to_string().contains("completed"),
                "{seen}"
            );
            assert_eq!(seen["progress"].as_array().map(Vec::len), Some(3), "{seen}");
        }
        let echo = ["everything-echo", r#"{"message":"over the old transport"}"#];
        let seen = typescript(&gateway, "/sse", ALL, &echo).await;
        assert!(seen["result"].to_string().contains("over the old transport"), "{seen}");
    });
}

#[test]
fn without_a_key_or_with_an_unknown_one_nothing_is_served() {
    run(async {
        let gateway = Gateway::start("virtual_keys: []\n").await;
        let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        for path in ["/mcp", "/mcp/any", "/sse/message?session=x"] {
            let answer = gateway.post(path, "sk-al-unknown", &list).await;
            assert_eq!(answer.status, 401, "{path}");
            assert!(answer.headers.contains_key("www-authenticate"), "{path}");
            let bare = gateway.send(gateway.http.post(gateway.at(path)).json(&list)).await;
            assert_eq!(bare.status, 401, "{path}");
        }
    });
}

#[test]
fn a_stdio_client_reaches_the_gateway_through_the_bridge() {
    run(async {
        let files = tempfile::tempdir().expect("a folder");
        let gateway = with_real_servers(files.path()).await;
        let mut command = node();
        command
            .arg("node_modules/.bin/mcp-inspector")
            .args(["--cli", env!("CARGO_BIN_EXE_althing")]);
        command.args([
            "mcp",
            "stdio",
            "--url",
            &gateway.url,
            "--key",
            APP,
            "--method",
            "tools/list",
        ]);
        assert_eq!(names(&read(&said(command).await)), OF_APP);
        assert_eq!(bridge_ends(&gateway.url, "sk-al-unknown").await, Some(77));
        assert_eq!(bridge_ends("http://127.0.0.1:9", APP).await, Some(69));
        assert_eq!(bridge_ends("not an address", APP).await, Some(64));
    });
}

/// The exit code of a bridge that is asked for a handshake.
async fn bridge_ends(url: &str, key: &str) -> Option<i32> {
    use tokio::io::AsyncWriteExt;

    let mut child = Command::new(env!("CARGO_BIN_EXE_althing"))
        .args(["mcp", "stdio", "--url", url, "--key", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("its input");
    let hello = hello_line();
    // One that has already given up reads nothing.
    let _gone = input.write_all(hello.as_bytes()).await;
    let ended = tokio::time::timeout(crate::support::PATIENCE, child.wait()).await;
    ended.expect("it ends").expect("a status").code()
}

fn hello_line() -> String {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    format!("{}\n", json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }))
}
