use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write as _;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::fs_port::{AppendFile, Disk};
use super::*;
use crate::record::{Bodies, Body, Kind};

fn record(id: u128) -> Record {
    let mut record = Record::new(id, 1_000, Arc::from("n"), Kind::ModelCall);
    record.model = Some(Arc::from("m"));
    record
}

fn open(dir: &Path, bound_bytes: u64) -> (Spool, Drain) {
    let options = Options { dir: dir.to_owned(), bound_bytes, shards: 1 };
    Spool::open(&options, 1, Box::new(Disk)).unwrap()
}

/// Everything that waits, in order, and lets it go.
fn drain_all(drain: &mut Drain) -> Vec<u128> {
    let mut ids = Vec::new();
    loop {
        let batch = drain.next(7);
        if batch.is_empty() {
            return ids;
        }
        ids.extend(batch.records.iter().map(|it| it.id));
        drain.commit(&batch);
        drain.let_go(|| true);
    }
}

fn spool_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path()).collect();
    files.retain(|it| it.extension().is_some_and(|it| it == "spool"));
    files.sort();
    files
}

#[test]
fn records_come_out_in_the_order_of_their_file_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut drain) = open(dir.path(), u64::MAX);
    (1..=100).for_each(|id| spool.append(&record(id)).unwrap());
    assert_eq!(drain_all(&mut drain), (1..=100).collect::<Vec<_>>());
    assert_eq!(drain_all(&mut drain), Vec::<u128>::new());
    assert_eq!(spool.stats().backlog_bytes, 0);
}

#[test]
fn a_batch_that_was_not_committed_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut drain) = open(dir.path(), u64::MAX);
    (1..=5).for_each(|id| spool.append(&record(id)).unwrap());
    assert_eq!(drain.next(3).records.len(), 3);
    assert_eq!(drain_all(&mut drain), vec![1, 2, 3, 4, 5]);
}

#[test]
fn what_an_earlier_life_left_is_found_from_where_it_was_moved_to() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (spool, mut drain) = open(dir.path(), u64::MAX);
        (1..=10).for_each(|id| spool.append(&record(id)).unwrap());
        let batch = drain.next(4);
        drain.commit(&batch);
    }
    let (spool, mut drain) = open(dir.path(), u64::MAX);
    spool.append(&record(11)).unwrap();
    assert_eq!(drain_all(&mut drain), vec![5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(spool_files(dir.path()).len(), 1, "the file of the earlier life is deleted");
}

#[test]
fn without_a_mark_everything_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (spool, mut drain) = open(dir.path(), u64::MAX);
        (1..=3).for_each(|id| spool.append(&record(id)).unwrap());
        drain_all(&mut drain);
    }
    fs::write(segment::mark_path(&spool_files(dir.path())[0]), b"nonsense").unwrap();
    let (_spool, mut drain) = open(dir.path(), u64::MAX);
    assert_eq!(drain_all(&mut drain), vec![1, 2, 3]);
}

#[test]
fn after_a_power_loss_what_is_still_there_is_moved_again() {
    let dir = tempfile::tempdir().unwrap();
    let in_boot = |boot| {
        let options = Options { dir: dir.path().to_owned(), bound_bytes: u64::MAX, shards: 1 };
        Spool::open_in_boot(&options, 1, Box::new(Disk), boot).unwrap()
    };
    {
        let (spool, mut drain) = in_boot("one");
        (1..=3).for_each(|id| spool.append(&record(id)).unwrap());
        drain_all(&mut drain);
    }
    drop(in_boot("one"));
    assert!(segment::mark_path(&spool_files(dir.path())[0]).exists());
    let (_spool, mut drain) = in_boot("two");
    assert_eq!(drain_all(&mut drain), vec![1, 2, 3]);
}

#[test]
fn a_file_stays_until_the_database_is_safe() {
    let dir = tempfile::tempdir().unwrap();
    drop({
        let opened = open(dir.path(), u64::MAX);
        opened.0.append(&record(1)).unwrap();
        opened
    });
    let (_spool, mut drain) = open(dir.path(), u64::MAX);
    let batch = drain.next(9);
    drain.commit(&batch);
    drain.let_go(|| false);
    assert_eq!(spool_files(dir.path()).len(), 1);
    drain.let_go(|| true);
    assert_eq!(spool_files(dir.path()).len(), 0);
    drain.let_go(|| panic!("there is nothing to sync for"));
}

