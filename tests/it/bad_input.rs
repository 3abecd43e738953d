//! Bad input: each gets its clear answer and leaves the gateway serving.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Gateway, Upstream, run};

const KEY: &str = "sk-test-of-bad-input-1";

async fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let yaml = upstream.providers()
        + &format!(
            "limits: {{ body: 64KiB, header: 8KiB, idle_stream: 1s }}\nvirtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: \"*\", models: [\"*\"] }}] }}]"
        );
    let gateway = Gateway::start(&yaml).await;
    (upstream, gateway)
}

async fn still_serves(gateway: &Gateway) {
    let answer = gateway.chat(KEY, "up/ok", "hi").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// What each of the three dialects calls the same failure.
async fn refused(gateway: &Gateway, body: &str, status: u16, code: &str, param: Option<&str>) {
    let openai = gateway.post_raw("/v1/chat/completions", KEY, body.to_owned()).await;
    let told = openai.json();
    assert_eq!(
        (openai.status, told["error"]["code"].as_str()),
        (status, Some(code)),
        "{body}: {told}"
    );
    assert!(!told["error"]["message"].as_str().expect("message").is_empty());
    assert!(told["request_id"].is_string(), "{told}");
    if let Some(param) = param {
        assert_eq!(told["error"]["param"], param, "{told}");
    }
    let anthropic = gateway.post_raw("/anthropic/v1/messages", KEY, body.to_owned()).await;
    assert_eq!(
        (anthropic.status, &anthropic.json()["type"]),
        (status, &json!("error")),
        "{}",
        anthropic.text()
    );
}

#[test]
fn malformed_json_is_told_with_its_place() {
    run(async {
        let (upstream, gateway) = start().await;
        for body in [
            "",
            "{",
            "{\"model\":",
            "[]",
            "{\"model\":\"up/ok\"} trailing",
            "{\"a\":tru}",
            "\u{feff}{}",
        ] {
            refused(&gateway, body, 400, "invalid_json", None).await;
        }
        assert_eq!(upstream.count(), 0);
        still_serves(&gateway).await;
    });
}

#[test]
fn a_wrong_type_is_told_with_its_field() {
    run(async {
        let (upstream, gateway) = start().await;
        for (body, param) in [
            (r#"{"model":5,"messages":[]}"#, "model"),
            (r#"{"model":"up/ok","stream":"yes","messages":[]}"#, "stream"),
            (r#"{"model":"up/ok","max_tokens":"many","messages":[]}"#, "max_tokens"),
            (r#"{"messages":[]}"#, "model"),
            (r#"{"model":"","messages":[]}"#, "model"),
        ] {
            refused(&gateway, body, 400, "invalid_field", Some(param)).await;
        }
        // What only a translation reads is told with its path too.
        let answer = gateway
            .post(
                "/v1/chat/completions",
                KEY,
                &json!({ "model": "ant/ok", "messages": [{ "role": "user", "content": 7 }] }),
            )
            .await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!("messages[0].content"))
        );
        assert_eq!(upstream.count(), 0);
    });
}

#[test]
fn duplicate_and_case_variant_fields_are_refused() {
    run(async {
        let (upstream, gateway) = start().await;
        for body in [
            r#"{"model":"up/ok","model":"up/plain","messages":[]}"#,
            r#"{"model":"up/ok","Model":"up/plain","messages":[]}"#,
            r#"{"model":"up/ok","m\u006fdel":"up/plain","messages":[]}"#,
            r#"{"model":"up/ok","STREAM":true,"messages":[]}"#,
        ] {
            refused(&gateway, body, 400, "duplicate_field", None).await;
        }
        assert_eq!(upstream.count(), 0);
    });
}

#[test]
fn an_unknown_model_says_which_providers_there_are() {
    run(async {
        let (_upstream, gateway) = start().await;
        let answer = gateway.chat(KEY, "nobody-has-this", "hi").await;
        // Servers of one's own may serve any model: the upstream is asked, and answers for itself.
        assert_eq!(answer.status, 200);
        let answer = gateway.chat("sk-nobody-knows-this-key", "up/ok", "hi").await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("invalid_key")));
    });
}

#[test]
fn an_oversized_body_is_refused_before_it_is_read() {
    run(async {
        let (upstream, gateway) = start().await;
        let answer = gateway.chat(KEY, "up/ok", &"x".repeat(100_000)).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (413, &json!("body_too_large"))
        );
        assert!(answer.text().contains("65536"), "{}", answer.text());
        assert_eq!(upstream.count(), 0);
        still_serves(&gateway).await;
    });
}

/// A request that is sent by hand.
async fn connect(gateway: &Gateway, head: &str) -> TcpStream {
    let address = gateway.url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).await.expect("connect");
    let head = format!("{head}\r\nhost: {address}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("written");
    socket
}

async fn rest(socket: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    tokio::time::timeout(crate::support::PATIENCE, socket.read_to_end(&mut seen))
        .await
        .expect("it is ended")
        .expect("and not reset");
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn who_writes_all_its_body_before_it_reads_gets_the_early_answer() {
    const CHUNK: usize = 64 * 1024;
    run(async {
        let (upstream, gateway) = start().await;
        let length = "content-length: 4194304";
        for (path, key, framing, status) in [
            ("/v1/chat/completions", KEY, length, "413"),
            ("/v1/chat/completions", KEY, "transfer-encoding: chunked", "413"),
            ("/v1/chat/completions", "sk-nobody-knows-this-key", length, "401"),
            ("/mcp", "sk-nobody-knows-this-key", length, "401"),
            ("/no/such/route", KEY, length, "404"),
            ("/readyz", KEY, length, "405"),
            ("/api/virtual-keys", KEY, length, "403"),
        ] {
            let head = format!("POST {path} HTTP/1.1\r\nauthorization: Bearer {key}\r\n{framing}");
            let mut socket = connect(&gateway, &head).await;
            let is_chunked = framing.contains("chunked");
            for at in 0..(4 << 20) / CHUNK {
                if is_chunked {
                    socket.write_all(b"10000\r\n").await.expect("written");
                }
                socket
                    .write_all(&[b'x'; CHUNK])
                    .await
                    .unwrap_or_else(|it| panic!("{path} {framing}, chunk {at}: {it}"));
                if is_chunked {
                    socket.write_all(b"\r\n").await.expect("written");
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            let answer = rest(&mut socket).await;
            let head = answer.split("\r\n\r\n").next().unwrap_or_default();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {framing}: {answer}");
            assert!(head.contains("connection: close"), "{path} {framing}: {answer}");
        }
        assert_eq!(upstream.count(), 0);
        still_serves(&gateway).await;
    });
}

#[test]
fn a_body_that_will_be_refused_is_not_asked_for() {
    run(async {
        let (_upstream, gateway) = start().await;
        for (key, length, status) in
            [(KEY, 100_000, "413"), ("sk-nobody-knows-this-key", 100, "401"), (KEY, 2, "100")]
        {
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {length}"
            );
            let mut socket = connect(&gateway, &head).await;
            let mut begun = [0; 12];
            let read = socket.read_exact(&mut begun);
            tokio::time::timeout(crate::support::PATIENCE, read)
                .await
                .expect("nobody waits for the body")
                .expect("an answer");
            assert_eq!(String::from_utf8_lossy(&begun), format!("HTTP/1.1 {status}"));
            if status == "100" {
                socket.write_all(b"{}").await.expect("written");
            }
            let rest = rest(&mut socket).await;
            assert_eq!(rest.contains("HTTP/1.1 400"), status == "100", "{rest}");
            assert_eq!(rest.contains("HTTP/1.1"), status == "100", "one answer: {rest}");
        }
        still_serves(&gateway).await;
    });
}

#[test]
fn oversized_headers_are_refused_in_json() {
    run(async {
        let (_upstream, gateway) = start().await;
        let request = gateway
            .http
            .get(gateway.at("/v1/key"))
            .bearer_auth(KEY)
            .header("x-filler", "y".repeat(9_000));
        let answer = gateway.send(request).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (431, &json!("header_too_large"))
        );
        still_serves(&gateway).await;
    });
}

#[test]
fn a_body_that_stops_half_way_reaches_no_upstream() {
    run(async {
        let (upstream, gateway) = start().await;
        let address = gateway.url.trim_start_matches("http://").to_owned();
        let mut socket = TcpStream::connect(&address).await.expect("connect");
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {KEY}\r\ncontent-length: 500\r\n\r\n{{\"model\":\"up/ok\""
        );
        socket.write_all(head.as_bytes()).await.expect("write");
        socket.shutdown().await.expect("half-close");
        let mut rest = Vec::new();
        // An answer or none: what counts is that the gateway ends it.
        let _ = tokio::time::timeout(crate::support::PATIENCE, socket.read_to_end(&mut rest))
            .await
            .expect("it is ended");
        assert_eq!(upstream.count(), 0);
        still_serves(&gateway).await;
    });
}

#[test]
fn two_different_keys_are_refused_and_the_same_key_twice_is_not() {
    run(async {
        let (_upstream, gateway) = start().await;
        let two = gateway
            .http
            .get(gateway.at("/v1/key"))
            .bearer_auth(KEY)
            .header("x-api-key", "sk-another-key-entirely");
        let answer = gateway.send(two).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("two_keys")));
        let same =
            gateway.http.get(gateway.at("/v1/key")).bearer_auth(KEY).header("x-api-key", KEY);
        assert_eq!(gateway.send(same).await.status, 200);
    });
}

#[test]
fn an_upstream_that_sends_garbage_is_a_502_and_not_the_callers_problem() {
    run(async {
        let (_upstream, gateway) = start().await;
        for provider in ["up", "ant", "gem"] {
            let answer = gateway.chat(KEY, &format!("{provider}/garbage"), "hi").await;
            assert_eq!(
                (answer.status, &answer.json()["error"]["code"]),
                (502, &json!("upstream_malformed")),
                "{provider}: {}",
                answer.text()
            );
            assert!(!answer.text().contains("html"), "{}", answer.text());
        }
        still_serves(&gateway).await;
    });
}

#[test]
fn an_upstream_that_stops_mid_stream_ends_in_the_dialects_own_error() {
    run(async {
        let (_upstream, gateway) = start().await;
        for (path, marker) in
            [("/v1/chat/completions", "\"error\""), ("/anthropic/v1/messages", "event: error")]
        {
            for provider in ["up", "ant"] {
                for model in ["cut", "stall"] {
                    let body = json!({ "model": format!("{provider}/{model}"), "stream": true, "max_tokens": 9, "messages": [{ "role": "user", "content": "hi" }] });
                    let answer = gateway.post(path, KEY, &body).await;
                    let text = answer.text();
                    assert!(text.contains(marker), "{path} over {provider}/{model}: {text}");
                }
            }
        }
        still_serves(&gateway).await;
    });
}

#[test]
fn what_is_no_event_in_a_stream_ends_it_in_the_dialects_own_error() {
    run(async {
        let (_upstream, gateway) = start().await;
        for (path, provider, end) in [
            ("/v1/chat/completions", "up", "data: {\"error\""),
            ("/anthropic/v1/messages", "ant", "event: error"),
            ("/genai/v1beta/models/gem/torn:streamGenerateContent?alt=sse", "gem", "\"error\""),
        ] {
            let body = if provider == "gem" {
                json!({ "contents": [{ "role": "user", "parts": [{ "text": "hi" }] }] })
            } else {
                json!({ "model": format!("{provider}/torn"), "stream": true, "max_tokens": 9, "messages": [{ "role": "user", "content": "hi" }] })
            };
            let answer = gateway.post(path, KEY, &body).await;
            let text = answer.text();
            let is_ended = text.contains(end) && text.contains("not of its own format");
            assert!(is_ended && !text.contains("html"), "{path}: {text}");
            let logs = gateway.admin("GET", "/api/logs?limit=1", None).await.json();
            let told = (&logs["logs"][0]["status"], &logs["logs"][0]["error"]);
            assert_eq!(told, (&json!("failed"), &json!("upstream_malformed")), "{path}: {logs}");
        }
        still_serves(&gateway).await;
    });
}

#[test]
fn an_upstream_that_never_answers_is_a_504() {
    run(async {
        let (_upstream, gateway) = start().await;
        let answer = gateway.chat(KEY, "up/never", "hi").await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (504, &json!("upstream_timeout")),
            "{}",
            answer.text()
        );
        still_serves(&gateway).await;
    });
}

