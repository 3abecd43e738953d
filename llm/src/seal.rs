//! Seals: opaque tokens of a vendor, marked with whose they are.
//!
//! A vendor signs its model's reasoning and wants the signature back on the next turn; another vendor's signature
//! makes it refuse the whole request. Between two turns the token travels through a caller who may speak a third
//! dialect and knows nothing of this. So every signature and sealed reasoning in [`crate::chat`] is *marked*:
//! `anthropic:EqQB…`. Decoders of upstream replies mark what they read; encoders of upstream requests send only what
//! is their own ([`own`]) and drop the rest; faces to callers pass marked text as it is, but for their own
//! vendor's, which they show bare ([`bare`]) and mark again when it comes back ([`marked`]).
//!
//! A mark ends in a colon, which base64 does not have, so a bare token is never taken for a marked one.

/// Those who seal, by dialect.
const OWNERS: &[&str] = &["anthropic", "gemini", "openai", "openai_responses"];

/// Set before an item's id.
const ITEM: &str = "item:";

/// Marks a token as `dialect`'s.
#[must_use]
pub fn mark(dialect: &str, token: &str) -> String {
    format!("{dialect}:{token}")
}

/// Marks a token that came from a caller who speaks `dialect`: as that dialect's, unless it bears a mark already.
#[must_use]
pub fn marked(dialect: &str, token: &str) -> String {
    if owner(token).is_some() { token.to_owned() } else { mark(dialect, token) }
}

/// Whose a token is, or `None` where it bears no mark.
#[must_use]
pub fn owner(token: &str) -> Option<&'static str> {
    let (name, _) = token.split_once(':')?;
    OWNERS.iter().copied().find(|owner| *owner == name)
}

/// The bare token, if it is `dialect`'s.
#[must_use]
pub fn own<'a>(dialect: &str, token: &'a str) -> Option<&'a str> {
    token.strip_prefix(dialect)?.strip_prefix(':')
}

/// What a caller who speaks `dialect` is shown: that dialect's own tokens bare, others marked.
#[must_use]
pub fn bare<'a>(dialect: &str, token: &'a str) -> &'a str {
    own(dialect, token).unwrap_or(token)
}

/// Puts the id of the vendor's item into a seal, for a caller whose dialect has no other place for it: Responses wants
/// it back with the seal.
pub(crate) fn with_item(token: &str, id: Option<&str>) -> String {
    match (owner(token), id) {
        (Some(owner), Some(id)) => mark(owner, &format!("{ITEM}{id}:{}", bare(owner, token))),
        _ => token.to_owned(),
    }
}

/// Takes the item's id out of a seal again.
pub(crate) fn split_item(token: &str) -> (String, Option<String>) {
    let parts = owner(token).and_then(|owner| {
        let (id, bare) = own(owner, token)?.strip_prefix(ITEM)?.split_once(':')?;
        Some((mark(owner, bare), Some(id.to_owned())))
    });
    parts.unwrap_or_else(|| (token.to_owned(), None))
}

#[cfg(test)]
mod tests;
