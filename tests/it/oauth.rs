//! OAuth towards MCP servers, against a certified issuer.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::support::{Gateway, peers, run, until};

const KEY: &str = "sk-test-of-oauth-servers";

struct Protected {
    _child: Child,
    issuer: u16,
    server: u16,
    http: reqwest::Client,
}

impl Protected {
    async fn start() -> Self {
        let (issuer, server) = (free_port(), free_port());
        let script = peers().join("node/oidc.mjs");
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/oidc.mjs"), &script)
            .expect("copy");
        let child = Command::new("node")
            .arg(&script)
            .args([issuer.to_string(), server.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node");
        let http = crate::support::gateway::client();
        let it = Self { _child: child, issuer, server, http };
        until("the issuer answers", async || it.grants().await).await;
        it
    }

    async fn grants(&self) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/grants", self.server);
        self.http.get(url).send().await.ok()?.json().await.ok()
    }

    async fn count(&self, grant: &str) -> u64 {
        self.grants().await.and_then(|it| it[grant].as_u64()).expect("a count")
    }

    fn yaml(&self, auth: &str) -> String {
        format!(
            r#"
mcp_servers: [{{ name: crm, transport: http, url: "http://127.0.0.1:{}/mcp", auth: {auth} }}]
virtual_keys: [{{ name: app, value: {KEY}, tools: ["*"] }}]
"#,
            self.server
        )
    }
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    socket.local_addr().expect("address").port()
}

async fn calls(gateway: &Gateway) -> Option<()> {
    let call = json!({ "id": "c", "type": "function", "function": { "name": "crm-who", "arguments": "{}" } });
    let answer = gateway.post("/v1/mcp/tool/execute", KEY, &call).await;
    (answer.status == 200 && answer.text().contains("a token that holds")).then_some(())
}

#[test]
fn a_person_authorises_once_and_tokens_are_renewed_across_expiry_and_restart() {
    run(async {
        let protected = Protected::start().await;
        let mut gateway =
            Gateway::start(&protected.yaml("{ type: oauth, grant: authorization_code }")).await;
        until("the server waits for a person", async || {
            let status = gateway.admin("GET", "/api/status", None).await.text();
            status.contains("\"held\"").then_some(())
        })
        .await;
        let begun = gateway.admin("POST", "/api/mcp-servers/crm/authorize", None).await;
        let url = begun.json()["authorize_url"].as_str().expect("a URL").to_owned();
        assert!(url.starts_with(&format!("http://127.0.0.1:{}/", protected.issuer)), "{url}");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/login.py");
        let said = Command::new(peers().join("venv/bin/python"))
            .args([script, &url])
            .output()
            .await
            .expect("a browser");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.starts_with("200") && said.contains("crm"), "{said}");
        until("the tool is called", async || calls(&gateway).await).await;
        assert_eq!(protected.count("authorization_code").await, 1);

        let before = protected.count("refresh_token").await;
        until("a token was renewed while calls went on", async || {
            calls(&gateway).await.expect("no call fails for a token that expired");
            (before < protected.count("refresh_token").await).then_some(())
        })
        .await;

        let data = gateway.dir.path().join("data");
        gateway.kill().await;
        gateway.restart().await;
        until("the tool is called after a restart", async || calls(&gateway).await).await;
        let before = protected.count("refresh_token").await;
        until("a token was renewed after the restart", async || {
            calls(&gateway).await.expect("no call fails for a token that expired");
            (before < protected.count("refresh_token").await).then_some(())
        })
        .await;
        assert_eq!(protected.count("authorization_code").await, 1, "nobody was asked again");
        assert!(data.is_dir());
    });
}

#[test]
fn client_credentials_need_no_person() {
    run(async {
        let protected = Protected::start().await;
        let gateway =
            Gateway::start(&protected.yaml(
                "{ type: oauth, grant: client_credentials, client_id: me, client_secret: pw }",
            ))
            .await;
        until("the tool is called", async || calls(&gateway).await).await;
        let before = protected.count("client_credentials").await;
        until("a token was renewed", async || {
            calls(&gateway).await.expect("no call fails for a token that expired");
            (before < protected.count("client_credentials").await).then_some(())
        })
        .await;
    });
}
