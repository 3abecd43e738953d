mod legacy;
mod modern;
mod property;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use althing_domain::time::{Clock, UnixMillis};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Body, Keys, Limits, McpServer, Options, Target};
use crate::mcp::catalog::Catalog;
use crate::mcp::scope::tests::{FakeCaller, FakeCatalogs, catalog_of};
use crate::tasks::Tasks;

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> UnixMillis {
        UnixMillis(1_000_000)
    }
}

/// A server over a standing catalogue, and one caller.
struct Fixture {
    server: McpServer,
    catalogs: Arc<FakeCatalogs>,
    law: watch::Sender<u64>,
    tasks: Tasks,
    caller: Arc<FakeCaller>,
}

fn schema() -> Value {
    json!({ "type": "object", "properties": { "n": { "type": "integer" } } })
}

fn catalog() -> Arc<Catalog> {
    catalog_of(&[("a", &["x", "y"]), ("b", &["z"]), ("late", &[])], &schema())
}

impl Fixture {
    fn new(caller: FakeCaller) -> Self {
        Self::with(caller, catalog(), Limits::default())
    }

    fn with(caller: FakeCaller, catalog: Arc<Catalog>, limits: Limits) -> Self {
        let catalogs = FakeCatalogs::new(catalog);
        let law = watch::Sender::new(1);
        let tasks = Tasks::default();
        let server = McpServer::new(Options {
            catalogs: Arc::clone(&catalogs) as _,
            law: law.subscribe(),
            keys: Keys::new(&[1; 32]),
            clock: Arc::new(Fixed),
            tasks: tasks.clone(),
            limits,
        });
        Self { server, catalogs, law, tasks, caller: Arc::new(caller) }
    }

    fn all() -> Self {
        Self::new(FakeCaller::new(&["*"]))
    }

    async fn send(&self, request: Request<Bytes>, target: Target) -> Response<Body> {
        self.server.handle(request, Arc::clone(&self.caller) as _, target).await
    }

    async fn post(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.post_to("/mcp", Target::All, headers, body.to_string()).await
    }

    async fn post_to(
        &self,
        path: &str,
        target: Target,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let request = request(Method::POST, path, headers, body.into());
        Answer::of(self.send(request, target).await).await
    }

    /// The session id of a fresh handshake.
    async fn session(&self, revision: &str) -> String {
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "protocolVersion": revision, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } });
        let answer = self.post(&[], &body).await;
        assert_eq!(answer.body["result"]["protocolVersion"], revision);
        answer.header("mcp-session-id").unwrap()
    }

    /// How many calls came through.
    fn ran(&self) -> Vec<String> {
        self.caller.ran.lock().clone()
    }
}

fn request(method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Bytes> {
    let mut builder = Request::builder().method(method).uri(path);
    let has = |name: &str| headers.iter().any(|it| it.0.eq_ignore_ascii_case(name));
    if !has("accept") {
        builder = builder.header("accept", "application/json, text/event-stream");
    }
    if !has("content-type") {
        builder = builder.header("content-type", "application/json");
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body).unwrap()
}

/// A whole answer. Of a stream, `body` is the last message and `events` are all.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
    events: Vec<Value>,
}

impl Answer {
    async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let is_stream =
            parts.headers.get("content-type").is_some_and(|it| it == "text/event-stream");
        let events = if is_stream { events(&bytes) } else { Vec::new() };
        let body = match events.last() {
            Some(last) => last.clone(),
            None => serde_json::from_slice(&bytes).unwrap_or_default(),
        };
        Self { status: parts.status, headers: parts.headers, body, events }
    }

    fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().unwrap().to_owned())
    }

    fn names(&self) -> Vec<&str> {
        let tools =
            self.body["result"]["tools"].as_array().unwrap_or_else(|| panic!("{:?}", self.body));
        tools.iter().map(|it| it["name"].as_str().unwrap()).collect()
    }

    /// Status, JSON-RPC code.
    fn failure(&self) -> (u16, i64) {
        (self.status.as_u16(), self.body["error"]["code"].as_i64().unwrap_or_default())
    }
}

/// The messages of a stream.
fn events(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    let event = |it: &str| {
        let lines: Vec<&str> = it.lines().filter_map(|it| it.strip_prefix("data: ")).collect();
        (!lines.is_empty()).then(|| serde_json::from_str(&lines.join("\n")).unwrap())
    };
    text.split("\n\n").filter_map(event).collect()
}

fn rpc(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params })
}

/// Reads the next piece of a stream that stays open.
async fn piece(body: &mut Body) -> Option<String> {
    let frame =
        tokio::time::timeout(Duration::from_secs(600), body.frame()).await.expect("a piece")?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}
