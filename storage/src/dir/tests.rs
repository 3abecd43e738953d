use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Dir, Error};

fn check_refused(path: &Path, expected: &str) {
    let error = Dir::open(path).map(|dir| dir.identity()).unwrap_err();
    let text = error.to_string().replace(path.to_str().unwrap(), "DIR");
    assert_eq!(text, expected);
}

#[test]
fn a_node_keeps_its_id_and_counts_its_starts() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("a/b");
    let first = Dir::open(&path).unwrap().identity();
    let second = Dir::open(&path).unwrap().identity();
    assert_eq!((first.incarnation, second.incarnation), (1, 2));
    assert_eq!(first.node_id, second.node_id);
    assert!(i64::try_from(first.node_id).unwrap() > 0);
    let other = Dir::open(&tmp.path().join("c")).unwrap().identity();
    assert_ne!(first.node_id, other.node_id);
}

#[test]
fn only_the_owner_can_read_it() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("data");
    Dir::open(&path).unwrap();
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("node.json")), 0o600);
    assert_eq!(mode(&path.join("snapshots")), 0o700);

    let open = tmp.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    Dir::open(&open).unwrap();
    assert_eq!(mode(&open), 0o700, "a directory that was made beforehand is closed as well");
}

#[test]
fn a_second_process_is_told_who_has_it() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let error = Dir::open(tmp.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    assert!(error.contains("is locked by another althing"), "{error}");
    drop(dir);
    assert_eq!(
        Dir::open(tmp.path()).unwrap().identity().incarnation,
        2,
        "the refused start was not counted"
    );
}

#[test]
fn a_newer_format_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    drop(Dir::open(tmp.path()).unwrap());
    fs::write(tmp.path().join("FORMAT"), "althing 2\n").unwrap();
    check_refused(
        tmp.path(),
        "the data directory DIR was written by a newer version of althing (format 2; this one reads up to 1); upgrade it, or restore a backup",
    );
}

#[test]
fn damage_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    drop(Dir::open(tmp.path()).unwrap());
    let good = fs::read(tmp.path().join("node.json")).unwrap();
    fs::write(tmp.path().join("node.json"), &good[..good.len() / 2]).unwrap();
    let error = Dir::open(tmp.path()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { file: "node.json", .. }), "{error}");
    fs::remove_file(tmp.path().join("node.json")).unwrap();
    check_refused(
        tmp.path(),
        "the data directory DIR is corrupt: node.json: the file is missing; restore a backup or start with an empty directory",
    );
    fs::write(tmp.path().join("node.json"), good).unwrap();
    fs::write(tmp.path().join("FORMAT"), [0xff, 0xfe]).unwrap();
    check_refused(
        tmp.path(),
        "the data directory DIR is corrupt: FORMAT: it is not text; restore a backup or start with an empty directory",
    );
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("thesis.txt"), "years of work").unwrap();
    check_refused(
        tmp.path(),
        "DIR is not empty and is not a data directory of althing; choose another data_dir",
    );
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1, "nothing was written");
}

#[test]
fn a_first_start_that_was_cut_short_is_done_again() {
    let tmp = tempfile::tempdir().unwrap();
    drop(Dir::open(tmp.path()).unwrap());
    fs::remove_file(tmp.path().join("FORMAT")).unwrap();
    fs::remove_dir(tmp.path().join("snapshots")).unwrap();
    assert_eq!(Dir::open(tmp.path()).unwrap().identity().incarnation, 1);
}

#[test]
fn a_lost_log_is_not_a_first_start() {
    let tmp = tempfile::tempdir().unwrap();
    let mut dir = Dir::open(tmp.path()).unwrap();
    fs::write(dir.raft_log(), "log").unwrap();
    dir.log_created().unwrap();
    let log = dir.raft_log();
    drop(dir);
    drop(Dir::open(tmp.path()).unwrap());
    fs::remove_file(log).unwrap();
    check_refused(
        tmp.path(),
        "the data directory DIR is corrupt: raft.redb: the raft log is missing; restore a backup or start with an empty directory",
    );
}
