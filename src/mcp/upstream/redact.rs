//! Taking secrets out of what a server says: it may repeat what it was given.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// The shortest secret that is looked for: shorter ones stand in ordinary words.
const SECRET_BYTES_MIN: usize = 6;

/// Removes secrets from text.
#[derive(Default)]
pub(crate) struct Redactor(Vec<SecretString>);

impl Redactor {
    /// Removes these.
    pub(crate) fn new(secrets: Vec<SecretString>) -> Self {
        let mut secrets: Vec<_> =
            secrets.into_iter().filter(|it| SECRET_BYTES_MIN <= it.expose_secret().len()).collect();
        // The longest first, so that one which holds another goes whole.
        secrets.sort_by_key(|it| std::cmp::Reverse(it.expose_secret().len()));
        Self(secrets)
    }

    /// `text` without them.
    pub(crate) fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, it| text.replace(it.expose_secret(), "[secret]"))
    }

    /// The length of the longest, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.0.first().map_or(0, |it| it.expose_secret().len())
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.0.len())
    }
}
