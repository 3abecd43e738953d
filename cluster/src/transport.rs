//! The port to other nodes.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::raft::types::Peer;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Append,
    Vote,
    PreVote,
    Snapshot,
}

/// A request to another node.
#[derive(Debug, Clone)]
pub struct Request {
    pub kind: Kind,
    /// The request itself, in a frame.
    pub head: Bytes,
    /// A file that goes with it: a snapshot.
    pub file: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection to the node: trying again at once is pointless.
    #[error("{0}")]
    Unreachable(String),
    /// The request or its answer was lost, or took too long.
    #[error("{0}")]
    Lost(String),
}

/// Carries requests to other nodes.
pub trait PeerTransport: Send + Sync + 'static {
    /// Sends `request` to the node `id` and waits for its answer, for at most `within`. Dropping the future gives the request up.
    fn call(
        &self,
        id: u64,
        peer: &Peer,
        request: Request,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;
}

/// The transport of a node that has no peers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl PeerTransport for Alone {
    fn call(
        &self,
        id: u64,
        _: &Peer,
        _: Request,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let error = TransportError::Unreachable(format!(
            "this node stands alone and has no way to node {id}"
        ));
        Box::pin(std::future::ready(Err(error)))
    }
}
