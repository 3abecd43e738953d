//! The environment. Nothing else reads it.

/// The prefix of variables that settings may be given in: `ALTHING__LIMITS__BODY`.
pub const PREFIX: &str = "ALTHING__";

/// A variable, where it is set, not empty and text.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|it| !it.is_empty())
}

/// The variables that give settings, by name.
#[must_use]
pub fn settings() -> Vec<(String, String)> {
    let text = |it: std::ffi::OsString| it.into_string().ok();
    let mut found: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    found.sort();
    found
}
