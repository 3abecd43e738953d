//! Health, metrics, drain, and changes while calls are under way.

use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{Gateway, Upstream, run, until};

const KEY: &str = "sk-test-of-operations-1";

async fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let yaml = upstream.providers()
        + &format!(
            r#"virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}] }}]"#
        );
    let gateway = Gateway::start(&yaml).await;
    (upstream, gateway)
}

#[test]
fn health_readiness_and_metrics_answer_without_a_key() {
    run(async {
        let (_upstream, gateway) = start().await;
        assert_eq!(gateway.send(gateway.http.get(gateway.at("/healthz"))).await.status, 200);
        assert_eq!(
            gateway.send(gateway.http.get(gateway.at("/readyz"))).await.json()["status"],
            "ready"
        );
        assert_eq!(gateway.send(gateway.http.head(gateway.at("/"))).await.status, 200);
    });
}

#[test]
fn metrics_pass_promtool_and_count_calls() {
    run(async {
        let (_upstream, gateway) = start().await;
        assert_eq!(gateway.chat(KEY, "up/ok", "hi").await.status, 200);
        let text = gateway.send(gateway.http.get(gateway.at("/metrics"))).await.text();
        assert!(
            text.contains(
                r#"althing_calls_total{item="ok",kind="model",status="ok",target="up"} 1"#
            ),
            "{text}"
        );
        assert!(text.contains("althing_overhead_seconds_count 1"), "{text}");
        // What ends before it has a target, or a call at all, is counted too.
        assert_eq!(gateway.chat("sk-of-nobody-at-all", "up/ok", "hi").await.status, 401);
        assert_eq!(gateway.post_raw("/v1/chat/completions", KEY, "{").await.status, 400);
        let text = gateway.send(gateway.http.get(gateway.at("/metrics"))).await.text();
        for counted in [
            r#"althing_refused_total{code="invalid_key"} 1"#,
            r#"althing_calls_total{item="none",kind="model",status="failed",target="none"} 1"#,
            "althing_records_lost 0",
        ] {
            assert!(text.contains(counted), "{counted}: {text}");
        }
        let mut promtool = tokio::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool, which `./dev test` installs");
        promtool.stdin.take().expect("piped").write_all(text.as_bytes()).await.expect("write");
        let output = promtool.wait_with_output().await.expect("output");
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    });
}

#[test]
fn a_term_signal_lets_calls_end_and_refuses_new_ones() {
    run(async {
        let (_upstream, mut gateway) = start().await;
        let (http, url) = (gateway.http.clone(), gateway.at("/v1/chat/completions"));
        let slow = tokio::spawn(async move {
            let body = json!({ "model": "up/slow-1500", "messages": [{ "role": "user", "content": "hi" }] });
            http.post(&url)
                .bearer_auth(KEY)
                .json(&body)
                .send()
                .await
                .expect("answer")
                .status()
                .as_u16()
        });
        until("the call is under way", async || {
            let text = gateway.send(gateway.http.get(gateway.at("/metrics"))).await.text();
            text.contains("althing_requests_in_flight 1").then_some(())
        })
        .await;
        // The process ends only with the slow call, so what comes now comes while it drains.
        let (http, url) = (gateway.http.clone(), gateway.at("/v1/models"));
        let refused = async {
            until("new calls are refused", async || {
                match http.get(&url).bearer_auth(KEY).send().await {
                    Ok(answer) => (answer.status() == 503).then_some(()),
                    Err(error) => error.is_connect().then_some(()),
                }
            })
            .await;
            assert!(!slow.is_finished(), "it was refused only after the end");
        };
        let (code, ()) = tokio::join!(gateway.terminate(), refused);
        assert_eq!(code, Some(0));
        assert_eq!(slow.await.expect("no panic"), 200);
    });
}

#[test]
fn the_standing_streams_of_mcp_clients_do_not_hold_up_the_end() {
    run(async {
        let (_upstream, mut gateway) = start().await;
        let opened = gateway.http.get(gateway.at("/sse")).bearer_auth(KEY).send().await;
        let mut stream = opened.expect("a stream");
        assert_eq!(stream.status(), 200);
        assert!(stream.chunk().await.expect("open").is_some(), "it begins");
        let began = tokio::time::Instant::now();
        assert_eq!(gateway.terminate().await, Some(0));
        assert!(began.elapsed().as_secs() < 10, "it waited for the client: {:?}", began.elapsed());
    });
}

