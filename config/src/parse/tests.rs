use super::explain::{explain, nearest};

#[test]
fn the_nearest_known_name_is_meant_where_one_is_near() {
    let known = ["budget", "rate", "tools", "tool_groups"];
    assert_eq!(nearest("bugdet", &known), Some("budget"));
    assert_eq!(nearest("tool-groups", &known), Some("tool_groups"));
    assert_eq!(nearest("Rate", &known), Some("rate"));
    assert_eq!(nearest("something_else", &known), None);
    assert_eq!(nearest("", &[]), None);
}

#[test]
fn a_value_is_never_part_of_an_explanation() {
    let told = |message: &str| explain(message).text;
    assert_eq!(
        told("invalid type: string \"sk-canary, expected x\", expected a sequence"),
        "expected a list, found a text"
    );
    assert_eq!(
        told("invalid type: map, expected u32"),
        "expected a whole number, not below 0, found a map"
    );
    assert_eq!(
        told("invalid type: boolean `true`, expected a string"),
        "expected a text, found boolean `true`"
    );
    assert_eq!(told("something of our own"), "something of our own");
}

proptest::proptest! {
    #[test]
    fn noise_is_never_a_panic(text: String, known: Vec<String>) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let _ = nearest(&text, &known);
        let _ = explain(&text);
        let _ = crate::load_text(&text, &[], &crate::Overrides::default(), &[]);
    }
}
