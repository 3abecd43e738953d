//! From a reference to a secret, at the last moment.

use althing_domain::secret::{Form, Secret};
use secrecy::SecretString;

/// Why a secret cannot be had. Never holds any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// No such variable.
    #[error("the environment variable `{0}` is not set on this node")]
    Env(String),
    /// The file cannot be read.
    #[error("the secret file `{path}` cannot be read: {kind}")]
    File {
        /// Which.
        path: String,
        /// What the system says.
        kind: std::io::ErrorKind,
    },
    /// The seal does not open.
    #[error("a sealed secret does not open with this cluster's keys")]
    Sealed,
    /// A value in clear, which must never be in the law.
    #[error("a secret stands in clear; it must be sealed")]
    Clear,
}

/// Opens references.
pub trait Resolver: Send + Sync {
    /// The secret behind `secret`.
    ///
    /// # Errors
    ///
    /// [`Unresolved`] says why there is none.
    fn resolve(&self, secret: &Secret) -> Result<SecretString, Unresolved>;
}

/// Opens what a sealed reference holds.
pub type Opener = Box<dyn Fn(&str) -> Option<SecretString> + Send + Sync>;

/// Resolves from this node's environment and files, and opens seals with the cluster's keys.
pub struct NodeResolver {
    open: Opener,
}

impl NodeResolver {
    /// A resolver that opens seals with `open`.
    #[must_use]
    pub fn new(open: Opener) -> Self {
        Self { open }
    }
}

impl Resolver for NodeResolver {
    fn resolve(&self, secret: &Secret) -> Result<SecretString, Unresolved> {
        match secret.form() {
            Form::Env(name) => althing_config::env::var(name)
                .map(SecretString::from)
                .ok_or_else(|| Unresolved::Env(name.to_owned())),
            Form::File(path) => read_file(path),
            Form::Sealed(sealed) => (self.open)(sealed).ok_or(Unresolved::Sealed),
            Form::Literal(_) => Err(Unresolved::Clear),
        }
    }
}

/// Reads a secret file; one trailing line end is not part of the secret.
fn read_file(path: &str) -> Result<SecretString, Unresolved> {
    let text = std::fs::read_to_string(path)
        .map_err(|it| Unresolved::File { path: path.to_owned(), kind: it.kind() })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    Ok(SecretString::from(text))
}
