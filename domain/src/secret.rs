//! References to secrets. A policy object never holds a secret in clear.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The prefix of a value sealed by the cluster's data key.
pub const SEALED_PREFIX: &str = "sealed:";

/// A secret as policy names it: `env:NAME`, `file:/path`, `sealed:…`, or on input only a literal value.
///
/// A literal is sealed before it is proposed, so the log, snapshots and disks never
/// hold one. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// What a [`Secret`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// The name of an environment variable on the node.
    Env(&'a str),
    /// A file on the node.
    File(&'a str),
    /// Base64 of a sealed value.
    Sealed(&'a str),
    /// The value itself. Only between a caller and the sealing of it.
    Literal(&'a str),
}

impl Secret {
    /// Wraps what was written.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What it is.
    #[must_use]
    pub fn form(&self) -> Form<'_> {
        if let Some(name) = self.0.strip_prefix("env:") {
            Form::Env(name)
        } else if let Some(path) = self.0.strip_prefix("file:") {
            Form::File(path)
        } else if let Some(sealed) = self.0.strip_prefix(SEALED_PREFIX) {
            Form::Sealed(sealed)
        } else {
            Form::Literal(&self.0)
        }
    }

    /// The reference where it is one (`env:`, `file:`); `None` where a value lies behind it.
    #[must_use]
    pub fn reference(&self) -> Option<&str> {
        match self.form() {
            Form::Env(_) | Form::File(_) => Some(&self.0),
            Form::Sealed(_) | Form::Literal(_) => None,
        }
    }

    /// Whether the value itself is in here, and so must be sealed before it goes anywhere.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        matches!(self.form(), Form::Literal(_))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reference().unwrap_or("[secret]"))
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "writeOnly": true,
            "description": "`env:NAME`, `file:/path`, or the value itself, which is sealed before it is stored and never shown again"
        })
    }
}
