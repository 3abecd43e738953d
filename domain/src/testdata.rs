//! Files that what is stored is compared with.

use std::path::Path;

/// Compares `written` with the file, or writes it where `UPDATE_GOLDEN` is set.
///
/// The environment is read here because a test has no other way to be told.
#[expect(clippy::disallowed_methods, reason = "a test switch, not a setting")]
pub(crate) fn check(path: &Path, written: &str) {
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::write(path, written).expect("golden file");
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(golden, written, "{} differs: what is stored must read for ever", path.display());
}
