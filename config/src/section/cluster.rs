//! The cluster that the node is of.

use std::num::NonZeroU32;

use althing_domain::id::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Listen, NodeSecret};

/// The cluster. Absent: a single node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its name, the same on every node.
    #[schemars(with = "String")]
    pub name: Name,
    /// Where this node listens for the others (UDP).
    pub listen: Listen,
    /// Where the others reach it. Absent: at `listen`.
    #[serde(default)]
    pub advertise: Option<Listen>,
    /// Where to ask for the others: `host:port`, `dns:name:port` or `srv:name`.
    #[serde(default)]
    pub seeds: Vec<String>,
    /// How many nodes found it together.
    #[serde(default)]
    pub bootstrap_expect: Option<NonZeroU32>,
    /// What lets a node in: the founding secret, or an invite.
    #[serde(default)]
    pub join_token: Option<NodeSecret>,
    /// Whether the token lets in more than one.
    #[serde(default)]
    pub reusable: bool,
}
