//! Tools: explicit execution, `/mcp`, groups, and servers that misbehave.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Upstream, run, until};

const ALL: &str = "sk-test-of-tools-all-01";
const SOME: &str = "sk-test-of-tools-some-1";
const GROUP: &str = "sk-test-of-tools-group1";

async fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let althing = env!("CARGO_BIN_EXE_althing");
    let yaml = upstream.providers()
        + &format!(
            r#"
mcp_servers:
  - {{ name: demo, transport: stdio, command: ["{althing}", "mcp", "demo-server"], prices: {{ add: "0.002" }} }}
  - {{ name: gone, transport: stdio, command: ["/no/such/program"] }}
tool_groups: [{{ name: sums, tools: ["demo/add"] }}]
virtual_keys:
  - {{ name: all, value: {ALL}, providers: [{{ name: "*", models: ["*"] }}], tools: ["*"] }}
  - {{ name: some, value: {SOME}, providers: [{{ name: "*", models: ["*"] }}], tools: ["demo/multiply"] }}
  - {{ name: group, value: {GROUP}, tool_groups: [sums] }}
"#
        );
    let gateway = Gateway::start(&yaml).await;
    until("the demo server is ready", async || {
        let status = gateway.admin("GET", "/api/mcp-servers/demo/tools", None).await;
        let text = status.text();
        (status.status == 200 && text.contains("\"add\"")).then_some(())
    })
    .await;
    (upstream, gateway)
}

async fn rpc(gateway: &Gateway, path: &str, key: &str, method: &str, params: Value) -> Answer {
    let request = gateway
        .http
        .post(gateway.at(path))
        .bearer_auth(key)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2025-11-25")
        .json(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }));
    gateway.send(request).await
}

async fn listed(gateway: &Gateway, path: &str, key: &str) -> Vec<String> {
    let initialize = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
    let hello = rpc(gateway, path, key, "initialize", initialize).await;
    assert_eq!(hello.status, 200, "{}", hello.text());
    let mut request = gateway
        .http
        .post(gateway.at(path))
        .bearer_auth(key)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2025-11-25")
        .json(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {} }));
    if let Some(session) = hello.headers.get("mcp-session-id") {
        request = request.header("mcp-session-id", session);
    }
    let answer = gateway.send(request).await;
    let text = answer.text();
    let json: Value = text
        .lines()
        .find_map(|it| it.strip_prefix("data: "))
        .map_or_else(|| answer.json(), |it| serde_json::from_str(it).expect("json"));
    let tools = json["result"]["tools"].as_array().unwrap_or_else(|| panic!("{text}"));
    tools.iter().filter_map(|it| it["name"].as_str().map(str::to_owned)).collect()
}

fn call(name: &str, arguments: &str) -> Value {
    json!({ "id": "call_1", "type": "function", "function": { "name": name, "arguments": arguments } })
}

#[test]
fn explicit_execution_goes_from_the_models_call_to_the_message_to_append() {
    run(async {
        let (upstream, gateway) = start().await;
        let body = json!({ "model": "up/ok", "messages": [{ "role": "user", "content": "hi" }] });
        let reply = gateway.post("/v1/chat/completions", ALL, &body).await;
        assert!(upstream.last().raw.windows(8).any(|it| it == b"demo-add"), "tools are injected");
        let mut tool_call = reply.json()["choices"][0]["message"]["tool_calls"][0].clone();
        assert!(tool_call["function"]["name"].is_string(), "{}", reply.text());
        tool_call["function"]["name"] = json!("demo-add");
        let request = gateway
            .http
            .post(gateway.at("/v1/mcp/tool/execute"))
            .bearer_auth(ALL)
            .header("x-althing-parent", reply.header("x-althing-request-id"))
            .json(&tool_call);
        let message = gateway.send(request).await;
        assert_eq!(
            (message.status, &message.json()["role"], &message.json()["tool_call_id"]),
            (200, &json!("tool"), &json!("call_abc")),
            "{}",
            message.text()
        );
        assert!(message.text().contains("42"), "{}", message.text());
        let entry = until("the tool's record is there", async || {
            let logs = gateway.admin("GET", "/api/logs?kind=tool_call", None).await.json();
            logs["logs"].get(0).cloned()
        })
        .await;
        assert_eq!(
            (&entry["server"], &entry["tool"], &entry["status"]),
            (&json!("demo"), &json!("add"), &json!("ok"))
        );
        assert_eq!(entry["parent"], reply.header("x-althing-request-id"));
        assert_eq!(entry["cost_usd"], "0.002");
        assert_eq!(entry["arguments_sha256"].as_str().expect("hash").len(), 64);
        assert!(entry.get("arguments").is_none_or(Value::is_null), "{entry}");
    });
}

