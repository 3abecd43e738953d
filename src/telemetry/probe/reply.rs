//! What a vendor's reply says of itself: its model, and why it ended. Found in the bytes as they pass, without a parse.
//!
//! A quotation mark inside JSON text is escaped, so a key with its marks and its colon is never part of what was said.

use memchr::memmem;
use smallvec::SmallVec;

/// How much of a whole reply is looked at, from its start and from its end, in bytes.
const LOOKED_AT: usize = 64 * 1024;
const REASONS_MAX: usize = 8;
const REASON_BYTES_MAX: usize = 40;
const MODEL_BYTES_MAX: usize = 128;

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The model as the vendor names it.
    pub model: Option<Box<str>>,
    /// Why each choice ended, in the vendor's words.
    pub finish_reasons: SmallVec<[Box<str>; 1]>,
}

impl Reply {
    /// Looks at the next bytes of a stream, or at all of a reply.
    pub(super) fn look(&mut self, bytes: &[u8]) {
        let head = bytes.get(..bytes.len().min(LOOKED_AT)).unwrap_or_default();
        let tail = bytes.get(bytes.len().saturating_sub(LOOKED_AT).max(head.len())..);
        for part in [Some(head), tail].into_iter().flatten() {
            if self.model.is_none() {
                let mut named = [&b"\"modelVersion\""[..], b"\"model\""].into_iter();
                self.model = named.find_map(|key| values(part, key, MODEL_BYTES_MAX).next());
            }
            for key in [&b"\"finish_reason\""[..], b"\"stop_reason\"", b"\"finishReason\""] {
                for reason in values(part, key, REASON_BYTES_MAX) {
                    if self.finish_reasons.len() < REASONS_MAX {
                        self.finish_reasons.push(reason);
                    }
                }
            }
        }
    }
}

/// The short plain texts that stand as `key`'s value.
fn values<'b>(
    bytes: &'b [u8],
    key: &'b [u8],
    bytes_max: usize,
) -> impl Iterator<Item = Box<str>> + 'b {
    memmem::find_iter(bytes, key).filter_map(move |at| {
        let rest = bytes.get(at + key.len()..)?.trim_ascii_start().strip_prefix(b":")?;
        let text = rest.trim_ascii_start().strip_prefix(b"\"")?;
        let end = text.iter().take(bytes_max + 1).position(|it| *it == b'"')?;
        let text = std::str::from_utf8(text.get(..end)?).ok()?;
        let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_.:/@".contains(it);
        (!text.is_empty() && text.chars().all(is_plain)).then(|| Box::from(text))
    })
}

#[cfg(test)]
mod tests {
    use super::Reply;

    fn seen(pieces: &[&str]) -> (Option<String>, Vec<String>) {
        let mut reply = Reply::default();
        for piece in pieces {
            reply.look(piece.as_bytes());
        }
        let reasons = reply.finish_reasons.iter().map(ToString::to_string).collect();
        (reply.model.map(Into::into), reasons)
    }

    #[test]
    fn model_and_reasons_are_found_in_each_dialect() {
        let one = |text: &str| vec![text.to_owned()];
        assert_eq!(
            seen(&[
                r#"{"id":"x","model" : "gpt-4o-2024-08-06","choices":[{"finish_reason":"stop"}]}"#
            ]),
            (Some("gpt-4o-2024-08-06".into()), one("stop"))
        );
        assert_eq!(
            seen(&[
                r#"data: {"type":"message_start","message":{"model":"claude-x","stop_reason":null}}"#,
                r#"data: {"delta":{"stop_reason":"end_turn"}}"#
            ]),
            (Some("claude-x".into()), one("end_turn"))
        );
        assert_eq!(
            seen(&[
                r#"{"candidates":[{"finishReason":"STOP"}],"modelVersion":"gemini-2.5-flash"}"#
            ]),
            (Some("gemini-2.5-flash".into()), one("STOP"))
        );
    }

    #[test]
    fn what_was_said_is_never_taken_for_it() {
        let said = r#"{"choices":[{"message":{"content":"{\"model\":\"secret\",\"finish_reason\":\"secret\"}"}}]}"#;
        assert_eq!(seen(&[said]), (None, vec![]));
        assert_eq!(seen(&[r#"{"model":"two words"}"#]), (None, vec![]));
        assert_eq!(seen(&[&format!(r#"{{"model":"{}"}}"#, "x".repeat(200))]), (None, vec![]));
    }

    #[test]
    fn the_end_of_a_long_reply_is_looked_at_too() {
        let long = format!(
            r#"{{"model":"m","content":"{}","stop_reason":"max_tokens"}}"#,
            "a".repeat(300_000)
        );
        assert_eq!(seen(&[&long]), (Some("m".into()), vec!["max_tokens".to_owned()]));
    }
}
