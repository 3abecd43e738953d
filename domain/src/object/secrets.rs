//! Where secrets lie in an object, so that they can be sealed, hidden and kept.

use std::fmt;

use serde_json::{Value, json};

use super::Object;
use crate::secret::Secret;

/// The way to a secret within its object: `keys/main/value`.
///
/// List items are named, not counted: a list that was reordered still finds its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPath(pub Vec<Segment>);

/// A step of a [`SecretPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// A field, or an entry of a map.
    Field(String),
    /// The item of a list whose `name` is this.
    Named(String),
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Segment::Field(text) | Segment::Named(text)) in self.0.iter().enumerate() {
            write!(f, "{}{text}", if index == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}

impl SecretPath {
    pub(crate) fn field(name: &str) -> Self {
        Self(vec![Segment::Field(name.to_owned())])
    }

    pub(crate) fn then_field(mut self, name: &str) -> Self {
        self.0.push(Segment::Field(name.to_owned()));
        self
    }

    pub(crate) fn then_named(mut self, name: &str) -> Self {
        self.0.push(Segment::Named(name.to_owned()));
        self
    }

    /// Puts `new` in the place of the secret in an object's JSON, where it has one.
    pub fn replace(&self, json: &mut Value, new: Value) {
        if let Some(place) = self.find(json) {
            *place = new;
        }
    }

    fn find<'a>(&self, mut value: &'a mut Value) -> Option<&'a mut Value> {
        for segment in &self.0 {
            value = match segment {
                Segment::Field(name) => value.as_object_mut()?.get_mut(name)?,
                Segment::Named(name) => value
                    .as_array_mut()?
                    .iter_mut()
                    .find(|it| it.get("name").and_then(Value::as_str) == Some(name.as_str()))?,
            };
        }
        Some(value)
    }
}

impl Object {
    /// Calls `visit` with each secret and where it is; the caller may replace it, as sealing does.
    pub fn visit_secrets(&mut self, visit: &mut dyn FnMut(SecretPath, &mut Secret)) {
        self.policy_mut().secrets(visit);
    }

    /// Where values lie that were not sealed. Such an object must not be proposed.
    #[must_use]
    pub fn literal_secrets(&self) -> Vec<SecretPath> {
        let mut found = Vec::new();
        self.clone().visit_secrets(&mut |path, secret| {
            if secret.is_literal() {
                found.push(path);
            }
        });
        found
    }

    /// Its JSON as answers show it: a reference stays, a value becomes `{"set": true}`.
    ///
    /// # Errors
    ///
    /// As [`Object::to_json`].
    pub fn to_public_json(&self) -> Result<Value, serde_json::Error> {
        let mut json = self.to_json()?;
        self.clone().visit_secrets(&mut |path, secret| {
            if secret.reference().is_none()
                && let Some(place) = path.find(&mut json)
            {
                *place = json!({ "set": true });
            }
        });
        Ok(json)
    }

    /// Puts the secrets of `self` back where `json` says `{"set": true}`, so that what was read can be written back.
    pub fn keep_secrets(&self, json: &mut Value) {
        self.clone().visit_secrets(&mut |path, secret| {
            if let Some(place) = path.find(json)
                && *place == json!({ "set": true })
                && let Ok(kept) = serde_json::to_value(&*secret)
            {
                *place = kept;
            }
        });
    }
}
