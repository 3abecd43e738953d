//! Streamable HTTP: every message of ours is a POST; answers come in its body, as JSON or as an event stream.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::http::{ERROR_BYTES_MAX, Endpoint, is_media, read_all};
use super::inbox::{Inbox, NoResult};
use super::jsonrpc;
use super::wire::{Agreed, Carried, Era, Outgoing, SendError, Wire};
use crate::execute::egress::Reply;
use crate::tasks::Tasks;

mod stream;

use stream::{Ended, Stream};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Notifications and answers of ours that are on their way at once; more are dropped.
const NOTICES_MAX: usize = 16;
/// How long one of them may take.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);
/// What an envelope adds to a result, in bytes.
pub(crate) const ENVELOPE_BYTES: usize = 64 * 1024;
/// How often a stream that was cut is taken up again for one request.
const RESUMES_MAX: u32 = 8;
/// The pause before a stream is taken up again, unless the server says how long.
const RESUME_AFTER: Duration = Duration::from_secs(1);
/// The longest pause that a server can ask for.
const RESUME_AFTER_MAX: Duration = Duration::from_secs(30);
/// The longest pause before the stream of notifications is opened again.
const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A server that remembers sessions is told of the end within this time.
const DELETE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a session id may be, in bytes.
const SESSION_BYTES_MAX: usize = 1024;

/// A server behind Streamable HTTP.
pub(crate) struct StreamableHttp {
    endpoint: Endpoint,
    inbox: Arc<Inbox>,
    tasks: Tasks,
    session: ArcSwapOption<HeaderValue>,
    agreed: ArcSwapOption<Agreed>,
    notices: Arc<Semaphore>,
    closing: CancellationToken,
    this: Weak<Self>,
}

