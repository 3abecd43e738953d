use http::HeaderValue;

use super::{MESSAGE_CHARS_MAX, without};

#[test]
fn a_secret_is_taken_out_wherever_it_stands_even_where_the_text_is_cut_off() {
    let secret = HeaderValue::from_static("Bearer sk-upstream-secret-0001");
    let of = |text: &str| without(text, [&secret].into_iter());
    assert_eq!(of("the key sk-upstream-secret-0001 is wrong"), "the key [secret] is wrong");
    for before in MESSAGE_CHARS_MAX - 30..MESSAGE_CHARS_MAX + 2 {
        let told = of(&("é".repeat(before) + "sk-upstream-secret-0001"));
        assert!(!told.contains("sk-up"), "{before}");
        assert!(told.chars().count() <= MESSAGE_CHARS_MAX);
    }
}
