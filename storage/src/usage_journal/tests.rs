use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;

const BOOT: &str = "boot-1";

fn key(budget: &str, epoch: u64) -> Key {
    Key { budget: budget.into(), epoch, incarnation: 5 }
}

fn open(dir: &Path) -> (UsageJournal, Vec<Past>) {
    UsageJournal::open_in_boot(dir, BOOT).unwrap()
}

fn figure(start: u64) -> (Arc<AtomicU64>, Arc<dyn Charged>) {
    let value = Arc::new(AtomicU64::new(start));
    let read = Arc::clone(&value);
    (value, Arc::new(move || read.load(Ordering::SeqCst)))
}

/// Ends the process's part without a clean close, as a kill does.
fn die(journal: UsageJournal) {
    drop(journal);
}

#[test]
fn a_later_process_reads_what_was_charged() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, past) = open(dir.path());
    assert_eq!(past, vec![]);
    let (value, charged) = figure(0);
    let lease = journal.lease(&key("virtual_key/app", 7), 0, charged).unwrap();
    let (_other, charged) = figure(3);
    let _other_lease = journal.lease(&key("team/web", 1), 0, charged).unwrap();
    for spent in [10, 25, 70] {
        value.store(spent, Ordering::SeqCst);
        lease.cover().unwrap();
    }
    die(journal);
    let (_journal, past) = open(dir.path());
    assert_eq!(
        past,
        vec![
            Past { key: key("virtual_key/app", 7), charged: 70, is_exact: true },
            Past { key: key("team/web", 1), charged: 3, is_exact: true },
        ]
    );
}

#[test]
fn the_file_follows_a_settlement_down_but_never_below_what_is_charged() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let (value, charged) = figure(0);
    let lease = journal.lease(&key("b", 1), 0, charged).unwrap();
    value.store(100, Ordering::SeqCst);
    lease.cover().unwrap();
    value.store(40, Ordering::SeqCst);
    lease.settled();
    journal.sync().unwrap();
    assert_eq!(open(dir.path()).1[0].charged, 40);
    value.store(60, Ordering::SeqCst);
    lease.cover().unwrap();
    assert_eq!(open(dir.path()).1[0].charged, 60);
}

#[test]
fn headroom_saves_writes_and_is_counted_as_charged() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let (value, charged) = figure(0);
    let lease = journal.lease(&key("b", 1), 50, charged).unwrap();
    value.store(30, Ordering::SeqCst);
    lease.cover().unwrap();
    assert_eq!(*lease.place.turn.lock(), Some(0), "nothing was written");
    assert_eq!(open(dir.path()).1[0].charged, 50);
    value.store(51, Ordering::SeqCst);
    lease.cover().unwrap();
    assert_eq!(open(dir.path()).1[0].charged, 101);
}

#[test]
fn a_closed_lease_is_gone_and_its_place_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    for epoch in 0..50 {
        let lease = journal.lease(&key("b", epoch), 0, figure(epoch).1).unwrap();
        lease.clone().close().unwrap();
        lease.close().unwrap();
    }
    let _kept = journal.lease(&key("kept", 1), 0, figure(9).1).unwrap();
    assert_eq!(fs::metadata(&journal.shared.path).unwrap().len(), 2 * SLOT_BYTES as u64);
    let (_again, past) = open(dir.path());
    assert_eq!(past, vec![Past { key: key("kept", 1), charged: 9, is_exact: true }]);
}

/// Charged, and how much more can be.
struct Bounded(AtomicU64, AtomicU64);

