//! The revisions with a handshake and sessions (2024-11-05 to 2025-11-25), and the HTTP+SSE transport of the first.

use std::collections::HashMap;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Method, Request as HttpRequest, Response, StatusCode};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::http::{self, Accepts, Body, SESSION_ID, empty, event, fail, json, refuse};
use super::rpc::{self, Incoming, Message, Refusal, Request, RpcError};
use super::session::{Id, Kind, SESSION_LIFE, Session};
use super::sse::{Purpose, Watch, enter, is_full, send, whole};
use super::tools::{self, Work};
use super::{Ask, McpServer, Revision, Target};
use crate::mcp::scope::ToolCaller;

/// How many messages of a batch run at once.
const BATCH_AT_ONCE: usize = 8;
/// How many requests of one HTTP+SSE stream run at once.
const STREAM_REQUESTS_MAX: usize = 64;

const INITIALIZE: &[&str] = &["protocolVersion", "capabilities", "clientInfo", "_meta"];
const CANCELLED: &[&str] = &["requestId", "reason", "_meta"];

/// A stream of the HTTP+SSE transport, as those who post to it find it.
#[derive(Clone)]
struct Open {
    sender: mpsc::WeakSender<Bytes>,
    target: Target,
    in_flight: Arc<tokio::sync::Semaphore>,
}

/// The open streams of the HTTP+SSE transport.
#[derive(Default)]
pub(super) struct OpenStreams {
    by_id: Mutex<HashMap<Id, Open>>,
}

impl McpServer {
    /// Answers one request.
    pub(super) async fn legacy(
        &self,
        ask: Ask,
        request: &Request<'_>,
        accepts: Accepts,
    ) -> Response<Body> {
        if request.method == "initialize" {
            return self.initialize(&ask, request, accepts);
        }
        match begin(self, &ask, request).await {
            Ok(Work::Done(result)) => whole(&rpc::success(request.id, &result), accepts),
            Ok(Work::Call(running)) => self.answer_call(ask, request.id, *running, accepts).await,
            Err(error) => whole(&rpc::failure(request.id, &error), accepts),
        }
    }