#[test]
fn a_torn_last_frame_is_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (spool, _drain) = open(dir.path(), u64::MAX);
        (1..=3).for_each(|id| spool.append(&record(id)).unwrap());
    }
    let path = spool_files(dir.path()).remove(0);
    let whole = fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(whole - 5).unwrap();
    let (spool, mut drain) = open(dir.path(), u64::MAX);
    assert_eq!(drain_all(&mut drain), vec![1, 2]);
    assert_eq!(spool.stats().torn_frames, 1);
    assert_eq!(spool.stats().backlog_bytes, 0);
    assert!(spool_files(dir.path()).is_empty());
}

#[test]
fn a_damaged_frame_costs_itself_alone_and_the_file_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (spool, _drain) = open(dir.path(), u64::MAX);
        (1..=3).for_each(|id| spool.append(&record(id)).unwrap());
    }
    let path = spool_files(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let (spool, mut drain) = open(dir.path(), u64::MAX);
    assert_eq!(drain_all(&mut drain), vec![1, 3]);
    assert_eq!(spool.stats().damaged_frames, 1);
    assert!(dir.path().join(QUARANTINE).join(path.file_name().unwrap()).exists());
}

#[test]
fn a_frame_in_a_callers_body_is_never_taken_for_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut forged = Vec::new();
    frame::write(&mut forged, 0, |out| crate::record::encode(&record(666), out));
    let mut evil = record(1);
    evil.bodies =
        Some(Box::new(Bodies { request: Body::new(&forged.into()), response: Body::default() }));
    {
        let (spool, _drain) = open(dir.path(), u64::MAX);
        spool.append(&evil).unwrap();
        spool.append(&record(2)).unwrap();
    }
    let path = spool_files(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(segment::HEADER_BYTES).unwrap() + 5] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (_spool, mut drain) = open(dir.path(), u64::MAX);
    assert_eq!(drain_all(&mut drain), vec![2]);
}

#[test]
fn a_file_without_a_header_is_kept_aside_and_the_spool_opens() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0000000000000000-00000000.spool"), vec![7; 4096]).unwrap();
    fs::write(dir.path().join("0000000000000000-00000001.spool"), b"").unwrap();
    let (spool, mut drain) = open(dir.path(), u64::MAX);
    spool.append(&record(1)).unwrap();
    assert_eq!(drain_all(&mut drain), vec![1]);
    assert_eq!(fs::read_dir(dir.path().join(QUARANTINE)).unwrap().count(), 1);
}

#[test]
fn a_file_that_somebody_cut_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut drain) = open(dir.path(), u64::MAX);
    (1..=4).for_each(|id| spool.append(&record(id)).unwrap());
    let path = spool_files(dir.path()).remove(0);
    let whole = fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(whole - 5).unwrap();
    assert_eq!(drain_all(&mut drain), vec![1, 2, 3]);
    assert_eq!(spool.stats().backlog_bytes, 0);
    assert_eq!(spool.stats().damaged_frames, 1);
}

#[test]
fn long_files_are_ended_and_deleted_when_they_are_through() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut drain) = open(dir.path(), u64::MAX);
    let mut large = record(0);
    large.bodies = Some(Box::new(Bodies {
        request: Body::new(&vec![3; 1_500_000].into()),
        response: Body::default(),
    }));
    for id in 1..=10 {
        large.id = id;
        spool.append(&large).unwrap();
    }
    assert_eq!(spool_files(dir.path()).len(), 4);
    let mut ids = drain_all(&mut drain);
    ids.sort_unstable();
    assert_eq!(ids, (1..=10).collect::<Vec<_>>());
    assert_eq!(spool_files(dir.path()).len(), 1, "the one that is written is left");
}

#[test]
fn at_the_bound_an_append_says_so_and_there_is_room_again_when_records_were_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut drain) = open(dir.path(), 500);
    let mut kept = 0;
    let error = loop {
        match spool.append(&record(kept + 1)) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Full { bound_bytes: 500 }), "{error}");
    assert_eq!(spool.stats().refused, 1);
    assert_eq!(drain_all(&mut drain), (1..=kept).collect::<Vec<_>>());
    spool.append(&record(99)).unwrap();
}

