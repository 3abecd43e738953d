//! The vendors' own SDKs, with nothing changed but base URL and key.

use std::process::Stdio;

use crate::support::{Gateway, Upstream, peers, run};

const KEY: &str = "sk-test-of-the-sdks-001";

async fn drive(program: &std::path::Path, script: &std::path::Path) {
    let upstream = Upstream::start().await;
    let yaml = upstream.providers()
        + &format!(
            r#"virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}] }}]"#
        );
    let gateway = Gateway::start(&yaml).await;
    let output = tokio::process::Command::new(program)
        .arg(script)
        .env("GATEWAY", &gateway.url)
        .env("KEY", KEY)
        .env_remove("HTTP_PROXY")
        .env_remove("HTTPS_PROXY")
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("ALL HELD"), "{said}");
    drop(upstream);
}

#[test]
fn the_python_sdks_chat_stream_and_call_tools_over_every_upstream() {
    run(async {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/sdk.py");
        drive(&peers().join("venv/bin/python"), script.as_ref()).await;
    });
}

#[test]
fn the_javascript_sdks_chat_stream_and_call_tools_over_every_upstream() {
    run(async {
        // Modules are found beside the script, so it is put where they are.
        let script = peers().join("node/sdk.mjs");
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/sdk.mjs"), &script)
            .expect("copy");
        drive("node".as_ref(), &script).await;
    });
}
