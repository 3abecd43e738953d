use std::ffi::OsString;

use super::{Orders, run};
use crate::mcp::upstream::GuardProgram;

/// The name of the test that plays the guard when this test program is started as one.
const AS_GUARD: &str = "mcp::upstream::guard::tests::this_program_guards_when_started_as_a_guard";

/// This test program as a guard.
pub(crate) fn program() -> GuardProgram {
    GuardProgram {
        program: std::env::current_exe().expect("this program"),
        arguments: ["--nocapture", "--exact", AS_GUARD, "--", "stdio-guard"]
            .map(OsString::from)
            .to_vec(),
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "as `main` would: the guard's exit code is the process's"
)]
fn this_program_guards_when_started_as_a_guard() {
    let mut arguments = std::env::args_os().skip_while(|it| it != "stdio-guard");
    // In an ordinary test run there is no such argument, and the orders are read below instead.
    if arguments.next().is_some() {
        let code = run(arguments);
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
    assert!(Orders::parse(["--parent", "1"].map(OsString::from)).is_none());
}

#[test]
fn orders_are_read_or_refused() {
    let parse = |words: &[&str]| {
        Orders::parse(words.iter().map(OsString::from)).map(|it| (it.parent.is_some(), it.argv))
    };
    assert_eq!(
        parse(&["--", "a", "--parent", "x"]),
        Some((false, ["a", "--parent", "x"].map(OsString::from).to_vec()))
    );
    assert_eq!(parse(&["--parent", "12", "--", "a"]), Some((true, vec![OsString::from("a")])));
    for wrong in [
        &[][..],
        &["--"],
        &["a"],
        &["--parent"],
        &["--parent", "x", "--", "a"],
        &["--parent", "0", "--", "a"],
    ] {
        assert_eq!(parse(wrong), None, "{wrong:?}");
    }
}
