use super::{bare, mark, marked, own, owner, split_item, with_item};

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

#[test]
fn an_items_id_goes_along_where_there_is_one() {
    let sealed = mark("openai_responses", "gAAA=");
    let with = with_item(&sealed, Some("rs_1"));
    assert_eq!(with, "openai_responses:item:rs_1:gAAA=");
    assert_eq!(split_item(&with), (sealed.clone(), Some("rs_1".to_owned())));
    assert_eq!(split_item(&with_item(&sealed, None)), (sealed, None));
    assert_eq!(split_item("bare"), ("bare".to_owned(), None));
}