#[test]
fn every_key_sees_and_calls_exactly_its_own_tools() {
    run(async {
        let (_upstream, gateway) = start().await;
        let all = listed(&gateway, "/mcp", ALL).await;
        assert!(
            all.contains(&"demo-add".to_owned()) && all.contains(&"demo-multiply".to_owned()),
            "{all:?}"
        );
        assert_eq!(listed(&gateway, "/mcp", SOME).await, ["demo-multiply"]);
        assert_eq!(listed(&gateway, "/mcp", GROUP).await, ["demo-add"]);
        assert_eq!(listed(&gateway, "/mcp/sums", GROUP).await, ["demo-add"]);
        assert_eq!(listed(&gateway, "/mcp/sums?names=plain", GROUP).await, ["add"]);
        let allowed = gateway
            .post("/v1/mcp/tool/execute", SOME, &call("demo-multiply", r#"{"a":6,"b":7}"#))
            .await;
        assert!(allowed.text().contains("42"), "{}", allowed.text());
        let forbidden =
            gateway.post("/v1/mcp/tool/execute", SOME, &call("demo-add", r#"{"a":1,"b":2}"#)).await;
        let unknown = gateway.post("/v1/mcp/tool/execute", SOME, &call("demo-nothing", "{}")).await;
        assert_eq!((forbidden.status, unknown.status), (404, 404));
        assert_eq!(forbidden.json()["error"]["code"], unknown.json()["error"]["code"]);
        let none = gateway.send(gateway.http.post(gateway.at("/mcp")).json(&json!({}))).await;
        assert_eq!(none.status, 401);
        assert!(!none.header("www-authenticate").is_empty());
    });
}

#[test]
fn arguments_that_do_not_fit_the_schema_are_refused_with_their_path() {
    run(async {
        let (_upstream, gateway) = start().await;
        let answer = gateway
            .post("/v1/mcp/tool/execute", ALL, &call("demo-add", r#"{"a":"two","b":40}"#))
            .await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (400, &json!("arguments_invalid")),
            "{}",
            answer.text()
        );
        assert!(answer.text().contains('a'), "{}", answer.text());
        let doubled = gateway
            .post("/v1/mcp/tool/execute", ALL, &call("demo-add", r#"{"a":1,"a":2,"b":40}"#))
            .await;
        assert_eq!(doubled.status, 400, "{}", doubled.text());
    });
}

#[test]
fn an_idempotency_key_runs_a_call_once() {
    run(async {
        let (_upstream, gateway) = start().await;
        let send = |arguments: &str| {
            gateway
                .http
                .post(gateway.at("/v1/mcp/tool/execute"))
                .bearer_auth(ALL)
                .header("idempotency-key", "once")
                .json(&call("demo-add", arguments))
        };
        let first = gateway.send(send(r#"{"a":1,"b":2}"#)).await;
        let again = gateway.send(send(r#"{"a":1,"b":2}"#)).await;
        assert_eq!((first.status, &first.body), (200, &again.body));
        let other = gateway.send(send(r#"{"a":5,"b":2}"#)).await;
        assert_eq!(other.status, 409, "{}", other.text());
        let records = until("one record", async || {
            let logs =
                gateway.admin("GET", "/api/logs?kind=tool_call&status=ok", None).await.json();
            logs["logs"].as_array().filter(|it| !it.is_empty()).map(Vec::len)
        })
        .await;
        assert_eq!(records, 1);
    });
}

/// How the gateway says that an MCP server is.
async fn server(gateway: &Gateway, name: &str) -> Value {
    let status = gateway.admin("GET", "/api/status", None).await.json();
    let servers = status["mcp_servers"].as_array().cloned().unwrap_or_default();
    servers.into_iter().find(|it| it["name"] == name).expect("a server of that name")
}

#[test]
fn a_server_that_is_down_delays_nobody_and_says_why() {
    run(async {
        // Takes connections, as the system does for it, and never answers.
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = mute.local_addr().expect("address");
        let althing = env!("CARGO_BIN_EXE_althing");
        let yaml = format!(
            r#"
mcp_servers:
  - {{ name: mute, transport: http, url: "http://{address}/mcp" }}
  - {{ name: gone, transport: stdio, command: ["/no/such/program"] }}
  - {{ name: demo, transport: stdio, command: ["{althing}", "mcp", "demo-server"] }}
virtual_keys: [{{ name: all, value: {ALL}, tools: ["*"] }}]
"#
        );
        let gateway = Gateway::start(&yaml).await;
        assert_eq!(gateway.get("/readyz", ALL).await.status, 200);
        let sum = call("demo-add", r#"{"a":2,"b":40}"#);
        until("the demo server's tool answers", async || {
            let answer = gateway.post("/v1/mcp/tool/execute", ALL, &sum).await;
            (answer.status == 200).then_some(())
        })
        .await;
        let waits = server(&gateway, "mute").await;
        assert_eq!(waits["state"], "connecting", "it was not waited for: {waits}");
        let error = async |name: &str| {
            until("it is down and says why", async || {
                let it = server(&gateway, name).await;
                let error = it["last_error"].as_str()?.to_owned();
                (it["state"] == "down").then_some(error)
            })
            .await
        };
        let gone = error("gone").await;
        assert!(gone.contains("/no/such/program"), "{gone}");
        // Now it is there no more, which ends what waits for it.
        drop(mute);
        let silent = error("mute").await;
        assert!(["refused", "reset"].iter().any(|it| silent.contains(it)), "{silent}");
        let answer = gateway.post("/v1/mcp/tool/execute", ALL, &sum).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
}

#[test]
fn a_stdio_servers_whole_group_ends_with_a_gateway_that_is_killed() {
    run(async {
        let (_upstream, mut gateway) = start().await;
        let marker = gateway.dir.path().join("data").display().to_string();
        let gateway_pid = gateway.child.id().expect("runs");
        let descendants = descendants_of(gateway_pid);
        assert!(
            !descendants.is_empty(),
            "the demo server runs as a child of {gateway_pid} ({marker})"
        );
        gateway.kill().await;
        until("every descendant has ended", async || {
            descendants.iter().all(|it| !is_alive(*it)).then_some(())
        })
        .await;
    });
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|it| !it.contains(") Z "))
}

fn descendants_of(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        at += 1;
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let is_child =
                stat.rsplit_once(") ").and_then(|it| it.1.split(' ').nth(1)?.parse::<u32>().ok())
                    == Some(parent);
            if is_child && !all.contains(&pid) {
                all.push(pid);
            }
        }
    }
    all.remove(0);
    all
}

#[test]
fn an_answer_under_an_idempotency_key_is_repeated_only_to_who_may_still_have_it() {
    run(async {
        let (_upstream, gateway) = start().await;
        let execute = async |key: &str| {
            let request = gateway
                .http
                .post(gateway.at("/v1/mcp/tool/execute"))
                .bearer_auth(key)
                .header("idempotency-key", "once")
                .json(&call("demo-multiply", r#"{"a":6,"b":7}"#));
            gateway.send(request).await
        };
        let calls = async || {
            let path = "/api/logs?kind=tool_call&status=ok";
            let logs = gateway.admin("GET", path, None).await.json();
            logs["logs"].as_array().map_or(0, Vec::len)
        };
        let first = execute(SOME).await;
        assert_eq!((first.status, execute(SOME).await.text()), (200, first.text()));
        until("one call was made", async || (calls().await == 1).then_some(())).await;

        let law = async |patch: Value| {
            let done = gateway.admin("PATCH", "/api/virtual-keys/some", Some(&patch)).await;
            assert_eq!(done.status, 200, "{}", done.text());
        };
        law(json!({ "tools": ["demo/add"] })).await;
        let forbidden = execute(SOME).await;
        assert_eq!(
            (forbidden.status, &forbidden.json()["error"]["code"]),
            (404, &json!("tool_unknown")),
            "{}",
            forbidden.text()
        );
        law(json!({ "tools": ["demo/multiply"] })).await;
        assert_eq!(execute(SOME).await.text(), first.text(), "the answer was not lost");

        // A key that is gone gets nothing, and another of its name and value is another's.
        let key = gateway.admin("GET", "/api/virtual-keys/some", None).await.json();
        gateway.admin("DELETE", "/api/virtual-keys/some", None).await;
        assert_eq!(execute(SOME).await.status, 401);
        let again = json!({ "name": "some", "value": SOME, "tools": key["tools"] });
        let made = gateway.admin("POST", "/api/virtual-keys", Some(&again)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        assert_eq!(calls().await, 1);
        assert_eq!(execute(SOME).await.status, 200);
        until("its own call was made", async || (calls().await == 2).then_some(())).await;
    });
}
