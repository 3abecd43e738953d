//! From a reference to a secret, at the last moment.

use althing_domain::object::Kind;
use althing_domain::secret::{Form, Secret};
use althing_storage::seal::{self, DataKey};
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
    #[error(
        "a sealed secret does not open here: it was sealed by another cluster, or for another place"
    )]
    Sealed,
    /// A value in clear, which must never be in the law.
    #[error("a secret stands in clear; it must be sealed")]
    Clear,
}

/// Where in the law a secret stands. What is sealed for one place opens at no other, so that whoever may write policy cannot
/// have a secret sent elsewhere by moving it to an object of their own.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The kind of the object.
    pub kind: Kind,
    /// Its name. Not its id: an object that is made again from an export may have its secrets again.
    pub name: &'a str,
    /// The way to the secret in it, as [`althing_domain::object::SecretPath`] is shown.
    pub field: &'a str,
}

/// What secrets of policy are for: no other sealed value of the cluster passes for one.
const PURPOSE: &str = "althing policy secret 1";

impl Place<'_> {
    /// Seals `value` for this place.
    ///
    /// # Errors
    ///
    /// Where the cryptographic library fails.
    pub fn seal(&self, key: &DataKey, value: &str) -> Result<String, seal::Error> {
        let parts = [self.kind.field(), self.name, self.field];
        key.seal(value.as_bytes(), &seal::Place { purpose: PURPOSE, parts: &parts })
    }

    /// Opens what was sealed for this place, or by an earlier build for any.
    #[must_use]
    pub fn open(&self, key: &DataKey, sealed: &str) -> Option<SecretString> {
        let parts = [self.kind.field(), self.name, self.field];
        let opened = key.open(sealed, &seal::Place { purpose: PURPOSE, parts: &parts }).ok()?;
        std::str::from_utf8(&opened).ok().map(SecretString::from)
    }
}

/// Opens references.
pub trait Resolver: Send + Sync {
    /// The secret behind `secret`, which stands at `place`.
    ///
    /// # Errors
    ///
    /// [`Unresolved`] says why there is none.
    fn resolve(&self, secret: &Secret, place: &Place<'_>) -> Result<SecretString, Unresolved>;
}

/// Opens what a sealed reference holds at a place.
pub type Opener = Box<dyn Fn(&str, &Place<'_>) -> Option<SecretString> + Send + Sync>;

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
    fn resolve(&self, secret: &Secret, place: &Place<'_>) -> Result<SecretString, Unresolved> {
        match secret.form() {
            Form::File(path) if is_special(path) => {
                Err(Unresolved::NoFile { path: path.to_owned() })
            }
            Form::Env(_) | Form::File(_) => althing_config::secret_ref::resolve(secret)
                .map_err(|it| Unresolved::Reference(it.to_string())),
            Form::Sealed(sealed) => (self.open)(sealed, place).ok_or(Unresolved::Sealed),
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
    fn a_sealed_secret_opens_at_its_place_alone() {
        let kek = seal::Kek::from_bytes(&[3; 32]).expect("a secret");
        let (key, _) = kek.create_data_key().expect("a key");
        let place = Place { kind: Kind::Provider, name: "openai", field: "keys/main/value" };
        let sealed = place.seal(&key, "sk-vendor").expect("sealed");
        let opened =
            |place: &Place<'_>| place.open(&key, &sealed).map(|it| it.expose_secret().to_owned());
        assert_eq!(opened(&place).as_deref(), Some("sk-vendor"));
        for other in [
            Place { kind: Kind::McpServer, ..place },
            Place { name: "mine", ..place },
            Place { field: "keys/other/value", ..place },
            Place { field: "headers/main", ..place },
        ] {
            assert_eq!(opened(&other), None, "{other:?}");
        }
    }

    #[test]
    fn what_earlier_builds_sealed_opens_at_any_place() {
        // A data key under a cluster secret of sevens, and what was sealed with it when seals were bound to their use alone.
        let wrapped =
            "Aedtd5y/ZjJ1YtEyZcX92LRz+lvxbHDlGjBwJsJM8qYKx4xX4M/b/5cFwBAGSeFfAfJN7lbMH7YQ5cpiwQ";
        let sealed = "AUnaYfeaRucDv1iDZClkRQJ2SmqNgunvXagIt05r8S07qrfCt2g";
        let kek = seal::Kek::from_bytes(&[7; 32]).expect("a secret");
        let key = kek.unwrap_data_key(wrapped).expect("a key");
        let place = Place { kind: Kind::Provider, name: "openai", field: "keys/main/value" };
        let opened = place.open(&key, sealed).expect("opens");
        assert_eq!(opened.expose_secret(), "sk-vendor");
    }

    #[test]
    fn a_file_is_read_and_what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let resolver = NodeResolver::new(Box::new(|_, _| None));
        let place = Place { kind: Kind::Provider, name: "p", field: "ca" };
        let resolve = |path: &std::path::Path| {
            resolver.resolve(&Secret::new(format!("file:{}", path.display())), &place)
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