#[test]
fn an_upstreams_own_refusal_keeps_its_status_and_loses_our_secrets() {
    run(async {
        let (_upstream, gateway) = start().await;
        for (status, told) in [(400, 400), (404, 404), (422, 422), (500, 502), (401, 502)] {
            let answer = gateway.chat(KEY, &format!("up/status-{status}"), "hi").await;
            assert_eq!(answer.status, told, "{status}: {}", answer.text());
            assert!(!answer.text().contains("sk-upstream"), "{}", answer.text());
        }
    });
}

#[test]
fn a_wrong_method_or_path_is_answered_in_json() {
    run(async {
        let (_upstream, gateway) = start().await;
        let answer = gateway.get("/v1/chat/completions", KEY).await;
        assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
        let answer = gateway.get("/no/such/route", KEY).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("not_found")));
        let answer = gateway.post("/v1/images/generations", KEY, &json!({})).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (501, &json!("not_supported"))
        );
    });
}

#[test]
fn a_configuration_with_errors_in_five_places_names_all_five() {
    run(async {
        let dir = tempfile::tempdir().expect("folder");
        let yaml = r#"
limits: { body: 32Mib, hedder: 1KiB }
auth: maybe
providers: [{ name: local, dialect: openai, base_url: "ftp://x" }]
mcp_servers: [{ name: bad-name, transport: stdio, command: "x" }]
virtual_keys: [{ name: app, team: nobody }]
"#;
        let (code, text) = Gateway::refuses(dir.path(), yaml).await;
        assert_eq!(code, Some(64), "{text}");
        for path in [
            "limits",
            "auth",
            "providers[0].base_url",
            "mcp_servers[0].name",
            "virtual_keys[0].team",
        ] {
            assert!(text.contains(path), "{path} is missing in: {text}");
        }
    });
}

