use std::path::Path;

use super::{Folder, config, curl, listen};
use crate::cli::Exit;
use serde_json::json;

#[test]
fn the_demos_own_configuration_is_right() {
    let provider = "127.0.0.1:9".parse().expect("an address");
    let config = config(Path::new("/nowhere"), "127.0.0.1:0", provider).expect("valid");
    assert_eq!(config.policy.len(), 5);
    assert_eq!(config.node.data_dir, Path::new("/nowhere"));
}

#[test]
fn a_demo_listens_on_loopback_only() {
    let anywhere = "0.0.0.0:8080".parse().expect("an address");
    assert_eq!(listen(Some(anywhere)).expect_err("refused").exit, Exit::Usage);
    let free = "127.0.0.1:0".parse().expect("an address");
    assert_eq!(listen(Some(free)).expect("loopback"), "127.0.0.1:0");
}

#[test]
fn a_temporary_folder_is_its_owners_and_is_gone_at_the_end() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = Folder::new(None).expect("a folder");
    let path = folder.path.clone();
    let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn a_line_to_paste_is_one_line() {
    let line = curl("http://a", "/b", "k", &["x: y"], &json!({ "stream": true }));
    assert_eq!(
        line,
        "curl -sN http://a/b -H 'authorization: Bearer k' -H 'content-type: application/json' -H 'x: y' -d '{\"stream\":true}'"
    );
}
