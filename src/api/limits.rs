//! What a caller has left, as headers.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::admit::{self, Mono};
use crate::control::view::KeyView;

/// Puts `x-ratelimit-*` where the key has rates.
pub fn put(caller: &KeyView, headers: &mut HeaderMap) {
    if caller.limits.rates().is_empty() {
        return;
    }
    let left = admit::left(&caller.limits, Mono::now());
    let mut set = |name: &'static str, value: HeaderValue| {
        headers.insert(HeaderName::from_static(name), value);
    };
    if let Some(it) = left.requests {
        set("x-ratelimit-limit-requests", it.limit.into());
        set("x-ratelimit-remaining-requests", it.remaining.into());
        if let Ok(value) = HeaderValue::from_str(&format!("{}ms", it.reset.as_millis())) {
            set("x-ratelimit-reset-requests", value);
        }
    }
    if let Some(it) = left.tokens {
        set("x-ratelimit-limit-tokens", it.limit.into());
        set("x-ratelimit-remaining-tokens", it.remaining.into());
        if let Ok(value) = HeaderValue::from_str(&format!("{}ms", it.reset.as_millis())) {
            set("x-ratelimit-reset-tokens", value);
        }
    }
}
