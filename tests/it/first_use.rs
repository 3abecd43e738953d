//! What somebody finds who uses the whole product for the first time: refusals, timeouts, the end of a node, and what
//! answers say beside their bodies.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Answer, Gateway, Upstream, run, until};

const KEY: &str = "sk-test-of-first-use-001";
const SOME: &str = "sk-test-of-first-use-some";

async fn start(more: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let keys = format!(
        r#"virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}], tools: ["*"] }}{more}]"#
    );
    let gateway = Gateway::start(&(upstream.providers() + &keys)).await;
    (upstream, gateway)
}

/// A gateway with the demo's MCP server, a key for all of it and one for `multiply` alone.
async fn start_with_tools() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let althing = env!("CARGO_BIN_EXE_althing");
    let yaml = upstream.providers()
        + &format!(
            r#"
mcp_servers:
  - {{ name: demo, transport: stdio, command: ["{althing}", "mcp", "demo-server"], prices: {{ add: "0.002" }} }}
tool_groups: [{{ name: sums, tools: ["demo/add"] }}]
virtual_keys:
  - {{ name: app, value: {KEY}, tools: ["*"], rate: {{ requests: 3, per: 1h }} }}
  - {{ name: some, value: {SOME}, tools: ["demo/multiply"] }}
"#
        );
    let gateway = Gateway::start(&yaml).await;
    until("the demo server is ready", async || {
        let tools = gateway.admin("GET", "/api/mcp-servers/demo/tools", None).await;
        (tools.status == 200 && tools.text().contains("\"add\"")).then_some(())
    })
    .await;
    (upstream, gateway)
}

async fn execute(gateway: &Gateway, key: &str, tool: &str, arguments: &str) -> Answer {
    let call = json!({ "id": "call_1", "type": "function", "function": { "name": tool, "arguments": arguments } });
    gateway.post("/v1/mcp/tool/execute", key, &call).await
}

