//! Traces and metrics, as a real collector receives them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::collector::nobody;
use crate::support::gateway::ADMIN;
use crate::support::{Collector, Gateway, Span, Upstream, run, until};

const KEY: &str = "sk-test-of-telemetry-01";
const TOKEN: &str = "token-of-the-collector";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/");

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

fn otlp(endpoint: &str, protocol: &str, sample: &str) -> String {
    format!(
        r#"
telemetry:
  otlp:
    endpoint: "{endpoint}"
    protocol: {protocol}
    sample: {sample}
    interval: 1s
    timeout: 2s
    headers: {{ x-token: {TOKEN} }}
    attributes: {{ deployment.environment.name: testing }}
"#
    )
}

fn keys() -> String {
    format!(
        r#"
customers: [{{ name: acme }}]
teams: [{{ name: web, customer: acme }}]
virtual_keys: [{{ name: app, team: web, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}], tools: ["*"] }}]
"#
    )
}

async fn chat(gateway: &Gateway, model: &str, stream: bool, headers: &[(&str, &str)]) -> u16 {
    let body = json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "a question of mine" }] });
    let mut request =
        gateway.http.post(gateway.at("/v1/chat/completions")).bearer_auth(KEY).json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    gateway.send(request).await.status
}

fn sole<'s>(spans: &'s [Span], kind: &str) -> &'s Span {
    let mut of_kind = spans.iter().filter(|it| it.kind.contains(kind));
    let span = of_kind.next().unwrap_or_else(|| panic!("no {kind} span in {spans:?}"));
    assert!(of_kind.next().is_none(), "{spans:?}");
    span
}

