//! The types with which openraft is instantiated.

use std::fmt;
use std::sync::Arc;

use openraft::alias;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Command,
        R = (),
        NodeId = u64,
        Node = Peer,
);

pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type LeaderId = alias::LeaderIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type Entry = alias::EntryOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = alias::SnapshotOf<Types, super::snapshot::SnapshotFile>;

/// Where a member of the cluster is found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peer {
    /// Its configured name.
    pub name: String,
    /// Host and port for other nodes; empty for a node without a cluster.
    pub address: String,
}

/// A command on its way through the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) request_id: u128,
    pub(crate) time_ms: u64,
    pub(crate) body: Arc<[u8]>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the body: policy may be in it.
        write!(f, "command {:032x} of {} bytes", self.request_id, self.body.len())
    }
}
