use super::{Code, Error};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

#[test]
fn every_code_has_its_own_name_and_a_valid_status() {
    let names: BTreeSet<_> = Code::ALL.iter().map(|it| it.name()).collect();
    assert_eq!(names.len(), Code::ALL.len());
    for code in Code::ALL {
        assert!((400..600).contains(&code.status()), "{code:?}");
        assert!(code.text().ends_with('.'), "{code:?}");
    }
}

#[test]
fn retry_after_is_never_zero_seconds() {
    let error = Error::of(Code::RateLimited).with_retry_after(Duration::from_millis(3));
    assert_eq!(error.retry_after_seconds(), Some(1));
    assert_eq!(error.with_retry_after(Duration::from_millis(1001)).retry_after_seconds(), Some(2));
}

#[test]
fn callers_see_the_types_of_the_page_in_every_dialect() {
    // 499 is in records only.
    for code in Code::ALL.iter().filter(|it| **it != Code::Cancelled) {
        let error = Error::of(*code);
        let told = |dialect: &str, pointer: &str| {
            let dialect = althing_llm::dialect::by_name(dialect).expect("a dialect");
            let failure = crate::execute::kept::failure_of(&error, "id");
            let body: serde_json::Value =
                serde_json::from_slice(&dialect.encode_failure(&failure)).expect("JSON");
            body.pointer(pointer).and_then(|it| it.as_str().map(str::to_owned)).expect("a type")
        };
        let name = code.name();
        assert_eq!(told("openai", "/error/type"), code.openai_type(), "{name}");
        assert_eq!(told("openai_responses", "/error/type"), code.openai_type(), "{name}");
        assert_eq!(told("anthropic", "/error/type"), code.anthropic_type(), "{name}");
        assert_eq!(told("gemini", "/error/status"), code.gemini_status(), "{name}");
    }
}

/// Set `ALTHING_REWRITE=1` to write the page anew.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test reads whether it may rewrite a generated page"
)]
fn the_page_of_errors_lists_every_code() {
    let mut page = String::from(
        "# Errors\n\nGenerated from `src/error.rs`. `code` is stable; branch on it.\n\n",
    );
    page.push_str("| code | HTTP | OpenAI `type` | Anthropic `type` | Gemini `status` | JSON-RPC | meaning |\n|---|---|---|---|---|---|---|\n");
    for it in Code::ALL {
        let row = (
            it.name(),
            it.status(),
            it.openai_type(),
            it.anthropic_type(),
            it.gemini_status(),
            it.rpc(),
            it.text(),
        );
        writeln!(
            page,
            "| `{}` | {} | `{}` | `{}` | `{}` | {} | {} |",
            row.0, row.1, row.2, row.3, row.4, row.5, row.6
        )
        .expect("a string takes all");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
    if std::env::var("ALTHING_REWRITE").is_ok() {
        std::fs::write(path, &page).expect("write");
    }
    assert_eq!(
        std::fs::read_to_string(path).expect("docs/errors.md"),
        page,
        "run with ALTHING_REWRITE=1"
    );
}