/// None of what must not leave the node is in what the collector has.
fn holds_no_secret(collector: &Collector) {
    let text = collector.text();
    for secret in [
        KEY,
        ADMIN,
        TOKEN,
        "sk-upstream",
        "a question of mine",
        "Hello ",
        "from the upstream",
        "words of a tool",
        "argument of mine",
    ] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

async fn a_chats_trace_and_metrics_arrive(protocol: &str) {
    let (upstream, collector) = (Upstream::start().await, Collector::start().await);
    let endpoint = if protocol == "grpc" { &collector.grpc } else { &collector.http };
    // Nothing is kept but what a caller's flag asks for.
    let gateway =
        Gateway::start(&(upstream.providers() + &keys() + &otlp(endpoint, protocol, "0"))).await;
    let given = [("traceparent", &*parent("01")), ("tracestate", "rojo=1,congo=2")];
    assert_eq!(chat(&gateway, "up/alias", false, &given).await, 200);
    let seen = upstream.last();
    let spans = collector.trace(TRACE, 2).await;
    let (server, client) = (sole(&spans, "SERVER"), sole(&spans, "CLIENT"));
    assert_eq!((server.name.as_str(), server.parent.as_str()), ("chat ok", CALLER));
    assert_eq!((client.name.as_str(), &client.parent), ("chat ok", &server.id));
    for (key, value) in [
        ("gen_ai.operation.name", "Str(chat)"),
        ("gen_ai.provider.name", "Str(openai)"),
        ("gen_ai.request.model", "Str(ok)"),
        ("gen_ai.response.model", "Str(ok)"),
        ("gen_ai.usage.input_tokens", "Int(11)"),
        ("gen_ai.usage.output_tokens", "Int(7)"),
        ("http.request.method", "Str(POST)"),
        ("http.route", "Str(/v1/chat/completions)"),
        ("http.response.status_code", "Int(200)"),
        ("althing.key", "Str(app)"),
        ("althing.team", "Str(web)"),
        ("althing.customer", "Str(acme)"),
        ("althing.provider", "Str(up)"),
        // 11 at $1 a million, 7 at $2.
        ("althing.cost.nano_usd", "Int(25000)"),
    ] {
        assert_eq!(server.get(key), value, "{key} of {server:?}");
    }
    assert!(server.get("gen_ai.response.finish_reasons").contains("stop"), "{server:?}");
    assert_eq!(server.get("error.type"), "");
    assert_eq!(client.get("server.address"), "Str(127.0.0.1)");
    assert_eq!(client.get("server.port"), format!("Int({})", upstream.address.port()));
    assert_eq!(client.get("althing.provider_key"), "Str(main)");
    assert_eq!(client.get("gen_ai.usage.input_tokens"), "", "usage is told once");
    // Who comes next hangs on our span, in the caller's trace.
    let told = |name: &str| seen.headers.get(name).map(|it| it.to_str().expect("text").to_owned());
    assert_eq!(told("traceparent"), Some(format!("00-{TRACE}-{}-01", client.id)));
    assert_eq!(told("tracestate").as_deref(), Some("rojo=1,congo=2"));
    // The record that the span names is there.
    let record = server.get("althing.record.id").trim_start_matches("Str(").trim_end_matches(')');
    until("the record is there", async || {
        let logs = gateway.admin("GET", "/api/logs", None).await.text();
        logs.contains(record).then_some(())
    })
    .await;
    until("the metrics are there", async || {
        let text = collector.text();
        [
            "gen_ai.client.operation.duration",
            "gen_ai.client.token.usage",
            "gen_ai.server.request.duration",
        ]
        .iter()
        .all(|it| text.contains(it))
        .then_some(())
    })
    .await;
    let text = collector.text();
    for part in [
        "service.name: Str(althing)",
        "service.instance.id: Str(",
        "deployment.environment.name: Str(testing)",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    holds_no_secret(&collector);
    drop(gateway);
}

#[test]
fn a_chats_trace_and_metrics_arrive_over_http() {
    run(a_chats_trace_and_metrics_arrive("http"));
}

#[test]
fn a_chats_trace_and_metrics_arrive_over_grpc() {
    run(a_chats_trace_and_metrics_arrive("grpc"));
}

/// Speaks TLS before a collector that does not, with the certificate of `tests/fixtures/tls`.
async fn tls_before(address: &str, protocol: &'static [u8]) -> String {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    let (leaf, key) = (FIXTURES.to_owned() + "leaf.pem", FIXTURES.to_owned() + "leaf.key");
    let certificate = CertificateDer::from_pem_file(leaf).expect("certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they fit");
    // Who asks for nothing else but this gets nothing.
    config.alpn_protocols = vec![protocol.to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let at = format!("https://{}", listener.local_addr().expect("address"));
    let behind = address.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(socket).await else { return };
                let mut server = tokio::net::TcpStream::connect(behind).await.expect("collector");
                // One of them ends it: nothing to tell.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    at
}

#[test]
fn a_collector_behind_tls_is_reached_where_its_authority_is_trusted_and_not_otherwise() {
    run(async {
        let (upstream, collector) = (Upstream::start().await, Collector::start().await);
        let trusted = format!("ca: \"file:{FIXTURES}ca.pem\"\n    headers:");
        for (protocol, behind, alpn, digit) in [
            ("http", &collector.http, &b"http/1.1"[..], '5'),
            ("grpc", &collector.grpc, b"h2", '6'),
        ] {
            let endpoint = tls_before(behind, alpn).await;
            let yaml = upstream.providers() + &keys() + &otlp(&endpoint, protocol, "0");
            let trace = TRACE.replacen('4', &digit.to_string(), 1);
            let given = parent("01").replace(TRACE, &trace);
            let mut distrusting = Gateway::start(&yaml).await;
            assert_eq!(chat(&distrusting, "up/ok", false, &[("traceparent", &given)]).await, 200);
            assert_eq!(distrusting.terminate().await, Some(0));
            let log = std::fs::read_to_string(distrusting.dir.path().join("log")).expect("log");
            assert!(log.contains("the collector does not take traces"), "{protocol}: {log}");
            assert!(collector.spans().iter().all(|it| it.trace != trace), "{protocol}");
            let gateway = Gateway::start(&yaml.replace("headers:", &trusted)).await;
            assert_eq!(chat(&gateway, "up/ok", false, &[("traceparent", &given)]).await, 200);
            collector.trace(&trace, 2).await;
        }
    });
}

#[test]
fn a_stream_tells_when_its_first_bytes_came_and_what_it_used() {
    run(async {
        let (upstream, collector) = (Upstream::start().await, Collector::start().await);
        let yaml = upstream.providers() + &keys() + &otlp(&collector.http, "http", "1");
        let gateway = Gateway::start(&yaml).await;
        for model in ["up/ok", "ant/ok", "gem/ok"] {
            assert_eq!(chat(&gateway, model, true, &[]).await, 200);
        }
        let spans = until("all spans are there", async || {
            let spans = collector.spans();
            (6 <= spans.len()).then_some(spans)
        })
        .await;
        for (provider, vendor) in [("up", "openai"), ("ant", "anthropic"), ("gem", "gcp.gemini")] {
            let wanted = format!("Str({provider})");
            let of_one: Vec<Span> =
                spans.iter().filter(|it| it.get("althing.provider") == wanted).cloned().collect();
            let server = sole(&of_one, "SERVER");
            assert_eq!(server.get("gen_ai.provider.name"), format!("Str({vendor})"));
            assert_eq!(server.get("gen_ai.usage.output_tokens"), "Int(7)", "{server:?}");
            assert_eq!(server.get("gen_ai.request.stream"), "Bool(true)", "{server:?}");
            assert_eq!(server.get("gen_ai.response.model"), "Str(ok)", "{server:?}");
            assert_ne!(server.get("gen_ai.response.finish_reasons"), "", "{server:?}");
            assert!(
                server.get("gen_ai.response.time_to_first_chunk").starts_with("Double("),
                "{server:?}"
            );
            assert_eq!(server.parent, "", "nobody called from a span");
        }
        until("time to first chunk is measured", async || {
            collector.text().contains("gen_ai.client.operation.time_to_first_chunk").then_some(())
        })
        .await;
    });
}

#[test]
fn each_attempt_has_a_span_and_errors_have_types() {
    run(async {
        let (upstream, collector) = (Upstream::start().await, Collector::start().await);
        let yaml = upstream.providers() + &keys() + &otlp(&collector.http, "http", "0");
        let gateway = Gateway::start(&yaml).await;
        assert_eq!(
            chat(&gateway, "up/status-503", false, &[("traceparent", &parent("01"))]).await,
            502
        );
        let spans = collector.trace(TRACE, 2).await;
        let server = sole(&spans, "SERVER").clone();
        assert_eq!(server.get("http.response.status_code"), "Int(502)", "{server:?}");
        assert!(server.get("error.type").starts_with("Str(upstream_"), "{server:?}");
        let clients: Vec<&Span> = spans.iter().filter(|it| it.kind.contains("CLIENT")).collect();
        assert_eq!(server.get("althing.attempts"), format!("Int({})", clients.len()));
        assert!(1 < clients.len(), "a 503 is tried again: {spans:?}");
        for (at, client) in clients.iter().enumerate() {
            assert_eq!(
                (client.parent.as_str(), client.get("error.type")),
                (&*server.id, "Str(503)")
            );
            let again = if at == 0 { String::new() } else { format!("Int({at})") };
            assert_eq!(client.get("http.request.resend_count"), again);
        }
        // What is refused before anybody is called has a span of its own alone.
        let trace = "5bf92f3577b34da6a3ce929d0e0e4736";
        let given = parent("01").replace(TRACE, trace);
        assert_eq!(chat(&gateway, "", false, &[("traceparent", &given)]).await, 400);
        let spans = collector.trace(trace, 1).await;
        let refused = sole(&spans, "SERVER");
        assert_eq!(
            (refused.name.as_str(), refused.get("error.type")),
            ("chat", "Str(invalid_field)")
        );
        assert_eq!(spans.len(), 1, "{spans:?}");
        holds_no_secret(&collector);
    });
}

#[test]
fn the_callers_flag_decides_and_what_is_no_traceparent_begins_a_new_trace() {
    run(async {
        let (upstream, collector) = (Upstream::start().await, Collector::start().await);
        let yaml = upstream.providers() + &keys() + &otlp(&collector.http, "http", "1");
        let gateway = Gateway::start(&yaml).await;
        let sent = |upstream: &Upstream| {
            upstream
                .last()
                .headers
                .get("traceparent")
                .expect("sent")
                .to_str()
                .expect("text")
                .to_owned()
        };
        // The caller keeps nothing of it, so neither do we, and who comes next is told so.
        chat(&gateway, "up/ok", false, &[("traceparent", &parent("00"))]).await;
        let told = sent(&upstream);
        assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"), "{told}");
        assert!(!told.contains(CALLER), "{told}");
        chat(&gateway, "up/ok", false, &[("traceparent", &parent("zz")), ("tracestate", "a=1")])
            .await;
        let told = sent(&upstream);
        assert!(!told.contains(TRACE), "{told}");
        assert!(upstream.last().headers.get("tracestate").is_none(), "it went with the parent");
        let trace = told.split('-').nth(1).expect("trace").to_owned();
        let spans = collector.trace(&trace, 2).await;
        assert_eq!(sole(&spans, "SERVER").parent, "");
        assert!(collector.spans().iter().all(|it| it.trace != TRACE), "{:?}", collector.spans());
    });
}

#[test]
fn what_was_not_sent_yet_is_sent_before_the_node_ends() {
    run(async {
        let (upstream, collector) = (Upstream::start().await, Collector::start().await);
        let yaml = upstream.providers()
            + &keys()
            + &otlp(&collector.http, "http", "1").replace("interval: 1s", "interval: 1h");
        let mut gateway = Gateway::start(&yaml).await;
        assert_eq!(chat(&gateway, "up/ok", false, &[("traceparent", &parent("01"))]).await, 200);
        assert_eq!(gateway.terminate().await, Some(0));
        collector.trace(TRACE, 2).await;
        until("the metrics are there", async || {
            collector.text().contains("gen_ai.client.token.usage").then_some(())
        })
        .await;
    });
}

#[test]
fn a_collector_that_is_gone_delays_nobody_and_is_told_of_once() {
    run(async {
        let upstream = Upstream::start().await;
        let yaml = upstream.providers() + &keys() + &otlp(&nobody(), "http", "1");
        let mut gateway = Gateway::start(&yaml).await;
        let started = std::time::Instant::now();
        for _ in 0..50 {
            assert_eq!(chat(&gateway, "up/ok", false, &[]).await, 200);
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        let text = until("lost spans are counted", async || {
            let text = gateway.get("/metrics", ADMIN).await.text();
            let lost = text
                .lines()
                .find(|it| it.starts_with("althing_otlp_dropped_total{what=\"spans\"}"));
            lost.is_some_and(|it| it.ends_with(" 100")).then_some(text)
        })
        .await;
        assert!(
            text.contains(r#"althing_otlp_exports_total{result="failed",signal="traces"}"#),
            "{text}"
        );
        assert!(text.contains(r#"althing_otlp_dropped_total{what="calls"} 0"#), "{text}");
        assert_eq!(chat(&gateway, "up/ok", false, &[]).await, 200);
        let started = std::time::Instant::now();
        assert_eq!(gateway.terminate().await, Some(0));
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        let log = std::fs::read_to_string(gateway.dir.path().join("log")).expect("log");
        let told = log.matches("the collector does not take traces").count();
        assert_eq!(told, 1, "{log}");
        assert!(!log.contains(TOKEN), "{log}");
    });
}

#[test]
fn a_collector_that_takes_and_never_answers_delays_nobody() {
    run(async {
        let upstream = Upstream::start().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let held = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                all.push(socket);
            }
        });
        let yaml =
            upstream.providers() + &keys() + &otlp(&format!("http://{address}"), "http", "1");
        let mut gateway = Gateway::start(&yaml).await;
        let started = std::time::Instant::now();
        for _ in 0..50 {
            assert_eq!(chat(&gateway, "up/ok", false, &[]).await, 200);
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        let started = std::time::Instant::now();
        assert_eq!(gateway.terminate().await, Some(0));
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        held.abort();
    });
}

#[test]
fn without_the_setting_nothing_is_sent_and_nobody_is_told_of_traces() {
    run(async {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(&(upstream.providers() + &keys())).await;
        assert_eq!(chat(&gateway, "up/ok", false, &[("traceparent", &parent("01"))]).await, 200);
        assert!(upstream.last().headers.get("traceparent").is_none());
        let text = gateway.get("/metrics", ADMIN).await.text();
        assert!(!text.contains("althing_otlp_exports_total{"), "{text}");
    });
}

#[test]
fn a_node_refuses_settings_of_otlp_that_cannot_work() {
    run(async {
        for (wrong, says) in [
            (
                otlp("http://127.0.0.1:1", "http", "1").replace("x-token", "\"x token\""),
                "telemetry.otlp.headers",
            ),
            (
                otlp("http://127.0.0.1:1", "http", "1").replace("interval: 1s", "interval: 1ms"),
                "telemetry.otlp.interval",
            ),
            (
                otlp("http://127.0.0.1:1", "http", "1")
                    .replace("headers:", "ca: \"no certificate\"\n    headers:"),
                "telemetry.otlp",
            ),
        ] {
            let dir = tempfile::tempdir().expect("folder");
            let (code, told) = Gateway::refuses(dir.path(), &wrong).await;
            assert!(code != Some(0) && told.contains(says), "{code:?} {told}");
            assert!(!told.contains(TOKEN), "{told}");
        }
    });
}

/// An MCP server over HTTP that keeps what it was sent.
struct ToolServer {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<(http::HeaderMap, Value)>>>,
}

impl ToolServer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let calls = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service =
                        service_fn(move |request| answer_tool(Arc::clone(&calls), request));
                    let io = TokioIo::new(socket);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await;
                });
            }
        });
        Self { address, calls }
    }
}

