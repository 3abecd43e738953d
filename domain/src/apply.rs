//! What a command does. The same on every replica, to the last bit.
//!
//! Nothing here fails or panics: what cannot be done is refused, and a refusal is an
//! answer that every replica gives alike.

use std::collections::BTreeSet;

use crate::audit::Act;
use crate::budget::BudgetId;
use crate::command::{Command, Effect, Expect, Op, Refusal, Reply, Write, Written};
use crate::digest::Digest;
use crate::id::Name;
use crate::object::Kind;
use crate::state::{Answer, At, Credential, State};
use crate::time::UnixMillis;

mod leases;
mod writes;

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The log index that it took effect at: an earlier one, where it is a repeat.
    pub index: u64,
    /// The answer.
    pub reply: Reply,
    /// What is different now.
    pub changes: Changes,
}

/// What a command changed, for those who keep something that follows from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects that were created, replaced or deleted.
    pub objects: Vec<Change>,
    /// Budgets whose limit, lease or spending is another now.
    pub budgets: BTreeSet<BudgetId>,
    /// MCP servers whose OAuth tokens are others now.
    pub oauth: BTreeSet<Name>,
    /// Whether the admin key is another.
    pub admin_key: bool,
    /// Whether the cluster's secrets are others.
    pub cluster_secrets: bool,
}

/// That an object was created, replaced or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which kind.
    pub kind: Kind,
    /// Which one.
    pub name: Name,
    /// What became of it.
    pub effect: Effect,
}

impl Changes {
    /// Whether nothing is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A command on its way.
struct Applying<'a> {
    state: &'a mut State,
    at: At,
    who: &'a str,
    changes: Changes,
}

impl State {
    /// Applies a command. Costs O(log n) in the size of the state for each object or budget that it names.
    pub fn apply(&mut self, at: At, command: &Command) -> Outcome {
        self.index = at.index;
        self.now = self.now.max(at.time);
        if command.op.is_remembered()
            && let Some(Answer { index, reply }) = self.remembered.get(command.request_id)
        {
            return Outcome { index: *index, reply: reply.clone(), changes: Changes::default() };
        }
        let now = self.now;
        // A write that is refused half way leaves nothing behind.
        let before = command.op.is_remembered().then(|| self.clone());
        let mut applying = Applying {
            state: self,
            at: At { index: at.index, time: now },
            who: &command.who,
            changes: Changes::default(),
        };
        let result = applying.run(&command.op);
        let changes = applying.changes;
        let (reply, changes) = match result {
            Ok(reply) => (reply, changes),
            Err(refusal) => {
                if let Some(before) = before {
                    *self = before;
                }
                (Reply::Refused(refusal), Changes::default())
            }
        };
        if command.op.is_remembered() {
            self.remembered
                .add(command.request_id, Answer { index: at.index, reply: reply.clone() });
        }
        Outcome { index: at.index, reply, changes }
    }

    /// What `command` would do, without doing it.
    #[must_use]
    pub fn dry_run(&self, at: At, command: &Command) -> Outcome {
        self.clone().apply(at, command)
    }
}

