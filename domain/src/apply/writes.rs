//! Policy objects: created, replaced, deleted, one or many at a time.

use std::sync::Arc;

use super::Applying;
use crate::audit::Act;
use crate::budget::Account;
use crate::command::{Delete, Effect, Expect, Put, Refusal, Reply, Write, Written};
use crate::digest::Digest;
use crate::id::Name;
use crate::object::{Kind, Object, Row};
use crate::state::Credential;
use crate::validate::Problem;

impl Applying<'_> {
    /// Makes all `writes`, then looks whether what they name exists and what they delete is not missed.
    pub(super) fn write<'w>(
        &mut self,
        writes: impl IntoIterator<Item = &'w Write>,
    ) -> Result<Reply, Refusal> {
        let mut written = Vec::new();
        let mut problems = Vec::new();
        for write in writes {
            match write {
                Write::Put(put) => written.push(self.put(put, &mut problems)?),
                Write::Delete(delete) => written.extend(self.delete(delete)?),
            }
        }
        for it in &written {
            match it.effect {
                Effect::Deleted => self.check_unused(it.kind, &it.name)?,
                Effect::Created | Effect::Updated => self.check_references(it, &mut problems),
                Effect::Unchanged => {}
            }
        }
        if problems.is_empty() {
            return Ok(Reply::Written(written));
        }
        if let [_] = written.as_slice() {
            // One object: its problems are told from the object's own point of view.
            problems.iter_mut().for_each(|it| {
                it.path = it.path.split_once("].").map_or("", |(_, path)| path).to_owned();
            });
        }
        Err(Refusal::Invalid { problems })
    }

    fn put(&mut self, put: &Put, problems: &mut Vec<Problem>) -> Result<Written, Refusal> {
        let (kind, name) = (put.object.kind(), put.object.name().clone());
        let old = self.state.tables.get(kind, name.as_str());
        check_expected(put.expect, kind, &name, old.as_ref())?;
        let object = without_value(&put.object);
        let place = place(kind, &name);
        for path in object.literal_secrets() {
            problems.push(Problem::new(
                format!("{place}.{path}"),
                "a value must be sealed before it is proposed",
            ));
        }
        let credential_changed = match (kind, put.credential) {
            (Kind::VirtualKey, Some(hash)) => self.put_credential(&name, hash)?,
            (Kind::VirtualKey, None) if old.is_none() => {
                problems.push(Problem::new(format!("{place}.value"), "a new key needs a value"));
                false
            }
            _ => false,
        };
        if let Some(old) = &old
            && old.object == object
            && !credential_changed
        {
            return Ok(Written {
                kind,
                name,
                id: old.id,
                version: old.version,
                effect: Effect::Unchanged,
            });
        }
        Ok(self.store(old.as_ref(), object, credential_changed))
    }

    fn store(&mut self, old: Option<&Row>, object: Object, credential_changed: bool) -> Written {
        let (kind, name) = (object.kind(), object.name().clone());
        let (now, version) = (self.now(), self.at.index);
        let (id, created) = old.map_or_else(
            || {
                self.state.last_id += 1;
                (self.state.last_id, now)
            },
            |it| (it.id, it.created),
        );
        if let Some(old) = old {
            self.state.unlink(old);
        }
        self.sync_accounts(old.map(|it| &it.object), Some(&object));
        let effect = if old.is_some() { Effect::Updated } else { Effect::Created };
        let note = (credential_changed && old.is_some()).then(|| "with another value".to_owned());
        self.audit(Act {
            action: if old.is_some() { "updated" } else { "created" },
            kind: kind.route().to_owned(),
            name: name.to_string(),
            before: old.map(|it| digest(&it.object)),
            after: Some(digest(&object)),
            note,
        });
        let row = Row { id, version, created, updated: now, object };
        self.state.restore_row(row);
        self.note_object(kind, &name, effect);
        Written { kind, name, id, version, effect }
    }

    fn delete(&mut self, delete: &Delete) -> Result<Option<Written>, Refusal> {
        let Delete { kind, name, expect } = delete;
        let old = self.state.tables.get(*kind, name.as_str());
        check_expected(*expect, *kind, name, old.as_ref())?;
        let Some(old) = old else { return Ok(None) };
        self.state.unlink(&old);
        self.sync_accounts(Some(&old.object), None);
        match kind {
            Kind::VirtualKey => self.state.set_credentials(name, &[]),
            Kind::McpServer => {
                if self.state.oauth.remove(name).is_some() {
                    self.changes.oauth.insert(name.clone());
                }
            }
            Kind::Provider | Kind::ToolGroup | Kind::Customer | Kind::Team => {}
        }
        self.state.tables.remove(*kind, name.as_str());
        self.audit(Act {
            action: "deleted",
            kind: kind.route().to_owned(),
            name: name.to_string(),
            before: Some(digest(&old.object)),
            ..Act::default()
        });
        self.note_object(*kind, name, Effect::Deleted);
        let (name, effect) = (name.clone(), Effect::Deleted);
        Ok(Some(Written { kind: *kind, name, id: old.id, version: old.version, effect }))
    }

    /// Whether the key has another value now. The one it has is no change, also while an older one overlaps.
    fn put_credential(&mut self, name: &Name, hash: Digest) -> Result<bool, Refusal> {
        self.check_credential(name, hash)?;
        let current = self.state.credentials.get(name).and_then(|it| it.first());
        if current.is_some_and(|it| it.hash == hash) {
            return Ok(false);
        }
        self.state.set_credentials(name, &[Credential { hash, not_after: None }]);
        Ok(true)
    }

    /// Gives each budget of an object its account, and takes away those of budgets that are gone.
    fn sync_accounts(&mut self, old: Option<&Object>, new: Option<&Object>) {
        let kept = new.map(|it| it.policy().budgets()).unwrap_or_default();
        for (id, _) in old.map(|it| it.policy().budgets()).unwrap_or_default() {
            if kept.iter().any(|(it, _)| *it == id) {
                continue;
            }
            if let Some(account) = self.state.accounts.remove(&id) {
                for node in account.open_nodes() {
                    self.state.derived.open_leases.remove(&(node, id.clone()));
                }
            }
            self.changes.budgets.insert(id);
        }
        let (now, index) = (self.now(), self.at.index);
        for (id, budget) in kept {
            let account = match self.state.accounts.get(&id) {
                Some(account)
                    if account.limit() == budget.limit_usd && account.mode() == budget.mode =>
                {
                    continue;
                }
                Some(account) => {
                    let mut account = Account::clone(account);
                    account.amend(budget);
                    account
                }
                None => Account::new(id.clone(), budget, index, now),
            };
            self.state.accounts.insert(id.clone(), Arc::new(account));
            self.changes.budgets.insert(id);
        }
    }

    fn check_references(&self, written: &Written, problems: &mut Vec<Problem>) {
        let Some(row) = self.state.tables.get(written.kind, written.name.as_str()) else { return };
        for it in row.object.policy().references() {
            if self.state.tables.get(it.kind, it.name.as_str()).is_none() {
                problems.push(it.missing().within(&place(written.kind, &written.name)));
            }
        }
    }

    fn check_unused(&self, kind: Kind, name: &Name) -> Result<(), Refusal> {
        if self.state.tables.get(kind, name.as_str()).is_some() {
            // Deleted and made again in one batch.
            return Ok(());
        }
        let mut by = self.state.referrers(kind, name);
        if kind == Kind::McpServer {
            by.extend(self.state.naming_tools_of(name));
        }
        if by.is_empty() {
            return Ok(());
        }
        let by = by.into_iter().map(|(kind, name)| format!("{kind} {name}")).collect();
        Err(Refusal::InUse { kind, name: name.clone(), by })
    }
}