    fn initialize(&self, ask: &Ask, request: &Request<'_>, accepts: Accepts) -> Response<Body> {
        let (revision, result) = match initialized(ask, request.params) {
            Ok(it) => it,
            Err(error) => return refuse(StatusCode::OK, request.id, &error),
        };
        let now = self.inner.options.clock.now();
        let handle = Session::new(revision).and_then(|session| {
            let principal = ask.scope.caller().principal();
            let life = (now, SESSION_LIFE);
            self.inner.options.keys.seal(Kind::Session, principal, life, &session.to_bytes())
        });
        let Some(handle) = handle.and_then(|it| HeaderValue::from_str(&it).ok()) else {
            let error = RpcError::from(crate::error::Error::of(crate::error::Code::Internal));
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, request.id, &error);
        };
        let mut response = whole(&rpc::success(request.id, &result), accepts);
        response.headers_mut().insert(SESSION_ID, handle);
        response
    }

    /// Takes a notification.
    pub(super) fn notified(&self, ask: &Ask, method: &str, params: Option<&RawValue>) {
        if method != "notifications/cancelled" {
            return;
        }
        let Ok(fields) = tools::fields(params, CANCELLED) else { return };
        if let (Some(session), Some(request)) = (ask.session, fields.get("requestId")) {
            self.inner.running.cancel(session.id, request.get());
        }
    }

    /// Answers a batch with a batch; with nothing, where nothing in it wants an answer.
    pub(super) async fn batch(
        &self,
        ask: &Ask,
        batch: Vec<Result<Message<'_>, Refusal>>,
        accepts: Accepts,
    ) -> Response<Body> {
        // Boxed: the compiler does not see that a stream of borrowing futures is `Send`.
        let waiting: Vec<_> =
            batch.into_iter().map(|it| self.one_of_batch(ask, it).boxed()).collect();
        let answers: Vec<Bytes> = futures_util::stream::iter(waiting)
            .buffered(BATCH_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if answers.is_empty() {
            return empty(StatusCode::ACCEPTED);
        }
        let joined = answers.join(&b","[..]);
        whole(&[&b"["[..], &joined, &b"]"[..]].concat().into(), accepts)
    }

    async fn one_of_batch(
        &self,
        ask: &Ask,
        message: Result<Message<'_>, Refusal>,
    ) -> Option<Bytes> {
        match message {
            Err(refusal) => Some(rpc::failure(&refusal.id, &refusal.error)),
            Ok(Message::Response) => None,
            Ok(Message::Notification { method, params }) => {
                self.notified(ask, &method, params);
                None
            }
            Ok(Message::Request(request)) if request.method == "initialize" => {
                let error =
                    RpcError::new(rpc::INVALID_REQUEST, "`initialize` must not be part of a batch");
                Some(rpc::failure(request.id, &error))
            }
            Ok(Message::Request(request)) => Some(self.answer(ask, &request).await),
        }
    }

    /// The answer to a request, waited for.
    async fn answer(&self, ask: &Ask, request: &Request<'_>) -> Bytes {
        match begin(self, ask, request).await {
            Ok(Work::Done(result)) => rpc::success(request.id, &result),
            Ok(Work::Call(running)) => {
                let guard = ask
                    .session
                    .map(|it| self.inner.running.call(it.id, request.id, &running.cancel));
                let (answer, _) =
                    tools::run(ask.scope.clone(), running.request, request.id, ask.revision).await;
                drop(guard);
                answer
            }
            Err(error) => rpc::failure(request.id, &error),
        }
    }

    /// `GET`: notifications for as long as the client listens.
    pub(super) fn get(&self, ask: Ask, accepts: Accepts) -> Response<Body> {
        if !accepts.events {
            return fail(StatusCode::NOT_ACCEPTABLE, "accept `text/event-stream` to listen");
        }
        let Some(guard) = enter(self, &ask.scope) else { return is_full() };
        let session = ask.session.map(|it| self.inner.running.stream(it.id));
        let watch = Watch { scope: ask.scope, purpose: Purpose::Legacy, session, guard };
        self.open_stream(watch, Some(http::KEEP_ALIVE)).0
    }

    /// `DELETE`: the session is over.
    pub(super) fn delete(&self, ask: &Ask) -> Response<Body> {
        match ask.session {
            Some(session) => {
                self.inner.running.end(session.id);
                empty(StatusCode::NO_CONTENT)
            }
            None => fail(StatusCode::BAD_REQUEST, "the header `Mcp-Session-Id` is missing"),
        }
    }

    /// `GET /sse`: opens a stream of the HTTP+SSE transport and says where to post to.
    #[must_use]
    pub fn handle_sse(
        &self,
        request: &HttpRequest<Bytes>,
        caller: Arc<dyn ToolCaller>,
        target: Target,
    ) -> Response<Body> {
        if request.method() != Method::GET {
            return http::wrong_method("GET");
        }
        let ask = match self.ask(request, caller, &target, Revision::V2024_11_05, None) {
            Ok(ask) => ask,
            Err(response) => return *response,
        };
        let Some(guard) = enter(self, &ask.scope) else { return is_full() };
        let Some(session) = Session::new(Revision::V2024_11_05) else { return is_full() };
        let life = (self.inner.options.clock.now(), SESSION_LIFE);
        let principal = ask.scope.caller().principal();
        let Some(handle) =
            self.inner.options.keys.seal(Kind::Stream, principal, life, &session.to_bytes())
        else {
            return is_full();
        };
        let endpoint = event("endpoint", format!("/sse/message?session={handle}").as_bytes());
        let watch = Watch { scope: ask.scope, purpose: Purpose::Legacy, session: None, guard };
        let (response, sender) = self.open_stream(watch, Some(endpoint));
        let in_flight = Arc::new(tokio::sync::Semaphore::new(STREAM_REQUESTS_MAX));
        let mut open = self.inner.open.by_id.lock();
        open.retain(|_, it| it.sender.upgrade().is_some());
        open.insert(session.id, Open { sender, target, in_flight });
        response
    }

    /// `POST /sse/message?session=…`: takes a message; its answer goes into the stream.
    #[must_use]
    pub fn handle_sse_message(
        &self,
        request: &HttpRequest<Bytes>,
        caller: Arc<dyn ToolCaller>,
    ) -> Response<Body> {
        if request.method() != Method::POST {
            return http::wrong_method("POST");
        }
        if !http::is_json(request.headers()) {
            return fail(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be `application/json`");
        }
        let Some((session, open)) = self.find_open(request, &*caller) else {
            return fail(StatusCode::NOT_FOUND, "there is no such stream: open `/sse` again");
        };
        let ask =
            match self.ask(request, caller, &open.target, Revision::V2024_11_05, Some(session)) {
                Ok(ask) => ask,
                Err(response) => return *response,
            };
        // It runs until its stream is gone, not until this post is answered: bounded by the stream's permits.
        let Ok(permit) = Arc::clone(&open.in_flight).try_acquire_owned() else { return is_full() };
        let (server, body, sender) = (self.clone(), request.body().clone(), open.sender);
        if let Err(error) = rpc::read(&body) {
            return refuse(StatusCode::BAD_REQUEST, "null", &error);
        }
        self.inner.options.tasks.spawn("mcp sse message", async move {
            let answer = server.over_sse(&ask, &body).await;
            if let (Some(answer), Some(sender)) = (answer, sender.upgrade()) {
                send(&sender, event("message", &answer)).await;
            }
            drop(permit);
        });
        empty(StatusCode::ACCEPTED)
    }

    fn find_open(
        &self,
        request: &HttpRequest<Bytes>,
        caller: &dyn ToolCaller,
    ) -> Option<(Session, Open)> {
        let handle = url::form_urlencoded::parse(request.uri().query()?.as_bytes())
            .find(|(key, _)| key == "session")?
            .1;
        let now = self.inner.options.clock.now();
        let bytes = self.inner.options.keys.open(Kind::Stream, caller.principal(), now, &handle)?;
        let session = Session::from_bytes(&bytes)?;
        let open = self.inner.open.by_id.lock().get(&session.id)?.clone();
        open.sender.upgrade().is_some().then_some((session, open))
    }

    /// The answer to a message or a batch that came over the HTTP+SSE transport.
    async fn over_sse(&self, ask: &Ask, body: &Bytes) -> Option<Bytes> {
        match rpc::read(body) {
            Err(error) => Some(rpc::failure("null", &error)),
            Ok(Incoming::Batch(_)) => {
                let error =
                    RpcError::new(rpc::INVALID_REQUEST, "batches are not part of this revision");
                Some(rpc::failure("null", &error))
            }
            Ok(Incoming::One(Err(refusal))) => Some(rpc::failure(&refusal.id, &refusal.error)),
            Ok(Incoming::One(Ok(Message::Response))) => None,
            Ok(Incoming::One(Ok(Message::Notification { method, params }))) => {
                self.notified(ask, &method, params);
                None
            }
            Ok(Incoming::One(Ok(Message::Request(request)))) if request.method == "initialize" => {
                Some(match initialized(ask, request.params) {
                    Ok((_, result)) => rpc::success(request.id, &result),
                    Err(error) => rpc::failure(request.id, &error),
                })
            }
            Ok(Incoming::One(Ok(Message::Request(request)))) => {
                Some(self.answer(ask, &request).await)
            }
        }
    }
}

async fn begin(server: &McpServer, ask: &Ask, request: &Request<'_>) -> Result<Work, RpcError> {
    if request.method == "ping" {
        return Ok(Work::Done("{}".to_owned()));
    }
    tools::begin(server, ask, request).await
}

/// What a handshake comes to: the revision both speak, and the result.
fn initialized(ask: &Ask, params: Option<&RawValue>) -> Result<(Revision, String), RpcError> {
    let fields = tools::fields(params, INITIALIZE)?;
    let Some(requested) = fields.text("protocolVersion") else {
        return Err(RpcError::params("`protocolVersion` must be a text such as \"2025-11-25\""));
    };
    let revision = match Revision::of(&requested) {
        Some(revision) if !revision.is_modern() => revision,
        // What the client asks for is not known, or has no handshake: it gets our latest that has, and may leave.
        _ => Revision::V2025_11_25,
    };
    let mut result = json!({
        "protocolVersion": revision.text(),
        "capabilities": super::capabilities(),
        "serverInfo": super::server_info(),
    });
    if let Some(text) = super::instructions(ask) {
        result["instructions"] = text.into();
    }
    Ok((revision, result.to_string()))
}

/// The session that a request belongs to, where it names one.
pub(super) fn session(
    server: &McpServer,
    headers: &HeaderMap,
    principal: &str,
) -> Result<Option<Session>, Box<Response<Body>>> {
    let handle = match http::sole(headers, SESSION_ID.as_str()) {
        Ok(None) => return Ok(None),
        Ok(Some(handle)) => handle,
        Err(_) => {
            return Err(Box::new(fail(
                StatusCode::BAD_REQUEST,
                "the header `Mcp-Session-Id` must stand once",
            )));
        }
    };
    let options = &server.inner.options;
    let session = options
        .keys
        .open(Kind::Session, principal, options.clock.now(), handle)
        .and_then(|it| Session::from_bytes(&it))
        .filter(|it| !server.inner.running.is_ended(it.id));
    match session {
        Some(session) => Ok(Some(session)),
        None => Err(Box::new(json(
            StatusCode::NOT_FOUND,
            rpc::failure(
                "null",
                &RpcError::new(rpc::INVALID_REQUEST, "there is no such session: initialize again"),
            ),
        ))),
    }
}
