use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use althing_config::AllowList;
use althing_domain::command::{Command, Op};
use althing_domain::digest::Digest;
use althing_domain::state::{At, State};
use althing_domain::time::{Clock, UnixMillis};
use althing_storage::seal;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::{Value, json};
use tower::ServiceExt;
use zeroize::Zeroizing;

use super::ports::{Law, Outcome, Servers};
use super::{Admin, failure, openapi, router, start, table};
use crate::error::Error;
use crate::secret::Place;

mod files;
mod objects;

const ADMIN_KEY: &str = "al-admin-for-tests-only";
const RETRY: std::time::Duration = std::time::Duration::from_secs(3);
const CANARY: &str = "canary-5f1c9a72e3";

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(1_800_000_000_000)
    }
}

/// The real state machine without its log.
struct FakeLaw {
    state: Mutex<State>,
    hasher: seal::KeyHasher,
    tokens: AtomicU64,
    /// What somebody else writes between the reading and the writing of the next requests, one a proposal.
    meanwhile: Mutex<Vec<Op>>,
}

#[async_trait]
impl Law for FakeLaw {
    fn state(&self) -> Arc<State> {
        Arc::new(self.state.lock().clone())
    }

    async fn propose(&self, request_id: u128, who: &str, op: Op) -> Result<Outcome, Error> {
        let mut state = self.state.lock();
        if let Some(op) = self.meanwhile.lock().pop() {
            let at = At { index: state.index() + 1, time: StoppedClock.now() };
            let other = Command { request_id: u128::from(at.index), who: "other".to_owned(), op };
            state.apply(at, &other);
        }
        let at = At { index: state.index() + 1, time: StoppedClock.now() };
        // Through its bytes, as in the log.
        let command = Command { request_id, who: who.to_owned(), op }.encode();
        assert!(!String::from_utf8_lossy(&command).contains(CANARY), "a secret went into the log");
        let done = state.apply(at, &Command::decode(&command).expect("a command"));
        Ok(Outcome { index: done.index, reply: done.reply })
    }

    async fn reaches(&self, index: u64, _: std::time::Duration) -> bool {
        index <= self.state.lock().index()
    }

    fn hash(&self, shown: &[u8]) -> Digest {
        Digest(self.hasher.hash(shown))
    }

    fn seal(&self, value: &str, place: &Place<'_>) -> Result<String, Error> {
        let bound = format!("{}\n{value}", bound_to(place));
        Ok(bound.bytes().rev().map(|it| format!("{it:02x}")).collect())
    }

    fn open(&self, sealed: &str, place: &Place<'_>) -> Option<SecretString> {
        let digits: Vec<char> = sealed.chars().collect();
        let bytes =
            digits.chunks(2).map(|it| u8::from_str_radix(&it.iter().collect::<String>(), 16));
        let mut bytes: Vec<u8> = bytes.collect::<Result<_, _>>().ok()?;
        bytes.reverse();
        let text = String::from_utf8(bytes).ok()?;
        let (bound, value) = text.split_once('\n')?;
        // What earlier builds sealed is bound to no place.
        (bound.is_empty() || bound == bound_to(place)).then(|| SecretString::from(value))
    }

    fn create_token(&self, prefix: &str) -> Result<Zeroizing<String>, Error> {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        Ok(Zeroizing::new(format!("{prefix}made-here-{number:020}")))
    }
}

fn bound_to(place: &Place<'_>) -> String {
    format!("{} {} {}", place.kind.field(), place.name, place.field)
}

struct FakeServers;

#[async_trait]
impl Servers for FakeServers {
    fn status(&self) -> Vec<(String, Value)> {
        vec![("files".to_owned(), json!({ "name": "files", "state": "ready" }))]
    }
    fn tools(&self, server: &str) -> Vec<Value> {
        vec![json!({ "name": "read", "policy_name": format!("{server}/read") })]
    }
    fn reconnect(&self, server: &str) -> bool {
        server == "files"
    }
    async fn authorize(&self, server: &str) -> Result<String, Error> {
        Ok(format!("https://id.example.com/authorize?for={server}"))
    }
}

/// A request log that answers with what it was asked.
fn fake_records() -> Router {
    use axum::routing::get;

    let echo = |request: Request<Body>| async move {
        let asked = request.uri().to_string();
        if asked.contains("bad") {
            return Err(failure::Failure(Error::field("from", "no time").with_retry_after(RETRY)));
        }
        Ok(axum::Json(json!({ "asked": asked })))
    };
    Router::new()
        .route("/api/logs", get(echo))
        .route("/api/logs/{id}", get(echo))
        .route("/api/usage", get(echo))
}

