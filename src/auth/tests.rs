use http::{HeaderMap, HeaderName, HeaderValue};

use super::presented;
use crate::error::Code;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
}

#[test]
fn a_key_is_found_wherever_sdks_put_it() {
    for (name, value) in [
        ("authorization", "Bearer abc"),
        ("authorization", "bearer abc"),
        ("x-api-key", "abc"),
        ("x-goog-api-key", "abc"),
        ("x-bf-vk", "abc"),
        ("x-althing-key", "abc"),
    ] {
        let headers = headers(&[(name, value)]);
        let found = presented(&headers, None).expect("readable");
        assert_eq!(found.as_deref(), Some("abc"), "{name}");
    }
    let none = HeaderMap::new();
    let found = presented(&none, Some("alt=sse&key=a%62c")).expect("readable");
    assert_eq!(found.as_deref(), Some("abc"));
}

#[test]
fn the_same_key_twice_is_one_key_and_two_different_ones_are_refused() {
    let same = headers(&[("authorization", "Bearer abc"), ("x-api-key", "abc")]);
    assert_eq!(presented(&same, Some("key=abc")).expect("one").as_deref(), Some("abc"));
    let differ = headers(&[("authorization", "Bearer abc"), ("x-api-key", "abd")]);
    assert_eq!(presented(&differ, None).expect_err("two").code, Code::TwoKeys);
}

#[test]
fn a_scheme_other_than_bearer_is_refused_not_ignored() {
    let basic = headers(&[("authorization", "Basic abc")]);
    assert_eq!(presented(&basic, None).expect_err("basic").code, Code::InvalidKey);
}
