//! Requests over a transport: ids, waiting, time-outs, cancellation.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::inbox::{Answer, Inbox, NoResult, Ticket};
use super::jsonrpc::{self, RpcError};
use super::wire::{Carried, Outgoing, SendError, Wire};
use crate::mcp::call::Progress;

/// A transport with its inbox.
pub(crate) struct Link {
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) inbox: Arc<Inbox>,
}

/// One request.
pub(crate) struct Ask<'a> {
    /// Its method.
    pub(crate) method: &'static str,
    /// Its parameters, for a request of the given id (which is also its progress token).
    pub(crate) params: &'a (dyn Fn(u64) -> String + Sync),
    /// Headers that repeat parts of it.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Where progress goes.
    pub(crate) progress: Option<Progress>,
    /// When it is given up.
    pub(crate) deadline: Instant,
    /// Gives it up.
    pub(crate) cancel: Option<&'a CancellationToken>,
}

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It did not reach the server, or the server did not take it.
    #[error("{0}")]
    NotSent(String),
    /// It may have reached the server.
    #[error("{0}")]
    Lost(String),
    /// The server refuses who we are.
    #[error("not authorised: {0}")]
    Unauthorized(String),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The result is over the limit.
    #[error("the answer is over the limit")]
    TooLarge,
    /// The answer is none.
    #[error("{0}")]
    Malformed(String),
    /// The server answered with an error.
    #[error("{0}")]
    Rpc(RpcError),
    /// The server answered with an HTTP status instead of a message.
    #[error("HTTP status {0}")]
    Status(u16),
}

impl From<SendError> for AskError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotSent(reason) => Self::NotSent(reason),
            SendError::Lost(reason) => Self::Lost(reason),
            SendError::SessionEnded => Self::NotSent(SendError::SessionEnded.to_string()),
            SendError::Unauthorized(reason) => Self::Unauthorized(reason),
            SendError::TooLarge => Self::TooLarge,
            SendError::Status { error: Some(error), .. } => Self::Rpc(error),
            SendError::Status { status, error: None } => Self::Status(status),
        }
    }
}

impl From<NoResult> for AskError {
    fn from(it: NoResult) -> Self {
        match it {
            NoResult::Rpc(error) => Self::Rpc(error),
            NoResult::TooLarge => Self::TooLarge,
            NoResult::Malformed(reason) => Self::Malformed(reason),
        }
    }
}

impl Link {
    /// Sends a request and waits for its result. Dropping the future tells the server that it is cancelled.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Box<RawValue>, AskError> {
        let started = Instant::now();
        let mut ticket = self.inbox.register(ask.progress).map_err(AskError::NotSent)?;
        let outgoing = Outgoing {
            id: ticket.id,
            method: ask.method,
            message: jsonrpc::request(ticket.id, ask.method, &(ask.params)(ticket.id)),
            headers: ask.headers,
        };
        let mut abandon =
            Abandon { link: self, id: ticket.id, is_armed: ask.method != "initialize" };
        let exchange = self.wire.request(outgoing);
        let answered = self.exchange(&mut ticket, exchange);
        let ended = tokio::select! {
            biased;
            it = answered => { abandon.is_armed = false; it }
            () = cancelled(ask.cancel) => Err(AskError::Cancelled),
            () = tokio::time::sleep_until(ask.deadline) => Err(AskError::Timeout(started.elapsed())),
        };
        drop(abandon);
        if let Err(AskError::Unauthorized(reason)) = &ended {
            // Every other request would be refused too: the supervisor looks into it.
            self.inbox.end(format!("not authorised: {reason}"));
        }
        ended
    }

    /// Waits for the answer while the transport carries the request.
    async fn exchange(
        &self,
        ticket: &mut Ticket,
        mut exchange: impl Future<Output = Result<Carried, SendError>> + Unpin,
    ) -> Result<Box<RawValue>, AskError> {
        let carried = tokio::select! {
            biased;
            answer = &mut ticket.answer => return self.read(answer.ok()),
            carried = &mut exchange => carried?,
        };
        match carried {
            Carried::Written => self.read((&mut ticket.answer).await.ok()),
            Carried::Ended => match ticket.answer.try_recv() {
                Ok(answer) => self.read(Some(answer)),
                Err(_) => Err(AskError::Lost("its stream ended without an answer".to_owned())),
            },
        }
    }

    fn read(&self, answer: Option<Answer>) -> Result<Box<RawValue>, AskError> {
        match answer {
            Some(answer) => answer.map_err(AskError::from),
            None => Err(AskError::Lost(self.inbox.ended().unwrap_or_default())),
        }
    }
}

async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Tells the server that nobody waits for a request any longer, unless it was answered.
struct Abandon<'a> {
    link: &'a Link,
    id: u64,
    is_armed: bool,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if self.is_armed && self.link.wire.cancels_by_notice() {
            let params =
                format!(r#"{{"requestId":{},"reason":"the caller no longer waits"}}"#, self.id);
            self.link
                .wire
                .notify_soon(jsonrpc::notification("notifications/cancelled", Some(&params)));
        }
    }
}