struct Node {
    router: Router,
    law: Arc<FakeLaw>,
    admin: Arc<Admin>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Node {
    async fn new() -> Self {
        let law = Arc::new(FakeLaw {
            state: Mutex::new(State::new()),
            hasher: seal::KeyHasher::new(b"for tests"),
            tokens: AtomicU64::new(1),
            meanwhile: Mutex::default(),
        });
        let key = SecretString::from(ADMIN_KEY);
        start::ensure_admin_key(law.as_ref(), Some(&key)).await.expect("the admin key");
        let admin = Arc::new(parts(&law));
        Self { router: router(Arc::clone(&admin)), law, admin }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 24).await.expect("a body");
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        if parts.headers["content-type"] == "application/json" {
            conforms(&method, &path, parts.status, &body);
        }
        Answer { status: parts.status, headers: parts.headers, body, text }
    }

    async fn ask(&self, method: Method, path: &str, body: &str, if_match: Option<&str>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {ADMIN_KEY}"));
        if let Some(tag) = if_match {
            request = request.header("if-match", tag);
        }
        self.send(request.body(Body::from(body.to_owned())).expect("a request")).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "", None).await
    }
    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, &body.to_string(), None).await
    }
    async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, &body.to_string(), None).await
    }
    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PATCH, path, &body.to_string(), None).await
    }
    async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, "", None).await
    }

    fn admin_parts(&self) -> Admin {
        parts(&self.law)
    }

    fn key_by(&self, shown: &str) -> Option<String> {
        let hash = self.law.hash(shown.as_bytes());
        let state = self.law.state();
        state.key_by_hash(&hash, StoppedClock.now()).map(|it| it.spec.name.to_string())
    }
}

fn parts(law: &Arc<FakeLaw>) -> Admin {
    Admin {
        law: Arc::clone(law) as Arc<dyn Law>,
        servers: Arc::new(FakeServers),
        records: fake_records(),
        status: Box::new(|| json!({ "queues": { "records_bytes": 0 } })),
        clock: Arc::new(StoppedClock),
        allow: AllowList::new(&["env:ALLOWED_*".to_owned()]),
        vendors: vec!["openai", "anthropic"],
        node: "a".to_owned(),
        settings: althing_config::Config::default().settings(),
    }
}

impl Answer {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

/// Each answer is what the `OpenAPI` document says of its route and status.
fn conforms(method: &Method, path: &str, status: StatusCode, body: &Value) {
    static DOCUMENT: std::sync::LazyLock<Value> = std::sync::LazyLock::new(openapi::document);
    let fits = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(it, part)| it == "{name}" || it == part)
    };
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let exact = paths.get(path).or_else(|| paths.iter().find(|it| fits(it.0)).map(|it| it.1));
    let operation = exact.and_then(|it| it.get(method.as_str().to_lowercase()));
    // What is no route, and the log that is played here, are not in it.
    let Some(operation) = operation.filter(|_| body.get("asked").is_none()) else { return };
    let responses = &operation["responses"];
    let said = responses.get(status.as_str()).or_else(|| responses.get("default"));
    let said = said.expect("a default");
    let schema = json!({
        "allOf": [said["content"]["application/json"]["schema"]], "components": DOCUMENT["components"],
    });
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let wrong: Vec<String> = validator.iter_errors(body).map(|it| it.to_string()).collect();
    assert!(wrong.is_empty(), "{method} {path} {status}: {wrong:?}\n{body}");
}

#[tokio::test]
async fn no_route_answers_without_the_admin_key() {
    let node = Node::new().await;
    node.post("/api/virtual-keys", json!({ "name": "app", "value": "sk-a-virtual-key-0001" }))
        .await
        .expect(201);
    let mut seen = 0;
    for bound in table::bound() {
        let path = bound.path().replace("{name}", "x");
        for (header, value, status) in [
            ("accept", "application/json", 401),
            ("authorization", "Bearer wrong", 401),
            ("authorization", "Basic YWRtaW46YWRtaW4=", 401),
            ("x-althing-key", "", 401),
            ("x-althing-key", "sk-a-virtual-key-0001", 403),
        ] {
            let request = Request::builder()
                .method(bound.route.method.clone())
                .uri(&path)
                .header(header, value)
                .body(Body::from("{}"))
                .expect("a request");
            let answer = node.send(request).await;
            assert_eq!(
                answer.status.as_u16(),
                status,
                "{} {path} with {header}: {value}",
                bound.route.method
            );
            assert!(answer.body["request_id"].is_string());
            assert_eq!(answer.body["error"]["request_id"], answer.body["request_id"]);
        }
        let answer = node.ask(bound.route.method.clone(), &path, "{}", None).await;
        assert!(
            !matches!(answer.status.as_u16(), 401 | 403 | 405),
            "{} {path}: {}",
            bound.route.method,
            answer.text
        );
        seen += 1;
    }
    assert!(50 < seen, "{seen} routes");
}

