use std::fs;
use std::path::Path;

use super::{Error, Meta, Store};

fn records(seed: u64, count: u64) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| {
            format!("record {i} of {seed}").repeat(1 + usize::try_from(i % 7).unwrap()).into_bytes()
        })
        .collect()
}

fn write(store: &Store, index: u64) -> super::Snapshot {
    store.write(Meta { index, opaque: vec![1, 2, 3] }, records(index, 500).into_iter()).unwrap()
}

fn read(snapshot: &super::Snapshot) -> Vec<Vec<u8>> {
    snapshot.records().unwrap().collect::<Result<_, _>>().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_read() {
    let tmp = tempfile::tempdir().unwrap();
    let store = Store::open(tmp.path()).unwrap();
    assert_eq!(store.latest(None).unwrap(), None);
    let written = write(&store, 7);
    let found = Store::open(tmp.path()).unwrap().latest(None).unwrap().unwrap();
    assert_eq!(found, written);
    assert_eq!(read(&found), records(7, 500));
}

#[test]
fn an_empty_state_has_a_snapshot_too() {
    let tmp = tempfile::tempdir().unwrap();
    let store = Store::open(tmp.path()).unwrap();
    store.write(Meta { index: 0, opaque: vec![] }, std::iter::empty()).unwrap();
    assert_eq!(read(&store.latest(None).unwrap().unwrap()), Vec::<Vec<u8>>::new());
}

#[test]
fn the_two_newest_are_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let store = Store::open(tmp.path()).unwrap();
    for index in [5, 100, 99_999] {
        write(&store, index);
    }
    assert_eq!(names(tmp.path()), ["00000000000000000100.snap", "00000000000000099999.snap"]);
    assert_eq!(store.latest(None).unwrap().unwrap().meta.index, 99_999);
}

#[test]
fn a_half_written_file_is_swept_away() {
    let tmp = tempfile::tempdir().unwrap();
    write(&Store::open(tmp.path()).unwrap(), 3);
    fs::write(tmp.path().join("00000000000000000009.tmp"), "half").unwrap();
    let store = Store::open(tmp.path()).unwrap();
    assert_eq!(names(tmp.path()), ["00000000000000000003.snap"]);
    assert_eq!(store.latest(None).unwrap().unwrap().meta.index, 3);
}

#[test]
fn every_kind_of_damage_is_noticed() {
    let tmp = tempfile::tempdir().unwrap();
    let store = Store::open(tmp.path()).unwrap();
    let path = write(&store, 3).path;
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(good.len() / 300 + 1) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, bad).unwrap();
        assert!(
            matches!(store.latest(Some(0)), Err(Error::Corrupt { .. })),
            "byte {at} of {}",
            good.len()
        );
    }
    for end in [0, 5, 20, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..end]).unwrap();
        assert!(matches!(store.latest(Some(0)), Err(Error::Corrupt { .. })), "cut at {end}");
    }
    fs::write(&path, &good).unwrap();
    assert!(store.latest(None).unwrap().is_some());
}

#[test]
fn the_older_one_will_do_only_if_the_log_goes_on_from_there() {
    let tmp = tempfile::tempdir().unwrap();
    let store = Store::open(tmp.path()).unwrap();
    write(&store, 10);
    let newest = write(&store, 20).path;
    fs::write(&newest, "rubbish").unwrap();
    assert_eq!(store.latest(Some(11)).unwrap().unwrap().meta.index, 10);
    assert_eq!(store.latest(Some(0)).unwrap().unwrap().meta.index, 10);
    for hole in [Some(12), Some(21), None] {
        let error = store.latest(hole).unwrap_err().to_string();
        assert!(error.contains("00000000000000000020.snap is corrupt"), "{error}");
    }
}

#[test]
fn a_snapshot_from_elsewhere_is_checked_first() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, other) = (Store::open(here.path()).unwrap(), Store::open(there.path()).unwrap());
    let theirs = write(&other, 44);
    let ours = store.import(&theirs.path).unwrap();
    assert_eq!((ours.meta.clone(), read(&ours)), (theirs.meta.clone(), records(44, 500)));
    assert_eq!(store.import(&ours.path).unwrap(), ours, "what is here already stays");
    let mut bad = fs::read(&theirs.path).unwrap();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&theirs.path, bad).unwrap();
    assert!(matches!(store.import(&theirs.path), Err(Error::Corrupt { .. })));
    assert_eq!(read(&ours), records(44, 500));
}

#[test]
fn a_record_that_is_too_large_leaves_the_old_snapshot() {
    let tmp = tempfile::tempdir().unwrap();
    let store = Store::open(tmp.path()).unwrap();
    write(&store, 1);
    let huge = vec![0; super::PAYLOAD_BYTES_MAX + 1];
    let refused = store.write(Meta { index: 2, opaque: vec![] }, std::iter::once(huge));
    assert!(matches!(refused, Err(Error::TooLarge(_))));
    assert_eq!(names(tmp.path()), ["00000000000000000001.snap"]);
}
