//! The port of a transport: how messages get to a server. What comes back arrives in the [`Inbox`](super::inbox::Inbox).

use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};

use super::jsonrpc::RpcError;

/// A request on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Its id on this connection.
    pub(crate) id: u64,
    /// Its method.
    pub(crate) method: &'static str,
    /// The message, without a line end.
    pub(crate) message: String,
    /// Headers that repeat parts of the message, where the transport has headers and the revision wants them.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// How far a transport carried a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// It is written; the answer will arrive in the inbox.
    Written,
    /// The exchange is over: the answer is in the inbox, or is lost.
    Ended,
}

/// Why a transport did not carry a request to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// Nothing of it reached the server, for certain.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have reached the server.
    #[error("{0}")]
    Lost(String),
    /// The server has forgotten the session, so it did not run the request.
    #[error("the server ended the session")]
    SessionEnded,
    /// The server refuses who we are. It did not run the request.
    #[error("not authorised: {0}")]
    Unauthorized(String),
    /// The answer is over the limit.
    #[error("the answer is over the limit")]
    TooLarge,
    /// The server answered with an HTTP status instead of a message.
    #[error("HTTP status {status}{}", .error.as_ref().map(|it| format!(", {it}")).unwrap_or_default())]
    Status {
        /// The status.
        status: u16,
        /// The JSON-RPC error in its body, if there is one.
        error: Option<RpcError>,
    },
}

/// A transport to one server.
#[async_trait]
pub(crate) trait Wire: Send + Sync {
    /// Carries a request. Cancel-safe in this sense: dropping the future may leave the request sent, and its answer,
    /// if any comes, is ignored.
    async fn request(&self, outgoing: Outgoing) -> Result<Carried, SendError>;

    /// Sends a notification that must arrive before what is sent next.
    async fn notify(&self, message: String) -> Result<(), SendError>;

    /// Sends a notification or an answer without waiting. Dropped where too many wait already.
    fn notify_soon(&self, message: String);

    /// Takes note of what the handshake agreed on.
    fn adopt(&self, agreed: &Agreed);

    /// Opens what the server's own notifications come by, where that is not open anyway. After the handshake.
    fn listen(&self);

    /// Whether the server is told of a cancelled request by a notification. Otherwise the end of the exchange tells it.
    fn cancels_by_notice(&self) -> bool;

    /// Ends the connection in an orderly way, within `grace`.
    async fn close(&self, grace: Duration);

    /// What a person should know about the end of the connection beside its reason: for example the last lines of
    /// standard error. Without secrets.
    fn last_words(&self) -> Option<String>;
}

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Which era.
    pub(crate) era: Era,
    /// The revision.
    pub(crate) version: String,
}

/// The two ways of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// `initialize` and a session; up to 2025-11-25.
    Legacy,
    /// Self-contained requests; from 2026-07-28.
    Modern,
}
