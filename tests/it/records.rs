//! Records: under which id a call is found, and what its caller may keep out of it.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Upstream, run, until};

const QUIET: &str = "sk-test-of-records-quiet";
const PLAIN: &str = "sk-test-of-records-plain";

/// A gateway that keeps all that can be kept.
async fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let althing = env!("CARGO_BIN_EXE_althing");
    let yaml = upstream.providers()
        + &format!(
            r#"
records: {{ bodies: all, arguments: full }}
mcp_servers:
  - {{ name: demo, transport: stdio, command: ["{althing}", "mcp", "demo-server"], prices: {{ add: "0.002" }} }}
virtual_keys:
  - {{ name: quiet, value: {QUIET}, record_opt_out: true, providers: [{{ name: "*", models: [ok, "status-*", garbage] }}], tools: ["*"] }}
  - {{ name: plain, value: {PLAIN}, providers: [{{ name: "*", models: [ok, "status-*", garbage] }}], tools: ["*"] }}
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

async fn ask(
    gateway: &Gateway,
    path: &str,
    key: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Answer {
    let mut request = gateway
        .http
        .post(gateway.at(path))
        .bearer_auth(key)
        .header("accept", "application/json, text/event-stream")
        .json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    gateway.send(request).await
}

/// The record under the id that the answer told.
async fn record(gateway: &Gateway, answer: &Answer) -> Value {
    let path = format!("/api/logs/{}", answer.header("x-althing-request-id"));
    until("the record is there", async || {
        let found = gateway.admin("GET", &path, None).await;
        (found.status == 200).then(|| found.json())
    })
    .await
}

fn chat(model: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "a word to forget" }] })
}

fn tool_call(arguments: &str) -> Value {
    json!({ "id": "call_1", "type": "function", "function": { "name": "demo-add", "arguments": arguments } })
}

fn rpc(id: u32, name: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": name, "arguments": { "a": 40, "b": 2 } } })
}

const OLD: (&str, &str) = ("mcp-protocol-version", "2025-11-25");
const OFF: (&str, &str) = ("x-althing-record", "off");

type Headers = &'static [(&'static str, &'static str)];