#[tokio::test]
async fn the_key_goes_in_either_header_and_two_different_ones_are_refused() {
    let node = Node::new().await;
    let request = |headers: &[(&str, &str)]| {
        let mut request = Request::get("/api/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).expect("a request")
    };
    let bearer = format!("bearer {ADMIN_KEY}");
    node.send(request(&[("x-althing-key", ADMIN_KEY)])).await.expect(200);
    node.send(request(&[("authorization", &bearer), ("x-althing-key", ADMIN_KEY)]))
        .await
        .expect(200);
    let two = node.send(request(&[("authorization", &bearer), ("x-althing-key", "other")])).await;
    assert_eq!((two.status.as_u16(), two.code()), (400, "two_keys"));
}

#[tokio::test]
async fn what_is_no_route_or_no_parameter_is_said_to_be_none() {
    let node = Node::new().await;
    assert_eq!(node.get("/api/nothing").await.expect(404).code(), "not_found");
    let refused = node.ask(Method::PUT, "/api/status", "", None).await.expect(405);
    assert_eq!(refused.code(), "method_not_allowed");
    assert!(refused.headers["allow"].to_str().expect("text").contains("GET"));
    let answer = node.get("/api/teams?limt=3").await.expect(400);
    assert_eq!(answer.body["error"]["param"], "limt");
    assert!(answer.text.contains("limit, cursor, search"), "{}", answer.text);
    node.get("/api/teams?limit=0").await.expect(400);
    node.get("/api/teams?limit=5&limit=6").await.expect(400);
    node.get("/api/teams?wait=all&min_index=1").await.expect(200);
}

#[tokio::test]
async fn a_read_is_never_older_than_it_asks_for() {
    let node = Node::new().await;
    let index = node.law.state().index();
    node.get(&format!("/api/teams?min_index={index}")).await.expect(200);
    let later = node.get(&format!("/api/teams?min_index={}", index + 1)).await.expect(503);
    assert_eq!(later.code(), "overloaded");
    assert_eq!(later.headers["retry-after"], "1");
    assert_eq!(
        node.get("/api/teams?min_index=soon").await.expect(400).body["error"]["param"],
        "min_index"
    );
    assert_eq!(node.get("/api/teams?wait=some").await.expect(400).body["error"]["param"], "wait");
}

#[tokio::test]
async fn a_body_that_a_route_does_not_take_is_refused() {
    let node = Node::new().await;
    node.post("/api/teams", json!({ "name": "web" })).await.expect(201);
    node.post("/api/teams/web/disable", json!({ "for": "1h" })).await.expect(400);
    node.ask(Method::DELETE, "/api/teams/web", r#"{"if":"unused"}"#, None).await.expect(400);
    assert_eq!(node.get("/api/teams/web").await.expect(200).body["enabled"], true);
    node.ask(Method::POST, "/api/teams/web/disable", " ", None).await.expect(200);
    node.ask(Method::POST, "/api/teams/web/enable", "{}", None).await.expect(200);
}

#[tokio::test]
async fn the_request_log_is_asked_with_the_filters_of_its_route() {
    let node = Node::new().await;
    let logs = node.get("/api/logs?kind=tool_call&search=a%20b&wait=all").await.expect(200);
    assert_eq!(logs.body["asked"], "/api/logs?kind=tool_call&search=a+b");
    assert_eq!(node.get("/api/logs/a%2Fb").await.expect(200).body["asked"], "/api/logs/a%2Fb?");
    assert_eq!(
        node.get("/api/usage?group_by=key").await.expect(200).body["asked"],
        "/api/usage?group_by=key"
    );
    let bad = node.get("/api/logs?from=bad").await.expect(400);
    assert_eq!((bad.code(), &bad.body["error"]["param"]), ("invalid_field", &json!("from")));
    assert!(bad.body["error"]["request_id"].is_string());
    assert_eq!(bad.headers["retry-after"], "3");
    node.get("/api/logs?nonsense=1").await.expect(400);
}

#[tokio::test]
async fn the_openapi_document_is_the_one_in_docs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&openapi::document()).expect("JSON"));
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    if stored != text {
        std::fs::write(path, &text).expect("docs can be written");
        panic!(
            "docs/openapi.json was out of date: it is written anew, look at the difference and commit it"
        );
    }
    let node = Node::new().await;
    assert_eq!(node.get("/api/openapi.json").await.expect(200).body, openapi::document());
}

#[test]
fn every_reference_in_the_openapi_document_has_its_definition() {
    let document = openapi::document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let ids: Vec<&Value> = document["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(|(_, it)| it.as_object().into_iter().flatten())
        .map(|(_, it)| &it["operationId"])
        .collect();
    let unique: std::collections::BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(unique.len(), ids.len());
}

#[test]
fn the_table_names_the_parameters_that_the_request_log_reads() {
    for (path, known) in [("/api/logs", super::logs::PARAMS), ("/api/usage", super::usage::PARAMS)]
    {
        let route = table::ROUTES.iter().find(|it| it.path == path).expect("the route");
        let mut named: Vec<&str> = route.query.iter().map(|it| it.name).collect();
        let mut known = known.to_vec();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known, "{path}");
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|it| references(it, found));
        }
        Value::Array(items) => items.iter().for_each(|it| references(it, found)),
        _ => {}
    }
}
