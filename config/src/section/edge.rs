//! Where the node is reached, by whom, and how much at a time.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;

use althing_domain::policy::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::NodeSecret;
use crate::human::Size;

/// An address to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl Default for Listen {
    fn default() -> Self {
        Self(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let wildcard = text.strip_prefix(':').map(|port| format!("0.0.0.0:{port}"));
        let address = local.or(wildcard);
        address.as_deref().unwrap_or(text).parse().map(Self).map_err(|_| {
            let given: String = text.chars().take(64).collect();
            format!("`{given}` is not an address and port: write one such as 127.0.0.1:8080 or 0.0.0.0:8080")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> Cow<'static, str> {
        "Listen".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "An address and a port, such as 127.0.0.1:8080." })
    }
}

/// Administration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// An address of its own. Absent: that of everything else.
    pub listen: Option<Listen>,
    /// The admin key. Absent: one is made at the first start and printed once. Only a keyed hash of it is kept.
    pub key: Option<NodeSecret>,
}

/// Whether callers need a virtual key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// They do.
    #[default]
    Keys,
    /// They do not: whoever reaches the node may use everything. On loopback addresses only.
    Open,
}

/// TLS at the listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, PEM.
    pub cert: NodeSecret,
    /// Its private key, PEM.
    pub key: NodeSecret,
    /// Certificate authorities (PEM) that callers' certificates must come from. Absent: callers need none.
    #[serde(default)]
    pub client_ca: Option<NodeSecret>,
}

/// How much is taken at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest body of a request.
    pub body: Size,
    /// The longest head of a request.
    pub header: Size,
    /// Requests in flight of one virtual key.
    pub requests_per_principal: NonZeroU32,
    /// The longest result of a tool.
    pub mcp_result: Size,
    /// How long a request may take, streams included.
    pub request_timeout: Span,
    /// How long a stream may be silent.
    pub idle_stream: Span,
}

const REQUESTS_PER_PRINCIPAL: NonZeroU32 = NonZeroU32::MIN.saturating_add(255);
const REQUEST_TIMEOUT: Span = Span::from_secs(600);
const IDLE_STREAM: Span = Span::from_secs(300);

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Size::mib(32),
            header: Size(32 << 10),
            requests_per_principal: REQUESTS_PER_PRINCIPAL,
            mcp_result: Size::mib(32),
            request_timeout: REQUEST_TIMEOUT,
            idle_stream: IDLE_STREAM,
        }
    }
}

/// Web pages that may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Browsers {
    /// Their origins, such as `https://app.example.com`. Empty: none but pages of the gateway itself.
    pub origins: Vec<String>,
}
