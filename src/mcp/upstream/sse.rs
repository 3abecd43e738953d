//! The HTTP+SSE transport of revision 2024-11-05: one event stream for all that comes, POSTs for all that goes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Uri};
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event_stream::EventStream;
use super::http::{ERROR_BYTES_MAX, Endpoint, is_media, is_same_host, read_all, resolve};
use super::inbox::Inbox;
use super::streamable_http::ENVELOPE_BYTES;
use super::wire::{Agreed, Carried, Outgoing, SendError, Wire};
use crate::execute::egress::Reply;
use crate::tasks::Tasks;

/// Messages of ours that are on their way at once without anybody waiting; more are dropped.
const NOTICES_MAX: usize = 16;
/// How long a POST may take: its answer says only that the message was taken.
const POST_TIMEOUT: Duration = Duration::from_secs(30);

/// A server behind HTTP+SSE.
pub(crate) struct Sse {
    endpoint: Endpoint,
    /// Where messages go, as the server said.
    messages: Uri,
    inbox: Arc<Inbox>,
    tasks: Tasks,
    notices: Arc<Semaphore>,
    closing: CancellationToken,
    this: Weak<Self>,
}

impl Sse {
    /// Opens the stream and waits until the server says where messages go.
    pub(crate) async fn open(
        endpoint: Endpoint,
        inbox: Arc<Inbox>,
        tasks: &Tasks,
        deadline: Instant,
    ) -> Result<Arc<Self>, SendError> {
        let uri = endpoint.uri.load_full();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let nothing = Bytes::new();
        let opening = endpoint.send(&Method::GET, &uri, &headers, &nothing);
        let late = || SendError::NotSent("it did not answer in time".to_owned());
        let response = tokio::time::timeout_at(deadline, opening).await.map_err(|_| late())??;
        if !response.status().is_success() {
            return Err(SendError::Status { status: response.status().as_u16(), error: None });
        }
        if !is_media(&response, "text/event-stream") {
            return Err(SendError::NotSent(
                "it sends no event stream; is its transport `http`?".to_owned(),
            ));
        }
        let closing = CancellationToken::new();
        let (found, messages) = oneshot::channel();
        let (answers, mut queue) = tokio::sync::mpsc::channel::<String>(NOTICES_MAX);
        let reader =
            Reader { base: (*uri).clone(), inbox: Arc::clone(&inbox), found: Some(found), answers };
        let reading = reader.read(response.into_body());
        let closed = closing.clone();
        tasks.spawn("mcp.sse.read", async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = reading => {}
            }
        });
        let guard = closing.clone().drop_guard();
        let messages = tokio::time::timeout_at(deadline, messages).await.map_err(|_| late())?;
        let messages = messages
            .map_err(|_| SendError::NotSent(inbox.ended().unwrap_or_default()))?
            .map_err(SendError::NotSent)?;
        drop(guard.disarm());
        let notices = Arc::new(Semaphore::new(NOTICES_MAX));
        let this = Arc::new_cyclic(|this| Self {
            endpoint,
            messages,
            inbox,
            tasks: tasks.clone(),
            notices,
            closing,
            this: Weak::clone(this),
        });
        let answering = Arc::downgrade(&this);
        tasks.spawn("mcp.sse.answer", async move {
            while let Some(answer) = queue.recv().await {
                let Some(this) = answering.upgrade() else { return };
                this.notify_soon(answer);
            }
        });
        Ok(this)
    }

    async fn post(&self, message: String) -> Result<(), SendError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let body = Bytes::from(message);
        let posting = async {
            let response =
                self.endpoint.send(&Method::POST, &self.messages, &headers, &body).await?;
            let status = response.status();
            // Read, so that the connection can be used again; what it says does not matter.
            drop(read_all(response.into_body(), ERROR_BYTES_MAX).await);
            if status.is_success() {
                Ok(())
            } else {
                Err(SendError::Status { status: status.as_u16(), error: None })
            }
        };
        let posted = tokio::time::timeout(POST_TIMEOUT, posting).await;
        posted.unwrap_or_else(|_| {
            Err(SendError::Lost("it did not take the message in time".to_owned()))
        })
    }
}

/// Reads the one stream.
struct Reader {
    base: Uri,
    inbox: Arc<Inbox>,
    found: Option<oneshot::Sender<Result<Uri, String>>>,
    answers: tokio::sync::mpsc::Sender<String>,
}

impl Reader {
    async fn read(mut self, mut body: Reply) {
        let mut events =
            EventStream::new(self.inbox.result_bytes_max().saturating_add(ENVELOPE_BYTES));
        let reason = loop {
            let frame = match body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => break "its event stream was cut",
                None => break "it ended its event stream",
            };
            let Ok(data) = frame.into_data() else { continue };
            let Ok(read) = events.push(&data) else { break "it sent an event over the limit" };
            for event in read {
                self.take(&event.kind, &event.data);
            }
        };
        self.inbox.end(reason);
    }

    fn take(&mut self, kind: &str, data: &str) {
        match kind {
            "endpoint" => {
                if let Some(found) = self.found.take() {
                    let target =
                        resolve(&self.base, data.trim()).filter(|it| is_same_host(&self.base, it));
                    let target =
                        target.ok_or_else(|| "it wants messages sent to another host".to_owned());
                    // Nobody waits where opening was given up.
                    drop(found.send(target));
                }
            }
            "" | "message" if !data.is_empty() => {
                for answer in self.inbox.accept(data) {
                    // Full: the server asks more than it takes. Its loss.
                    drop(self.answers.try_send(answer));
                }
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Wire for Sse {
    async fn request(&self, outgoing: Outgoing) -> Result<Carried, SendError> {
        self.post(outgoing.message).await.map(|()| Carried::Written)
    }

    async fn notify(&self, message: String) -> Result<(), SendError> {
        self.post(message).await
    }

    fn notify_soon(&self, message: String) {
        let (Some(this), Ok(permit)) =
            (self.this.upgrade(), Arc::clone(&self.notices).try_acquire_owned())
        else {
            return;
        };
        self.tasks.spawn("mcp.sse.notice", async move {
            if this.post(message).await.is_err() {
                this.inbox.complain("did not take a notification or an answer");
            }
            drop(permit);
        });
    }

    fn adopt(&self, _: &Agreed) {}

    fn listen(&self) {}

    fn cancels_by_notice(&self) -> bool {
        true
    }

    async fn close(&self, _: Duration) {
        // The server notices the end of the stream.
        self.closing.cancel();
    }

    fn last_words(&self) -> Option<String> {
        None
    }
}

impl Drop for Sse {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

#[cfg(test)]
mod tests;
