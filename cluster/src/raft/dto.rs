//! How entries, votes, log ids and memberships look on disk and on the wire.
//!
//! Never openraft's own types: their encoding changes between versions, and then an upgrade of the library would be a migration of data.

use std::collections::{BTreeMap, BTreeSet};

use althing_storage::{codec, first_version, migrate};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::types::{self, Command, Peer, Types};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogId {
    term: u64,
    node: u64,
    index: u64,
}
first_version!(LogId, "a log id");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vote {
    term: u64,
    node: u64,
    committed: bool,
}
first_version!(Vote, "a vote");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Node>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    name: String,
    address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    id: LogId,
    payload: Payload,
}
first_version!(Entry, "a log entry");

/// New kinds are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Payload {
    Blank,
    Command {
        request_id: u128,
        time_ms: u64,
        #[serde(with = "raw")]
        body: Vec<u8>,
    },
    Membership(Membership),
}

/// What a snapshot carries for us beside the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotMeta {
    last: Option<LogId>,
    membership_at: Option<LogId>,
    membership: Membership,
    /// The largest time that was applied.
    pub(crate) time_ms: u64,
}
first_version!(SnapshotMeta, "a snapshot's raft meta");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Append {
    vote: Vote,
    previous: Option<LogId>,
    entries: Vec<Entry>,
    committed: Option<LogId>,
}
first_version!(Append, "an append request");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Appended {
    All,
    Upto(Option<LogId>),
    Conflict,
    HigherVote(Vote),
}
first_version!(Appended, "an append answer");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskVote {
    vote: Vote,
    last: Option<LogId>,
    is_transfer: bool,
}
first_version!(AskVote, "a vote request");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Voted {
    vote: Vote,
    is_granted: bool,
    last: Option<LogId>,
}
first_version!(Voted, "a vote answer");

/// Encodes a DTO into a frame.
pub(crate) fn write<T: migrate::Versioned + Serialize>(value: &T) -> Result<Bytes, codec::Error> {
    migrate::write(value).map(Bytes::from)
}

/// The entry in a frame.
pub(crate) fn write_entry(entry: &types::Entry) -> Result<Bytes, codec::Error> {
    write(&Entry::from(entry))
}

/// Reads what [`write_entry`] wrote.
pub(crate) fn read_entry(bytes: &[u8]) -> Result<types::Entry, codec::Error> {
    migrate::read::<Entry>(bytes)?.into_raft()
}

impl From<types::LogId> for LogId {
    fn from(id: types::LogId) -> Self {
        let leader = id.committed_leader_id();
        Self { term: leader.term, node: leader.node_id, index: id.index() }
    }
}

impl From<LogId> for types::LogId {
    fn from(id: LogId) -> Self {
        Self::new(types::LeaderId { term: id.term, node_id: id.node }, id.index)
    }
}

impl From<types::Vote> for Vote {
    fn from(vote: types::Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<Vote> for types::Vote {
    fn from(vote: Vote) -> Self {
        Self {
            leader_id: types::LeaderId { term: vote.term, node_id: vote.node },
            committed: vote.committed,
        }
    }
}

impl From<&types::Membership> for Membership {
    fn from(membership: &types::Membership) -> Self {
        let node = |peer: &Peer| Node { name: peer.name.clone(), address: peer.address.clone() };
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, peer)| (*id, node(peer))).collect(),
        }
    }
}

impl TryFrom<Membership> for types::Membership {
    type Error = codec::Error;

    fn try_from(membership: Membership) -> Result<Self, codec::Error> {
        if membership.configs.is_empty() && membership.nodes.is_empty() {
            return Ok(Self::default());
        }
        let peer = |node: Node| Peer { name: node.name, address: node.address };
        let nodes: BTreeMap<u64, Peer> =
            membership.nodes.into_iter().map(|(id, node)| (id, peer(node))).collect();
        Self::new(membership.configs, nodes)
            .map_err(|e| codec::Error::Decode(format!("a membership that cannot be: {e}")))
    }
}

