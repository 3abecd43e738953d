//! The node itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use althing_domain::id::Name;
use althing_domain::policy::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// This node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Its name, in answers, records and metrics. Unique in a cluster.
    #[schemars(with = "String")]
    pub name: Name,
    /// Where it keeps what must survive a restart. Nobody else may read it.
    pub data_dir: PathBuf,
    /// Its zone (a rack, a data centre).
    pub zone: Option<String>,
    /// Whatever else there is to say of it.
    pub labels: BTreeMap<String, String>,
}

impl Default for Node {
    fn default() -> Self {
        let name = Name::new("althing");
        Self {
            name,
            data_dir: PathBuf::from("./althing-data"),
            zone: None,
            labels: BTreeMap::new(),
        }
    }
}

/// Secrets of the machine that policy may refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// What may be referred to over the API: `env:NAME` or `file:/path`; `*` stands for any run of characters.
    /// The file itself may refer to anything.
    pub allow: Vec<String>,
}

/// What a node does when it cannot reach a majority of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// It serves by the last policy it knew for so long, then refuses.
    Grace(Span),
    /// It refuses at once.
    Closed,
}

/// How long a node goes on alone, where nothing is said.
const GRACE: &str = "60s";

impl Default for Partition {
    fn default() -> Self {
        GRACE.parse().map_or(Self::Closed, Self::Grace)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GraceMap {
    grace: Span,
}

impl Serialize for Partition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Grace(grace) => GraceMap { grace: *grace }.serialize(serializer),
            Self::Closed => serializer.serialize_str("closed"),
        }
    }
}

impl<'de> Deserialize<'de> for Partition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClosedOrGrace;
        impl<'de> de::Visitor<'de> for ClosedOrGrace {
            type Value = Partition;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`closed`, or { grace: 60s }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Partition, E> {
                if text == "closed" {
                    Ok(Partition::Closed)
                } else {
                    Err(E::custom("write `closed`, or { grace: 60s }"))
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Partition, A::Error> {
                GraceMap::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|it| Partition::Grace(it.grace))
            }
        }
        deserializer.deserialize_any(ClosedOrGrace)
    }
}

impl JsonSchema for Partition {
    fn schema_name() -> Cow<'static, str> {
        "Partition".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let span = generator.subschema_for::<Span>();
        json_schema!({
            "description": "What a node does when it cannot reach a majority of the cluster: `closed`, it refuses at once; or for how long it serves by the last policy it knew.",
            "oneOf": [
                { "const": "closed" },
                { "type": "object", "properties": { "grace": span }, "required": ["grace"], "additionalProperties": false }
            ]
        })
    }
}
