//! Allow-lists: names with `*`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A name in which `*` stands for any run of characters. Nothing else is special.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Pattern(pub String);

impl Pattern {
    /// Whether `text` is named by this pattern. Linear in `text` for one star, never exponential.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        matches(self.0.as_bytes(), text.as_bytes())
    }
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to resume when a guess about the last star was too short.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(b) if *b == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    p = after_star;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// What a table says of `name` by its patterns: the longest that fits counts, of equals the first.
#[must_use]
pub fn longest<'a, V>(table: &'a BTreeMap<String, V>, name: &str) -> Option<&'a V> {
    let mut found: Option<(&String, &V)> = None;
    for (pattern, value) in table {
        let is_longer = found.is_none_or(|it| it.0.len() < pattern.len());
        if is_longer && pattern.contains('*') && matches(pattern.as_bytes(), name.as_bytes()) {
            found = Some((pattern, value));
        }
    }
    found.map(|it| it.1)
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn the_longest_pattern_that_fits_says_what_a_table_says() {
        let table = ["*", "llama-*", "llama-3-*", "qwen"].map(|it| (it.to_owned(), it)).into();
        for (name, found) in
            [("llama-3-8b", "llama-3-*"), ("llama-2", "llama-*"), ("mistral", "*"), ("qwen", "*")]
        {
            assert_eq!(super::longest(&table, name), Some(&found), "{name}");
        }
        assert_eq!(super::longest(&[("qwen".to_owned(), 1)].into(), "qwen"), None, "no pattern");
    }

    #[test]
    fn a_star_stands_for_any_run_and_nothing_else_is_special() {
        let cases = [
            ("*", "", true),
            ("*", "anything", true),
            ("gpt-4o*", "gpt-4o-mini", true),
            ("gpt-4o*", "gpt-4", false),
            ("search/*", "search/find", true),
            ("search/*", "searchx/find", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("a.c", "abc", false),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Pattern::from(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }
}
