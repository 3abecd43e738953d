//! From a reference to a secret, at the last moment.

use althing_domain::secret::{Form, Secret};
use secrecy::SecretString;

/// Why a secret cannot be had. Never holds any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The file is no ordinary one. A pipe could keep the law waiting for ever.
    #[error("the secret file `{path}` is not an ordinary file")]
    NoFile {
        /// Which.
        path: String,
    },
    /// The variable is not set, or the file cannot be read.
    #[error("{0}")]
    Reference(String),
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
            Form::File(path) if is_special(path) => {
                Err(Unresolved::NoFile { path: path.to_owned() })
            }
            Form::Env(_) | Form::File(_) => althing_config::secret_ref::resolve(secret)
                .map_err(|it| Unresolved::Reference(it.to_string())),
            Form::Sealed(sealed) => (self.open)(sealed).ok_or(Unresolved::Sealed),
            Form::Literal(_) => Err(Unresolved::Clear),
        }
    }
}

/// Whether something is there that is neither a file nor a link to one.
fn is_special(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|it| !it.is_file())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_file_is_read_and_what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let resolver = NodeResolver::new(Box::new(|_| None));
        let resolve = |path: &std::path::Path| {
            resolver.resolve(&Secret::new(format!("file:{}", path.display())))
        };
        let (file, link, pipe) =
            (dir.path().join("file"), dir.path().join("link"), dir.path().join("pipe"));
        std::fs::write(&file, "sk-1\n").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        assert_eq!(resolve(&file).expect("reads").expose_secret(), "sk-1");
        assert_eq!(resolve(&link).expect("reads").expose_secret(), "sk-1");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).expect("a pipe");
        for special in [pipe.as_path(), std::path::Path::new("/dev/zero"), dir.path()] {
            assert!(matches!(resolve(special), Err(Unresolved::NoFile { .. })), "{special:?}");
        }
        std::fs::write(&file, "").expect("written");
        assert!(matches!(resolve(&file), Err(Unresolved::Reference(_))), "nothing is no secret");
        assert!(matches!(resolve(&dir.path().join("none")), Err(Unresolved::Reference(_))));
    }
}
