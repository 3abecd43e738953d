use althing_domain::secret::Secret;
use secrecy::ExposeSecret as _;

use super::{AllowList, Error, resolve};

fn list(entries: &[&str]) -> AllowList {
    AllowList::new(&entries.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
}

#[test]
fn a_file_is_read_without_its_last_line_break() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("secret");
    let secret = Secret::new(format!("file:{}", path.display()));
    for (written, expected) in
        [("abc", "abc"), ("abc\n", "abc"), ("abc\r\n", "abc"), ("abc\n\n", "abc\n"), (" a ", " a ")]
    {
        std::fs::write(&path, written).expect("writes");
        assert_eq!(resolve(&secret).expect("reads").expose_secret(), expected);
    }
    std::fs::write(&path, "\n").expect("writes");
    assert!(matches!(resolve(&secret), Err(Error::Unfit { problem: "empty", .. })));
    std::fs::write(&path, [0xff, 0xfe]).expect("writes");
    assert!(matches!(resolve(&secret), Err(Error::Unfit { .. })));
    std::fs::write(&path, vec![b'a'; (1 << 20) + 1]).expect("writes");
    assert!(matches!(resolve(&secret), Err(Error::Unfit { .. })));
}

#[test]
fn what_is_not_there_is_told_by_name() {
    let error = resolve(&Secret::new("env:ALTHING_TEST_NEVER_SET")).expect_err("unset");
    assert_eq!(
        error.to_string(),
        "the environment variable ALTHING_TEST_NEVER_SET is not set: set it, and restart the node"
    );
    assert!(matches!(resolve(&Secret::new("file:/no/such/file")), Err(Error::File { .. })));
    assert!(matches!(resolve(&Secret::new("sealed:abc")), Err(Error::Sealed)));
    assert_eq!(resolve(&Secret::new("plain")).expect("literal").expose_secret(), "plain");
}

#[test]
fn only_what_is_listed_is_followed_and_no_path_climbs_out() {
    let list = list(&["env:PROVIDER_*", "file:/run/secrets/*"]);
    for allowed in ["env:PROVIDER_KEY", "file:/run/secrets/a"] {
        assert!(list.allows(allowed), "{allowed}");
    }
    for refused in
        ["env:HOME", "file:/etc/passwd", "file:/run/secrets/../../etc/passwd", "file:run/secrets/a"]
    {
        assert!(!list.allows(refused), "{refused}");
        assert!(matches!(list.resolve(&Secret::new(refused)), Err(Error::NotAllowed { .. })));
    }
}
