//! The registry of policy objects. A new kind is one file in `policy/` and one line here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::budget::BudgetId;
use crate::id::Name;
use crate::policy::{Budget, Customer, McpServer, Provider, Team, ToolGroup, VirtualKey};
use crate::secret::Secret;
use crate::table::Table;
use crate::validate::{Problem, Report};

mod secrets;

pub use secrets::{SecretPath, Segment};

/// What every policy object can say about itself.
pub trait Policy {
    /// Its name, unique within its kind.
    fn name(&self) -> &Name;
    /// Tells `report` what is wrong with it by itself.
    fn check(&self, report: &mut Report<'_>);
    /// The other objects that must exist for this one to.
    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }
    /// Its budgets and their ids.
    fn budgets(&self) -> Vec<(BudgetId, &Budget)> {
        Vec::new()
    }
    /// Calls `visit` with each secret in it and where that is.
    fn secrets(&mut self, visit: &mut dyn FnMut(SecretPath, &mut Secret)) {
        let _ = visit;
    }
    /// The same, but with the parts that `like` has equal shared with it, so that they are in memory once.
    fn sharing(self: Arc<Self>, like: &Self) -> Arc<Self>
    where
        Self: Sized,
    {
        let _ = like;
        self
    }
}

/// That an object names another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The field that names it, from the object.
    pub path: String,
    /// The kind of the other.
    pub kind: Kind,
    /// The name of the other.
    pub name: Name,
}

impl Reference {
    /// The problem it is that there is no such object.
    #[must_use]
    pub fn missing(&self) -> Problem {
        let Self { path, kind, name } = self;
        Problem::new(
            path,
            format!("there is no {kind} `{name}`: create it first, or name one that exists"),
        )
    }
}

macro_rules! policy_objects {
    ($($variant:ident, $field:ident, $route:literal, $one:literal;)+) => {
        /// A kind of policy object.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Kind {
            $(#[doc = $one] #[serde(rename = $route)] $variant,)+
        }

        impl Kind {
            /// Every kind, those that others refer to first.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in a route: `virtual-keys`.
            #[must_use]
            pub const fn route(self) -> &'static str {
                match self { $(Self::$variant => $route),+ }
            }

            /// Its name in a file: `virtual_keys`.
            #[must_use]
            pub const fn field(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field)),+ }
            }

            /// What one of them is called: `virtual key`.
            #[must_use]
            pub const fn singular(self) -> &'static str {
                match self { $(Self::$variant => $one),+ }
            }

            /// The JSON schema of one of them.
            pub fn schema(self, generator: &mut SchemaGenerator) -> Schema {
                match self { $(Self::$variant => generator.subschema_for::<$variant>()),+ }
            }
        }

        /// A policy object of any kind. Cheap to clone.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Object {
            $(#[doc = $one] #[serde(rename = $route)] $variant(Arc<$variant>),)+
        }

        impl Object {
            /// Its kind.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$variant(_) => Kind::$variant),+ }
            }

            /// What it can say about itself.
            #[must_use]
            pub fn policy(&self) -> &dyn Policy {
                match self { $(Self::$variant(it) => it.as_ref()),+ }
            }

            fn policy_mut(&mut self) -> &mut dyn Policy {
                match self { $(Self::$variant(it) => {
                    let it: &mut $variant = Arc::make_mut(it);
                    it
                })+ }
            }

            /// Reads one of `kind`.
            ///
            /// # Errors
            ///
            /// The deserializer's, where fields are wrong, unknown or missing.
            pub fn deserialize_as<'de, D: Deserializer<'de>>(kind: Kind, from: D) -> Result<Self, D::Error> {
                match kind { $(Kind::$variant => $variant::deserialize(from).map(Self::from)),+ }
            }

            /// Its JSON, as it is stored and exported: references and sealed values, no kind.
            ///
            /// # Errors
            ///
            /// None for a valid object: all keys are strings.
            pub fn to_json(&self) -> Result<Value, serde_json::Error> {
                match self { $(Self::$variant(it) => serde_json::to_value(it)),+ }
            }

            /// The same as text, written at once.
            ///
            /// # Errors
            ///
            /// As [`Object::to_json`].
            pub(crate) fn to_json_text(&self) -> Result<String, serde_json::Error> {
                match self { $(Self::$variant(it) => serde_json::to_string(it)),+ }
            }
        }

        $(impl From<$variant> for Object {
            fn from(it: $variant) -> Self {
                Self::$variant(Arc::new(it))
            }
        })+

        /// The tables of all kinds.
        #[derive(Debug, Clone, Default)]
        pub struct Tables {
            $(#[doc = "All of this kind."] pub $field: Table<$variant>,)+
        }

        impl Tables {
            /// The row of `name`, of whatever kind.
            #[must_use]
            pub fn get(&self, kind: Kind, name: &str) -> Option<Row> {
                match kind { $(Kind::$variant => self.$field.get(name).map(Row::from)),+ }
            }

            /// The rows of a kind in the order of their creation, after the one with id `after`.
            #[must_use]
            pub fn rows(&self, kind: Kind, after: u64) -> Box<dyn Iterator<Item = Row> + '_> {
                match kind { $(Kind::$variant => Box::new(self.$field.iter_after(after).map(Row::from))),+ }
            }

            /// How many there are of a kind.
            #[must_use]
            pub fn len(&self, kind: Kind) -> usize {
                match kind { $(Kind::$variant => self.$field.len()),+ }
            }

            pub(crate) fn insert(&mut self, row: Row) {
                match row.object { $(Object::$variant(spec) => self.$field.insert(
                    crate::table::Stored { id: row.id, version: row.version, created: row.created, updated: row.updated, spec }
                )),+ }
            }

            pub(crate) fn remove(&mut self, kind: Kind, name: &str) {
                match kind { $(Kind::$variant => self.$field.remove(name)),+ }
            }
        }

        $(impl From<&crate::table::Stored<$variant>> for Row {
            fn from(it: &crate::table::Stored<$variant>) -> Self {
                Self { id: it.id, version: it.version, created: it.created, updated: it.updated, object: Object::$variant(Arc::clone(&it.spec)) }
            }
        })+
    };
}

// Those that others refer to come first: a file is proposed in this order.
policy_objects! {
    Provider, providers, "providers", "provider";
    McpServer, mcp_servers, "mcp-servers", "MCP server";
    ToolGroup, tool_groups, "tool-groups", "tool group";
    Customer, customers, "customers", "customer";
    Team, teams, "teams", "team";
    VirtualKey, virtual_keys, "virtual-keys", "virtual key";
}

/// A stored object of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Unique over all kinds and for ever; grows in the order of creation.
    pub id: u64,
    /// Log index of the last write.
    pub version: u64,
    /// When it was created.
    pub created: crate::time::UnixMillis,
    /// When it was last written.
    pub updated: crate::time::UnixMillis,
    /// The object.
    pub object: Object,
}

impl Object {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.policy().name()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.singular())
    }
}

/// A text that names no kind of policy object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such kind of object: it is one of providers, mcp-servers, tool-groups, customers, teams, virtual-keys"
)]
pub struct UnknownKind;

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().find(|it| it.route() == text).copied().ok_or(UnknownKind)
    }
}

#[cfg(test)]
mod tests;
