//! Names and identifiers. Each kind is a type of its own.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest name a policy object may have, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest name of an MCP server or tool group, in bytes.
pub const SERVER_NAME_BYTES_MAX: usize = 32;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("a name has at most {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// A character that is not allowed.
    #[error("`{found}` is not allowed in a name; use letters, digits, `.`, `_`, `-` or `@`")]
    Character {
        /// The first such character.
        found: char,
    },
    /// Servers and groups split `server-tool` one way only.
    #[error(
        "must match ^[a-zA-Z][a-zA-Z0-9_]{{0,31}}$ (no hyphen, so that `server-tool` splits one way)"
    )]
    Server,
}

/// The name of a policy object, unique within its kind.
///
/// Cheap to clone: it is shared, never copied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "The name of a policy object, unique within its kind; of MCP servers and tool groups: ^[a-zA-Z][a-zA-Z0-9_]{0,31}$.",
            "pattern": "^[A-Za-z0-9._@-]{1,128}$"
        })
    }
}

impl Name {
    /// Wraps `text` without checking it; [`Name::check`] says whether it is one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    #[must_use]
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Whether this may name a provider, customer, team or virtual key.
    ///
    /// # Errors
    ///
    /// [`NameError`] says what is wrong with it.
    pub fn check(&self) -> Result<(), NameError> {
        if self.0.is_empty() {
            return Err(NameError::Empty);
        }
        if NAME_BYTES_MAX < self.0.len() {
            return Err(NameError::TooLong { max: NAME_BYTES_MAX });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
        match self.0.chars().find(|c| !allowed(*c)) {
            Some(found) => Err(NameError::Character { found }),
            None => Ok(()),
        }
    }

    /// Whether this may name an MCP server or a tool group: `^[a-zA-Z][a-zA-Z0-9_]{0,31}$`.
    ///
    /// # Errors
    ///
    /// [`NameError::Server`].
    pub fn check_server(&self) -> Result<(), NameError> {
        let mut chars = self.0.chars();
        let head = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
        let tail = chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if head && tail && self.0.len() <= SERVER_NAME_BYTES_MAX {
            Ok(())
        } else {
            Err(NameError::Server)
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}