async fn rpc(gateway: &Gateway, key: &str, tool: &str, arguments: &Value) -> Answer {
    let request = gateway
        .http
        .post(gateway.at("/mcp"))
        .bearer_auth(key)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2025-11-25")
        .json(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": arguments } }));
    gateway.send(request).await
}

async fn logs(gateway: &Gateway, query: &str, wanted: usize) -> Vec<Value> {
    until("the records are there", async || {
        let answer = gateway.admin("GET", &format!("/api/logs?{query}"), None).await.json();
        let logs = answer["logs"].as_array()?.clone();
        (wanted <= logs.len()).then_some(logs)
    })
    .await
}

async fn connect(gateway: &Gateway) -> tokio::net::TcpStream {
    let address = gateway.url.strip_prefix("http://").expect("http");
    tokio::net::TcpStream::connect(address).await.expect("connect")
}

/// Says `text` to the gateway, byte for byte, and reads what comes until the gateway closes the connection.
async fn say(gateway: &Gateway, text: &str) -> String {
    let mut socket = connect(gateway).await;
    socket.write_all(text.as_bytes()).await.expect("write");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("read");
    answer
}

fn signal(gateway: &Gateway) {
    let pid = i32::try_from(gateway.child.id().expect("runs")).expect("pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
}

#[test]
fn names_that_callers_make_up_are_no_series_of_their_own() {
    run(async {
        let (_upstream, gateway) = start("").await;
        for model in ["up/made-up-1", "up/made-up-2", "ant/made-up-3", "up/ok", "up/alias"] {
            assert_eq!(gateway.chat(KEY, model, "hi").await.status, 200, "{model}");
        }
        let text = gateway.get("/metrics", KEY).await.text();
        assert!(!text.contains("made-up"), "callers' own names are labels");
        let counted = |item: &str, count: u32| {
            let line = format!(
                "althing_calls_total{{item=\"{item}\",kind=\"model\",status=\"ok\",target=\"up\"}} {count}"
            );
            assert!(text.contains(&line), "{line} is not in {text}");
        };
        counted("other", 2);
        counted("ok", 2);
        // Records have the names all the same.
        logs(&gateway, "model=made-up-1", 1).await;
    });
}

#[test]
fn a_price_for_every_name_makes_no_name_a_series() {
    run(async {
        let upstream = Upstream::start().await;
        let price = r#"{ input_usd_per_million: "1", output_usd_per_million: "2" }"#;
        let address = upstream.address;
        let yaml = format!(
            r#"
providers:
  - {{ name: up, dialect: openai, base_url: "http://{address}/v1", keys: [{{ name: main, value: sk-up }}], models: {{ alias: aliased }}, prices: {{ "*": {price}, "made-*": {price}, spelt: {price} }} }}
virtual_keys:
  - {{ name: app, value: {KEY}, providers: [{{ name: up, models: ["*", listed] }}], budget: {{ limit_usd: "10" }} }}
"#
        );
        let gateway = Gateway::start(&yaml).await;
        for model in ["made-up-1", "made-up-2", "anything", "spelt", "alias", "listed"] {
            let answer = gateway.chat(KEY, &format!("up/{model}"), "hi").await;
            assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        }
        let text = gateway.get("/metrics", KEY).await.text();
        assert!(!text.contains("made-up") && !text.contains("anything"), "{text}");
        for (item, count) in [("other", 3), ("spelt", 1), ("aliased", 1), ("listed", 1)] {
            let line = format!(
                "althing_calls_total{{item=\"{item}\",kind=\"model\",status=\"ok\",target=\"up\"}} {count}"
            );
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        // 11 tokens in, 7 out: what a pattern prices is charged all the same.
        let cost = "althing_cost_nano_usd_total{item=\"other\",target=\"up\"} 75000";
        assert!(text.contains(cost), "{cost} is not in {text}");
    });
}

#[test]
fn tool_calls_that_are_refused_are_on_record() {
    run(async {
        let (_upstream, gateway) = start_with_tools().await;
        assert_eq!(execute(&gateway, SOME, "demo-add", "{\"a\":1,\"b\":2}").await.status, 404);
        assert_eq!(execute(&gateway, SOME, "demo-nothing", "{}").await.status, 404);
        assert_eq!(execute(&gateway, SOME, "demo-multiply", "{\"a\":\"x\"}").await.status, 400);
        let unread = gateway.post_raw("/v1/mcp/tool/execute", SOME, "{\"type\":\"tool_use\"").await;
        assert_eq!(unread.status, 400, "{}", unread.text());
        rpc(&gateway, SOME, "demo-add", &json!({ "a": 1, "b": 2 })).await;
        rpc(&gateway, SOME, "demo-nothing", &json!({})).await;
        rpc(&gateway, SOME, "demo-multiply", &json!({ "a": "x" })).await;
        let told: Vec<String> = logs(&gateway, "kind=tool_call&key=some", 7)
            .await
            .iter()
            .rev()
            .map(|it| {
                assert_eq!(it["cost_usd"], "0", "{it}");
                let text = |field: &str| it[field].as_str().unwrap_or("-").to_owned();
                format!("{} {} {} {}", text("server"), text("tool"), text("status"), text("error"))
            })
            .collect();
        let wanted = [
            "demo add refused tool_forbidden",
            "- demo-nothing refused tool_unknown",
            "demo multiply refused arguments_invalid",
            "- - refused invalid_json",
            "demo add refused tool_forbidden",
            "- demo-nothing refused tool_unknown",
            "demo multiply refused arguments_invalid",
        ];
        assert_eq!(told, wanted);
    });
}

#[test]
fn a_timeout_is_waited_for_once_and_a_failing_upstream_is_asked_again() {
    run(async {
        let upstream = Upstream::start().await;
        let address = upstream.address;
        let gateway = Gateway::start(&format!(
            r#"
providers:
  - {{ name: up, dialect: openai, base_url: "http://{address}/v1", keys: [{{ name: main, value: sk-upstream-openai }}], timeout: 1s }}
virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: up, models: ["*"] }}] }}]
"#
        ))
        .await;
        let began = Instant::now();
        let answer = gateway.chat(KEY, "up/never", "hi").await;
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
        assert_eq!(upstream.count(), 1, "it may be billed");
        assert_eq!(answer.header("x-althing-attempts"), "1");

        assert_eq!(gateway.chat(KEY, "up/status-504", "hi").await.status, 502);
        assert_eq!(upstream.count(), 2, "a proxy's time-out is one too");

        assert_eq!(gateway.chat(KEY, "up/status-503", "hi").await.status, 502);
        assert_eq!(upstream.count(), 5, "one key, and the upstream is in trouble: again");

        let body = json!({ "model": "up/never", "fallbacks": ["up/ok"], "messages": [{ "role": "user", "content": "hi" }] });
        let answer = gateway.post("/v1/chat/completions", KEY, &body).await;
        assert_eq!(answer.status, 200, "another target may be faster: {}", answer.text());
        assert_eq!(answer.header("x-althing-attempts"), "2");

        let answer = gateway.chat(KEY, "up/status-301", "hi").await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("301"), "{}", answer.text());
    });
}

