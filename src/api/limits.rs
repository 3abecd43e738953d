//! What a caller has left, as headers.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::admit::{self, Mono, rate::LeftRate};
use crate::control::view::KeyView;

/// Limit, remaining and reset, of one unit.
type Names = [HeaderName; 3];

const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
/// A number of 20 digits and its unit.
const TEXT_BYTES_MAX: usize = 22;

/// Puts `x-ratelimit-*` where the key has rates.
pub fn put(caller: &KeyView, headers: &mut HeaderMap) {
    if caller.limits.rates().is_empty() {
        return;
    }
    let left = admit::left(&caller.limits, Mono::now());
    for (names, left) in [(REQUESTS, left.requests), (TOKENS, left.tokens)] {
        if let Some(left) = left {
            put_one(names, left, headers);
        }
    }
}

fn put_one([limit, remaining, reset]: Names, left: LeftRate, headers: &mut HeaderMap) {
    let reset_ms = u64::try_from(left.reset.as_millis()).unwrap_or(u64::MAX);
    headers.insert(limit, left.limit.into());
    headers.insert(remaining, left.remaining.into());
    let mut text = [0; TEXT_BYTES_MAX];
    let digits = itoa::Buffer::new();
    if let Ok(value) = HeaderValue::from_bytes(in_millis(reset_ms, digits, &mut text)) {
        headers.insert(reset, value);
    }
}

/// `number` as it is written, with its unit.
fn in_millis(number: u64, mut digits: itoa::Buffer, text: &mut [u8; TEXT_BYTES_MAX]) -> &[u8] {
    let digits = digits.format(number).as_bytes();
    let unit = b"ms";
    let all = digits.iter().chain(unit);
    for (place, byte) in text.iter_mut().zip(all) {
        *place = *byte;
    }
    text.get(..digits.len() + unit.len()).unwrap_or_default()
}