#[test]
fn a_corrupted_data_directory_is_refused_with_the_reason() {
    run(async {
        let (_upstream, mut gateway) = start().await;
        assert_eq!(gateway.terminate().await, Some(0));
        let file = std::fs::read_dir(gateway.dir.path().join("data"))
            .expect("data")
            .filter_map(|it| Some(it.ok()?.path()))
            .find(|it| it.extension().is_some_and(|it| it == "redb"))
            .expect("a log");
        let mut bytes = std::fs::read(&file).expect("log");
        let middle = bytes.len() / 2;
        bytes.truncate(middle);
        bytes.iter_mut().take(4096).for_each(|it| *it ^= 0xA5);
        std::fs::write(&file, bytes).expect("damage");
        let yaml = "node: { name: a }";
        let (code, text) = Gateway::refuses(gateway.dir.path(), yaml).await;
        assert_eq!(code, Some(1), "{text}");
        let name = file.file_name().and_then(|it| it.to_str()).expect("name");
        assert!(text.contains(name), "{text}");
    });
}

#[test]
fn a_second_gateway_on_the_same_data_is_refused() {
    run(async {
        let (_upstream, gateway) = start().await;
        let (code, text) = Gateway::refuses(gateway.dir.path(), "node: { name: b }").await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("lock"), "{text}");
        still_serves(&gateway).await;
    });
}