impl From<&types::Entry> for Entry {
    fn from(entry: &types::Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => Payload::Blank,
            EntryPayload::Normal(command) => Payload::Command {
                request_id: command.request_id,
                time_ms: command.time_ms,
                body: command.body.to_vec(),
            },
            EntryPayload::Membership(membership) => Payload::Membership(membership.into()),
        };
        Self { id: entry.log_id.into(), payload }
    }
}

impl Entry {
    fn into_raft(self) -> Result<types::Entry, codec::Error> {
        let payload = match self.payload {
            Payload::Blank => EntryPayload::Blank,
            Payload::Command { request_id, time_ms, body } => {
                EntryPayload::Normal(Command { request_id, time_ms, body: body.into() })
            }
            Payload::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
        };
        Ok(types::Entry { log_id: self.id.into(), payload })
    }
}

impl SnapshotMeta {
    pub(crate) fn new(meta: &types::SnapshotMeta, time_ms: u64) -> Self {
        Self {
            last: meta.last_log_id.map(Into::into),
            membership_at: meta.last_membership.log_id().map(Into::into),
            membership: meta.last_membership.membership().into(),
            time_ms,
        }
    }

    pub(crate) fn into_raft(self) -> Result<types::SnapshotMeta, codec::Error> {
        let membership = self.membership.try_into()?;
        Ok(types::SnapshotMeta {
            last_log_id: self.last.map(Into::into),
            last_membership: types::StoredMembership::new(
                self.membership_at.map(Into::into),
                membership,
            ),
        })
    }
}

impl From<AppendEntriesRequest<Types>> for Append {
    fn from(request: AppendEntriesRequest<Types>) -> Self {
        Self {
            vote: request.vote.into(),
            previous: request.prev_log_id.map(Into::into),
            entries: request.entries.iter().map(Into::into).collect(),
            committed: request.leader_commit.map(Into::into),
        }
    }
}

impl TryFrom<Append> for AppendEntriesRequest<Types> {
    type Error = codec::Error;

    fn try_from(request: Append) -> Result<Self, codec::Error> {
        Ok(Self {
            vote: request.vote.into(),
            prev_log_id: request.previous.map(Into::into),
            entries: request.entries.into_iter().map(Entry::into_raft).collect::<Result<_, _>>()?,
            leader_commit: request.committed.map(Into::into),
        })
    }
}

impl From<AppendEntriesResponse<Types>> for Appended {
    fn from(answer: AppendEntriesResponse<Types>) -> Self {
        match answer {
            AppendEntriesResponse::Success => Self::All,
            AppendEntriesResponse::PartialSuccess(upto) => Self::Upto(upto.map(Into::into)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<Appended> for AppendEntriesResponse<Types> {
    fn from(answer: Appended) -> Self {
        match answer {
            Appended::All => Self::Success,
            Appended::Upto(upto) => Self::PartialSuccess(upto.map(Into::into)),
            Appended::Conflict => Self::Conflict,
            Appended::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<VoteRequest<Types>> for AskVote {
    fn from(request: VoteRequest<Types>) -> Self {
        Self {
            vote: request.vote.into(),
            last: request.last_log_id.map(Into::into),
            is_transfer: request.leadership_transfer,
        }
    }
}

impl From<AskVote> for VoteRequest<Types> {
    fn from(request: AskVote) -> Self {
        Self {
            vote: request.vote.into(),
            last_log_id: request.last.map(Into::into),
            leadership_transfer: request.is_transfer,
        }
    }
}

impl From<VoteResponse<Types>> for Voted {
    fn from(answer: VoteResponse<Types>) -> Self {
        Self {
            vote: answer.vote.into(),
            is_granted: answer.vote_granted,
            last: answer.last_log_id.map(Into::into),
        }
    }
}

impl From<Voted> for VoteResponse<Types> {
    fn from(answer: Voted) -> Self {
        Self {
            vote: answer.vote.into(),
            vote_granted: answer.is_granted,
            last_log_id: answer.last.map(Into::into),
        }
    }
}

/// Bytes as bytes: serde would take a vector for a sequence and encode each of them by itself.
mod raw {
    use std::fmt;

    use serde::de::{Deserializer, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        struct Raw;

        impl Visitor<'_> for Raw {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Raw)
    }
}

#[cfg(test)]
mod tests;
