//! Taking secrets out of what a server says: it may repeat what it was given.

use std::collections::VecDeque;
use std::fmt;

use http::HeaderValue;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};

/// The shortest secret that is looked for: shorter ones stand in ordinary words.
const SECRET_BYTES_MIN: usize = 6;

/// Tokens that are remembered while a connection lives: the one in use, and those that answers may still repeat.
const LEARNED_MAX: usize = 4;

/// Removes secrets from text.
#[derive(Default)]
pub(crate) struct Redactor {
    fixed: Vec<SecretString>,
    /// Tokens that were sent since; the newest last.
    learned: Mutex<VecDeque<SecretString>>,
}

impl Redactor {
    /// Removes these.
    pub(crate) fn new(secrets: Vec<SecretString>) -> Self {
        let mut secrets: Vec<_> =
            secrets.into_iter().filter(|it| SECRET_BYTES_MIN <= it.expose_secret().len()).collect();
        // The longest first, so that one which holds another goes whole.
        secrets.sort_by_key(|it| std::cmp::Reverse(it.expose_secret().len()));
        Self { fixed: secrets, learned: Mutex::default() }
    }

    /// `text` without them.
    pub(crate) fn clean(&self, text: &str) -> String {
        let without =
            |text: String, it: &SecretString| text.replace(it.expose_secret(), "[secret]");
        let text = self.fixed.iter().fold(text.to_owned(), without);
        self.learned.lock().iter().fold(text, without)
    }

    /// Removes the credential in `proof`, a value of `authorization`, from now on.
    pub(crate) fn learn(&self, proof: &HeaderValue) {
        let Ok(text) = std::str::from_utf8(proof.as_bytes()) else { return };
        let token = text.split_once(' ').map_or(text, |(_, it)| it);
        let mut learned = self.learned.lock();
        if token.len() < SECRET_BYTES_MIN || learned.iter().any(|it| it.expose_secret() == token) {
            return;
        }
        if LEARNED_MAX <= learned.len() {
            learned.pop_front();
        }
        learned.push_back(token.to_owned().into());
    }

    /// The length of the longest, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.fixed.first().map_or(0, |it| it.expose_secret().len())
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.fixed.len())
    }
}