#[test]
fn a_node_that_drains_says_so_until_its_last_call_has_ended() {
    run(async {
        let (_upstream, mut gateway) = start("").await;
        let (http, url) = (gateway.http.clone(), gateway.at("/v1/chat/completions"));
        let slow = tokio::spawn(async move {
            let body = json!({ "model": "up/slow-3000", "messages": [{ "role": "user", "content": "hi" }] });
            http.post(&url).bearer_auth(KEY).json(&body).send().await.expect("answer").status()
        });
        until("the call is in flight", async || {
            let text = gateway.get("/metrics", KEY).await.text();
            text.contains("althing_requests_in_flight 1").then_some(())
        })
        .await;
        signal(&gateway);
        // Each time a connection of its own, as a balancer that asks has one.
        let ask = async |method: reqwest::Method, path: &str| {
            let http = crate::support::gateway::client();
            let body =
                json!({ "model": "up/ok", "messages": [{ "role": "user", "content": "hi" }] });
            let request = http.request(method, gateway.at(path)).bearer_auth(KEY).json(&body);
            gateway.send(request).await
        };
        let unready = until("it is unready", async || {
            let answer = ask(reqwest::Method::GET, "/readyz").await;
            (answer.status == 503).then_some(answer)
        })
        .await;
        assert!(unready.text().contains("shutting down"), "{}", unready.text());
        assert_eq!(unready.header("connection"), "close");
        assert_eq!(ask(reqwest::Method::GET, "/healthz").await.status, 200);
        let refused = ask(reqwest::Method::POST, "/v1/chat/completions").await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.json()["error"]["code"], "draining");
        assert_eq!(refused.header("connection"), "close");
        assert!(!refused.header("retry-after").is_empty());
        assert_eq!(slow.await.expect("no panic"), 200);
        let ended = tokio::time::timeout(Duration::from_secs(10), gateway.child.wait());
        assert!(ended.await.expect("it ends with its last call").expect("status").success());
    });
}

#[test]
fn a_second_signal_ends_a_node_that_drains() {
    run(async {
        let (_upstream, mut gateway) = start("").await;
        let (http, url) = (gateway.http.clone(), gateway.at("/v1/chat/completions"));
        let slow = tokio::spawn(async move {
            let body = json!({ "model": "up/slow-60000", "messages": [{ "role": "user", "content": "hi" }] });
            http.post(&url).bearer_auth(KEY).json(&body).send().await.is_err()
        });
        until("the call is in flight", async || {
            let text = gateway.get("/metrics", KEY).await.text();
            text.contains("althing_requests_in_flight 1").then_some(())
        })
        .await;
        signal(&gateway);
        until("it drains", async || {
            // A connection kept from before may be closed by the drain just as this is sent on it: asked again then.
            let answer = gateway.http.get(gateway.at("/readyz")).send().await.ok()?;
            (answer.status() == 503).then_some(())
        })
        .await;
        signal(&gateway);
        let ended = tokio::time::timeout(Duration::from_secs(4), gateway.child.wait());
        ended.await.expect("it ends at once").expect("status");
        assert!(slow.await.expect("no panic"), "the call was cut");
    });
}

#[test]
fn a_body_that_stops_half_way_is_a_bad_request() {
    run(async {
        let (_upstream, gateway) = start("").await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{{\"model\":"
        );
        let mut socket = connect(&gateway).await;
        socket.write_all(head.as_bytes()).await.expect("write");
        socket.shutdown().await.expect("half close");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("read");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("\"body_incomplete\""), "{answer}");
    });
}