fn place(kind: Kind, name: &Name) -> String {
    format!("{}[{name}]", kind.field())
}

/// The secret of a key never enters the state; its hash does.
fn without_value(object: &Object) -> Object {
    match object {
        Object::VirtualKey(key) if key.value.is_some() => {
            let mut key = key.as_ref().clone();
            key.value = None;
            key.into()
        }
        Object::VirtualKey(_)
        | Object::Provider(_)
        | Object::McpServer(_)
        | Object::ToolGroup(_)
        | Object::Customer(_)
        | Object::Team(_) => object.clone(),
    }
}

fn digest(object: &Object) -> Digest {
    let json = object.to_json_text().unwrap_or_default();
    Digest::of(&[json.as_bytes()])
}

pub(super) fn check_expected(
    expect: Expect,
    kind: Kind,
    name: &Name,
    found: Option<&Row>,
) -> Result<(), Refusal> {
    match (expect, found) {
        (Expect::Absent, Some(_)) => Err(Refusal::Exists { kind, name: name.clone() }),
        (Expect::Present | Expect::Version(_), None) => {
            Err(Refusal::NotFound { kind, name: name.clone() })
        }
        (Expect::Version(expected), Some(row)) if row.version != expected => {
            Err(Refusal::Version { kind, name: name.clone(), expected, found: row.version })
        }
        (Expect::Any | Expect::Absent | Expect::Present | Expect::Version(_), _) => Ok(()),
    }
}
