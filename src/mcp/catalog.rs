//! The tools of all servers, as one immutable list.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use althing_domain::id::Name;
use althing_domain::money::NanoUsd;
use jsonschema::Validator;
use serde_json::Value;
use serde_json::value::RawValue;

mod build;
mod schema;

pub(crate) use build::{Offer, build};
pub(crate) use schema::Definition;
pub use schema::{ArgumentsInvalid, Hints};

/// A snapshot of what is offered. Never changes: a later state is another snapshot.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Every tool, servers in the order of their creation, tools as their server lists them.
    pub tools: Vec<Arc<ToolEntry>>,
    /// Enabled servers whose tools are not known yet, or whose connection is down.
    pub not_ready: Vec<Name>,
    by_flat: HashMap<Arc<str>, usize>,
    by_policy: HashMap<Arc<str>, usize>,
}

impl Catalog {
    /// Whether `other` offers the same tools in the same order, of the same servers.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.not_ready == other.not_ready
            && self.tools.len() == other.tools.len()
            && self.tools.iter().zip(&other.tools).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// The tool of that name in the flat name space (`server-tool`).
    #[must_use]
    pub fn by_flat(&self, flat: &str) -> Option<&Arc<ToolEntry>> {
        self.by_flat.get(flat).and_then(|at| self.tools.get(*at))
    }

    /// The tool that policy calls `server/tool`.
    #[must_use]
    pub fn by_policy(&self, policy: &str) -> Option<&Arc<ToolEntry>> {
        self.by_policy.get(policy).and_then(|at| self.tools.get(*at))
    }

    /// The tool that `server` itself calls `tool`.
    #[must_use]
    pub fn by_name(&self, server: &str, tool: &str) -> Option<&Arc<ToolEntry>> {
        self.by_policy(&super::names::policy(server, tool))
    }
}

/// One tool of one server.
#[derive(Debug)]
pub struct ToolEntry {
    /// The server.
    pub server: Name,
    /// The tool's name as its server lists it.
    pub name: Arc<str>,
    /// Its name in a flat name space: `server-tool`, fit for `^[a-zA-Z0-9_-]{1,64}$`.
    pub flat: Arc<str>,
    /// Its name in policy: `server/tool`.
    pub policy: Arc<str>,
    /// Its definition, byte for byte as listed.
    pub raw: Arc<RawValue>,
    /// What it says it does. Empty where it says nothing.
    pub description: Arc<str>,
    /// The schema of its arguments.
    pub input_schema: Arc<Value>,
    /// What it says of its effects: hints, not promises.
    pub hints: Hints,
    /// What one call costs.
    pub price: NanoUsd,
    /// Whether Agent Mode may run it without asking.
    pub auto_execute: bool,
    /// Whether it is offered through Code Mode.
    pub code_mode: bool,
    validator: OnceLock<Option<Validator>>,
}

impl ToolEntry {
    /// Whether `arguments` fit the tool's schema.
    ///
    /// A schema that does not compile, refers outside itself or is over its bound checks nothing: that is
    /// logged once, and the server judges.
    ///
    /// # Errors
    ///
    /// [`ArgumentsInvalid`] names the first place that does not fit.
    pub fn validate(&self, arguments: &Value) -> Result<(), ArgumentsInvalid> {
        let validator = self
            .validator
            .get_or_init(|| schema::compile(&self.policy, &self.raw, &self.input_schema));
        validator.as_ref().map_or(Ok(()), |it| schema::check(it, arguments))
    }
}

#[cfg(test)]
mod tests;