async fn answer_tool(
    calls: Arc<Mutex<Vec<(http::HeaderMap, Value)>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut response = Response::new(Full::default());
    let result = match message["method"].as_str() {
        Some("initialize") => {
            json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "t", "version": "1" } })
        }
        Some("tools/list") => {
            let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" } });
            json!({ "tools": [tool("say"), tool("fail"), tool("break")] })
        }
        Some("tools/call") => {
            let name = message["params"]["name"].as_str().unwrap_or_default().to_owned();
            calls.lock().push((parts.headers, message.clone()));
            match name.as_str() {
                "break" => {
                    let error = json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": -32050, "message": "words of a tool" } });
                    *response.body_mut() = Full::from(error.to_string());
                    response
                        .headers_mut()
                        .insert("content-type", "application/json".parse().expect("kind"));
                    return Ok(response);
                }
                name => {
                    json!({ "content": [{ "type": "text", "text": "words of a tool" }], "isError": name == "fail" })
                }
            }
        }
        Some("ping") => json!({}),
        _ if message["id"].is_null() => {
            *response.status_mut() = http::StatusCode::ACCEPTED;
            return Ok(response);
        }
        _ => {
            let error = json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": -32601, "message": "no" } });
            *response.body_mut() = Full::from(error.to_string());
            response
                .headers_mut()
                .insert("content-type", "application/json".parse().expect("kind"));
            return Ok(response);
        }
    };
    let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
    *response.body_mut() = Full::from(answer.to_string());
    response.headers_mut().insert("content-type", "application/json".parse().expect("kind"));
    Ok(response)
}