#[test]
fn reserved_room_holds_others_back_but_not_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _drain) = open(dir.path(), RESERVED_BYTES);
    let room = spool.reserve().unwrap();
    assert!(matches!(spool.reserve(), Err(AppendError::Full { .. })));
    room.append(&record(1)).unwrap();
    drop(room);
    assert!(spool.has_room());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_gets_it_when_records_are_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut drain) = open(dir.path(), 1);
    spool.append(&record(1)).unwrap();
    let refused = spool.append_within(&record(2), Duration::from_secs(1)).await;
    assert!(matches!(refused, Err(AppendError::Full { .. })));
    let second = record(2);
    let waiting = spool.append_within(&second, Duration::from_secs(60));
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting.as_mut()).await.is_err());
    drain_all(&mut drain);
    waiting.await.unwrap();
    assert_eq!(drain_all(&mut drain), vec![2]);
}

/// A disk that takes only so many bytes, and perhaps cannot cut a file.
#[derive(Clone)]
struct SmallDisk {
    left: Arc<Mutex<usize>>,
    can_truncate: bool,
}

struct SmallFile(SmallDisk, Box<dyn AppendFile>);

impl Fs for SmallDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        Ok(Box::new(SmallFile(self.clone(), Disk.create(path)?)))
    }
}

impl AppendFile for SmallFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut left = self.0.left.lock();
        let count = bytes.len().min(*left);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *left -= count;
        self.1.write(&bytes[..count])
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        if self.0.can_truncate {
            self.1.truncate(length)
        } else {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
}

fn on_a_full_disk(can_truncate: bool) {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk { left: Arc::new(Mutex::new(200)), can_truncate };
    let options = Options { dir: dir.path().to_owned(), bound_bytes: u64::MAX, shards: 1 };
    let (spool, mut drain) = Spool::open(&options, 1, Box::new(disk.clone())).unwrap();
    let mut kept = Vec::new();
    for id in 1..=20 {
        match spool.append(&record(id)) {
            Ok(()) => kept.push(id),
            Err(AppendError::Disk(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(!kept.is_empty() && kept.len() < 20);
    *disk.left.lock() = usize::MAX;
    spool.append(&record(21)).unwrap();
    kept.push(21);
    drop((spool, drain.next(1)));
    let (_spool, mut again) = open(dir.path(), u64::MAX);
    assert_eq!(drain_all(&mut again), kept, "every append that returned, and no other");
}

#[test]
fn a_full_disk_is_told_and_the_torn_write_cut_off() {
    on_a_full_disk(true);
}

#[test]
fn a_torn_write_that_cannot_be_cut_off_is_skipped_by_the_reader() {
    on_a_full_disk(false);
}

#[test]
fn a_device_without_room_refuses_with_its_own_error() {
    struct FullDevice;
    impl Fs for FullDevice {
        fn create(&self, _: &Path) -> io::Result<Box<dyn AppendFile>> {
            Ok(Box::new(OpenOptions::new().write(true).open("/dev/full")?))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let options = Options { dir: dir.path().to_owned(), bound_bytes: u64::MAX, shards: 1 };
    let (spool, _drain) = Spool::open(&options, 1, Box::new(FullDevice)).unwrap();
    let Err(AppendError::Disk(error)) = spool.append(&record(1)) else { panic!("it was kept") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(spool.stats().disk_errors, 1);
}

#[test]
fn threads_append_side_by_side_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { dir: dir.path().to_owned(), bound_bytes: u64::MAX, shards: 3 };
    let (spool, mut drain) = Spool::open(&options, 1, Box::new(Disk)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u128 {
            let spool = &spool;
            scope.spawn(move || {
                (0..200).for_each(|id| spool.append(&record(thread * 1_000 + id)).unwrap());
            });
        }
    });
    let ids = drain_all(&mut drain);
    assert_eq!(ids.len(), 1_600);
    assert_eq!(ids.into_iter().collect::<HashSet<_>>().len(), 1_600);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_in_a_spool_file_never_panics_and_never_invents_a_record(
        noise in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..12),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let dir = tempfile::tempdir().unwrap();
        {
            let (spool, _drain) = open(dir.path(), u64::MAX);
            (1..=20).for_each(|id| spool.append(&record(id)).unwrap());
        }
        let path = spool_files(dir.path()).remove(0);
        let mut bytes = fs::read(&path).unwrap();
        for (place, value) in noise {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        bytes.write_all(&tail).unwrap();
        fs::write(&path, bytes).unwrap();
        let (spool, mut drain) = open(dir.path(), u64::MAX);
        let ids = drain_all(&mut drain);
        prop_assert!(ids.is_sorted() && ids.iter().all(|it| (1..=20).contains(it)), "{:?}", ids);
        prop_assert_eq!(spool.stats().backlog_bytes, 0);
    }
}
