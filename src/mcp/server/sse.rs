//! Streams of events: answers that take their time, and notifications nobody asked for one by one.

use std::sync::Arc;
use std::time::Duration;

use ::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::DropGuard;

use super::http::{Accepts, Body, KEEP_ALIVE, event, events, json, only_event};
use super::rpc;
use super::session::{SessionStream, StreamGuard};
use super::tools::{self, Running};
use super::{Ask, McpServer, Revision};
use crate::mcp::scope::Scope;

/// How many events wait for a slow client. A stream that stays full for [`SLOW`] is ended.
const EVENTS_MAX: usize = 32;
/// How long a client may take nothing.
const SLOW: Duration = Duration::from_secs(30);

const LIST_CHANGED: &str = "notifications/tools/list_changed";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// Why a notification stream exists, and so what it says.
pub(super) enum Purpose {
    /// A legacy client's stream; the token ends with its session.
    Legacy,
    /// `subscriptions/listen`, answered to this id; whether list changes were asked for.
    Listen { id: String, lists: bool },
}

/// What a notification stream holds and watches.
pub(super) struct Watch {
    pub(super) scope: Scope,
    pub(super) purpose: Purpose,
    /// The session that it ends with.
    pub(super) session: Option<SessionStream>,
    pub(super) guard: StreamGuard,
}

impl McpServer {
    /// Answers a call: as JSON where it is soon over and says nothing before, else as a stream.
    pub(super) async fn answer_call(
        &self,
        ask: Ask,
        id: &str,
        running: Running,
        accepts: Accepts,
    ) -> Response<Body> {
        let Running { request, mut progress, cancel } = running;
        let guard = ask.session.map(|it| self.inner.running.call(it.id, id, &cancel));
        // Since 2026-07-28 who closes the stream cancels the request; before, losing a connection means nothing.
        let on_drop = ask.revision.is_modern().then(|| cancel.clone().drop_guard());
        let (sender, mut done) = oneshot::channel();
        let (scope, revision, owned_id) = (ask.scope.clone(), ask.revision, id.to_owned());
        self.inner.options.tasks.spawn("mcp call", async move {
            let answer = tools::run(scope, request, &owned_id, revision).await;
            // Kept here: a client that lost its connection can still cancel the call, which goes on without it.
            drop(guard);
            // The client may be gone.
            let _gone = sender.send(answer);
        });
        let patience = tokio::time::sleep(self.inner.options.limits.answer_within);
        tokio::pin!(patience);
        // Progress is looked at first: what was said before the answer must not be lost with it.
        let first = tokio::select! {
            biased;
            Some(first) = next(&mut progress), if accepts.events => Some(first),
            answer = &mut done => {
                let (answer, status) = over(answer, id);
                let mut response = whole(&answer, accepts);
                *response.status_mut() = status;
                return response;
            }
            () = &mut patience, if accepts.events => None,
        };
        let (events_in, events_out) = mpsc::channel(EVENTS_MAX);
        let pump = Pump { progress, done, id: id.to_owned(), on_drop };
        let keep_alive = self.inner.options.limits.keep_alive;
        self.inner.options.tasks.spawn("mcp call stream", async move {
            if let Some(first) = first
                && !send(&events_in, event("message", &progress_message(&first))).await
            {
                return;
            }
            pump.run(&events_in, keep_alive).await;
        });
        events(events_out)
    }

    /// Opens a stream of notifications; the answer of HTTP and the way into it.
    pub(super) fn open_stream(
        &self,
        watch: Watch,
        first: Option<Bytes>,
    ) -> (Response<Body>, mpsc::WeakSender<Bytes>) {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        let weak = sender.downgrade();
        let server = self.clone();
        self.inner.options.tasks.spawn("mcp stream", async move {
            if let Some(piece) = first
                && !send(&sender, piece).await
            {
                return;
            }
            server.watch(watch, &sender).await;
        });
        (events(receiver), weak)
    }

    /// Tells of list changes until the client leaves, its key is revoked, or the node drains.
    async fn watch(&self, mut watch: Watch, sender: &mpsc::Sender<Bytes>) {
        let mut catalogs = Changes(Some(self.inner.options.catalogs.version()));
        let mut laws = Changes(Some(self.inner.options.law.clone()));
        let mut seen = self.list(&watch.scope, Revision::LATEST).digest;
        let ended = watch.session.as_ref().map(|it| it.ended.clone()).unwrap_or_default();
        let mut beat = tokio::time::interval(self.inner.options.limits.keep_alive);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.reset();
        if let Purpose::Listen { id, lists } = &watch.purpose
            && !send(sender, event("message", &acknowledged(id, *lists))).await
        {
            return;
        }
        loop {
            let is_beat = tokio::select! {
                () = sender.closed() => return,
                () = ended.cancelled() => return,
                () = self.inner.options.tasks.stop().cancelled() => break,
                () = catalogs.next() => false,
                () = laws.next() => false,
                _ = beat.tick() => true,
            };
            // The key may have been revoked or expired, or its law changed.
            let Some(scope) = watch.scope.refresh() else { break };
            watch.scope = scope;
            let now = self.list(&watch.scope, Revision::LATEST).digest;
            let piece = match &watch.purpose {
                Purpose::Legacy if now != seen => {
                    Some(event("message", &rpc::notification(LIST_CHANGED, None)))
                }
                Purpose::Listen { id, lists: true } if now != seen => {
                    let params = json!({ "_meta": { super::modern::SUBSCRIPTION_ID: raw_id(id) } })
                        .to_string();
                    Some(event("message", &rpc::notification(LIST_CHANGED, Some(&params))))
                }
                _ => is_beat.then_some(KEEP_ALIVE),
            };
            seen = now;
            if let Some(piece) = piece
                && !send(sender, piece).await
            {
                return;
            }
        }
        if let Purpose::Listen { id, .. } = &watch.purpose {
            let result = json!({ "resultType": "complete", "_meta": { super::modern::SUBSCRIPTION_ID: raw_id(id) } });
            send(sender, event("message", &rpc::success(id, &result.to_string()))).await;
        }
        drop(watch.guard);
    }
}

