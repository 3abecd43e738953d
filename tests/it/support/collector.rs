//! A real OpenTelemetry collector (rotel) that writes what it receives where the test can read it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::{peers, until};

/// A collector; dropping it kills it.
pub(crate) struct Collector {
    pub(crate) http: String,
    pub(crate) grpc: String,
    dir: tempfile::TempDir,
    _child: Child,
}

/// A span as the collector has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Span {
    /// An attribute as the collector writes it, such as `Str(chat)`; empty where there is none.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("address").port()
}

/// An address where nobody listens.
pub(crate) fn nobody() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let lib = std::fs::read_dir(peers().join("venv/lib")).expect("venv");
        let program = lib
            .map(|it| it.expect("entry").path().join("site-packages/rotel/rotel-agent"))
            .find(|it| it.exists())
            .expect("rotel, which `./dev test` installs");
        let dir = tempfile::tempdir().expect("folder");
        let out = std::fs::File::create(dir.path().join("out")).expect("out");
        let (http, grpc) = (free_port(), free_port());
        let child = Command::new(program)
            .args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"])
            .args(["--debug-log", "traces", "--debug-log", "metrics"])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .stdin(Stdio::null())
            .stderr(out.try_clone().expect("out"))
            .stdout(out)
            .kill_on_drop(true)
            .spawn()
            .expect("rotel starts");
        until("the collector listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", http)).await.ok()
        })
        .await;
        let at = |port| format!("http://127.0.0.1:{port}");
        Self { http: at(http), grpc: at(grpc), dir, _child: child }
    }

    /// All that it wrote.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).expect("out")
    }

    /// The spans that it was given so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let text = self.text();
        let mut spans: Vec<Span> = Vec::new();
        let mut is_in_span = false;
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with("Span #") {
                spans.push(Span::default());
                is_in_span = true;
            } else if line.starts_with("Resource") || line.starts_with("Scope") {
                is_in_span = false;
            }
            let Some(span) = spans.last_mut().filter(|_| is_in_span) else { continue };
            if let Some((key, value)) = line.strip_prefix("-> ").and_then(|it| it.split_once(": "))
            {
                span.attributes.insert(key.to_owned(), value.to_owned());
            } else if let Some((key, value)) = line.split_once(':') {
                let value = value.trim().to_owned();
                match key.trim() {
                    "Trace ID" => span.trace = value,
                    "Parent ID" => span.parent = value,
                    "ID" => span.id = value,
                    "Name" => span.name = value,
                    "Kind" => span.kind = value,
                    _ => {}
                }
            }
        }
        spans
    }

    /// Waits for as many spans of a trace.
    pub(crate) async fn trace(&self, id: &str, count: usize) -> Vec<Span> {
        let text = || self.text();
        until(&format!("{count} spans of {id} are there: {}", text()), async || {
            let all: Vec<Span> = self.spans().into_iter().filter(|it| it.trace == id).collect();
            (count <= all.len()).then_some(all)
        })
        .await
    }
}