#[test]
fn failures_say_where_they_were_tried() {
    run(async {
        let (_upstream, gateway) = start("").await;
        for (model, status, attempts) in
            [("up/status-429", 429, "3"), ("ant/status-400", 400, "1"), ("up/garbage", 502, "1")]
        {
            let answer = gateway.chat(KEY, model, "hi").await;
            assert_eq!(answer.status, status, "{model}: {}", answer.text());
            let (provider, name) = model.split_once('/').expect("both");
            assert_eq!(answer.header("x-althing-provider"), provider, "{model}");
            assert_eq!(answer.header("x-althing-model"), name, "{model}");
            assert_eq!(answer.header("x-althing-attempts"), attempts, "{model}");
            assert!(!answer.header("x-althing-request-id").is_empty());
        }
        let unknown = gateway.chat(KEY, "nothing/like-it/at-all", "hi").await;
        assert!(!unknown.header("x-althing-request-id").is_empty());
    });
}

#[test]
fn tool_calls_say_what_is_left_of_rates() {
    run(async {
        let (_upstream, gateway) = start_with_tools().await;
        let left = |it: &Answer| it.header("x-ratelimit-remaining-requests").to_owned();
        let answer = execute(&gateway, KEY, "demo-add", "{\"a\":1,\"b\":2}").await;
        assert_eq!((answer.status, left(&answer).as_str()), (200, "2"), "{}", answer.text());
        assert_eq!(answer.header("x-ratelimit-limit-requests"), "3");
        let answer = rpc(&gateway, KEY, "demo-add", &json!({ "a": 1, "b": 2 })).await;
        assert!(!left(&answer).is_empty(), "{}", answer.text());
        execute(&gateway, KEY, "demo-add", "{\"a\":1,\"b\":2}").await;
        let refused = execute(&gateway, KEY, "demo-add", "{\"a\":1,\"b\":2}").await;
        assert_eq!((refused.status, left(&refused).as_str()), (429, "0"), "{}", refused.text());
    });
}

#[test]
fn a_key_is_told_all_of_its_own_limits() {
    run(async {
        let (_upstream, gateway) = start(
            r#", { name: full, value: sk-test-first-use-full01, providers: [{ name: up, models: ["*"], budget: { limit_usd: "5", period: day }, rate: { requests: 9 } }], rate: { concurrent: 4 } }"#,
        )
        .await;
        let told = gateway.get("/v1/key", "sk-test-first-use-full01").await.json();
        assert_eq!(told["rate"]["concurrent"], json!({ "limit": 4, "remaining": 4 }), "{told}");
        let provider = &told["providers"][0];
        assert_eq!(provider["rate"]["requests"]["limit"], 9, "{told}");
        assert_eq!(provider["budgets"][0]["limit_usd"], "5", "{told}");
    });
}

#[test]
fn what_is_asked_wrongly_is_told_so_with_the_status_for_it() {
    run(async {
        let (_upstream, gateway) = start_with_tools().await;
        for path in ["/healthz", "/readyz", "/metrics", "/"] {
            let answer = gateway.post(path, KEY, &json!({})).await;
            assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{path}");
        }
        for head in [
            "GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: other\r\nconnection: close\r\n\r\n",
        ] {
            let answer = say(&gateway, head).await;
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Host"), "{answer}");
        }
        assert!(say(&gateway, "GET /healthz HTTP/1.0\r\n\r\n").await.contains(" 200 "));
        let answer = gateway.admin("POST", "/api/mcp-servers/demo/authorize", None).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let answer = gateway.admin("DELETE", "/api/mcp-servers/demo", None).await;
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert!(
            answer.text().contains("sums") && answer.text().contains("some"),
            "{}",
            answer.text()
        );
    });
}

#[test]
fn a_model_that_no_key_of_its_provider_serves_is_unknown() {
    run(async {
        let upstream = Upstream::start().await;
        let address = upstream.address;
        let gateway = Gateway::start(&format!(
            r#"
providers:
  - {{ name: up, dialect: openai, base_url: "http://{address}/v1", keys: [{{ name: main, value: sk-upstream-openai, models: ["ok"] }}] }}
virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: up, models: ["*"] }}] }}]
"#
        ))
        .await;
        assert_eq!(gateway.chat(KEY, "up/ok", "hi").await.status, 200);
        let answer = gateway.chat(KEY, "up/plain", "hi").await;
        assert_eq!(answer.status, 404, "{}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "model_unknown");
        assert_eq!(upstream.count(), 1);
    });
}