#[test]
fn an_admin_key_that_is_made_is_told_also_where_the_first_start_failed() {
    run(async {
        let dir = tempfile::tempdir().expect("folder");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = taken.local_addr().expect("address");
        for yaml in [
            format!("listen: \"{address}\"\nadmin: {{ key: null }}"),
            format!("listen: 127.0.0.1:0\nadmin: {{ listen: \"{address}\" }}"),
        ] {
            let (code, said) = Gateway::refuses(dir.path(), &yaml).await;
            assert!(code == Some(1) && said.contains(&address.to_string()), "{code:?}: {said}");
        }
        drop(taken);
        let yaml = "listen: 127.0.0.1:0\nadmin: { key: null }";
        let line = Gateway::says(dir.path(), yaml, "admin key").await.expect("the admin key");
        assert!(line.contains("al-admin-"), "{line}");
    });
}

#[test]
fn a_provider_changed_under_load_drops_no_call() {
    run(async {
        let (upstream, gateway) = start().await;
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let (http, url) = (gateway.http.clone(), gateway.at("/v1/chat/completions"));
                tokio::spawn(async move {
                    for _ in 0..40 {
                        let body = json!({ "model": "up/slow-50", "messages": [{ "role": "user", "content": "hi" }] });
                        let status = http.post(&url).bearer_auth(KEY).json(&body).send().await.expect("answer").status();
                        assert_eq!(status.as_u16(), 200);
                    }
                })
            })
            .collect();
        for round in 0..10 {
            let change = json!({ "headers": { "x-round": format!("{round}") }, "timeout": format!("{}s", 10 + round) });
            let answer = gateway.admin("PATCH", "/api/providers/up", Some(&change)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        for call in calls {
            call.await.expect("no call is dropped");
        }
        assert_eq!(gateway.chat(KEY, "up/ok", "hi").await.status, 200);
        assert_eq!(upstream.last().headers["x-round"], "9");
    });
}

#[test]
fn the_openapi_document_names_every_route_and_a_wrong_admin_key_opens_none() {
    run(async {
        let (_upstream, gateway) = start().await;
        let document = gateway.admin("GET", "/api/openapi.json", None).await.json();
        assert!(document["openapi"].as_str().expect("version").starts_with("3.1"));
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for method in operations
                .as_object()
                .expect("operations")
                .keys()
                .filter(|it| ["get", "post", "put", "patch", "delete"].contains(&it.as_str()))
            {
                if path == "/api/openapi.json" {
                    continue;
                }
                let concrete =
                    path.replace("{kind}", "customers").replace("{name}", "x").replace("{id}", "x");
                let method =
                    reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).expect("method");
                let answer = gateway
                    .send(
                        gateway
                            .http
                            .request(method.clone(), gateway.at(&concrete))
                            .bearer_auth("al-admin-wrong"),
                    )
                    .await;
                assert_eq!(answer.status, 401, "{method} {path}: {}", answer.text());
            }
        }
    });
}

#[test]
fn a_stale_write_is_refused_by_its_etag() {
    run(async {
        let (_upstream, gateway) = start().await;
        let first = gateway.admin("GET", "/api/virtual-keys/app", None).await;
        let etag = first.header("etag").to_owned();
        assert!(!etag.is_empty());
        let change = json!({ "description": "one" });
        let write = || {
            gateway
                .http
                .patch(gateway.at("/api/virtual-keys/app"))
                .bearer_auth(crate::support::gateway::ADMIN)
                .header("if-match", &etag)
                .json(&change)
        };
        assert_eq!(gateway.send(write()).await.status, 200);
        let stale = gateway.send(write()).await;
        assert_eq!(
            (stale.status, &stale.json()["error"]["code"]),
            (412, &json!("version_mismatch"))
        );
    });
}

