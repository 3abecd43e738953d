//! HTTP/2, as it is spoken over TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream;
use serde_json::json;

use crate::support::{Gateway, Upstream, run};

const KEY: &str = "sk-test-of-http2-1";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/");

/// A gateway behind TLS, and its address.
async fn start() -> (Upstream, Gateway, String) {
    let upstream = Upstream::start().await;
    let yaml = upstream.providers()
        + &format!(
            "tls: {{ cert: file:{FIXTURES}leaf.pem, key: file:{FIXTURES}leaf.key }}\nlimits: {{ body: 64KiB }}\nvirtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: \"*\", models: [\"*\"] }}] }}]"
        );
    let mut gateway = Gateway::start(&yaml).await;
    let ca = std::fs::read(format!("{FIXTURES}ca.pem")).expect("the authority");
    gateway.http = reqwest::Client::builder()
        .no_proxy()
        .timeout(crate::support::PATIENCE)
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
        .build()
        .expect("client");
    let port = gateway.url.rsplit(':').next().expect("port").trim_end_matches('/').to_owned();
    (upstream, gateway, format!("127.0.0.1:{port}"))
}

#[test]
fn who_writes_all_its_body_before_it_reads_gets_the_early_answer() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 64;
    run(async {
        let (upstream, gateway, host) = start().await;
        for (path, key, status, code) in [
            ("/v1/chat/completions", KEY, 413, "body_too_large"),
            ("/v1/chat/completions", "sk-nobody-knows-this-key", 401, "invalid_key"),
            ("/mcp", "sk-nobody-knows-this-key", 401, "invalid_key"),
            ("/no/such/route", KEY, 404, "not_found"),
            ("/readyz", KEY, 405, "method_not_allowed"),
        ] {
            let written = Arc::new(AtomicUsize::new(0));
            let counts = Arc::clone(&written);
            let chunks = stream::unfold(0, move |at| {
                let counts = Arc::clone(&counts);
                async move {
                    if at == CHUNKS {
                        return None;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                    counts.fetch_add(1, Ordering::SeqCst);
                    Some((Ok::<_, std::io::Error>(vec![b'x'; CHUNK]), at + 1))
                }
            });
            let request = gateway
                .http
                .post(format!("https://{host}{path}"))
                .bearer_auth(key)
                .body(reqwest::Body::wrap_stream(chunks));
            let response = request.send().await.expect("an answer");
            assert_eq!(response.version(), reqwest::Version::HTTP_2);
            assert_eq!(response.status().as_u16(), status, "{path}");
            let body = response.bytes().await.expect("all of it");
            let told: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(told["error"]["code"], json!(code), "{path}: {told}");
            // A stream that is reset takes no more; who then still writes (curl) has lost the answer.
            assert_eq!(written.load(Ordering::SeqCst), CHUNKS, "{path}: it was let write");
        }
        assert_eq!(upstream.count(), 0);
    });
}

#[test]
fn the_authority_is_the_host() {
    run(async {
        let (_upstream, gateway, host) = start().await;
        let ask = |origin: &str| {
            let request = gateway.http.get(format!("https://{host}/v1/models")).bearer_auth(KEY);
            request.header("origin", origin)
        };
        let own = gateway.send(ask(&format!("https://{host}"))).await;
        assert_eq!(own.status, 200, "a page of the gateway itself: {}", own.text());
        let other = gateway.send(ask("https://evil.example.com")).await;
        assert_eq!(other.status, 403, "{}", other.text());

        let named = |name: &str| {
            let request = gateway.http.get(format!("https://{host}/v1/models")).bearer_auth(KEY);
            request.header("host", name)
        };
        let same = gateway.send(named(&host)).await;
        assert_eq!(same.status, 200, "{}", same.text());
        for name in ["localhost", "evil.example.com"] {
            let two = gateway.send(named(name)).await;
            assert_eq!((two.status, &two.json()["error"]["param"]), (400, &json!("host")));
        }
    });
}
