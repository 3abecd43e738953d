//! The names under which tools are offered.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};

/// The longest function name that every vendor takes, in bytes.
pub const FLAT_BYTES_MAX: usize = 64;
/// `_` and the hexadecimal digits that mark a changed name.
const MARK_BYTES: usize = 9;

/// The name of `tool` of `server` in a flat name space: `server-tool`, fit for `^[a-zA-Z0-9_-]{1,64}$`.
///
/// Other characters become `_`, longer names are cut, and whichever was changed ends in `_` and eight hexadecimal
/// digits of the SHA-256 of `server-tool` as it was, so that two names that differ stay different.
#[must_use]
pub fn flat(server: &str, tool: &str) -> String {
    let full = format!("{server}-{tool}");
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if full.len() <= FLAT_BYTES_MAX && full.chars().all(fits) {
        return full;
    }
    let mut name: String = full
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .take(FLAT_BYTES_MAX - MARK_BYTES)
        .collect();
    name.push('_');
    for byte in digest(&SHA256, full.as_bytes()).as_ref().iter().take(4) {
        // Writing to a `String` cannot fail.
        let _infallible = write!(name, "{byte:02x}");
    }
    name
}

/// The name of `tool` of `server` in policy: `server/tool`.
#[must_use]
pub fn policy(server: &str, tool: &str) -> String {
    format!("{server}/{tool}")
}

#[cfg(test)]
mod tests;
