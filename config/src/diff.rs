//! What differs: a file's policy from the law, one node's settings from its file's.

use std::collections::BTreeMap;
use std::fmt;

use althing_domain::id::Name;
use althing_domain::object::{Kind, Object, SecretPath};
use althing_domain::secret::Secret;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What would change if a file were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Diff {
    /// In the file, not in the law.
    pub added: Vec<Entry>,
    /// In both, and not the same.
    pub changed: Vec<Changed>,
    /// In the law, not in the file.
    pub removed: Vec<Entry>,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Entry {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
}

/// An object that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Changed {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// Its fields that are not the same.
    pub fields: Vec<Field>,
}

/// A field that is not the same. Secrets are shown as their reference, or as `{"set": true}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Field {
    /// Its path.
    pub path: String,
    /// As it is. Null: not there.
    pub before: Value,
    /// As it would be. Null: not there.
    pub after: Value,
}

/// Compares secrets that only their owner can: a value of the file with a sealed one or a hash of the law.
pub trait Secrets {
    /// Whether a value in the file is the same as what the law holds in that place.
    fn is_same(&self, place: &Place<'_>, file: &Secret, law: &Secret) -> bool;
    /// Whether a virtual key's value is the one that the law holds a hash of.
    fn is_same_key(&self, key: &Name, file: &Secret) -> bool;
}

/// Where a secret is.
#[derive(Debug)]
pub struct Place<'a> {
    /// The kind of its object.
    pub kind: Kind,
    /// The name of its object.
    pub name: &'a Name,
    /// Where in the object.
    pub path: &'a SecretPath,
}

/// For who cannot open sealed values: they are taken to be the same.
#[derive(Debug, Clone, Copy)]
pub struct Unopened;

impl Secrets for Unopened {
    fn is_same(&self, _: &Place<'_>, file: &Secret, law: &Secret) -> bool {
        match (file.reference(), law.reference()) {
            (None, None) => true,
            (file, law) => file == law,
        }
    }

    fn is_same_key(&self, _: &Name, _: &Secret) -> bool {
        true
    }
}

/// What applying `file` to `law` would change.
#[must_use]
pub fn diff(file: &[Object], law: impl IntoIterator<Item = Object>, secrets: &dyn Secrets) -> Diff {
    let mut law: BTreeMap<(Kind, Name), Object> =
        law.into_iter().map(|it| ((it.kind(), it.name().clone()), it)).collect();
    let mut diff = Diff::default();
    for new in file {
        let (kind, name) = (new.kind(), new.name().clone());
        match law.remove(&(kind, name.clone())) {
            None => diff.added.push(Entry { kind, name }),
            Some(old) => {
                let fields = object_fields(&old, new, secrets);
                if !fields.is_empty() {
                    diff.changed.push(Changed { kind, name, fields });
                }
            }
        }
    }
    // Those that refer to others go first.
    diff.removed = law.into_keys().rev().map(|(kind, name)| Entry { kind, name }).collect();
    diff
}

/// The fields in which `new` is another than `old`.
fn object_fields(old: &Object, new: &Object, secrets: &dyn Secrets) -> Vec<Field> {
    let mut fields = Vec::new();
    let json = |it: &Object| it.to_public_json().unwrap_or_default();
    let (mut before, mut after) = (json(old), json(new));
    let old_secrets = secrets_of(old);
    for (path, secret) in secrets_of(new) {
        let Some((_, was)) = old_secrets.iter().find(|(it, _)| *it == path) else { continue };
        let place = Place { kind: new.kind(), name: new.name(), path: &path };
        if secrets.is_same(&place, &secret, was) {
            // However each is written.
            path.replace(&mut before, json!({ "set": true }));
            path.replace(&mut after, json!({ "set": true }));
        } else if secret.reference().is_none() && was.reference().is_none() {
            fields.push(Field {
                path: path.to_string().replace('/', "."),
                before: json!({ "set": true }),
                after: json!({ "set": true, "changed": true }),
            });
        }
    }
    if let Object::VirtualKey(key) = new
        && let Some(value) = &key.value
        && !secrets.is_same_key(&key.name, value)
    {
        fields.push(Field {
            path: "value".to_owned(),
            before: json!({ "set": true }),
            after: json!({ "set": true, "changed": true }),
        });
    }
    compare("", &before, &after, &mut fields);
    fields
}

fn secrets_of(object: &Object) -> Vec<(SecretPath, Secret)> {
    let mut found = Vec::new();
    object.clone().visit_secrets(&mut |path, secret| found.push((path, secret.clone())));
    found
}

/// Settings of the node that differ, by path: a running node's (`Config::settings`) and its file's.
#[must_use]
pub fn settings(running: &Map<String, Value>, file: &Map<String, Value>) -> Vec<Field> {
    let mut fields = Vec::new();
    compare("", &Value::Object(running.clone()), &Value::Object(file.clone()), &mut fields);
    fields
}

fn compare(path: &str, before: &Value, after: &Value, fields: &mut Vec<Field>) {
    if before == after {
        return;
    }
    let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) if !is_secret(before) && !is_secret(after) => {
            for (key, old) in old {
                compare(&at(key), old, new.get(key).unwrap_or(&Value::Null), fields);
            }
            for (key, new) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                compare(&at(key), &Value::Null, new, fields);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&format!("{path}[{index}]"), old, new, fields);
            }
        }
        _ => fields.push(Field {
            path: path.to_owned(),
            before: before.clone(),
            after: after.clone(),
        }),
    }
}

fn is_secret(value: &Value) -> bool {
    value.get("set").is_some()
}

impl Diff {
    /// Whether nothing would change.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { kind, name } in &self.added {
            writeln!(f, "+ {kind} {name}")?;
        }
        for Changed { kind, name, fields } in &self.changed {
            writeln!(f, "~ {kind} {name}")?;
            for field in fields {
                writeln!(f, "    {field}")?;
            }
        }
        for Entry { kind, name } in &self.removed {
            writeln!(f, "- {kind} {name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.path, self.before, self.after)
    }
}

#[cfg(test)]
mod tests;
