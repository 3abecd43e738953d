//! How seals travel in `encrypted_content`, the one field of this dialect that callers send back unread.
//!
//! A sealed thought is a reasoning item with its text as summary. What is not a thought is told apart by a word after
//! the owner's mark: `anthropic:redacted:…` is reasoning that only its vendor can read, `gemini:call:…` the seal of
//! the call that follows.

use crate::chat::Block;
use crate::seal;

use super::NAME;

const REDACTED: &str = "redacted:";
const CALL: &str = "call:";

/// What a reasoning item is.
pub(super) enum Sealed {
    /// Reasoning.
    Thought(Block),
    /// The seal of the next call.
    Call(String),
}

/// Reads a reasoning item's parts.
pub(super) fn read(text: String, encrypted: Option<&str>, id: Option<String>) -> Sealed {
    let Some(token) = encrypted.filter(|it| !it.is_empty()) else {
        return Sealed::Thought(Block::Thinking { text, signature: None, id });
    };
    let marked = seal::marked(NAME, token);
    if let Some(owner) = seal::owner(&marked).filter(|it| *it != NAME)
        && let Some(token) = seal::own(owner, &marked)
    {
        if let Some(token) = token.strip_prefix(CALL) {
            return Sealed::Call(seal::mark(owner, token));
        }
        if let Some(token) = token.strip_prefix(REDACTED) {
            return Sealed::Thought(Block::RedactedThinking { data: seal::mark(owner, token), id });
        }
    }
    Sealed::Thought(Block::Thinking { text, signature: Some(marked), id })
}

/// A redacted thought's `encrypted_content`.
pub(super) fn redacted(data: &str) -> String {
    worded(data, REDACTED)
}

/// The `encrypted_content` of the item that carries a call's seal.
pub(super) fn call(signature: &str) -> String {
    worded(signature, CALL)
}

fn worded(marked: &str, word: &str) -> String {
    match seal::owner(marked) {
        Some(owner) if owner != NAME => {
            seal::mark(owner, &format!("{word}{}", seal::bare(owner, marked)))
        }
        _ => seal::bare(NAME, marked).to_owned(),
    }
}
