//! An HTTP server for tests that answers as its script says and remembers what it saw.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// The body as JSON; null where it is none.
    pub(crate) json: Value,
}

impl Seen {
    pub(crate) fn rpc(&self) -> &str {
        self.json["method"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|it| it.to_str().ok())
    }
}

/// A part of an answer's body.
pub(crate) enum Piece {
    Text(String),
    Zeros(usize),
    Wait(Duration),
    /// Breaks the connection.
    Cut,
    /// Never ends.
    Hang,
    /// What comes, until the sender is dropped.
    Live(mpsc::Receiver<String>),
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<Piece>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::status(200).with("content-type", "application/json").text(value.to_string())
    }

    pub(crate) fn events() -> Self {
        Self::status(200).with("content-type", "text/event-stream; charset=utf-8")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn text(self, text: impl Into<String>) -> Self {
        self.piece(Piece::Text(text.into()))
    }

    pub(crate) fn event(self, message: &Value) -> Self {
        self.text(format!("event: message\ndata: {message}\n\n"))
    }

    pub(crate) fn piece(mut self, piece: Piece) -> Self {
        self.body.push(piece);
        self
    }
}

/// A running server.
pub(crate) struct Fixture {
    pub(crate) origin: String,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    /// How many connections were made to it.
    pub(crate) connections: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Fixture {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::serve(listener, script)
    }

    #[expect(clippy::disallowed_methods, reason = "a test's server ends with its runtime")]
    pub(crate) fn serve(
        listener: TcpListener,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        let (seen, connections, stop) =
            (Arc::default(), Arc::<AtomicUsize>::default(), CancellationToken::new());
        let fixture = Self {
            origin,
            seen: Arc::clone(&seen),
            connections: Arc::clone(&connections),
            stop: stop.clone(),
        };
        let script = Arc::new(script);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                let service = hyper::service::service_fn(move |request| {
                    answer(request, Arc::clone(&script), Arc::clone(&seen))
                });
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(TokioIo::new(socket), service).await);
                }));
            }
        }));
        fixture
    }

    pub(crate) fn count(&self, rpc: &str) -> usize {
        self.seen.lock().iter().filter(|it| it.rpc() == rpc).count()
    }

    /// The last request of that method.
    pub(crate) fn last(&self, rpc: &str) -> Seen {
        self.seen
            .lock()
            .iter()
            .rfind(|it| it.rpc() == rpc)
            .cloned()
            .unwrap_or_else(|| panic!("no {rpc} came"))
    }
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

async fn answer(
    request: Request<Incoming>,
    script: Arc<impl Fn(&Seen) -> Reply>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    let json = serde_json::from_str(&body).unwrap_or(Value::Null);
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let seen = Seen { method: head.method, target, headers: head.headers, body, json };
    log.lock().push(seen.clone());
    let reply = script(&seen);
    let mut response = Response::new(StreamBody::new(pieces(reply.body).boxed()));
    *response.status_mut() = reply.status.try_into().expect("a status");
    for (name, value) in reply.headers {
        response.headers_mut().append(name, value.parse().expect("a header value"));
    }
    Ok(response)
}

fn pieces(
    body: Vec<Piece>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>> {
    futures_util::stream::iter(body).flat_map(|piece| match piece {
        Piece::Text(text) => futures_util::stream::iter([Ok(Frame::data(text.into()))]).boxed(),
        Piece::Zeros(bytes) => {
            let chunk = Bytes::from(vec![b'0'; 64 * 1024]);
            futures_util::stream::iter(
                (0..bytes / chunk.len()).map(move |_| Ok(Frame::data(chunk.clone()))),
            )
            .boxed()
        }
        Piece::Wait(time) => futures_util::stream::once(async move {
            tokio::time::sleep(time).await;
            Ok(Frame::data(Bytes::new()))
        })
        .boxed(),
        Piece::Cut => futures_util::stream::once(async {
            // So that what came before goes out first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(std::io::Error::other("cut"))
        })
        .boxed(),
        Piece::Hang => futures_util::stream::pending().boxed(),
        Piece::Live(receiver) => futures_util::stream::unfold(receiver, |mut it| async move {
            let text = it.recv().await?;
            Some((Ok(Frame::data(Bytes::from(text))), it))
        })
        .boxed(),
    })
}

/// The answer to `seen` with `result`.
pub(crate) fn result(seen: &Seen, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": seen.json["id"], "result": result })
}

/// The answer to `seen` with an error.
pub(crate) fn error(seen: &Seen, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": seen.json["id"], "error": { "code": code, "message": message } })
}

/// What any server answers to the usual requests: one tool, `echo`, which echoes its parameters as text.
pub(crate) fn usual(seen: &Seen) -> Value {
    match seen.rpc() {
        "server/discover" => result(
            seen,
            &json!({ "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} }, "serverInfo": { "name": "modern", "version": "1" } }),
        ),
        "initialize" => result(
            seen,
            &json!({ "protocolVersion": seen.json["params"]["protocolVersion"], "capabilities": { "tools": {} }, "serverInfo": { "name": "legacy", "version": "1" } }),
        ),
        "tools/list" => result(
            seen,
            &json!({ "resultType": "complete", "tools": [{ "name": "echo", "inputSchema": { "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": "Region" } } } }] }),
        ),
        "tools/call" => result(
            seen,
            &json!({ "resultType": "complete", "content": [{ "type": "text", "text": seen.json["params"].to_string() }] }),
        ),
        "ping" => result(seen, &json!({})),
        _ => error(seen, -32601, "no such method"),
    }
}
