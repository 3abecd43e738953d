//! Counting tokens without a tokenizer: bounds that hold, and estimates that say they are.

use memchr::memmem;

/// A request's fixed overhead beyond its bytes: roles and separators that vendors add.
const REQUEST_OVERHEAD: u64 = 64;
/// The most tokens that any vendor states for one image at its greatest detail.
const IMAGE_TOKENS_MAX: u64 = 8_192;
/// Shorter runs of base64 are taken as text: the bound stays a bound, and nothing is gained.
const BASE64_RUN_MIN: usize = 4_096;

/// A bound on the input tokens of a request body: one a byte, which holds for every byte-level tokenizer, with each
/// long base64 run (an image, a document) counted by its vendor's bound, and a page's worth more for each 2 KiB of a PDF.
#[must_use]
pub fn upper_bound_input(body: &[u8]) -> u64 {
    let mut total = REQUEST_OVERHEAD + body.len() as u64;
    if body.len() < BASE64_RUN_MIN {
        return total;
    }
    for marker in [b"base64,".as_slice(), b"\"data\""] {
        for at in memmem::find_iter(body, marker) {
            let run = base64_run(body, at + marker.len());
            if BASE64_RUN_MIN <= run {
                let bytes = run as u64;
                // A PDF's page is a few KiB at least and costs at most a few thousand tokens: never above a token a byte.
                total = total - bytes + IMAGE_TOKENS_MAX.min(bytes);
            }
        }
    }
    total
}

/// The length of the base64 text that begins after `at`, quotes, colon and blanks before it skipped.
fn base64_run(body: &[u8], at: usize) -> usize {
    let rest = body.get(at..).unwrap_or_default();
    let start = rest.iter().take_while(|b| matches!(b, b' ' | b':' | b'"' | b'\n' | b'\t')).count();
    let is_base64 =
        |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_');
    rest.get(start..).unwrap_or_default().iter().take_while(|b| is_base64(b)).count()
}

/// A bound on the tokens of so many bytes of output text, for a stream whose vendor has not stated usage yet: one a
/// byte is too much to hold a stream to; text runs at three bytes a token or more in the languages models write.
#[must_use]
pub const fn upper_bound_output(text_bytes: u64) -> u64 {
    text_bytes.div_ceil(3)
}

/// A guess at the tokens of a text: four bytes a token, as vendors' own rule of thumb has it.
#[must_use]
pub const fn estimate(text_bytes: u64) -> u64 {
    text_bytes.div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::{REQUEST_OVERHEAD, upper_bound_input};

    #[test]
    fn text_counts_a_token_a_byte() {
        assert_eq!(upper_bound_input(b"{\"a\":1}"), 7 + REQUEST_OVERHEAD);
    }

    #[test]
    fn a_large_image_counts_by_the_vendors_bound_and_not_by_its_bytes() {
        let image = "A".repeat(400_000);
        let url = format!(r#"{{"url":"data:image/png;base64,{image}"}}"#);
        let anthropic = format!(r#"{{"type":"base64","data": "{image}"}}"#);
        for body in [url, anthropic] {
            assert!(upper_bound_input(body.as_bytes()) < 10_000);
        }
    }

    #[test]
    fn long_text_that_only_looks_like_base64_at_its_start_counts_in_full() {
        let text = "data".to_owned() + &"word ".repeat(10_000);
        let body = format!(r#"{{"data":"{text}"}}"#);
        assert!(body.len() as u64 <= upper_bound_input(body.as_bytes()));
    }
}
