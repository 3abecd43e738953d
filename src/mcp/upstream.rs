//! The MCP servers behind the gateway: how each is reached.

use std::ffi::OsString;
use std::path::PathBuf;

use althing_domain::id::Name;
use althing_domain::secret::Secret;
use async_trait::async_trait;
use secrecy::SecretString;

use crate::secret::Place;

mod address;
pub(crate) mod connection;
mod event_stream;
#[cfg(test)]
mod fixture;
pub mod guard;
mod handshake;
mod headers;
pub(crate) mod http;
mod inbox;
pub(crate) mod jsonrpc;
pub(crate) mod link;
mod noise;
pub mod oauth;
pub(crate) mod open;
mod redact;
mod sse;
mod stdio;
mod streamable_http;
mod wire;

/// Resolves references to secrets at the last moment.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The value behind `secret`, which stands at `place`.
    ///
    /// # Errors
    ///
    /// A sentence that names the reference and what is wrong with it, never a value.
    async fn resolve(&self, secret: &Secret, place: &Place<'_>) -> Result<SecretString, String>;
}

/// Keeps what OAuth gave for a server across restarts and nodes: one opaque text a server.
///
/// The text holds tokens and the client's registration: it must be sealed wherever it is stored.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// What was saved last; `None` where nothing was.
    ///
    /// # Errors
    ///
    /// A sentence for the log, without the text.
    async fn load(&self, server: &Name) -> Result<Option<SecretString>, String>;

    /// Replaces what is kept.
    ///
    /// # Errors
    ///
    /// A sentence for the log, without the text.
    async fn save(&self, server: &Name, grant: SecretString) -> Result<(), String>;

    /// Forgets it.
    ///
    /// # Errors
    ///
    /// A sentence for the log.
    async fn forget(&self, server: &Name) -> Result<(), String>;
}

/// The program that guards a stdio server, by way of [`guard::run`]. `--parent PID -- PROGRAM ARGUMENT…` is appended.
#[derive(Debug, Clone)]
pub struct GuardProgram {
    /// The program: this executable.
    pub program: PathBuf,
    /// What comes before that, for example `stdio-guard`.
    pub arguments: Vec<OsString>,
}
