use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Quota, RaftLog};
use crate::log::contract::{self, Engine, entries, wait};
use crate::log::{Error, Log, Meta};

#[test]
fn the_contract_holds() {
    let dir = tempfile::tempdir().unwrap();
    contract::check(
        &mut |name| Box::new(RaftLog::open(&dir.path().join(name), Quota::unlimited()).unwrap()),
        Engine::Remembers,
    );
}

#[test]
fn what_is_queued_together_is_flushed_together() {
    let dir = tempfile::tempdir().unwrap();
    let log = RaftLog::open(&dir.path().join("raft.redb"), Quota::unlimited()).unwrap();
    for i in 0..999 {
        log.append(i, &entries(i..i + 1), Box::new(|_| ())).unwrap();
    }
    wait(|done| log.append(999, &entries(999..1000), done)).unwrap();
    assert!(log.flushes() < 500, "{} flushes for 1000 appends", log.flushes());
}

#[test]
fn a_hint_costs_no_flush_of_its_own_and_is_there_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft.redb");
    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    for i in 0..100 {
        wait(|done| log.append(i, &entries(i..i + 1), done)).unwrap();
        log.set_meta(Meta::Committed, Bytes::from(i.to_string()), Box::new(|_| ())).unwrap();
        assert_eq!(log.meta(Meta::Committed).unwrap(), i.to_string());
    }
    assert_eq!(log.flushes(), 100);
    drop(log);
    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    assert_eq!(log.meta(Meta::Committed).unwrap(), "99");
    for i in 0..2000 {
        let hint = log.set_meta(Meta::Committed, Bytes::from(i.to_string()), Box::new(|_| ()));
        assert!(matches!(hint, Ok(()) | Err(Error::Busy)));
    }
    wait(|done| log.append(100, &entries(100..101), done)).unwrap();
}

#[test]
fn old_entries_are_read_from_disk_when_memory_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft.redb");
    let big = |i: u64| Bytes::from(vec![u8::try_from(i % 251).unwrap(); 4 << 20]);
    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    for i in 0..24 {
        wait(|done| log.append(i, &[big(i)], done)).unwrap();
    }
    let check = |log: &RaftLog| {
        assert!(log.shared.with_tail(super::Tail::start) > 0, "nothing was evicted");
        for i in 0..24 {
            assert_eq!(log.read(i, i + 1, usize::MAX).unwrap(), [big(i)], "entry {i}");
        }
        let mut at = 0;
        while at < 24 {
            let got = log.read(at, 24, 9 << 20).unwrap();
            assert!(!got.is_empty() && got.len() <= 2);
            at += got.len() as u64;
        }
    };
    check(&log);
    wait(|done| log.truncate_after(Some(2), done)).unwrap();
    assert_eq!(log.bounds().last, Some(2));
    assert_eq!(log.read(2, 9, usize::MAX).unwrap(), [big(2)]);
    for i in 3..24 {
        wait(|done| log.append(i, &[big(i)], done)).unwrap();
    }
    check(&log);
    drop(log);
    check(&RaftLog::open(&file, Quota::unlimited()).unwrap());
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_keeps_reading() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft.redb");
    let quota = Quota::unlimited();
    let log = RaftLog::open(&file, quota.clone()).unwrap();
    wait(|done| log.append(0, &entries(0..10), done)).unwrap();
    quota.set(0);
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let mut acknowledged = 10;
    let error = loop {
        match wait(|done| log.append(acknowledged, std::slice::from_ref(&chunk), done)) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100, "the quota has no effect");
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(log.failed(), Some(error.clone()));
    let again = log.append(
        acknowledged + 1,
        &entries(0..1),
        Box::new(|_| panic!("called for a refused write")),
    );
    assert!(again.is_err());
    assert_eq!(wait(|done| log.set_meta(Meta::Vote, Bytes::new(), done)), Err(error));
    assert_eq!(log.read(0, 10, 1000).unwrap(), entries(0..10), "reading goes on");
    drop(log);

    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    assert!(log.bounds().last.unwrap() + 1 >= acknowledged, "an acknowledged entry was lost");
    assert_eq!(log.read(0, 10, 1000).unwrap(), entries(0..10));
    let next = log.bounds().last.unwrap() + 1;
    wait(|done| log.append(next, &entries(0..1), done)).unwrap();
}

