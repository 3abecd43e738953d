//! `WWW-Authenticate`, as far as it concerns bearer tokens.

/// What a server says when it refuses a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Where its metadata is.
    pub(super) resource_metadata: Option<String>,
    /// Which scope it wants.
    pub(super) scope: Option<String>,
    /// Its error code.
    pub(super) error: Option<String>,
}

/// The longest header that is read, in bytes.
const BYTES_MAX: usize = 8 * 1024;

impl Challenge {
    /// Reads the parameters of the `Bearer` challenge. Lenient: what cannot be read is not there.
    pub(super) fn parse(header: &str) -> Self {
        let mut challenge = Self::default();
        let lower = header.to_ascii_lowercase();
        let Some(start) = lower.find("bearer").filter(|_| header.len() <= BYTES_MAX) else {
            return challenge;
        };
        let mut rest = header.get(start + "bearer".len()..).unwrap_or_default();
        while let Some((name, value, after)) = parameter(rest) {
            let slot = match name.to_ascii_lowercase().as_str() {
                "resource_metadata" => Some(&mut challenge.resource_metadata),
                "scope" => Some(&mut challenge.scope),
                "error" => Some(&mut challenge.error),
                _ => None,
            };
            if let Some(slot) = slot {
                slot.get_or_insert(value);
            }
            rest = after;
        }
        challenge
    }

    pub(super) fn is_insufficient_scope(&self) -> bool {
        self.error.as_deref() == Some("insufficient_scope")
    }
}

/// The next `name=value` or `name="value"`, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (name, rest) = text.split_once('=')?;
    let name = name.trim();
    // `Basic realm=…` after us: another challenge begins.
    if name.is_empty() || name.contains([' ', '"', ',']) {
        return None;
    }
    let rest = rest.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        let (value, rest) = rest.split_at(end);
        return Some((name, value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut is_escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if is_escaped => {
                value.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return Some((name, value, quoted.get(at + 1..).unwrap_or_default())),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::Challenge;

    #[test]
    fn parameters_are_read_in_the_forms_that_servers_use() {
        let full = Challenge::parse(
            r#"Bearer realm="a, b", error="insufficient_scope", scope="read write", resource_metadata="https://x/.well-known/oauth-protected-resource/mcp""#,
        );
        assert_eq!(
            full.resource_metadata.as_deref(),
            Some("https://x/.well-known/oauth-protected-resource/mcp")
        );
        assert_eq!(full.scope.as_deref(), Some("read write"));
        assert!(full.is_insufficient_scope());
        let bare = Challenge::parse("bearer resource_metadata=https://x/m,scope=a");
        assert_eq!(
            (bare.resource_metadata.as_deref(), bare.scope.as_deref()),
            (Some("https://x/m"), Some("a"))
        );
        let second = Challenge::parse(r#"Bearer scope="a\"b", Basic realm="x", scope="evil""#);
        assert_eq!(second.scope.as_deref(), Some("a\"b"));
        for nothing in ["", "Basic realm=\"x\"", "Bearer", "Bearer scope=\"open"] {
            assert_eq!(Challenge::parse(nothing), Challenge::default(), "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in any::<String>()) {
            drop(Challenge::parse(&format!("Bearer {noise}")));
        }
    }
}