/// Every way to call: path, headers, body, and how it ends.
fn ways() -> Vec<(&'static str, Headers, Value, &'static str)> {
    vec![
        ("/v1/chat/completions", &[], chat("up/ok", false), "ok"),
        ("/v1/chat/completions", &[], chat("up/ok", true), "ok"),
        ("/v1/chat/completions", &[], chat("ant/ok", true), "ok"),
        ("/v1/chat/completions", &[], chat("up/status-500", false), "failed"),
        ("/v1/chat/completions", &[], chat("up/garbage", false), "failed"),
        ("/v1/chat/completions", &[], chat("up/kept-from-it", false), "refused"),
        ("/v1/mcp/tool/execute", &[], tool_call(r#"{"a":40,"b":2}"#), "ok"),
        ("/v1/mcp/tool/execute", &[], tool_call(r#"{"a":"two"}"#), "refused"),
        ("/mcp", &[OLD], rpc(1, "demo-add"), "ok"),
        ("/mcp", &[OLD], rpc(1, "demo-nothing"), "refused"),
    ]
}

#[test]
fn a_call_is_recorded_under_the_id_that_its_caller_was_told() {
    run(async {
        let (_upstream, gateway) = start().await;
        for (path, headers, body, status) in ways() {
            let answer = ask(&gateway, path, PLAIN, headers, &body).await;
            let entry = record(&gateway, &answer).await;
            assert_eq!(entry["status"], status, "{path} {body}: {}", answer.text());
        }
        // A batch is several calls: one of them has the request's id, and each its own.
        let batch = json!([rpc(1, "demo-add"), rpc(2, "demo-add"), rpc(3, "demo-multiply")]);
        let headers = [("mcp-protocol-version", "2025-03-26")];
        let before = count(&gateway).await;
        let answer = ask(&gateway, "/mcp", PLAIN, &headers, &batch).await;
        assert_eq!(answer.json().as_array().map(Vec::len), Some(3), "{}", answer.text());
        record(&gateway, &answer).await;
        until("each has a record", async || (count(&gateway).await == before + 3).then_some(()))
            .await;
    });
}

async fn count(gateway: &Gateway) -> usize {
    let logs = gateway.admin("GET", "/api/logs?limit=1000", None).await.json();
    logs["logs"].as_array().map_or(0, Vec::len)
}

#[test]
fn who_may_keeps_what_a_call_says_out_of_its_record_and_nothing_else() {
    run(async {
        let (_upstream, gateway) = start().await;
        for (path, headers, body, status) in ways() {
            // As a control: without the header the content is there.
            let answer = ask(&gateway, path, QUIET, headers, &body).await;
            let kept = record(&gateway, &answer).await;
            let is_tool = kept["kind"] == "tool_call";
            let content = if is_tool { "arguments" } else { "request" };
            assert!(!kept[content].is_null(), "{path} {body}: {kept}");

            let quiet = ask(&gateway, path, QUIET, &[headers, &[OFF]].concat(), &body).await;
            assert_eq!(quiet.status, answer.status, "{path} {body}: {}", quiet.text());
            let entry = record(&gateway, &quiet).await;
            for content in ["request", "response", "arguments", "arguments_sha256"] {
                assert!(entry[content].is_null(), "{path} {body} {content}: {entry}");
            }
            // What budgets and usage rest on is the same as ever.
            for evidence in [
                "kind",
                "key",
                "provider",
                "model",
                "server",
                "tool",
                "status",
                "http_status",
                "error",
                "tokens",
                "cost_usd",
                "stream",
                "attempts",
            ] {
                assert_eq!(entry[evidence], kept[evidence], "{path} {body} {evidence}");
            }
            assert_eq!((&entry["status"], &entry["key"]), (&json!(status), &json!("quiet")));
            assert!(entry["at"].is_string() && entry["latency_ms"].is_number(), "{entry}");
        }
        let usage = gateway.admin("GET", "/api/usage?group_by=tool", None).await.json();
        let rows = usage["rows"].as_array().expect("rows");
        let add = rows.iter().find(|it| it["group"]["tool"] == "add").expect("the tool's row");
        assert_eq!(add["cost_usd"], "0.008", "two ways, with and without: {usage}");

        // Nor is it anywhere in the files.
        let secret = "a-word-that-only-this-call-says";
        let mut body = chat("up/ok", true);
        body["messages"][0]["content"] = json!(secret);
        let answer = ask(&gateway, "/v1/chat/completions", QUIET, &[OFF], &body).await;
        record(&gateway, &answer).await;
        assert_eq!(files_with(&gateway.data(), secret), Vec::<String>::new());
        let answer = ask(&gateway, "/v1/chat/completions", QUIET, &[], &body).await;
        record(&gateway, &answer).await;
        assert_ne!(files_with(&gateway.data(), secret), Vec::<String>::new(), "it can be found");
    });
}

fn files_with(dir: &std::path::Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.windows(text.len()).any(|it| it == text.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn who_may_not_is_refused_in_its_dialect_and_so_is_another_value() {
    run(async {
        let (upstream, gateway) = start().await;
        let message = json!({ "model": "up/ok", "max_tokens": 9, "messages": [{ "role": "user", "content": "hi" }] });
        let contents = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hi" }] }] });
        let ways: [(&str, Headers, Value, &str, &str); 5] = [
            ("/v1/chat/completions", &[], chat("up/ok", false), "/error/code", "/error/message"),
            ("/anthropic/v1/messages", &[], message, "/error/type", "/error/message"),
            (
                "/genai/v1beta/models/up/ok:generateContent",
                &[],
                contents,
                "/error/status",
                "/error/message",
            ),
            ("/v1/mcp/tool/execute", &[], tool_call("{}"), "/error/code", "/error/message"),
            ("/mcp", &[OLD], rpc(1, "demo-add"), "/error/data/code", "/error/message"),
        ];
        for (path, headers, body, kind, message) in ways {
            let text = |answer: &Answer, pointer| {
                let json = answer.json();
                json.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let answer = ask(&gateway, path, PLAIN, &[headers, &[OFF]].concat(), &body).await;
            assert_eq!(answer.status, 403, "{path}: {}", answer.text());
            let code = text(&answer, kind);
            assert!(
                ["forbidden", "permission_error", "PERMISSION_DENIED"].contains(&code.as_str()),
                "{path}: {}",
                answer.text()
            );
            let said = text(&answer, message);
            assert!(said.contains("`record_opt_out: true`") && said.contains("`plain`"), "{said}");
            for value in ["on", "OFF", "no"] {
                let headers = [headers, &[("x-althing-record", value)]].concat();
                let answer = ask(&gateway, path, QUIET, &headers, &body).await;
                assert_eq!(answer.status, 400, "{path} {value}: {}", answer.text());
                let said = text(&answer, message);
                assert!(said.contains("`x-althing-record`"), "{said}");
            }
        }
        assert_eq!(upstream.count(), 0, "nothing was called");
        // The field is policy like any other: a change of it holds from the next request on.
        let patch = json!({ "record_opt_out": true });
        let changed = gateway.admin("PATCH", "/api/virtual-keys/plain", Some(&patch)).await;
        assert_eq!(changed.json()["object"]["record_opt_out"], true, "{}", changed.text());
        let body = chat("up/ok", false);
        let answer = ask(&gateway, "/v1/chat/completions", PLAIN, &[OFF], &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(gateway.get("/v1/key", PLAIN).await.json()["record_opt_out"], true);
    });
}