impl Charged for Bounded {
    fn charged(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn ahead_max(&self) -> u64 {
        self.1.load(Ordering::SeqCst)
    }
}

#[test]
fn headroom_never_passes_what_can_still_be_charged() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let figures = Arc::new(Bounded(AtomicU64::new(0), AtomicU64::new(20)));
    let charged: Arc<dyn Charged> = figures.clone();
    let lease = journal.lease(&key("b", 1), 50, charged).unwrap();
    assert_eq!(open(dir.path()).1[0].charged, 20);
    figures.0.store(30, Ordering::SeqCst);
    figures.1.store(5, Ordering::SeqCst);
    lease.cover().unwrap();
    assert_eq!(open(dir.path()).1[0].charged, 35);
    figures.1.store(0, Ordering::SeqCst);
    journal.sync().unwrap();
    assert_eq!(open(dir.path()).1[0].charged, 30, "nothing runs: exact");
}

#[test]
fn a_closed_lease_writes_no_more_into_the_place_that_another_has_by_now() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let (value, charged) = figure(10);
    let lease = journal.lease(&key("old", 1), 0, charged).unwrap();
    let (late, place) = (lease.clone(), Arc::clone(&lease.place));
    lease.close().unwrap();
    let (_new, charged) = figure(3);
    let _new_lease = journal.lease(&key("new", 1), 0, charged).unwrap();
    // A request that outlived the budget costs more than it had set aside, and a round that began before finds less.
    value.store(99, Ordering::SeqCst);
    late.cover().unwrap();
    value.store(1, Ordering::SeqCst);
    late.shared.lower(&place).unwrap();
    late.close().unwrap();
    let past = open(dir.path()).1;
    assert_eq!(past, vec![Past { key: key("new", 1), charged: 3, is_exact: true }]);
}

#[test]
fn after_a_power_loss_nothing_is_exact_unless_the_file_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let _lease = journal.lease(&key("b", 1), 0, figure(9).1).unwrap();
    die(journal);
    let (second, past) = UsageJournal::open_in_boot(dir.path(), "boot-2").unwrap();
    assert_eq!(past, vec![Past { key: key("b", 1), charged: 9, is_exact: false }]);
    second.forget_past().unwrap();
    let _lease = second.lease(&key("b", 2), 0, figure(4).1).unwrap();
    second.close().unwrap();
    let (_third, past) = UsageJournal::open_in_boot(dir.path(), "boot-3").unwrap();
    assert_eq!(past, vec![Past { key: key("b", 2), charged: 4, is_exact: true }]);
}

#[test]
fn without_a_name_for_the_boot_nothing_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = UsageJournal::open_in_boot(dir.path(), "").unwrap();
    let _lease = journal.lease(&key("b", 1), 0, figure(9).1).unwrap();
    die(journal);
    assert!(!UsageJournal::open_in_boot(dir.path(), "").unwrap().1[0].is_exact);
}

#[test]
fn the_past_comes_again_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let _lease = journal.lease(&key("b", 1), 0, figure(9).1).unwrap();
    die(journal);
    assert_eq!(open(dir.path()).1.len(), 1);
    let (journal, past) = open(dir.path());
    assert_eq!(past.len(), 1);
    journal.forget_past().unwrap();
    journal.close().unwrap();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "a journal without leases leaves no file"
    );
}

#[test]
fn a_torn_copy_leaves_the_one_before_and_is_not_taken_for_exact() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let (value, charged) = figure(1);
    let lease = journal.lease(&key("b", 1), 0, charged).unwrap();
    value.store(2, Ordering::SeqCst);
    lease.cover().unwrap();
    let path = journal.shared.path.clone();
    die(journal);
    let mut bytes = fs::read(&path).unwrap();
    bytes[SLOT_BYTES + 448] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(open(dir.path()).1, vec![Past { key: key("b", 1), charged: 1, is_exact: false }]);
}

#[test]
fn an_id_that_is_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let fits = key(&"x".repeat(BUDGET_BYTES_MAX), 1);
    let _lease = journal.lease(&fits, 0, figure(1).1).unwrap();
    let error =
        journal.lease(&key(&"x".repeat(BUDGET_BYTES_MAX + 1), 1), 0, figure(1).1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(open(dir.path()).1[0].key, fits);
}

