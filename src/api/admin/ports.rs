//! What administration needs of the rest of the node.

use std::sync::Arc;
use std::time::Duration;

use althing_domain::command::{Op, Reply};
use althing_domain::digest::Digest;
use althing_domain::state::State;
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::secret::Place;

/// What became of a command: the law's answer, and the log index that it took effect at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The index.
    pub index: u64,
    /// The answer. A refusal is one.
    pub reply: Reply,
}

/// The law, and the cluster's keys.
#[async_trait]
pub trait Law: Send + Sync {
    /// The law as it is now. Cheap.
    fn state(&self) -> Arc<State>;

    /// Proposes a command by `who`, and waits until it is durable and visible in [`Law::state`].
    /// The same `request_id` again is applied once.
    ///
    /// # Errors
    ///
    /// No quorum, or a disk that is full: whether it was applied is not known then.
    async fn propose(&self, request_id: u128, who: &str, op: Op) -> Result<Outcome, Error>;

    /// Waits until this node has applied the log up to `index`, for at most `within`. Whether it has.
    async fn reaches(&self, index: u64, within: Duration) -> bool;

    /// The keyed hash of a virtual or admin key.
    fn hash(&self, shown: &[u8]) -> Digest;

    /// Seals a value for a place: what stands behind `sealed:`.
    ///
    /// # Errors
    ///
    /// Where the cryptographic library fails.
    fn seal(&self, value: &str, place: &Place<'_>) -> Result<String, Error>;

    /// Opens what [`Law::seal`] made for the place.
    fn open(&self, sealed: &str, place: &Place<'_>) -> Option<SecretString>;

    /// Makes a key with a prefix and 256 random bits.
    ///
    /// # Errors
    ///
    /// Where the system gives no randomness.
    fn create_token(&self, prefix: &str) -> Result<Zeroizing<String>, Error>;
}

/// The MCP servers of this node.
#[async_trait]
pub trait Servers: Send + Sync {
    /// How each is: `name`, `state`, `since`, `tools`, `last_error` and the like.
    fn status(&self) -> Vec<(String, Value)>;

    /// The tools that `server` offers: `name`, `function_name`, `policy_name`, `description`, `input_schema`.
    fn tools(&self, server: &str) -> Vec<Value>;

    /// Connects `server` anew. Whether there is such a server on this node.
    fn reconnect(&self, server: &str) -> bool;

    /// Begins the OAuth authorisation of `server`: the address that a person opens.
    ///
    /// # Errors
    ///
    /// Where the server has no OAuth settings, or its authorization server cannot be reached.
    async fn authorize(&self, server: &str) -> Result<String, Error>;
}

/// The query of a request, decoded. Only parameters that the route names are in it.
pub type Query = std::collections::BTreeMap<String, String>;

/// What this node says of itself in `GET /api/status`, beside the law and its servers: queues, disk, connections.
pub type NodeStatus = Box<dyn Fn() -> Value + Send + Sync>;
