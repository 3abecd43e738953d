//! One event stream of messages.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;

use crate::execute::egress::Reply as Body;
use crate::mcp::upstream::event_stream::EventStream;
use crate::mcp::upstream::inbox::Inbox;
use crate::mcp::upstream::wire::SendError;
use crate::tasks::Tasks;

/// How long, and how much, the rest of a stream is read after its answer came, so that its connection can be used again.
const REST_TIMEOUT: Duration = Duration::from_secs(2);
const REST_BYTES_MAX: usize = 64 * 1024;

/// How a stream ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The request that it belongs to has its answer.
    Answered,
    /// It ended before that, or it belongs to none.
    Cut {
        /// Where it can be taken up again.
        last_event_id: Option<String>,
        /// How long the server wants us to wait before that.
        retry: Option<Duration>,
    },
}

/// Sends an answer of ours.
type Reply = Box<dyn Fn(String) + Send + Sync>;

/// An event stream of messages for an inbox.
pub(crate) struct Stream {
    body: Option<Body>,
    events: EventStream,
    /// The request that waits for an answer in it.
    id: Option<u64>,
    inbox: Arc<Inbox>,
    tasks: Tasks,
    reply: Reply,
    last_event_id: Option<String>,
    retry: Option<Duration>,
}

impl Stream {
    pub(crate) fn new(
        body: Body,
        id: Option<u64>,
        bytes_max: usize,
        inbox: Arc<Inbox>,
        tasks: Tasks,
        reply: Reply,
    ) -> Self {
        let events = EventStream::new(bytes_max);
        Self { body: Some(body), events, id, inbox, tasks, reply, last_event_id: None, retry: None }
    }

    /// Takes the place of a stream that was cut after this event.
    pub(crate) fn after(mut self, last_event_id: String) -> Self {
        self.last_event_id = Some(last_event_id);
        self
    }

    /// Reads until the answer came or the stream ended.
    pub(crate) async fn read(&mut self) -> Result<Ended, SendError> {
        while let Some(frame) = self.next().await {
            for event in self.events.push(&frame).map_err(|_| SendError::TooLarge)? {
                self.last_event_id = event.id.or_else(|| self.last_event_id.take());
                self.retry = event.retry_ms.map(Duration::from_millis).or(self.retry);
                let is_message = event.kind.is_empty() || event.kind == "message";
                if is_message && !event.data.is_empty() {
                    self.inbox.accept(&event.data).into_iter().for_each(&self.reply);
                }
            }
            if self.is_answered() {
                return Ok(Ended::Answered);
            }
        }
        Ok(Ended::Cut { last_event_id: self.last_event_id.clone(), retry: self.retry })
    }

    async fn next(&mut self) -> Option<bytes::Bytes> {
        loop {
            // A broken body ends the stream as a whole one does: what counts is whether the answer came.
            let frame = self.body.as_mut()?.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                return Some(data);
            }
        }
    }

    fn is_answered(&self) -> bool {
        self.id.is_some_and(|it| !self.inbox.is_waiting(it))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let (true, Some(mut body)) =
            (self.is_answered() && !self.inbox.closed().is_cancelled(), self.body.take())
        {
            let rest = async move {
                let mut bytes = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
                    if REST_BYTES_MAX < bytes {
                        return;
                    }
                }
            };
            self.tasks.spawn("mcp.http.rest", async move {
                drop(tokio::time::timeout(REST_TIMEOUT, rest).await);
            });
        }
    }
}
