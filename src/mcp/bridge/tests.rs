use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::link::{Failure, Link};
use super::{Outgoing, bridge};
use crate::mcp::scope::tests::{FakeCaller, FakeCatalogs, catalog_of};
use crate::mcp::server::{Keys, Limits, McpServer, Options, Target};
use crate::tasks::Tasks;

/// A gateway on a socket: our own face, behind a key.
struct Gateway {
    url: String,
    server: Arc<Mutex<McpServer>>,
    catalogs: Arc<FakeCatalogs>,
    caller: FakeCaller,
    tasks: Tasks,
    seen: Arc<Mutex<Vec<String>>>,
}

fn server(catalogs: &Arc<FakeCatalogs>, key: u8) -> McpServer {
    McpServer::new(Options {
        catalogs: Arc::clone(catalogs) as _,
        law: watch::Sender::new(1).subscribe(),
        keys: Keys::new(&[key; 32]),
        clock: Arc::new(crate::clock::SystemClock),
        tasks: Tasks::default(),
        limits: Limits::default(),
    })
}

impl Gateway {
    async fn start(caller: FakeCaller) -> Self {
        let schema = json!({ "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": "Region" } } });
        let catalogs = FakeCatalogs::new(catalog_of(&[("a", &["x"])], &schema));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            server: Arc::new(Mutex::new(server(&catalogs, 1))),
            catalogs,
            caller,
            tasks: Tasks::default(),
            seen: Arc::default(),
        };
        let (tasks, shared, caller, seen) = (
            gateway.tasks.clone(),
            Arc::clone(&gateway.server),
            gateway.caller.clone(),
            Arc::clone(&gateway.seen),
        );
        gateway.tasks.spawn("test gateway", async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (shared, caller, seen) =
                    (Arc::clone(&shared), caller.clone(), Arc::clone(&seen));
                tasks.spawn("test connection", async move {
                    let service = service_fn(move |request| {
                        answer(Arc::clone(&shared), caller.clone(), Arc::clone(&seen), request)
                    });
                    let _ended = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        gateway
    }

    fn link(&self, key: &str) -> Link {
        Link::new(&self.url, Some(key.to_owned()), None, None).unwrap()
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(
    server: Arc<Mutex<McpServer>>,
    caller: FakeCaller,
    seen: Arc<Mutex<Vec<String>>>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    if request.headers().get("authorization").is_none_or(|it| it != "Bearer good") {
        let body = json!({ "error": { "message": "the key is not known here" } }).to_string();
        let mut response = Response::new(Full::from(body).boxed_unsync());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(response);
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    seen.lock().push(format!("{} {}", parts.method, String::from_utf8_lossy(&body)));
    let server = server.lock().clone();
    Ok(server.handle(Request::from_parts(parts, body), Arc::new(caller), Target::All).await)
}

/// A client at the other end of the bridge's pipes.
struct Client {
    input: Option<WriteHalf<DuplexStream>>,
    output: Lines<BufReader<ReadHalf<DuplexStream>>>,
    running: JoinHandle<()>,
    outcome: Arc<Mutex<Option<Result<(), Failure>>>>,
}

impl Client {
    fn start(link: Link) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (output, input) = tokio::io::split(ours);
        let (read, write) = tokio::io::split(theirs);
        let outcome = Arc::new(Mutex::new(None));
        let told = Arc::clone(&outcome);
        let running = Tasks::default().spawn("bridge under test", async move {
            let ended = bridge(link, read, write).await;
            *told.lock() = Some(ended);
        });
        Self { input: Some(input), output: BufReader::new(output).lines(), running, outcome }
    }

    async fn say(&mut self, message: &Value) {
        let line = format!("{message}\n");
        self.input.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(20), self.output.next_line())
            .await
            .expect("a line in time");
        serde_json::from_str(&line.unwrap().expect("a line")).unwrap()
    }

    async fn shake_hands(&mut self) {
        self.say(&rpc(0, "initialize", &json!({ "protocolVersion": "2025-11-25" }))).await;
        assert_eq!(self.hear().await["result"]["protocolVersion"], "2025-11-25");
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
    }

    /// Closes standard input and waits for the end.
    async fn leave(mut self) -> Result<(), Failure> {
        if let Some(mut input) = self.input.take() {
            input.shutdown().await.unwrap();
        }
        tokio::time::timeout(Duration::from_secs(20), self.running)
            .await
            .expect("an end in time")
            .unwrap();
        self.outcome.lock().take().unwrap()
    }
}

fn rpc(id: u32, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

#[tokio::test]
async fn a_client_lists_calls_and_leaves() {
    let gateway = Gateway::start(FakeCaller::new(&["*"])).await;
    let mut client = Client::start(gateway.link("good"));
    client.shake_hands().await;
    client.say(&rpc(1, "tools/list", &json!({}))).await;
    assert_eq!(client.hear().await["result"]["tools"][0]["name"], "a-x");
    client
        .say(&rpc(2, "tools/call", &json!({ "name": "a-x", "arguments": { "region": "eu" } })))
        .await;
    assert_eq!(client.hear().await["result"]["content"][0]["text"], r#"a/x {"region":"eu"}"#);
    client.say(&rpc(3, "prompts/list", &json!({}))).await;
    assert_eq!(client.hear().await["error"]["code"], -32601);
    client.leave().await.unwrap();
    assert!(gateway.seen.lock().iter().any(|it| it.starts_with("DELETE")), "the session is ended");
}

#[tokio::test]
async fn what_was_asked_before_the_end_is_answered() {
    let gateway = Gateway::start(FakeCaller::new(&["*"])).await;
    let mut client = Client::start(gateway.link("good"));
    client.shake_hands().await;
    for id in 1..=5 {
        client.say(&rpc(id, "tools/list", &json!({}))).await;
    }
    client.input.take().unwrap().shutdown().await.unwrap();
    let mut ids = Vec::new();
    for _ in 1..=5 {
        ids.push(client.hear().await["id"].as_u64().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    client.leave().await.unwrap();
}

#[tokio::test]
async fn the_gateways_notifications_and_progress_arrive() {
    let mut caller = FakeCaller::new(&["*"]);
    caller.answer = Arc::new(|request| {
        Box::pin(async move {
            let progress = request.progress.unwrap();
            let params = json!({ "progressToken": 9, "progress": 1 }).to_string();
            progress.sender.send(crate::mcp::json::raw(params)).await.unwrap();
            Ok(crate::mcp::json::raw(r#"{"content":[]}"#.to_owned()))
        })
    });
    let gateway = Gateway::start(caller).await;
    let mut client = Client::start(gateway.link("good"));
    client.shake_hands().await;
    client
        .say(&rpc(1, "tools/call", &json!({ "name": "a-x", "_meta": { "progressToken": 9 } })))
        .await;
    assert_eq!(client.hear().await["method"], "notifications/progress");
    assert_eq!(client.hear().await["id"], 1);
    while !gateway.seen.lock().iter().any(|it| it.starts_with("GET")) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway.catalogs.change(catalog_of(&[("a", &["y"])], &json!({})));
    assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");
    client.leave().await.unwrap();
}

#[tokio::test]
async fn a_lost_session_is_made_anew_without_the_client_noticing() {
    let gateway = Gateway::start(FakeCaller::new(&["*"])).await;
    let mut client = Client::start(gateway.link("good"));
    client.shake_hands().await;
    // The gateway starts anew with another key: it knows none of its sessions.
    *gateway.server.lock() = server(&gateway.catalogs, 2);
    for id in 1..=3 {
        client.say(&rpc(id, "tools/list", &json!({}))).await;
    }
    for _ in 1..=3 {
        assert!(client.hear().await["result"].is_object());
    }
    let hellos = gateway.seen.lock().iter().filter(|it| it.contains("\"initialize\"")).count();
    assert_eq!(hellos, 2, "one request renews the session for all");
    client.leave().await.unwrap();
}

#[tokio::test]
async fn a_modern_client_gets_its_headers_made() {
    let gateway = Gateway::start(FakeCaller::new(&["*"])).await;
    let mut client = Client::start(gateway.link("good"));
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    client.say(&rpc(1, "server/discover", &json!({ "_meta": meta }))).await;
    assert_eq!(client.hear().await["result"]["resultType"], "complete");
    client.say(&rpc(2, "tools/list", &json!({ "_meta": meta }))).await;
    assert_eq!(client.hear().await["result"]["tools"][0]["name"], "a-x");
    let call = json!({ "name": "a-x", "arguments": { "region": "Zürich" }, "_meta": meta });
    client.say(&rpc(3, "tools/call", &call)).await;
    assert_eq!(client.hear().await["result"]["content"][0]["text"], r#"a/x {"region":"Zürich"}"#);
    let listen = json!({ "notifications": { "toolsListChanged": true }, "_meta": meta });
    client.say(&rpc(4, "subscriptions/listen", &listen)).await;
    assert_eq!(client.hear().await["method"], "notifications/subscriptions/acknowledged");
    client.leave().await.unwrap();
}

#[tokio::test]
async fn a_refused_key_and_a_gateway_that_is_not_there_end_it_with_the_reason() {
    let gateway = Gateway::start(FakeCaller::new(&["*"])).await;
    let mut client = Client::start(gateway.link("bad"));
    client.say(&rpc(0, "initialize", &json!({ "protocolVersion": "2025-11-25" }))).await;
    assert_eq!(client.leave().await, Err(Failure::Refused("the key is not known here".to_owned())));

    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let mut client = Client::start(Link::new(&url, None, None, None).unwrap());
    client.say(&rpc(0, "initialize", &json!({ "protocolVersion": "2025-11-25" }))).await;
    assert!(matches!(client.leave().await, Err(Failure::Unreachable(_))));
}

#[test]
fn addresses_are_completed_or_refused() {
    let endpoint =
        |url: &str, group: Option<&str>| super::link::endpoint(url, group).map(|it| it.to_string());
    assert_eq!(endpoint("http://h:1", None).unwrap(), "http://h:1/mcp");
    assert_eq!(endpoint("http://h:1/", Some("g")).unwrap(), "http://h:1/mcp/g");
    assert_eq!(endpoint("https://h/base/mcp", None).unwrap(), "https://h/base/mcp");
    assert_eq!(
        endpoint("https://h/mcp/g?names=plain", None).unwrap(),
        "https://h/mcp/g?names=plain"
    );
    for bad in ["h:1", "ftp://h", "http://u:p@h", "nonsense"] {
        assert!(endpoint(bad, None).is_err(), "{bad}");
    }
    assert!(endpoint("http://h", Some("../api")).is_err());
}

#[test]
fn a_line_is_read_no_further_than_needed() {
    let request = Outgoing::of(
        r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x"}}"#.to_owned(),
    );
    assert_eq!((request.id.as_deref(), request.name.as_deref()), (Some("\"a\""), Some("x")));
    let answer = Outgoing::of(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned());
    assert_eq!((answer.id, answer.method), (None, None));
    let noise = Outgoing::of("nonsense".to_owned());
    assert_eq!((noise.id, noise.method), (None, None));
}

#[tokio::test]
async fn a_line_that_is_no_json_is_answered_as_such_and_the_bridge_goes_on() {
    let gateway = Gateway::start(FakeCaller::new(&["*"])).await;
    let mut client = Client::start(gateway.link("good"));
    client.input.as_mut().unwrap().write_all(b"{nonsense\n").await.unwrap();
    let answer = client.hear().await;
    assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32700), &Value::Null));
    client.shake_hands().await;
    client.say(&rpc(1, "tools/list", &json!({}))).await;
    assert_eq!(client.hear().await["result"]["tools"][0]["name"], "a-x");
    client.leave().await.unwrap();
}
