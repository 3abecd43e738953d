//! What the gateway asks of the law.

use std::ops::Bound;
use std::sync::Arc;

use crate::audit::Audit;
use crate::budget::{Account, BudgetId, Level, View};
use crate::digest::Digest;
use crate::id::Name;
use crate::object::{Kind, Object, Policy, Row, Tables};
use crate::pattern::Pattern;
use crate::policy::{Customer, Provider, Team, VirtualKey};
use crate::state::{Credential, State};
use crate::table::Stored;
use crate::time::UnixMillis;

/// A virtual key with those who pay for it.
#[derive(Debug, Clone, Copy)]
pub struct KeyPath<'a> {
    /// The key.
    pub key: &'a Stored<VirtualKey>,
    /// Its team.
    pub team: Option<&'a Stored<Team>>,
    /// Its customer, or its team's.
    pub customer: Option<&'a Stored<Customer>>,
}

/// Whether a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Good,
    /// It, its team or its customer is disabled.
    Disabled(Level),
    /// Its time is over.
    Expired(UnixMillis),
}

impl KeyPath<'_> {
    /// Whether the key may be used at `now`.
    #[must_use]
    pub fn standing(&self, now: UnixMillis) -> Standing {
        if !self.key.spec.enabled {
            return Standing::Disabled(Level::VirtualKey);
        }
        if self.team.is_some_and(|it| !it.spec.enabled) {
            return Standing::Disabled(Level::Team);
        }
        if self.customer.is_some_and(|it| !it.spec.enabled) {
            return Standing::Disabled(Level::Customer);
        }
        // A time that does not read was never valid: the key is closed rather than open for ever.
        let expires_at = self
            .key
            .spec
            .expires_at
            .as_deref()
            .map(|it| UnixMillis::parse_rfc3339(it).unwrap_or_default());
        match expires_at {
            Some(at) if at <= now => Standing::Expired(at),
            Some(_) | None => Standing::Good,
        }
    }

    /// The budgets that every request of the key is charged to: the customer's, the team's, the key's, in this order.
    #[must_use]
    pub fn budgets(&self) -> Vec<BudgetId> {
        let customer = self.customer.iter().flat_map(|it| it.spec.budgets());
        let team = self.team.iter().flat_map(|it| it.spec.budgets());
        customer.chain(team).chain(self.key.spec.own_budgets()).map(|(id, _)| id).collect()
    }

    /// The budgets that a request is charged to besides, by the entry of the key's `providers` that allows it.
    #[must_use]
    pub fn provider_budgets(&self, entry: usize) -> Vec<BudgetId> {
        self.key.spec.provider_budgets(entry).into_iter().map(|(id, _)| id).collect()
    }
}

impl Provider {
    /// The budgets that every request to the provider is charged to.
    #[must_use]
    pub fn budget_ids(&self) -> Vec<BudgetId> {
        self.budgets().into_iter().map(|(id, _)| id).collect()
    }
}