#[test]
fn a_damaged_file_is_refused_with_its_name_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft.redb");
    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    wait(|done| log.append(0, &entries(0..2000), done)).unwrap();
    drop(log);
    let good = std::fs::read(&file).unwrap();

    // The text of an entry in the middle, the header, and a cut.
    let needle = b"entry 1000";
    let at = good.windows(needle.len()).position(|w| w == needle).unwrap();
    let mut text = good.clone();
    text[at + 3] ^= 0x20;
    let mut header = good.clone();
    header[..64].fill(0);
    let cut = good[..good.len() / 2].to_vec();
    for (what, bytes) in
        [("text", text), ("header", header), ("cut", cut), ("noise", vec![0x5a; 20_000])]
    {
        std::fs::write(&file, bytes).unwrap();
        match RaftLog::open(&file, Quota::unlimited()) {
            Err(error @ Error::Corrupt { .. }) => {
                assert!(error.to_string().contains("raft.redb"), "{what}: {error}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    std::fs::write(&file, good).unwrap();
    RaftLog::open(&file, Quota::unlimited()).unwrap();
}

#[test]
fn a_log_that_is_open_is_not_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft.redb");
    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    wait(|done| log.append(0, &entries(0..10), done)).unwrap();
    for _ in 0..2 {
        let second = RaftLog::open(&file, Quota::unlimited());
        assert!(matches!(second, Err(Error::Open { .. })), "{second:?}");
        wait(|done| log.append(log.bounds().last.unwrap() + 1, &entries(0..1), done)).unwrap();
    }
    drop(log);
    RaftLog::open(&file, Quota::unlimited()).unwrap();
}

#[test]
fn random_damage_never_panics_and_never_shows_another_entry() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft.redb");
    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    wait(|done| log.append(0, &entries(0..300), done)).unwrap();
    drop(log);
    let good = std::fs::read(&file).unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let mut refused = 0;
    for _ in 0..40 {
        let mut bad = good.clone();
        for _ in 0..rng.random_range(1..20) {
            let at = rng.random_range(0..bad.len());
            bad[at] = rng.random();
        }
        std::fs::write(&file, bad).unwrap();
        match RaftLog::open(&file, Quota::unlimited()) {
            Ok(log) => assert_eq!(log.read(0, 300, usize::MAX).unwrap(), entries(0..300)),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}

/// A disk that loses what was not synced: each sector written since the last sync survives a power cut or not, as the seed says.
#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    now: Vec<u8>,
    /// Calls that are left until the power goes.
    fuse: Option<u64>,
}

const SECTOR: usize = 512;

impl Disk {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn burn(&self) -> io::Result<parking_lot::MutexGuard<'_, Platter>> {
        let mut platter = self.0.lock();
        match &mut platter.fuse {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(platter)
            }
            None => Ok(platter),
        }
    }

    fn power_cut(&self, rng: &mut StdRng) {
        let mut platter = self.0.lock();
        let length = if rng.random() { platter.now.len() } else { platter.synced.len() };
        let mut after = vec![0; length];
        for (sector, out) in after.chunks_mut(SECTOR).enumerate() {
            let from = if rng.random() { &platter.now } else { &platter.synced };
            let start = sector * SECTOR;
            if let Some(data) = from.get(start..from.len().min(start + out.len())) {
                out[..data.len()].copy_from_slice(data);
            }
        }
        *platter = Platter { synced: after.clone(), now: after, fuse: None };
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.burn()?.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let platter = self.burn()?;
        out.copy_from_slice(
            platter.now.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?,
        );
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.burn()?.now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.burn()?;
        platter.synced = platter.now.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.burn()?.now[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// What a reader must find after the power came back.
#[derive(Debug, Default, Clone)]
struct Model {
    entries: BTreeMap<u64, Bytes>,
    vote: Option<Bytes>,
    purged: Option<u64>,
}

/// Does random operations one at a time until the power goes, and returns every state that is allowed afterwards: the
/// acknowledged one, and the one with the operation that was under way.
fn work(log: &RaftLog, mut model: Model, rng: &mut StdRng) -> [Model; 2] {
    loop {
        let before = model.clone();
        let last = model.entries.keys().next_back().copied().or(model.purged);
        let next = last.map_or(0, |last| last + 1);
        let result = match rng.random_range(0..10) {
            0 => {
                let vote = Bytes::from(rng.random::<u64>().to_string());
                model.vote = Some(vote.clone());
                wait(|done| log.set_meta(Meta::Vote, vote, done))
            }
            1 if !model.entries.is_empty() => {
                let first = *model.entries.keys().next().unwrap();
                let after = rng.random_range(first..next);
                model.entries.split_off(&(after + 1));
                wait(|done| log.truncate_after(Some(after), done))
            }
            2 if !model.entries.is_empty() => {
                let first = *model.entries.keys().next().unwrap();
                let upto = rng.random_range(first..next);
                model.entries = model.entries.split_off(&(upto + 1));
                model.purged = Some(upto);
                wait(|done| log.purge(upto, Bytes::from(upto.to_string()), done))
            }
            3 => {
                // Not waited for, and allowed to be lost; it must not take anything else with it.
                log.set_meta(Meta::Committed, Bytes::from(next.to_string()), Box::new(|_| ()))
            }
            _ => {
                let count = rng.random_range(1..24);
                let seed: u64 = rng.random();
                let new: Vec<Bytes> =
                    (0..count).map(|i| Bytes::from(format!("{seed} {i}").repeat(20))).collect();
                model.entries.extend((next..).zip(new.iter().cloned()));
                wait(|done| log.append(next, &new, done))
            }
        };
        if result.is_err() {
            return [before, model];
        }
    }
}

fn find(log: &RaftLog) -> Model {
    let bounds = log.bounds();
    let first = bounds.first.unwrap_or(0);
    let found = log.read(first, u64::MAX, usize::MAX).unwrap();
    Model {
        entries: (first..).zip(found).collect(),
        vote: log.meta(Meta::Vote),
        purged: bounds.purged,
    }
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let name: Arc<str> = "disk".into();
    let mut cuts = 0;
    for seed in 0..120 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = Disk::new();
        let mut allowed = vec![Model::default()];
        for _ in 0..4 {
            let log = RaftLog::open_backend(name.clone(), disk.clone())
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let found = find(&log);
            let same = |m: &Model| {
                m.entries == found.entries && m.vote == found.vote && m.purged == found.purged
            };
            assert!(
                allowed.iter().any(same),
                "seed {seed}: after cut {cuts} the log holds {:?}",
                log.bounds()
            );
            disk.0.lock().fuse = Some(rng.random_range(0..400));
            allowed = work(&log, found, &mut rng).into();
            drop(log);
            disk.power_cut(&mut rng);
            cuts += 1;
            // Also while it opens and repairs.
            disk.0.lock().fuse = Some(rng.random_range(0..60));
            if let Ok(log) = RaftLog::open_backend(name.clone(), disk.clone()) {
                drop(log);
            }
            disk.power_cut(&mut rng);
        }
    }
    assert_eq!(cuts, 480);
}

#[test]
fn a_log_that_is_dropped_has_written_everything() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raft.redb");
    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    let (tx, rx) = std::sync::mpsc::sync_channel(1000);
    for i in 0..500 {
        let tx = tx.clone();
        log.append(i, &entries(i..i + 1), Box::new(move |r| tx.send(r).unwrap())).unwrap();
    }
    drop(log);
    for _ in 0..500 {
        assert_eq!(rx.recv_timeout(Duration::from_secs(1)).unwrap(), Ok(()));
    }
    let log = RaftLog::open(&file, Quota::unlimited()).unwrap();
    assert_eq!(log.bounds().last, Some(499));
}
