//! A gateway process.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;

pub(crate) const ADMIN: &str = "al-admin-for-tests-only";

/// A running gateway; dropping it kills it.
pub(crate) struct Gateway {
    pub(crate) url: String,
    pub(crate) child: Child,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) http: reqwest::Client,
    yaml: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: bytes::Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|it| {
            panic!("{it}: {} {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().expect("header"))
    }
}

impl Gateway {
    /// Starts one with a configuration; the address, data and admin key are added.
    pub(crate) async fn start(yaml: &str) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let (child, url) = spawn(dir.path(), yaml).await;
        Self { url, child, dir, http: client(), yaml: yaml.to_owned() }
    }

    /// Starts one whose data directory is a small disk of its own: a tmpfs of `mebibytes` in a mount namespace.
    pub(crate) async fn start_on_small_disk(yaml: &str, mebibytes: u32) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        std::fs::create_dir(dir.path().join("data")).expect("data");
        let file = configuration(dir.path(), yaml);
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args([
                "--mount",
                "sh",
                "-c",
                r#"mount -t tmpfs -o "size=$0m" tmpfs "$1" && shift && exec "$@""#,
            ])
            .arg(mebibytes.to_string())
            .arg(dir.path().join("data"))
            .arg(env!("CARGO_BIN_EXE_althing"))
            .args(["serve", "--config"])
            .arg(&file)
            .arg("--data")
            .arg(dir.path().join("data"));
        let (child, url) = started(command, dir.path()).await;
        Self { url, child, dir, http: client(), yaml: yaml.to_owned() }
    }

    /// Starts one that lives on where a file is larger than it may be, so that writes can be made to fail.
    pub(crate) async fn start_with_limits_of_files(yaml: &str) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let file = configuration(dir.path(), yaml);
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"])
            .arg(env!("CARGO_BIN_EXE_althing"))
            .args(["serve", "--config"])
            .arg(&file)
            .arg("--data")
            .arg(dir.path().join("data"));
        let (child, url) = started(command, dir.path()).await;
        Self { url, child, dir, http: client(), yaml: yaml.to_owned() }
    }

    /// Lets its files be as long as this; whatever it would write behind that fails.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};

        let pid = i32::try_from(self.child.id().expect("runs")).ok().and_then(Pid::from_raw);
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(pid, Resource::Fsize, limit).expect("a limit");
    }

    /// The data directory as the process sees it.
    pub(crate) fn data(&self) -> PathBuf {
        let pid = self.child.id().expect("runs");
        PathBuf::from(format!("/proc/{pid}/root{}", self.dir.path().join("data").display()))
    }

    /// Starts one and expects that it refuses to: its exit code and what it says.
    pub(crate) async fn refuses(dir: &Path, yaml: &str) -> (Option<i32>, String) {
        let file = configuration(dir, yaml);
        let output = command(dir, &file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let output =
            tokio::time::timeout(PATIENCE, output).await.expect("it ends").expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts one, reads what it says until `wanted` is in it, and kills it.
    pub(crate) async fn says(dir: &Path, yaml: &str, wanted: &str) -> Option<String> {
        let file = configuration(dir, yaml);
        let mut child = command(dir, &file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("althing starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let found = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains(wanted) {
                    return Some(line);
                }
            }
            None
        });
        let found = found.await.ok().flatten();
        child.kill().await.expect("kill");
        found
    }

    /// As `kill -9` does.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("kill");
    }

    /// Starts it again on the same data.
    pub(crate) async fn restart(&mut self) {
        let (child, url) = spawn(self.dir.path(), &self.yaml).await;
        (self.child, self.url) = (child, url);
    }

    /// Asks it to end, and waits.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(
            i32::try_from(self.child.id().expect("runs")).expect("pid"),
        )
        .expect("pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends")
            .expect("status");
        status.code()
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("a whole body");
        Answer { status, headers, body }
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.send(self.http.post(self.at(path)).bearer_auth(key).json(body)).await
    }

    pub(crate) async fn post_raw(
        &self,
        path: &str,
        key: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self
            .http
            .post(self.at(path))
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(body);
        self.send(request).await
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        self.send(self.http.get(self.at(path)).bearer_auth(key)).await
    }

    pub(crate) async fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("method");
        let mut request = self.http.request(method, self.at(path)).bearer_auth(ADMIN);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    pub(crate) async fn chat(&self, key: &str, model: &str, text: &str) -> Answer {
        let body = serde_json::json!({ "model": model, "messages": [{ "role": "user", "content": text }] });
        self.post("/v1/chat/completions", key, &body).await
    }
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE * 2).build().expect("client")
}

fn configuration(dir: &Path, yaml: &str) -> PathBuf {
    let file = dir.join("althing.yaml");
    let mut all = String::new();
    // Settings of the top level only: `admin.listen` is another address.
    let has = |setting: &str| yaml.lines().any(|line| line.starts_with(setting));
    if !has("listen:") {
        all.push_str("listen: 127.0.0.1:0\n");
    }
    if !has("admin:") {
        all.push_str(&format!("admin: {{ key: {ADMIN} }}\n"));
    }
    all.push_str(yaml);
    std::fs::File::create(&file)
        .and_then(|mut it| it.write_all(all.as_bytes()))
        .expect("configuration");
    file
}

fn command(dir: &Path, file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_althing"));
    command.arg("serve").arg("--config").arg(file).arg("--data").arg(dir.join("data"));
    command
}

async fn spawn(dir: &Path, yaml: &str) -> (Child, String) {
    let file = configuration(dir, yaml);
    started(command(dir, &file), dir).await
}

async fn started(mut command: Command, dir: &Path) -> (Child, String) {
    let log =
        std::fs::File::options().create(true).append(true).open(dir.join("log")).expect("log");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("althing starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let found = tokio::time::timeout(PATIENCE, async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some((_, url)) = line.split_once("listens on ") {
                return Some(url.trim().to_owned());
            }
        }
        None
    });
    let Some(url) = found.await.expect("it starts in time") else {
        panic!("it ended: {}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
    };
    // Keep reading, so that it never waits for a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, url)
}
