//! Getting to know a server: which era and revision it speaks, and what it is.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::jsonrpc::{self, UNSUPPORTED_VERSION};
use super::link::{Ask, AskError, Link};
use super::wire::{Agreed, Era};

/// The modern revision that we speak.
pub(crate) const MODERN: &str = "2026-07-28";
/// The legacy revisions that we speak, the one we ask for first.
pub(crate) const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// How long a probe in one era is waited for before the other is tried.
const PROBE: Duration = Duration::from_secs(10);

/// What is known of a server after the handshake.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Era and revision.
    pub(crate) agreed: Agreed,
    /// `serverInfo`, as received.
    pub(crate) server_info: Option<Arc<RawValue>>,
}

/// Which era is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// `server/discover`, then `initialize`.
    Modern,
    /// `initialize`, then `server/discover`. For pipes: many legacy servers end when something comes before
    /// `initialize`, and a server of both eras loses nothing by it.
    Legacy,
    /// `initialize` only: the transport is of that era.
    LegacyOnly,
}

/// Greets the server.
pub(crate) async fn greet(link: &Link, first: First, deadline: Instant) -> Result<Peer, AskError> {
    let peer = match first {
        First::LegacyOnly => initialize(link, deadline).await?,
        First::Legacy => match initialize(link, deadline).await {
            Err(AskError::Rpc(refusal)) => match discover(link, deadline).await {
                Ok(Some(peer)) => peer,
                Ok(None) | Err(_) => return Err(AskError::Rpc(refusal)),
            },
            other => other?,
        },
        First::Modern => match discover(link, deadline).await? {
            Some(peer) => peer,
            None => initialize(link, deadline).await?,
        },
    };
    link.wire.adopt(&peer.agreed);
    if peer.agreed.era == Era::Legacy {
        let ready = jsonrpc::notification("notifications/initialized", None);
        let told = tokio::time::timeout_at(deadline, link.wire.notify(ready)).await;
        told.map_err(|_| AskError::Lost("it did not take `initialized` in time".to_owned()))??;
    }
    link.wire.listen();
    Ok(peer)
}

/// Probes in the modern way. `None`: the server is a legacy one.
async fn discover(link: &Link, deadline: Instant) -> Result<Option<Peer>, AskError> {
    link.wire.adopt(&Agreed { era: Era::Modern, version: MODERN.to_owned() });
    let params = format!(r#"{{"_meta":{}}}"#, jsonrpc::object(modern_meta()));
    let probe = Ask {
        method: "server/discover",
        params: &|_| params.clone(),
        headers: super::headers::modern("server/discover", None),
        progress: None,
        deadline: deadline.min(Instant::now() + PROBE),
        cancel: None,
    };
    let legacy = |_| Ok(None);
    match link.ask(probe).await {
        Ok(result) => read_discovery(&result),
        // The server speaks the modern way, but no revision of ours in it: what it supports decides.
        Err(AskError::Rpc(error)) if error.code == UNSUPPORTED_VERSION => {
            if error.data.as_ref().is_none_or(|it| supported(it).is_empty() || supports_legacy(it))
            {
                legacy(())
            } else {
                Err(AskError::Rpc(error))
            }
        }
        Err(
            AskError::Rpc(_) | AskError::Status(_) | AskError::Timeout(_) | AskError::Malformed(_),
        ) => legacy(()),
        // A stream that ends without an answer, or a body that is no message: legacy servers do that too.
        Err(AskError::Lost(_)) if link.inbox.ended().is_none() => legacy(()),
        Err(other) => Err(other),
    }
}

fn supported(data: &RawValue) -> Vec<String> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        supported: Vec<String>,
    }
    serde_json::from_str::<Data>(data.get()).map(|it| it.supported).unwrap_or_default()
}

fn supports_legacy(data: &RawValue) -> bool {
    supported(data).iter().any(|it| LEGACY.contains(&it.as_str()))
}

fn read_discovery(result: &RawValue) -> Result<Option<Peer>, AskError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovery {
        #[serde(default)]
        supported_versions: Vec<String>,
        #[serde(default)]
        server_info: Option<Box<RawValue>>,
        #[serde(default, rename = "_meta")]
        meta: Option<Meta>,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(default, rename = "io.modelcontextprotocol/serverInfo")]
        server_info: Option<Box<RawValue>>,
    }
    let Ok(read) = serde_json::from_str::<Discovery>(result.get()) else { return Ok(None) };
    if read.supported_versions.iter().any(|it| it == MODERN) {
        let server_info =
            read.server_info.or_else(|| read.meta.and_then(|it| it.server_info)).map(Arc::from);
        let agreed = Agreed { era: Era::Modern, version: MODERN.to_owned() };
        return Ok(Some(Peer { agreed, server_info }));
    }
    if read.supported_versions.is_empty()
        || read.supported_versions.iter().any(|it| LEGACY.contains(&it.as_str()))
    {
        return Ok(None);
    }
    Err(AskError::Malformed(format!(
        "it speaks only protocol revisions that are not known here: {:?}",
        read.supported_versions
    )))
}

async fn initialize(link: &Link, deadline: Instant) -> Result<Peer, AskError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized {
        protocol_version: String,
        #[serde(default)]
        server_info: Option<Box<RawValue>>,
    }
    link.wire.adopt(&Agreed { era: Era::Legacy, version: LEGACY[0].to_owned() });
    let params = jsonrpc::object([
        ("protocolVersion", jsonrpc::quote(LEGACY[0]).as_str()),
        ("capabilities", "{}"),
        ("clientInfo", &client_info()),
    ]);
    let ask = Ask {
        method: "initialize",
        params: &|_| params.clone(),
        headers: Vec::new(),
        progress: None,
        deadline,
        cancel: None,
    };
    let result = link.ask(ask).await?;
    let read: Initialized = serde_json::from_str(result.get())
        .map_err(|_| AskError::Malformed("its answer to `initialize` is none".to_owned()))?;
    let version = read.protocol_version;
    let era = match version.as_str() {
        MODERN => Era::Modern,
        known if LEGACY.contains(&known) => Era::Legacy,
        _ => {
            let shown: String = version.chars().take(32).collect();
            return Err(AskError::Malformed(format!(
                "it speaks protocol revision `{shown}`, which is not known here"
            )));
        }
    };
    Ok(Peer { agreed: Agreed { era, version }, server_info: read.server_info.map(Arc::from) })
}

fn client_info() -> String {
    format!(r#"{{"name":"althing","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}

/// The members of `_meta` that a modern request carries about us.
pub(crate) fn modern_meta() -> [(&'static str, &'static str); 3] {
    [
        ("io.modelcontextprotocol/protocolVersion", r#""2026-07-28""#),
        (
            "io.modelcontextprotocol/clientInfo",
            concat!(r#"{"name":"althing","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#),
        ),
        ("io.modelcontextprotocol/clientCapabilities", "{}"),
    ]
}

/// A request for the server's notifications of changed tools, in the modern way.
pub(crate) fn subscription(id: u64) -> String {
    let meta = jsonrpc::object(modern_meta());
    let params = format!(r#"{{"notifications":{{"toolsListChanged":true}},"_meta":{meta}}}"#);
    jsonrpc::request(id, "subscriptions/listen", &params)
}
