//! The canary: secrets set wherever one can be set are found nowhere.

use std::path::Path;

use serde_json::json;

use crate::support::{Gateway, Upstream, run};

const CANARIES: [&str; 6] = [
    "canary-provider-key-7f3a9c",
    "canary-provider-header-2b8d1e",
    "canary-virtual-key-55aa01-x",
    "canary-stdio-env-c0ffee",
    "canary-http-header-badf00d",
    "canary-admin-key-facade42",
];

#[test]
fn no_canary_is_found_in_any_answer_log_or_file() {
    run(async {
        let upstream = Upstream::start().await;
        let address = upstream.address;
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/mcp_stdio.py");
        let [key, header, virtual_key, environment, http_header, admin] = CANARIES;
        let yaml = format!(
            r#"
admin: {{ key: {admin} }}
telemetry: {{ log: debug }}
providers:
  - {{ name: up, dialect: openai, base_url: "http://{address}/v1", keys: [{{ name: main, value: {key} }}], headers: {{ x-secret: {header} }}, timeout: 2s }}
  - {{ name: dead, dialect: openai, base_url: "http://127.0.0.1:1/v1", keys: [{{ name: main, value: {key} }}], headers: {{ x-secret: {header} }} }}
mcp_servers:
  - {{ name: files, transport: stdio, command: ["python3", "{fixture}"], env: {{ TOKEN: {environment} }} }}
  - {{ name: gone, transport: http, url: "http://127.0.0.1:1/mcp", headers: {{ authorization: {http_header} }} }}
virtual_keys:
  - {{ name: app, value: {virtual_key}, providers: [{{ name: "*", models: ["*"] }}], tools: ["*"] }}
"#
        );
        let mut gateway = Gateway::start(&yaml).await;
        let mut said = String::new();
        for model in [
            "up/ok",
            "up/garbage",
            "up/status-401",
            "up/status-500",
            "up/status-400",
            "up/never",
            "dead/ok",
            "nobody/ok",
        ] {
            said += &gateway.chat(virtual_key, model, "hi").await.text();
        }
        for path in ["/v1/key", "/v1/models", "/metrics"] {
            said += &gateway.get(path, virtual_key).await.text();
        }
        for path in [
            "/api/providers",
            "/api/providers/up",
            "/api/mcp-servers",
            "/api/mcp-servers/files",
            "/api/virtual-keys",
            "/api/virtual-keys/app",
            "/api/export",
            "/api/status",
            "/api/logs",
            "/api/usage",
            "/api/budgets",
            "/api/mcp-servers/files/tools",
        ] {
            let answer = gateway.get(path, admin).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            said += &answer.text();
        }
        said += &gateway.post("/api/diff", admin, &json!({})).await.text();
        let pid = gateway.child.id().expect("runs");
        said += &std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("command line");
        gateway.terminate().await;
        for canary in CANARIES {
            assert!(!said.contains(canary), "{canary} is in an answer: {}", around(&said, canary));
            let mut found = Vec::new();
            search(gateway.dir.path(), canary.as_bytes(), &mut found);
            // The configuration is where it was written in clear.
            found.retain(|it| !it.ends_with("althing.yaml"));
            assert!(found.is_empty(), "{canary} is in {found:?}");
        }
    });
}

fn around<'t>(text: &'t str, needle: &str) -> &'t str {
    let at = text.find(needle).unwrap_or(0);
    text.get(at.saturating_sub(80)..(at + 80).min(text.len())).unwrap_or(text)
}

fn search(folder: &Path, needle: &[u8], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            search(&path, needle, found);
        } else if memchr::memmem::find(&std::fs::read(&path).expect("file"), needle).is_some() {
            found.push(path.display().to_string());
        }
    }
}