impl State {
    /// The tables of all kinds.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The row of an object.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<Row> {
        self.tables.get(kind, name)
    }

    /// All objects, those that others refer to first, each kind in the order of creation.
    pub fn export(&self) -> impl Iterator<Item = Row> {
        Kind::ALL.iter().flat_map(|kind| self.tables.rows(*kind, 0))
    }

    /// Whether there is no object at all: a file's policy may be proposed.
    #[must_use]
    pub fn is_without_policy(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.tables.len(*kind) == 0)
    }

    /// The key that a secret with this keyed hash belongs to, while it holds.
    #[must_use]
    pub fn key_by_hash(&self, hash: &Digest, now: UnixMillis) -> Option<&Stored<VirtualKey>> {
        let name = self.derived.by_hash.get(hash)?;
        let holds = |it: &&Credential| it.hash == *hash && it.not_after.is_none_or(|end| now < end);
        self.credentials.get(name)?.iter().find(holds)?;
        self.tables.virtual_keys.get(name.as_str())
    }

    /// The hashes of a key's secrets, the current one first.
    #[must_use]
    pub fn credentials(&self, key: &str) -> &[Credential] {
        self.credentials.get(key).map_or(&[], |it| it.as_ref())
    }

    /// A key with those who pay for it.
    #[must_use]
    pub fn path(&self, key: &str) -> Option<KeyPath<'_>> {
        let key = self.tables.virtual_keys.get(key)?;
        let team = key.spec.team.as_ref().and_then(|it| self.tables.teams.get(it.as_str()));
        let customer = team.map_or(key.spec.customer.as_ref(), |it| it.spec.customer.as_ref());
        let customer = customer.and_then(|it| self.tables.customers.get(it.as_str()));
        Some(KeyPath { key, team, customer })
    }

    /// The ledger of a budget.
    #[must_use]
    pub fn account(&self, id: &BudgetId) -> Option<&Account> {
        self.accounts.get(id).map(Arc::as_ref)
    }

    /// A budget as it stands at `now`.
    #[must_use]
    pub fn budget(&self, id: &str, now: UnixMillis) -> Option<View> {
        self.accounts.get(id).map(|it| it.view(self.now.max(now)))
    }

    /// All budgets as they stand at `now`, by id.
    pub fn budgets(&self, now: UnixMillis) -> impl Iterator<Item = View> {
        let now = self.now.max(now);
        self.accounts.values().map(move |it| it.view(now))
    }

    /// Budgets that `node` has an open lease of.
    #[must_use]
    pub fn budgets_of_node(&self, node: u64) -> Vec<BudgetId> {
        let from = Bound::Included((node, BudgetId::from("")));
        let all = self.derived.open_leases.range((from, Bound::Unbounded));
        all.take_while(|(it, _)| *it == node).map(|(_, budget)| budget.clone()).collect()
    }

    /// The latest life in which a node asked for leases.
    #[must_use]
    pub fn incarnation(&self, node: u64) -> Option<u64> {
        self.incarnations.get(&node).copied()
    }

    /// Who refers to an object.
    #[must_use]
    pub fn referrers(&self, kind: Kind, name: &Name) -> Vec<(Kind, Name)> {
        let referrers = self.derived.references.get(&(kind, name.clone()));
        referrers.into_iter().flatten().cloned().collect()
    }

    /// Who names tools of an MCP server. A pattern that leaves the server open names none.
    #[must_use]
    pub fn naming_tools_of(&self, server: &Name) -> Vec<(Kind, Name)> {
        let of_it = |it: &Pattern| it.0.split_once('/').is_some_and(|it| it.0 == server.as_str());
        let groups = self.tables.tool_groups.iter().map(|it| &it.spec);
        let groups = groups
            .filter(|it| it.tools.iter().any(of_it))
            .map(|it| (Kind::ToolGroup, it.name.clone()));
        let keys = self.tables.virtual_keys.iter().map(|it| &it.spec);
        let keys = keys
            .filter(|it| it.tools.iter().any(of_it))
            .map(|it| (Kind::VirtualKey, it.name.clone()));
        groups.chain(keys).collect()
    }

    /// The keyed hash of the admin key.
    #[must_use]
    pub const fn admin_key(&self) -> Option<Digest> {
        self.admin_key
    }

    /// The cluster's own secrets, sealed.
    #[must_use]
    pub fn cluster_secrets(&self) -> Option<&[u8]> {
        self.cluster_secrets.as_deref()
    }

    /// The OAuth tokens of an MCP server, sealed.
    #[must_use]
    pub fn oauth(&self, server: &str) -> Option<&str> {
        self.oauth.get(server).map(Arc::as_ref)
    }

    /// Who changed what.
    #[must_use]
    pub const fn audit(&self) -> &Audit {
        &self.audit
    }
}

impl Row {
    /// The object with what the law knows of it, as the administration shows it: no secrets, `id` and `version` beside the fields.
    ///
    /// # Errors
    ///
    /// As [`Object::to_json`].
    pub fn to_public_json(&self) -> Result<serde_json::Value, serde_json::Error> {
        let mut json = Object::to_public_json(&self.object)?;
        if let Some(fields) = json.as_object_mut() {
            fields.insert("id".to_owned(), self.id.into());
            fields.insert("version".to_owned(), self.version.into());
            fields.insert("created_at".to_owned(), self.created.to_rfc3339().into());
            fields.insert("updated_at".to_owned(), self.updated.to_rfc3339().into());
        }
        Ok(json)
    }
}