#[test]
fn administration_at_an_address_of_its_own_is_served_nowhere_else() {
    run(async {
        let port = {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
            socket.local_addr().expect("address").port()
        };
        let admin = crate::support::gateway::ADMIN;
        let yaml = format!("admin: {{ key: {admin}, listen: \"127.0.0.1:{port}\" }}");
        let gateway = Gateway::start(&yaml).await;
        assert_eq!(gateway.get("/api/status", admin).await.status, 404);
        let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let there = gateway.http.get(at("/api/status")).bearer_auth(admin);
        assert_eq!(gateway.send(there).await.status, 200);
        assert_eq!(gateway.send(gateway.http.get(at("/v1/models"))).await.status, 404);
        assert_eq!(gateway.send(gateway.http.get(at("/readyz"))).await.status, 200);
    });
}

#[test]
fn a_page_of_a_listed_origin_may_call_and_others_may_not() {
    run(async {
        let gateway =
            Gateway::start("browsers: { origins: [\"https://console.example.com\"] }").await;
        let preflight = |origin: &str| {
            gateway
                .http
                .request(reqwest::Method::OPTIONS, gateway.at("/v1/models"))
                .header("origin", origin)
                .header("access-control-request-method", "GET")
                .header("access-control-request-headers", "authorization")
        };
        let allowed = gateway.send(preflight("https://console.example.com")).await;
        assert_eq!(
            (allowed.status, allowed.header("access-control-allow-headers")),
            (204, "authorization")
        );
        assert_eq!(allowed.header("access-control-allow-origin"), "https://console.example.com");
        for origin in ["https://evil.example.com", "null"] {
            let refused = gateway.send(preflight(origin)).await;
            assert_eq!(
                (refused.status, refused.header("access-control-allow-origin")),
                (403, ""),
                "{origin}"
            );
        }
    });
}

#[test]
fn a_page_whose_name_was_made_to_point_here_reaches_nothing() {
    run(async {
        let upstream = Upstream::start().await;
        // Nobody needs a key, so that the page's name is all that keeps it out.
        let gateway = Gateway::start(&(upstream.providers() + "auth: open\n")).await;
        let port = gateway.url.rsplit(':').next().expect("port");
        let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
        let chat = json!({ "model": "up/ok", "messages": [{ "role": "user", "content": "hi" }] });
        let ask = async |path: &str, body: &serde_json::Value, host: &str, origin: Option<&str>| {
            let mut request = gateway
                .http
                .post(gateway.at(path))
                .header("host", host)
                .header("accept", "application/json, text/event-stream")
                .json(body);
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            gateway.send(request).await
        };
        let own = format!("localhost:{port}");
        for (path, body) in
            [("/mcp", &hello), ("/v1/chat/completions", &chat), ("/api/keys", &chat)]
        {
            for name in [
                "evil.example.com",
                "localhost.evil.example.com",
                "127.0.0.1.nip.io",
                "10.0.0.1",
                "",
            ] {
                let host = format!("{name}:{port}");
                // As a browser asks after the name was made to point here: the page's origin is the same host.
                for origin in [None, Some(format!("http://{host}")), Some("null".to_owned())] {
                    let answer = ask(path, body, &host, origin.as_deref()).await;
                    assert_eq!(answer.status, 403, "{path} {host} {origin:?}: {}", answer.text());
                    assert_eq!(answer.header("access-control-allow-origin"), "");
                }
                let answer = ask(path, body, &own, Some(&format!("http://{host}"))).await;
                assert_eq!(answer.status, 403, "{path} from {host}: {}", answer.text());
            }
        }
        assert_eq!(upstream.count(), 0);
        for (path, body) in [("/mcp", &hello), ("/v1/chat/completions", &chat)] {
            for host in [own.clone(), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
                for origin in [None, Some(format!("http://{host}"))] {
                    let answer = ask(path, body, &host, origin.as_deref()).await;
                    assert_eq!(answer.status, 200, "{path} {host} {origin:?}: {}", answer.text());
                }
            }
        }
        assert_eq!(
            gateway
                .send(
                    gateway.http.get(gateway.at("/healthz")).header("host", "althing.example.com")
                )
                .await
                .status,
            403
        );
    });
}
