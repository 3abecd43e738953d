use super::{DROPPED_BYTES_MAX, shown};

#[test]
fn a_header_of_dropped_fields_is_short_and_of_letters_that_headers_have() {
    let names = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    assert_eq!(shown(&names(&["n", "seed"])), "n, seed");
    assert_eq!(shown(&names(&["naïve\r\nx"])), "na?ve??x");
    let many: Vec<String> = (0..10_000).map(|it| format!("field_{it}")).collect();
    let text = shown(&many);
    assert!(text.len() < DROPPED_BYTES_MAX + 64, "{}", text.len());
    assert!(text.ends_with(" more"), "{text}");
    assert!(shown(&["x".repeat(1 << 20)]).len() < 64);
}