impl StreamableHttp {
    pub(crate) fn new(endpoint: Endpoint, inbox: Arc<Inbox>, tasks: &Tasks) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            endpoint,
            inbox,
            tasks: tasks.clone(),
            session: ArcSwapOption::empty(),
            agreed: ArcSwapOption::empty(),
            notices: Arc::new(Semaphore::new(NOTICES_MAX)),
            closing: CancellationToken::new(),
            this: Weak::clone(this),
        })
    }

    fn headers(&self, accept: HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept);
        if let Some(session) = self.session.load_full() {
            headers.insert(SESSION, HeaderValue::clone(&session));
        }
        if let Some(version) =
            self.agreed.load_full().and_then(|it| HeaderValue::from_str(&it.version).ok())
        {
            headers.insert(VERSION, version);
        }
        headers
    }

    async fn post(
        &self,
        message: String,
        mut headers: HeaderMap,
    ) -> Result<Response<Reply>, SendError> {
        headers.insert(CONTENT_TYPE, JSON);
        let uri = self.endpoint.uri.load_full();
        let had_session = headers.contains_key(SESSION);
        let response =
            self.endpoint.send(&Method::POST, &uri, &headers, &Bytes::from(message)).await?;
        if response.status() == StatusCode::NOT_FOUND && had_session {
            return Err(self.session_ended());
        }
        Ok(response)
    }

    /// The server forgot the session: the supervisor connects anew.
    fn session_ended(&self) -> SendError {
        self.session.store(None);
        self.inbox.end("the server ended the session");
        SendError::SessionEnded
    }

    /// Takes the answer to a request.
    async fn take(&self, id: u64, response: Response<Reply>) -> Result<Carried, SendError> {
        let status = response.status();
        if !status.is_success() {
            return Err(self.failed(status, response.into_body()).await);
        }
        if is_media(&response, "text/event-stream") {
            return self.take_stream(id, response).await;
        }
        let bytes_max = self.inbox.result_bytes_max().saturating_add(ENVELOPE_BYTES);
        let is_json = is_media(&response, "application/json");
        let body =
            read_all(response.into_body(), if is_json { bytes_max } else { ERROR_BYTES_MAX })
                .await?;
        match body {
            None => return Err(SendError::TooLarge),
            Some(body) if is_json => self.accept_body(id, &body),
            Some(_) => {
                let reason = format!(
                    "its answer (HTTP status {status}) is neither JSON nor an event stream"
                );
                self.inbox.resolve(id, Err(NoResult::Malformed(reason)));
            }
        }
        Ok(Carried::Ended)
    }

    fn accept_body(&self, id: u64, body: &[u8]) {
        match std::str::from_utf8(body) {
            Ok(text) if jsonrpc::parse(text).is_ok() => self.accept(text),
            _ => self.inbox.resolve(
                id,
                Err(NoResult::Malformed("its answer is no JSON-RPC message".to_owned())),
            ),
        }
    }

    fn accept(&self, text: &str) {
        for answer in self.inbox.accept(text) {
            self.notify_soon(answer);
        }
    }

    async fn failed(&self, status: StatusCode, body: Reply) -> SendError {
        let read = tokio::time::timeout(NOTICE_TIMEOUT, read_all(body, ERROR_BYTES_MAX)).await;
        let body = read.ok().and_then(Result::ok).flatten().unwrap_or_default();
        let error = std::str::from_utf8(&body).ok().and_then(jsonrpc::error_of);
        // Many servers say 400 where the specification says 404.
        let speaks_of_session =
            error.as_ref().is_some_and(|it| it.message.to_ascii_lowercase().contains("session"));
        if status == StatusCode::BAD_REQUEST && speaks_of_session && self.session.load().is_some() {
            return self.session_ended();
        }
        let error = error.map(|it| self.inbox.clean(it));
        SendError::Status { status: status.as_u16(), error }
    }

    /// Reads the event stream of a request, and takes it up again where it is cut and can be.
    async fn take_stream(&self, id: u64, response: Response<Reply>) -> Result<Carried, SendError> {
        let mut stream = self.stream(response.into_body(), Some(id));
        for _ in 0..RESUMES_MAX {
            match stream.read().await? {
                Ended::Answered => return Ok(Carried::Ended),
                Ended::Cut { last_event_id: None, .. } => return Ok(Carried::Ended),
                Ended::Cut { last_event_id: Some(last), retry } => {
                    tokio::time::sleep(retry.unwrap_or(RESUME_AFTER).min(RESUME_AFTER_MAX)).await;
                    let Some(body) = self.resume(&last).await? else { return Ok(Carried::Ended) };
                    stream = self.stream(body, Some(id)).after(last);
                }
            }
        }
        Ok(Carried::Ended)
    }

    fn stream(&self, body: Reply, id: Option<u64>) -> Stream {
        let bytes_max = self.inbox.result_bytes_max().saturating_add(ENVELOPE_BYTES);
        let this = Weak::clone(&self.this);
        let answer = move |it| {
            if let Some(this) = this.upgrade() {
                this.notify_soon(it);
            }
        };
        Stream::new(
            body,
            id,
            bytes_max,
            Arc::clone(&self.inbox),
            self.tasks.clone(),
            Box::new(answer),
        )
    }

    /// Opens the rest of a stream. `None`: the server cannot.
    async fn resume(&self, last_event_id: &str) -> Result<Option<Reply>, SendError> {
        let mut headers = self.headers(EVENTS);
        let Ok(last) = HeaderValue::from_str(last_event_id) else { return Ok(None) };
        headers.insert(LAST_EVENT_ID, last);
        let uri = self.endpoint.uri.load_full();
        match self.endpoint.send(&Method::GET, &uri, &headers, &Bytes::new()).await {
            Ok(response)
                if response.status().is_success() && is_media(&response, "text/event-stream") =>
            {
                Ok(Some(response.into_body()))
            }
            // The request itself was sent long ago: whatever happens now, its outcome is unknown.
            Ok(_) | Err(SendError::NotSent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a stream of the server's own notifications open, as long as it offers one.
    async fn listen(self: Arc<Self>) {
        let (mut pause, mut last): (Duration, Option<String>) = (RESUME_AFTER, None);
        loop {
            let opened = Instant::now();
            let response = match self.agreed.load_full() {
                Some(agreed) if agreed.era == Era::Modern => self.subscribe().await,
                _ => self.open_stream(last.as_deref()).await,
            };
            match response {
                Ok(response)
                    if response.status().is_success()
                        && is_media(&response, "text/event-stream") =>
                {
                    let ended = self.stream(response.into_body(), None).read().await;
                    if let Ok(Ended::Cut { last_event_id, retry }) = ended {
                        last = last_event_id.or(last);
                        pause = retry.unwrap_or(pause);
                    }
                }
                Ok(response)
                    if response.status() == StatusCode::NOT_FOUND
                        && self.session.load().is_some() =>
                {
                    drop(self.session_ended());
                    return;
                }
                // It offers none: 405, or whatever it says to a GET.
                Ok(response)
                    if response.status().is_client_error() || response.status().is_success() =>
                {
                    return;
                }
                Ok(_) | Err(_) => {}
            }
            if pause < opened.elapsed() {
                pause = RESUME_AFTER;
            }
            tokio::time::sleep(pause.clamp(Duration::from_millis(100), LISTEN_PAUSE_MAX)).await;
            pause = (pause * 2).min(LISTEN_PAUSE_MAX);
        }
    }

    async fn open_stream(&self, last_event_id: Option<&str>) -> Result<Response<Reply>, SendError> {
        let mut headers = self.headers(EVENTS);
        if let Some(last) = last_event_id.and_then(|it| HeaderValue::from_str(it).ok()) {
            headers.insert(LAST_EVENT_ID, last);
        }
        let uri = self.endpoint.uri.load_full();
        self.endpoint.send(&Method::GET, &uri, &headers, &Bytes::new()).await
    }

    async fn subscribe(&self) -> Result<Response<Reply>, SendError> {
        let message = super::handshake::subscription(self.inbox.next_id());
        let mut headers = self.headers(BOTH);
        headers.extend(super::headers::modern("subscriptions/listen", None));
        self.post(message, headers).await
    }
}

#[async_trait]
impl Wire for StreamableHttp {
    async fn request(&self, outgoing: Outgoing) -> Result<Carried, SendError> {
        let is_first = outgoing.method == "initialize";
        let mut headers = self.headers(BOTH);
        headers.extend(outgoing.headers);
        if is_first {
            headers.remove(VERSION);
            headers.remove(SESSION);
        }
        let response = self.post(outgoing.message, headers).await?;
        if is_first
            && let Some(session) =
                response.headers().get(SESSION).filter(|it| it.len() <= SESSION_BYTES_MAX)
        {
            let mut session = session.clone();
            session.set_sensitive(true);
            self.session.store(Some(Arc::new(session)));
        }
        self.take(outgoing.id, response).await
    }

    async fn notify(&self, message: String) -> Result<(), SendError> {
        let headers = self.headers(BOTH);
        let response = self.post(message, headers).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.failed(response.status(), response.into_body()).await)
    }

    fn notify_soon(&self, message: String) {
        let (Some(this), Ok(permit)) =
            (self.this.upgrade(), Arc::clone(&self.notices).try_acquire_owned())
        else {
            return;
        };
        self.tasks.spawn("mcp.http.notice", async move {
            let sent = tokio::time::timeout(NOTICE_TIMEOUT, this.notify(message)).await;
            if !matches!(sent, Ok(Ok(()))) {
                this.inbox.complain("did not take a notification or an answer");
            }
            drop(permit);
        });
    }

    fn adopt(&self, agreed: &Agreed) {
        self.agreed.store(Some(Arc::new(agreed.clone())));
    }

    fn listen(&self) {
        let Some(this) = self.this.upgrade() else { return };
        let (closing, closed) = (self.closing.clone(), self.inbox.closed().clone());
        self.tasks.spawn("mcp.http.listen", async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = closed.cancelled() => {}
                () = this.listen() => {}
            }
        });
    }

    fn cancels_by_notice(&self) -> bool {
        // In the modern era the end of the request's stream says it.
        self.agreed.load().as_ref().is_none_or(|it| it.era == Era::Legacy)
    }

    async fn close(&self, grace: Duration) {
        self.closing.cancel();
        if self.session.load().is_none() {
            return;
        }
        let headers = self.headers(BOTH);
        self.session.store(None);
        let uri = self.endpoint.uri.load_full();
        let nothing = Bytes::new();
        let delete = self.endpoint.send(&Method::DELETE, &uri, &headers, &nothing);
        // 405 and all else is fine: then the server forgets it by itself.
        drop(tokio::time::timeout(grace.min(DELETE_TIMEOUT), delete).await);
    }

    fn last_words(&self) -> Option<String> {
        None
    }
}

impl Drop for StreamableHttp {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

#[cfg(test)]
mod tests;
