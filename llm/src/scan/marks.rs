//! Words that policy asks about, wherever they stand in a body: found on the one walk over it.

/// Which of them are there. A word in a text looks like one that is a field: marks err towards being there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks(u8);

const MEDIA: u8 = 1;
const THINKS: u8 = 1 << 1;
const HOUR: u8 = 1 << 2;
const THOUGHT: u8 = 1 << 3;
const SEALS: u8 = 1 << 4;
const DEVELOPER: u8 = 1 << 5;
const ESCAPES: u8 = 1 << 6;

/// The longest word that is looked for.
const WORD_BYTES_MAX: usize = 24;

impl Marks {
    /// Whether images, files or the like may be there. A name may be written in escapes.
    #[must_use]
    pub const fn may_hold_media(self) -> bool {
        self.0 & (MEDIA | ESCAPES) != 0
    }

    /// Whether a caller says how the model is to think.
    #[must_use]
    pub const fn asks_to_think(self) -> bool {
        self.0 & (THINKS | ESCAPES) != 0
    }

    /// Whether a cache may be asked for that lives longer (Anthropic's `ttl`).
    #[must_use]
    pub const fn may_cache_longer(self) -> bool {
        self.0 & HOUR != 0
    }

    /// Whether thinking may have a maximum of its own (Anthropic's `budget_tokens`).
    #[must_use]
    pub const fn bounds_thought(self) -> bool {
        self.0 & (THOUGHT | ESCAPES) != 0
    }

    /// Whether fields are there in which vendors seal what was reasoned.
    #[must_use]
    pub const fn may_hold_seals(self) -> bool {
        self.0 & SEALS != 0
    }

    /// Whether a developer may speak.
    #[must_use]
    pub const fn names_developer(self) -> bool {
        self.0 & DEVELOPER != 0
    }

    /// Takes note of a string, a field's name or a value.
    #[inline]
    pub(super) fn note(&mut self, text: &[u8]) {
        if text.len() <= WORD_BYTES_MAX {
            self.0 |= bit(text);
        }
    }

    /// Takes note of an escape `\u`, by its digits: letters may be hidden in it.
    pub(super) fn escape(&mut self, digits: &[u8]) {
        if let [b'0', b'0', b'0'..=b'7', _] = digits {
            self.0 |= ESCAPES;
        }
    }
}

/// The mark of one string.
#[inline]
fn bit(text: &[u8]) -> u8 {
    match text.first() {
        Some(b'r') if matches!(text, b"reasoning" | b"reasoning_effort") => THINKS,
        Some(b't') if matches!(text, b"thinking" | b"thinkingConfig" | b"thinking_config") => {
            THINKS
        }
        Some(b't') if text == b"ttl" => HOUR,
        Some(b'b') if text == b"budget_tokens" => THOUGHT,
        Some(b's') if text == b"signature" => SEALS,
        Some(b'e') if text == b"encrypted_content" => SEALS,
        Some(b'd') if text == b"data" => SEALS,
        Some(b'd') if text == b"developer" => DEVELOPER,
        Some(b's') if text == b"source" => MEDIA,
        Some(b'f') if text.starts_with(b"file") => MEDIA,
        Some(b'v') if text.starts_with(b"video") => MEDIA,
        Some(b'i') if is_media(text) => MEDIA,
        _ => 0,
    }
}

fn is_media(text: &[u8]) -> bool {
    text.starts_with(b"image")
        || text.starts_with(b"inline")
        || matches!(text, b"input_image" | b"input_file" | b"input_video" | b"item_reference")
}

#[cfg(test)]
mod tests {
    use crate::scan::scan;

    #[test]
    fn words_are_found_as_names_and_as_values_at_any_depth() {
        let marks = |body: &str| scan(body.as_bytes()).expect("a body").marks();
        assert!(marks(r#"{"a":[{"b":{"image_url":1}}]}"#).may_hold_media());
        assert!(marks(r#"{"input":[{"type":"item_reference"}]}"#).may_hold_media());
        assert!(marks(r#"{"a":"\u0069mage"}"#).may_hold_media(), "letters may hide in escapes");
        assert!(!marks(r#"{"a":"caf\u00e9 images"}"#).may_hold_media());
        assert!(marks(r#"{"a":{"reasoning_effort":"low"}}"#).asks_to_think());
        assert!(marks(r#"{"a":[{"cache_control":{"ttl":"1h"}}]}"#).may_cache_longer());
        assert!(marks(r#"{"thinking":{"budget_tokens":9}}"#).bounds_thought());
        assert!(marks(r#"{"a":[{"signature":"x"}]}"#).may_hold_seals());
        assert!(marks(r#"{"messages":[{"role":"developer"}]}"#).names_developer());
        let plain =
            marks(r#"{"messages":[{"role":"user","content":"image source ttl thinking"}]}"#);
        assert_eq!(plain, super::Marks::default());
    }
}
