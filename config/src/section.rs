//! The settings of a node, one type a section of the file.

mod cluster;
mod edge;
mod node;
mod observe;

use std::borrow::Cow;

use althing_domain::secret::Secret;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use cluster::Cluster;
pub use edge::{Admin, AuthMode, Browsers, Limits, Listen, Tls};
pub use node::{Node, Partition, Secrets};
pub use observe::{Arguments, Bodies, LogFormat, Otlp, OtlpProtocol, Records, Telemetry, WhenFull};

/// A secret of the node's own settings: shown as its reference, or as `set`.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeSecret(pub Secret);

impl std::fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for NodeSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.reference().unwrap_or("(set)"))
    }
}

impl<'de> Deserialize<'de> for NodeSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Err(de::Error::custom(
                "must not be empty: give env:NAME, file:/path or the value, or leave it out",
            ));
        }
        Ok(Self(Secret::new(text)))
    }
}

impl JsonSchema for NodeSecret {
    fn schema_name() -> Cow<'static, str> {
        "NodeSecret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`env:NAME`, `file:/path`, or the value itself"
        })
    }
}
