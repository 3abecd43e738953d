//! What may be asked of the law, and how it is written into the log.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::budget::{Ask, BudgetId, Grant};
use crate::digest::{Digest, hex_bytes, hex_u128};
use crate::id::Name;
use crate::money::NanoUsd;
use crate::object::{Kind, Object};
use crate::time::UnixMillis;
use crate::validate::Problem;

/// The version of the encoding that this build writes, and the newest that it reads.
pub const SCHEMA: u16 = 1;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Random, one a request: a command that comes twice is applied once, and answered twice.
    ///
    /// Remembered for the last [`crate::state::REMEMBERED_MAX`] commands that change policy.
    #[serde(with = "hex_u128")]
    pub request_id: u128,
    /// Who asked for it, for the audit: `admin`, `file:/etc/althing.yaml`, `node:3`.
    pub who: String,
    /// What is asked.
    pub op: Op,
}

/// What a [`Command`] does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Creates or replaces one object.
    Put(Put),
    /// Deletes one object.
    Delete(Delete),
    /// Several writes, all or none. They may refer to each other in any order.
    Batch(Vec<Write>),
    /// Gives a virtual key another secret.
    RotateKey {
        /// The key.
        name: Name,
        /// Keyed hash of the new secret.
        hash: Digest,
        /// Until when the old one holds too. Absent: not a moment longer.
        old_valid_until: Option<UnixMillis>,
        /// What must be there.
        #[serde(default, skip_serializing_if = "Expect::is_any")]
        expect: Expect,
    },
    /// Sets the keyed hash of the admin key.
    SetAdminKey {
        /// The hash.
        hash: Digest,
        /// Whether one may be there already.
        expect: Expect,
    },
    /// Stores the cluster's own secrets (HMAC key, data keys), sealed by whoever proposes them. Opaque here.
    SetClusterSecrets {
        /// The sealed bytes.
        #[serde(with = "hex_bytes")]
        sealed: Vec<u8>,
        /// Whether some may be there already.
        expect: Expect,
    },
    /// Stores the OAuth tokens of an MCP server, sealed by whoever proposes them. Opaque here.
    PutOauth {
        /// The server.
        server: Name,
        /// The sealed text.
        sealed: String,
    },
    /// Forgets the OAuth tokens of an MCP server.
    DeleteOauth {
        /// The server.
        server: Name,
    },
    /// What nodes report of their leases and ask for. Many nodes' may be merged into one command.
    LeaseBatch(Vec<NodeAsks>),
    /// The exact end of leases with nothing in flight; refunds what a wrong or late write-off took too much.
    Final {
        /// The node that held them.
        node: u64,
        /// In which of its lives.
        incarnation: u64,
        /// What was spent from each, all in all.
        leases: Vec<FinalLease>,
    },
    /// Takes a node for dead: all that it may still spend counts as spent. May be wrong.
    CloseLease {
        /// The node.
        node: u64,
        /// The last of its lives that is meant.
        incarnation: u64,
    },
    /// Lets time pass.
    Tick,
}

/// A write of policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// As [`Op::Put`].
    Put(Put),
    /// As [`Op::Delete`].
    Delete(Delete),
}

/// Creates or replaces one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The object, its secrets sealed or references.
    pub object: Object,
    /// What must be there.
    pub expect: Expect,
    /// For a virtual key: keyed hash of its secret. Needed for a new one; absent keeps what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Digest>,
}

/// Deletes one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// What must be there. [`Expect::Any`]: nothing there is fine too.
    pub expect: Expect,
}

/// What must be there for a write to happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Anything or nothing.
    #[default]
    Any,
    /// Nothing.
    Absent,
    /// Something.
    Present,
    /// Exactly this version.
    Version(u64),
}

impl Expect {
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// What one node reports and asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAsks {
    /// The node.
    pub node: u64,
    /// Which of its lives; a higher one ends the earlier ones.
    pub incarnation: u64,
    /// One entry a budget.
    pub asks: Vec<Ask>,
}

/// The exact end of one lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalLease {
    /// The budget.
    pub budget: BudgetId,
    /// The window.
    pub epoch: u64,
    /// What was spent, all in all.
    pub used: NanoUsd,
}

/// What one node is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeGrants {
    /// The node.
    pub node: u64,
    /// The life it asked in.
    pub incarnation: u64,
    /// That a later life of it has asked since: nothing was done.
    pub stale: bool,
    /// One entry for each budget asked that exists, in that order.
    pub grants: Vec<Grant>,
    /// Budgets asked that do not exist (any more): nothing may be spent from them.
    pub unknown: Vec<BudgetId>,
}

/// What a command is answered with. A refusal is an answer too: every replica refuses alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The writes were made.
    Written(Vec<Written>),
    /// What nodes may spend.
    Leases(Vec<NodeGrants>),
    /// Leases were closed.
    Closed {
        /// How much was charged for what was outstanding.
        written_off: NanoUsd,
    },
    /// It was done, and there is nothing to tell.
    Done,
    /// Nothing was done.
    Refused(Refusal),
}