#[test]
fn noise_on_the_socket_harms_nobody() {
    run(async {
        let (_upstream, gateway) = start().await;
        let address = gateway.url.trim_start_matches("http://").to_owned();
        for noise in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", &[0; 4096]] {
            let mut socket = TcpStream::connect(&address).await.expect("connect");
            socket.write_all(noise).await.expect("write");
            // The other side may have reset the connection already.
            let _ = socket.shutdown().await;
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(crate::support::PATIENCE, socket.read_to_end(&mut rest)).await.expect("it is ended");
        }
        still_serves(&gateway).await;
    });
}

#[test]
fn a_request_of_two_lengths_is_the_last_on_its_connection() {
    run(async {
        let (upstream, gateway) = start().await;
        let body = r#"{"model":"up/ok","messages":[{"role":"user","content":"hi"}]}"#;
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {KEY}");
        let hidden = format!(
            "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let both = [
            "content-length: LENGTH\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: LENGTH",
        ];
        for framing in both.into_iter().chain(["transfer-encoding: chunked"]) {
            // What one reader takes for the body has a request of its own in it for the other.
            for (first, length) in [("0\r\n\r\n", 5 + hidden.len()), (&*chunked, 5)] {
                let before = upstream.count();
                let framing = framing.replace("LENGTH", &length.to_string());
                let mut socket = connect(&gateway, &format!("{head}\r\n{framing}")).await;
                socket.write_all(format!("{first}{hidden}").as_bytes()).await.expect("written");
                if framing.contains("content-length") {
                    let answer = rest(&mut socket).await;
                    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{framing}: {answer}");
                    assert!(answer.contains("connection: close"), "{framing}: {answer}");
                    let is_read_as_chunked = answer.starts_with("HTTP/1.1 200 ");
                    assert!(answer.starts_with("HTTP/1.1 400 ") || first == chunked, "{answer}");
                    assert_eq!(upstream.count() - before, usize::from(is_read_as_chunked));
                } else {
                    // Without a second length both are answered: what is refused above could be seen.
                    let answer = rest(&mut socket).await;
                    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{framing}: {answer}");
                }
            }
        }
        still_serves(&gateway).await;
    });
}

#[test]
fn depth_without_end_is_refused_in_bounded_time() {
    run(async {
        let (_upstream, gateway) = start().await;
        let deep = format!(
            "{{\"model\":\"up/ok\",\"messages\":{}{}}}",
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        let answer = gateway.post_raw("/v1/chat/completions", KEY, deep).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let _: Value = answer.json();
        still_serves(&gateway).await;
    });
}
