use super::{bare, mark, marked, own, owner};

#[test]
fn a_seal_goes_home_through_any_caller_and_to_nobody_else() {
    let sealed = mark("anthropic", "EqQBCg/+=");
    for caller in ["anthropic", "gemini", "openai", "openai_responses"] {
        let shown = bare(caller, &sealed);
        assert_eq!(shown == "EqQBCg/+=", caller == "anthropic");
        let back = marked(caller, shown);
        assert_eq!(own("anthropic", &back), Some("EqQBCg/+="), "{caller}");
        assert_eq!(own("gemini", &back), None, "{caller}");
    }
}

#[test]
fn a_bare_token_has_no_owner() {
    assert_eq!(owner("EqQB/+="), None);
    assert_eq!(owner("https://x"), None);
    assert_eq!(own("openai", &mark("openai_responses", "x")), None);
}