/// Used and set aside, as `admit` keeps them.
#[derive(Default)]
struct Account {
    used: AtomicU64,
    reserved: AtomicU64,
}

impl Charged for Account {
    fn charged(&self) -> u64 {
        let reserved = self.reserved.load(Ordering::SeqCst);
        self.used.load(Ordering::SeqCst) + reserved
    }
}

#[test]
fn whoever_spends_while_the_file_is_lowered_finds_it_covered() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let account = Arc::new(Account::default());
    let lease = journal.lease(&key("b", 1), 0, Arc::<Account>::clone(&account)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    account.reserved.fetch_add(10, Ordering::SeqCst);
                    lease.cover().unwrap();
                    // Everybody who spends is covered; others may settle meanwhile, but cover only what they hold.
                    assert!(
                        account.used.load(Ordering::SeqCst) + 10
                            <= lease.place.written.load(Ordering::SeqCst)
                    );
                    account.used.fetch_add(3, Ordering::SeqCst);
                    account.reserved.fetch_sub(10, Ordering::SeqCst);
                    lease.settled();
                }
            });
        }
        scope.spawn(|| (0..2_000).for_each(|_| journal.shared.lower(&lease.place).unwrap()));
    });
    journal.sync().unwrap();
    assert_eq!(open(dir.path()).1[0].charged, 120_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_never_panics_and_no_lease_is_invented(
        noise in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..20),
        cut in any::<proptest::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = open(dir.path());
        let leases: Vec<_> = (0..4).map(|it| journal.lease(&key("b", it), 0, figure(it * 100).1).unwrap()).collect();
        let path = journal.shared.path.clone();
        die(journal);
        drop(leases);
        let mut bytes = fs::read(&path).unwrap();
        for (place, value) in noise {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        fs::write(&path, bytes).unwrap();
        for past in open(dir.path()).1 {
            prop_assert_eq!(past.charged, past.key.epoch * 100);
            prop_assert_eq!(&*past.key.budget, "b");
        }
    }

    #[test]
    fn bytes_that_were_never_ours_are_no_lease(bytes in proptest::collection::vec(1..=255u8, 0..2_000)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0000000000000001.leases"), bytes).unwrap();
        prop_assert_eq!(open(dir.path()).1, vec![]);
    }
}

const CHILD: &str = "ALTHING_TEST_USAGE_DIR";

/// Not a test of its own: what [`kill_9_loses_no_charge`] runs and kills.
#[test]
#[expect(clippy::disallowed_methods, reason = "how the parent names the folder")]
fn child_that_spends_until_it_is_killed() {
    use std::io::Write as _;
    let Ok(dir) = std::env::var(CHILD) else { return };
    let (journal, _) = UsageJournal::open(Path::new(&dir)).unwrap();
    let account = Arc::new(Account::default());
    let lease = journal.lease(&key("b", 1), 0, Arc::<Account>::clone(&account)).unwrap();
    let mut out = io::stdout();
    for _ in 0..1_000_000 {
        account.reserved.fetch_add(10, Ordering::SeqCst);
        lease.cover().unwrap();
        account.used.fetch_add(7, Ordering::SeqCst);
        account.reserved.fetch_sub(10, Ordering::SeqCst);
        lease.settled();
        out.write_all(b"spent 7\n").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn kill_9_loses_no_charge() {
    use std::io::{BufRead as _, BufReader};
    for calls in [1u64, 700, 4_000] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "usage_journal::tests::child_that_spends_until_it_is_killed",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut spent = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            spent += if line.unwrap().contains("spent 7") { 7 } else { 0 };
            if spent == 7 * calls {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let (_journal, past) = UsageJournal::open(dir.path()).unwrap();
        let [past] = past.as_slice() else { panic!("{past:?}") };
        assert!(
            past.is_exact && spent <= past.charged,
            "{spent} was spent, the file says {}",
            past.charged
        );
    }
}
