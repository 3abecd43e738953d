//! From a reference to a secret: `env:NAME`, `file:/path`.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use althing_domain::object::Object;
use althing_domain::pattern::Pattern;
use althing_domain::secret::{Form, Secret};
use secrecy::SecretString;

/// The longest file that is taken for a secret.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there is no secret. Never holds one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The variable is not set, or empty.
    #[error("the environment variable {name} is not set: set it, and restart the node")]
    Unset {
        /// Its name.
        name: String,
    },
    /// The file does not read.
    #[error("the file {path} does not read: {source}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no secret.
    #[error("the file {path} is {problem}")]
    Unfit {
        /// Its path.
        path: String,
        /// What it is.
        problem: &'static str,
    },
    /// The node's file does not allow it.
    #[error(
        "`{reference}` may not be referred to over the API: list it under `secrets.allow` in the node's file"
    )]
    NotAllowed {
        /// The reference.
        reference: String,
    },
    /// A sealed value needs the cluster's data key, which is not here.
    #[error("the value is sealed: it is opened by the gateway, not by the configuration")]
    Sealed,
}

/// What may be referred to from outside the node's own file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    patterns: Vec<Pattern>,
    named: BTreeSet<String>,
}

impl AllowList {
    /// The entries of `secrets.allow`.
    #[must_use]
    pub fn new(entries: &[String]) -> Self {
        Self {
            patterns: entries.iter().map(|it| Pattern(it.clone())).collect(),
            named: BTreeSet::new(),
        }
    }

    /// Adds what the node's file itself refers to: whoever wrote that file may.
    #[must_use]
    pub fn with_references_of(mut self, objects: &[Object]) -> Self {
        for object in objects {
            object.clone().visit_secrets(&mut |_, secret| {
                self.named.extend(secret.reference().map(str::to_owned));
            });
            // The value of a virtual key is hashed, not sealed, so it is not among the secrets of its object.
            if let Object::VirtualKey(key) = object {
                let value = key.value.as_ref().and_then(Secret::reference);
                self.named.extend(value.map(str::to_owned));
            }
        }
        self
    }

    /// Whether `reference` may be followed. A path with `..` in it never may, whatever a `*` stands for.
    #[must_use]
    pub fn allows(&self, reference: &str) -> bool {
        if self.named.contains(reference) {
            return true;
        }
        let climbs = reference
            .strip_prefix("file:")
            .is_some_and(|it| Path::new(it).components().any(|part| part == Component::ParentDir));
        !climbs && self.patterns.iter().any(|it| it.matches(reference))
    }

    /// Resolves what came over the API or out of the law.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`], and those of [`resolve`].
    pub fn resolve(&self, secret: &Secret) -> Result<SecretString, Error> {
        match secret.reference() {
            Some(reference) if !self.allows(reference) => {
                Err(Error::NotAllowed { reference: reference.to_owned() })
            }
            Some(_) | None => resolve(secret),
        }
    }
}

/// Resolves what the node's own file says. Reads the environment or a file (blocking, small).
///
/// # Errors
///
/// [`Error`] names the reference, never the value.
pub fn resolve(secret: &Secret) -> Result<SecretString, Error> {
    match secret.form() {
        Form::Env(name) => crate::env::var(name)
            .map(SecretString::from)
            .ok_or_else(|| Error::Unset { name: name.to_owned() }),
        Form::File(path) => read(path),
        Form::Sealed(_) => Err(Error::Sealed),
        Form::Literal(value) => Ok(SecretString::from(value)),
    }
}

fn read(path: &str) -> Result<SecretString, Error> {
    use std::io::Read as _;

    let failed = |source| Error::File { path: path.to_owned(), source };
    let unfit = |problem| Error::Unfit { path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if FILE_BYTES_MAX < u64::try_from(bytes.len()).unwrap_or(u64::MAX) {
        return Err(unfit("longer than 1 MiB: no secret is"));
    }
    let text = String::from_utf8(bytes).map_err(|_| unfit("not UTF-8 text"))?;
    // Editors and `echo` end a file with a line break that is no part of the secret.
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() { Err(unfit("empty")) } else { Ok(SecretString::from(value)) }
}

#[cfg(test)]
mod tests;