async fn rpc(
    gateway: &Gateway,
    session: Option<&str>,
    headers: &[(&str, &str)],
    method: &str,
    params: Value,
) -> crate::support::Answer {
    let mut request = gateway
        .http
        .post(gateway.at("/mcp"))
        .bearer_auth(KEY)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2025-11-25")
        .json(&json!({ "jsonrpc": "2.0", "id": "r-1", "method": method, "params": params }));
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    gateway.send(request).await
}

async fn with_tools(collector: &Collector) -> (ToolServer, Gateway) {
    let server = ToolServer::start().await;
    let servers = format!(
        "mcp_servers: [{{ name: far, transport: http, url: \"http://{}/mcp\" }}]",
        server.address
    );
    let gateway = Gateway::start(&(keys() + &otlp(&collector.http, "http", "0") + &servers)).await;
    until("the server is ready", async || {
        let tools = gateway.admin("GET", "/api/mcp-servers/far/tools", None).await.text();
        tools.contains("\"say\"").then_some(())
    })
    .await;
    (server, gateway)
}

#[test]
fn a_tools_call_is_a_trace_from_the_client_to_the_tools_server() {
    run(async {
        let collector = Collector::start().await;
        let (server, gateway) = with_tools(&collector).await;
        let hello = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        let session =
            rpc(&gateway, None, &[], "initialize", hello).await.header("mcp-session-id").to_owned();
        // What the message says counts; the HTTP request's own span is linked.
        let carrier = parent("01").replace(CALLER, "1111111111111111");
        let params = json!({ "name": "far-say", "arguments": { "x": "argument of mine" }, "_meta": { "traceparent": parent("01"), "tracestate": "a=1", "mine": 7 } });
        let answer =
            rpc(&gateway, Some(&session), &[("traceparent", &carrier)], "tools/call", params).await;
        assert!(answer.text().contains("words of a tool"), "{}", answer.text());
        let spans = collector.trace(TRACE, 2).await;
        let (ours, client) = (sole(&spans, "SERVER").clone(), sole(&spans, "CLIENT").clone());
        assert_eq!((ours.name.as_str(), ours.parent.as_str()), ("tools/call far-say", CALLER));
        assert_eq!((client.name.as_str(), &client.parent), ("tools/call say", &ours.id));
        for (key, value) in [
            ("mcp.method.name", "Str(tools/call)"),
            ("gen_ai.operation.name", "Str(execute_tool)"),
            ("gen_ai.tool.name", "Str(far-say)"),
            ("mcp.protocol.version", "Str(2025-11-25)"),
            ("jsonrpc.request.id", "Str(r-1)"),
            ("network.transport", "Str(tcp)"),
            ("althing.mcp.server", "Str(far)"),
            ("althing.key", "Str(app)"),
            ("error.type", ""),
        ] {
            assert_eq!(ours.get(key), value, "{key} of {ours:?}");
        }
        assert!(ours.get("mcp.session.id").starts_with("Str("), "{ours:?}");
        assert!(!collector.text().contains(&session), "the session's handle stays here");
        assert_eq!(client.get("gen_ai.tool.name"), "Str(say)");
        assert_eq!(client.get("server.port"), format!("Int({})", server.address.port()));
        // The tool's server is told, in the message and in the header that carries it.
        let (headers, message) = server.calls.lock().last().cloned().expect("a call");
        let told = format!("00-{TRACE}-{}-01", client.id);
        assert_eq!(headers.get("traceparent").expect("header"), &*told);
        assert_eq!(headers.get("tracestate").expect("header"), "a=1");
        let meta = &message["params"]["_meta"];
        assert_eq!((&meta["traceparent"], &meta["tracestate"]), (&json!(told), &json!("a=1")));
        assert_eq!(meta["mine"], 7, "the rest of the caller's is its own");
        until("the metrics are there", async || {
            let text = collector.text();
            let both = ["mcp.server.operation.duration", "mcp.client.operation.duration"];
            both.iter().all(|it| text.contains(it)).then_some(())
        })
        .await;
        holds_no_secret(&collector);
    });
}