/// One write that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Which kind.
    pub kind: Kind,
    /// Which one.
    pub name: Name,
    /// Its id.
    pub id: u64,
    /// Its version from now on; of what was deleted, the last one.
    pub version: u64,
    /// What became of it.
    pub effect: Effect,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is new.
    Created,
    /// It was replaced.
    Updated,
    /// It was like that already; its version stays.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It names what does not exist, or is not fit to be stored. All that is wrong, in a batch by `virtual_keys[name].field`.
    #[error("{}", list(problems))]
    Invalid {
        /// What is wrong.
        problems: Vec<Problem>,
    },
    /// There is one of that name.
    #[error("a {kind} `{name}` exists already: choose another name, or replace it")]
    Exists {
        /// Which kind.
        kind: Kind,
        /// Which one.
        name: Name,
    },
    /// There is none of that name.
    #[error("there is no {kind} `{name}`")]
    NotFound {
        /// Which kind.
        kind: Kind,
        /// Which one.
        name: Name,
    },
    /// Somebody wrote it in between.
    #[error("the {kind} `{name}` has version {found}, not {expected}: read it again, then write")]
    Version {
        /// Which kind.
        kind: Kind,
        /// Which one.
        name: Name,
        /// The version that the writer had seen.
        expected: u64,
        /// The version it has.
        found: u64,
    },
    /// Others refer to it.
    #[error("the {kind} `{name}` is used by {}: change or delete those first", by.join(", "))]
    InUse {
        /// Which kind.
        kind: Kind,
        /// Which one.
        name: Name,
        /// Who refers to it, as `virtual key app`.
        by: Vec<String>,
    },
    /// Another virtual key has the same secret.
    #[error("another virtual key than `{name}` has this value: choose another")]
    CredentialTaken {
        /// The key that was to be written.
        name: Name,
    },
    /// What was to be set for the first time is set.
    #[error("the {what} is set already")]
    AlreadySet {
        /// What.
        what: String,
    },
}

fn list(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Bytes that are no command of this build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Too short to be one.
    #[error("the entry has {bytes} bytes, fewer than its header")]
    Short {
        /// How many there are.
        bytes: usize,
    },
    /// Written by a newer build. Skipping it would fork the state, so the node must stop.
    #[error("the entry has schema {found}, and this build reads up to {SCHEMA}: run a newer build")]
    Schema {
        /// The schema found.
        found: u16,
    },
    /// The schema is known, its body is not.
    #[error("the entry's body does not read")]
    Body(#[source] serde_json::Error),
}

impl Command {
    /// As it is written into the log: the schema (two bytes, little end first), then JSON.
    ///
    /// JSON, because what policy types need of serde (defaults, left-out fields, untagged
    /// forms) does not survive a format that does not describe itself.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "every map has text keys, and no Serialize of ours fails"
    )]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = SCHEMA.to_le_bytes().to_vec();
        serde_json::to_writer(&mut bytes, self).expect("a command is JSON");
        bytes
    }

    /// Reads what [`Command::encode`] wrote, in this build or an older one.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]. None may be skipped over: a replica that cannot read an entry must stop.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((schema, body)) = bytes.split_first_chunk::<2>() else {
            return Err(DecodeError::Short { bytes: bytes.len() });
        };
        match u16::from_le_bytes(*schema) {
            SCHEMA => serde_json::from_slice(body).map_err(DecodeError::Body),
            found => Err(DecodeError::Schema { found }),
        }
    }
}

impl Op {
    /// What it is called, for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
            Self::Batch(_) => "batch",
            Self::RotateKey { .. } => "rotate-key",
            Self::SetAdminKey { .. } => "set-admin-key",
            Self::SetClusterSecrets { .. } => "set-cluster-secrets",
            Self::PutOauth { .. } => "put-oauth",
            Self::DeleteOauth { .. } => "delete-oauth",
            Self::LeaseBatch(_) => "lease-batch",
            Self::Final { .. } => "final",
            Self::CloseLease { .. } => "close-lease",
            Self::Tick => "tick",
        }
    }

    /// Whether a repeat must be told from a first time. What is about leases and time may come twice as it is.
    pub(crate) const fn is_remembered(&self) -> bool {
        match self {
            Self::Put(_)
            | Self::Delete(_)
            | Self::Batch(_)
            | Self::RotateKey { .. }
            | Self::SetAdminKey { .. }
            | Self::SetClusterSecrets { .. }
            | Self::PutOauth { .. }
            | Self::DeleteOauth { .. } => true,
            Self::LeaseBatch(_) | Self::Final { .. } | Self::CloseLease { .. } | Self::Tick => {
                false
            }
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.op.name(), self.who)
    }
}

#[cfg(test)]
mod tests;
