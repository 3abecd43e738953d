//! What a caller has left, as headers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

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
/// Three numbers of 20 digits and a unit.
const TEXT_BYTES_MAX: usize = 64;

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
    // One buffer for all values: they share it.
    let mut text = SmallVec::<[u8; TEXT_BYTES_MAX]>::new();
    let mut put = |number: u64, unit: &str| {
        text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        text.extend_from_slice(unit.as_bytes());
        text.len()
    };
    let ends = [put(left.limit, ""), put(left.remaining, ""), put(reset_ms, "ms")];
    let text = Bytes::copy_from_slice(&text);
    let mut from = 0;
    for (name, end) in [limit, remaining, reset].into_iter().zip(ends) {
        if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(from..end)) {
            headers.insert(name, value);
        }
        from = end;
    }
}