#[test]
fn a_tools_own_failure_and_a_servers_refusal_are_errors_of_their_kind() {
    run(async {
        let collector = Collector::start().await;
        let (_server, gateway) = with_tools(&collector).await;
        for (tool, digit, ours, theirs) in [
            ("far-fail", '5', "Str(tool_error)", "Str(tool_error)"),
            ("far-break", '6', "Str(-32050)", "Str(-32050)"),
        ] {
            let trace = TRACE.replacen('4', &digit.to_string(), 1);
            let given = parent("01").replace(TRACE, &trace);
            let params = json!({ "name": tool, "arguments": {} });
            rpc(&gateway, None, &[("traceparent", &given)], "tools/call", params).await;
            let spans = collector.trace(&trace, 2).await;
            assert_eq!(sole(&spans, "SERVER").get("error.type"), ours, "{spans:?}");
            assert_eq!(sole(&spans, "SERVER").parent, CALLER, "{spans:?}");
            assert_eq!(sole(&spans, "CLIENT").get("error.type"), theirs, "{spans:?}");
        }
        holds_no_secret(&collector);
    });
}

#[test]
fn an_explicit_execution_is_a_trace_too() {
    run(async {
        let collector = Collector::start().await;
        let (server, gateway) = with_tools(&collector).await;
        let call = json!({ "id": "call_1", "type": "function", "function": { "name": "far-say", "arguments": "{}" } });
        let request = gateway
            .http
            .post(gateway.at("/v1/mcp/tool/execute"))
            .bearer_auth(KEY)
            .header("traceparent", parent("01"))
            .json(&call);
        assert_eq!(gateway.send(request).await.status, 200);
        let spans = collector.trace(TRACE, 2).await;
        let (ours, client) = (sole(&spans, "SERVER"), sole(&spans, "CLIENT"));
        assert_eq!((ours.name.as_str(), ours.parent.as_str()), ("execute_tool far-say", CALLER));
        assert_eq!(ours.get("mcp.method.name"), "", "it did not come by MCP");
        assert_eq!(client.get("mcp.method.name"), "Str(tools/call)");
        let (headers, _) = server.calls.lock().last().cloned().expect("a call");
        assert_eq!(
            headers.get("traceparent").expect("header"),
            &*format!("00-{TRACE}-{}-01", client.id)
        );
        holds_no_secret(&collector);
    });
}