/// A watch whose end is silence.
struct Changes(Option<watch::Receiver<u64>>);

impl Changes {
    async fn next(&mut self) {
        if let Some(receiver) = &mut self.0 {
            if receiver.changed().await.is_ok() {
                return;
            }
            self.0 = None;
        }
        std::future::pending::<()>().await;
    }
}

/// A call's answer and progress, on their way into a stream.
struct Pump {
    progress: Option<mpsc::Receiver<Box<serde_json::value::RawValue>>>,
    done: oneshot::Receiver<(Bytes, StatusCode)>,
    id: String,
    on_drop: Option<DropGuard>,
}

impl Pump {
    async fn run(mut self, sender: &mpsc::Sender<Bytes>, keep_alive: Duration) {
        let mut beat = tokio::time::interval(keep_alive);
        beat.reset();
        let answer = loop {
            let piece = tokio::select! {
                biased;
                () = sender.closed() => return,
                Some(params) = next(&mut self.progress) => event("message", &progress_message(&params)),
                answer = &mut self.done => break over(answer, &self.id).0,
                _ = beat.tick() => KEEP_ALIVE,
            };
            if !send(sender, piece).await {
                return;
            }
        };
        // What was said before the answer comes before it.
        while let Some(Ok(params)) = self.progress.as_mut().map(mpsc::Receiver::try_recv) {
            if !send(sender, event("message", &progress_message(&params))).await {
                return;
            }
        }
        send(sender, event("message", &answer)).await;
        if let Some(guard) = self.on_drop {
            // It is over: there is nothing left to cancel.
            guard.disarm();
        }
    }
}

async fn next(
    progress: &mut Option<mpsc::Receiver<Box<serde_json::value::RawValue>>>,
) -> Option<Box<serde_json::value::RawValue>> {
    match progress {
        Some(receiver) => match receiver.recv().await {
            Some(params) => Some(params),
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn progress_message(params: &serde_json::value::RawValue) -> Bytes {
    rpc::notification("notifications/progress", Some(params.get()))
}

/// The answer; where the call's task vanished, one that says so.
fn over(
    answer: Result<(Bytes, StatusCode), oneshot::error::RecvError>,
    id: &str,
) -> (Bytes, StatusCode) {
    answer.unwrap_or_else(|_| {
        let error = crate::error::Error::of(crate::error::Code::Internal);
        (rpc::failure(id, &rpc::RpcError::from(error)), StatusCode::OK)
    })
}

/// A message as the whole answer.
pub(super) fn whole(message: &Bytes, accepts: Accepts) -> Response<Body> {
    if accepts.json && !accepts.events_first {
        json(StatusCode::OK, message.clone())
    } else {
        only_event(message)
    }
}

/// Whether it was taken in time.
pub(super) async fn send(sender: &mpsc::Sender<Bytes>, piece: Bytes) -> bool {
    matches!(tokio::time::timeout(SLOW, sender.send(piece)).await, Ok(Ok(())))
}

fn acknowledged(id: &str, lists: bool) -> Bytes {
    let notifications = if lists { json!({ "toolsListChanged": true }) } else { json!({}) };
    let params = json!({ "_meta": { super::modern::SUBSCRIPTION_ID: raw_id(id) }, "notifications": notifications });
    rpc::notification(ACKNOWLEDGED, Some(&params.to_string()))
}

/// An id, which is JSON text, as a value.
fn raw_id(id: &str) -> serde_json::Value {
    serde_json::from_str(id).unwrap_or_default()
}

/// Shared by those who open streams.
pub(super) fn is_full() -> Response<Body> {
    let error = crate::error::Error::new(
        crate::error::Code::Overloaded,
        "this key has as many streams open as it may: close some",
    )
    .with_retry_after(Duration::from_secs(5));
    let mut response =
        super::http::refuse(StatusCode::TOO_MANY_REQUESTS, "null", &rpc::RpcError::from(error));
    response
        .headers_mut()
        .insert(::http::header::RETRY_AFTER, ::http::HeaderValue::from_static("5"));
    response
}

/// A count of one stream of the caller, where it may have one more.
pub(super) fn enter(server: &McpServer, scope: &Scope) -> Option<StreamGuard> {
    let limits = &server.inner.options.limits;
    Arc::clone(&server.inner.streams).enter(
        scope.caller().principal(),
        limits.streams_per_principal,
        limits.streams,
    )
}