impl Applying<'_> {
    fn run(&mut self, op: &Op) -> Result<Reply, Refusal> {
        match op {
            Op::Put(put) => self.write([&Write::Put(put.clone())]),
            Op::Delete(delete) => self.write([&Write::Delete(delete.clone())]),
            Op::Batch(writes) => self.write(writes),
            Op::RotateKey { name, hash, old_valid_until, expect } => {
                self.rotate(name, *hash, *old_valid_until, *expect)
            }
            Op::SetAdminKey { hash, expect } => self.set_admin_key(*hash, *expect),
            Op::SetClusterSecrets { sealed, expect } => self.set_cluster_secrets(sealed, *expect),
            Op::PutOauth { server, sealed } => self.put_oauth(server, sealed),
            Op::DeleteOauth { server } => Ok(self.delete_oauth(server)),
            Op::LeaseBatch(batch) => {
                Ok(Reply::Leases(batch.iter().map(|it| self.lease_batch(it)).collect()))
            }
            Op::Final { node, incarnation, leases } => Ok(self.finish(*node, *incarnation, leases)),
            Op::CloseLease { node, incarnation } => Ok(self.close(*node, *incarnation)),
            Op::Tick => Ok(Reply::Done),
        }
    }

    const fn now(&self) -> UnixMillis {
        self.at.time
    }

    fn audit(&mut self, act: Act) {
        self.state.audit.add((self.at.index, self.at.time), self.who, act);
    }

    fn rotate(
        &mut self,
        name: &Name,
        hash: Digest,
        old_valid_until: Option<UnixMillis>,
        expect: Expect,
    ) -> Result<Reply, Refusal> {
        let kind = Kind::VirtualKey;
        let Some(mut row) = self.state.tables.get(kind, name.as_str()) else {
            return Err(Refusal::NotFound { kind, name: name.clone() });
        };
        writes::check_expected(expect, kind, name, Some(&row))?;
        self.check_credential(name, hash)?;
        let old = self.state.credentials.get(name).cloned();
        let until = |it: &Credential| {
            old_valid_until.map(|end| it.not_after.map_or(end, |earlier| earlier.min(end)))
        };
        let now = self.now();
        let overlapping =
            old.iter().flat_map(|it| it.iter()).filter(|it| it.hash != hash).filter_map(|it| {
                let not_after = until(it).filter(|end| now < *end)?;
                Some(Credential { hash: it.hash, not_after: Some(not_after) })
            });
        let credentials: Vec<_> =
            [Credential { hash, not_after: None }].into_iter().chain(overlapping).collect();
        self.state.set_credentials(name, &credentials);
        row.version = self.at.index;
        row.updated = now;
        let (id, version) = (row.id, row.version);
        self.state.tables.insert(row);
        self.note_object(kind, name, Effect::Updated);
        let note =
            old_valid_until.map(|it| format!("the old value holds until {}", it.to_rfc3339()));
        self.audit(Act {
            action: "rotated",
            kind: kind.route().to_owned(),
            name: name.to_string(),
            note,
            ..Act::default()
        });
        Ok(Reply::Written(vec![Written {
            kind,
            name: name.clone(),
            id,
            version,
            effect: Effect::Updated,
        }]))
    }

    fn note_object(&mut self, kind: Kind, name: &Name, effect: Effect) {
        self.changes.objects.push(Change { kind, name: name.clone(), effect });
    }

    fn check_credential(&self, key: &Name, hash: Digest) -> Result<(), Refusal> {
        match self.state.derived.by_hash.get(&hash) {
            Some(owner) if owner != key => Err(Refusal::CredentialTaken { name: key.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    fn set_admin_key(&mut self, hash: Digest, expect: Expect) -> Result<Reply, Refusal> {
        expect_set(expect, self.state.admin_key.is_some(), "admin key")?;
        self.state.admin_key = Some(hash);
        self.changes.admin_key = true;
        self.audit(Act { action: "set", kind: "admin-key".to_owned(), ..Act::default() });
        Ok(Reply::Done)
    }

    fn set_cluster_secrets(&mut self, sealed: &[u8], expect: Expect) -> Result<Reply, Refusal> {
        expect_set(expect, self.state.cluster_secrets.is_some(), "cluster's secret")?;
        self.state.cluster_secrets = Some(sealed.into());
        self.changes.cluster_secrets = true;
        self.audit(Act { action: "set", kind: "cluster-secrets".to_owned(), ..Act::default() });
        Ok(Reply::Done)
    }

    fn put_oauth(&mut self, server: &Name, sealed: &str) -> Result<Reply, Refusal> {
        let kind = Kind::McpServer;
        if self.state.tables.get(kind, server.as_str()).is_none() {
            return Err(Refusal::NotFound { kind, name: server.clone() });
        }
        // Refreshing a token is no act of a person: only the first one is.
        if self.state.oauth.insert(server.clone(), sealed.into()).is_none() {
            self.audit(Act {
                action: "set",
                kind: "oauth".to_owned(),
                name: server.to_string(),
                ..Act::default()
            });
        }
        self.changes.oauth.insert(server.clone());
        Ok(Reply::Done)
    }

    fn delete_oauth(&mut self, server: &Name) -> Reply {
        if self.state.oauth.remove(server).is_some() {
            self.audit(Act {
                action: "deleted",
                kind: "oauth".to_owned(),
                name: server.to_string(),
                ..Act::default()
            });
            self.changes.oauth.insert(server.clone());
        }
        Reply::Done
    }
}

fn expect_set(expect: Expect, is_set: bool, what: &str) -> Result<(), Refusal> {
    match expect {
        Expect::Absent if is_set => Err(Refusal::AlreadySet { what: what.to_owned() }),
        Expect::Any | Expect::Absent | Expect::Present | Expect::Version(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
