use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::record::{Kind, Status, tests::any_record};

/// 2026-11-25T00:00:00Z.
const DAY_MS: u64 = 1_795_564_800_000;
const WITHIN: Duration = Duration::from_secs(20);
const A_DAY: u64 = 86_400_000;

fn small(id: u128) -> u64 {
    u64::try_from(id).unwrap()
}

fn clock_at(ms: u64) -> (Clock, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(ms));
    let read = Arc::clone(&now);
    (Arc::new(move || read.load(Ordering::Relaxed)), now)
}

fn open(dir: &Path) -> RequestLog {
    RequestLog::open(&Options::new(dir), clock_at(DAY_MS + 1_000).0).unwrap()
}

fn record(id: u128, at_ms: u64) -> Record {
    let mut record = Record::new(id, at_ms, Arc::from("node-a"), Kind::ModelCall);
    record.key = Some(Arc::from("app"));
    record.provider = Some(Arc::from("openai"));
    record.model = Some(Arc::from("gpt-4o"));
    record.tokens.input = 10;
    record.tokens.output = 5;
    record.cost_nano_usd = 1_000;
    record.latency_ms = 20;
    record
}

fn ids(page: &Page) -> Vec<u128> {
    page.entries.iter().map(|it| it.record.id).collect()
}

fn all(log: &RequestLog, filter: &Filter) -> Vec<u128> {
    let page = log.logs(filter, None, PAGE_MAX, WITHIN).unwrap();
    assert!(page.is_complete);
    ids(&page)
}

#[test]
fn what_was_answered_before_a_question_is_in_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for id in 1..=20 {
        log.spool().append(&record(id, DAY_MS + 500)).unwrap();
        assert_eq!(all(&log, &Filter::default()).len() as u128, id);
    }
}

#[test]
fn a_record_comes_back_as_it_was_and_its_bodies_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut full = record(7, DAY_MS + 5);
    full.kind = Kind::ToolCall;
    full.team = Some(Arc::from("web"));
    full.server = Some(Arc::from("search"));
    full.tool = Some(Arc::from("find"));
    full.status = Status::Failed;
    full.error = Some("upstream".into());
    full.http_status = 502;
    full.parent = Some(3);
    full.arguments_sha256 = Some([9; 32]);
    full.arguments = Some(Payload("{}".into()));
    full.bodies = Some(Box::new(Bodies {
        request: Body::new(&"question".into()),
        response: Body::new(&"answer".into()),
    }));
    log.spool().append(&full).unwrap();
    let page = log.logs(&Filter::default(), None, 10, WITHIN).unwrap();
    let entry = page.entries.first().unwrap();
    assert!(entry.has_bodies);
    assert_eq!(log.bodies(&entry.record, WITHIN).unwrap(), full.bodies.take().map(|it| *it));
    assert_eq!(entry.record, full);
}

#[test]
fn an_entry_is_found_by_its_id_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let minted = |ms: u64| (u128::from(ms) << 80) | 0x7000_8000_0000_0000_0001;
    // The clock passed midnight between the two looks at it.
    log.spool().append(&record(minted(DAY_MS - 1), DAY_MS)).unwrap();
    log.spool().append(&record(minted(DAY_MS + 9), DAY_MS + 8)).unwrap();
    let found = log.entry(minted(DAY_MS - 1), WITHIN).unwrap().unwrap();
    assert_eq!(found.record.at_ms, DAY_MS);
    assert!(log.entry(minted(DAY_MS + 9), WITHIN).unwrap().is_some());
    assert_eq!(log.entry(minted(DAY_MS + 10), WITHIN).unwrap(), None);
    assert_eq!(log.entry(u128::MAX, WITHIN).unwrap(), None);
}

#[test]
fn each_filter_keeps_what_fits_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut other = record(2, DAY_MS + 200);
    other.kind = Kind::ToolCall;
    other.key = Some(Arc::from("other"));
    other.team = Some(Arc::from("t"));
    other.customer = Some(Arc::from("c"));
    other.provider = Some(Arc::from("p"));
    other.model = Some(Arc::from("50%_off"));
    other.server = Some(Arc::from("s"));
    other.tool = Some(Arc::from("Find"));
    other.status = Status::Refused;
    other.error = Some("budget_exceeded".into());
    other.latency_ms = 900;
    other.cost_nano_usd = 2_000;
    other.parent = Some(1);
    log.spool().append(&record(1, DAY_MS + 100)).unwrap();
    log.spool().append(&other).unwrap();
    let text = |it: &str| Some(it.to_owned());
    let cases = [
        Filter { from_ms: Some(DAY_MS + 200), ..Filter::default() },
        Filter { kind: Some(Kind::ToolCall), ..Filter::default() },
        Filter { key: text("other"), ..Filter::default() },
        Filter { team: text("t"), ..Filter::default() },
        Filter { customer: text("c"), ..Filter::default() },
        Filter { provider: text("p"), ..Filter::default() },
        Filter { model: text("50%_off"), ..Filter::default() },
        Filter { server: text("s"), ..Filter::default() },
        Filter { tool: text("Find"), ..Filter::default() },
        Filter { status: Some(Status::Refused), ..Filter::default() },
        Filter { latency_ms_min: Some(900), ..Filter::default() },
        Filter { cost_nano_usd_min: Some(2_000), ..Filter::default() },
        Filter { parent: Some(1), ..Filter::default() },
        Filter { search: text("%_"), ..Filter::default() },
        Filter { search: text("find"), ..Filter::default() },
        Filter { search: text("exceeded"), ..Filter::default() },
        Filter { search: text("00000000000000000000000000000002"), ..Filter::default() },
        Filter { search: text("00000000-0000-0000-0000-000000000002"), ..Filter::default() },
    ];
    for filter in cases {
        assert_eq!(all(&log, &filter), vec![2], "{filter:?}");
    }
    assert_eq!(all(&log, &Filter { to_ms: Some(DAY_MS + 200), ..Filter::default() }), vec![1]);
    assert_eq!(all(&log, &Filter { status: Some(Status::Ok), ..Filter::default() }), vec![1]);
    assert_eq!(all(&log, &Filter { key: text("nobody"), ..Filter::default() }), Vec::<u128>::new());
}

#[test]
fn pages_meet_without_gap_or_repetition_while_records_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    // Three days, and many of the same millisecond.
    let times = |id: u128| DAY_MS - A_DAY * (small(id) % 3) + (small(id) / 30);
    (1..=100).for_each(|id| log.spool().append(&record(id, times(id))).unwrap());
    let mut seen = Vec::new();
    let mut cursor: Option<Cursor> = None;
    let mut later = 1_000;
    loop {
        let page = log.logs(&Filter::default(), cursor.as_ref(), 7, WITHIN).unwrap();
        seen.extend(ids(&page));
        later += 1;
        log.spool().append(&record(later, DAY_MS + 5_000)).unwrap();
        let Some(next) = page.next else { break };
        cursor = Some(next.to_string().parse().unwrap());
    }
    assert_eq!(seen.len(), 100);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 100);
    let keys: Vec<_> = seen.iter().map(|id| (times(*id), *id)).collect();
    assert!(keys.is_sorted_by(|a, b| a > b), "newest first: {keys:?}");
}

#[test]
fn a_page_that_is_just_full_has_no_next() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (1..=5).for_each(|id| log.spool().append(&record(id, DAY_MS)).unwrap());
    assert_eq!(log.logs(&Filter::default(), None, 5, WITHIN).unwrap().next, None);
    assert!(log.logs(&Filter::default(), None, 4, WITHIN).unwrap().next.is_some());
}

#[test]
fn what_is_not_a_cursor_is_refused() {
    for text in ["", "x", "AAAA", "not base64!"] {
        assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
    }
}

#[test]
fn a_query_that_takes_too_long_ends_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for id in 1..=2_000 {
        log.spool().append(&record(id, DAY_MS)).unwrap();
    }
    assert!(log.flush(WITHIN));
    let deadline = Deadline::after(Duration::from_millis(200));
    let connection = deadline.open(&Day::of(DAY_MS).file(dir.path())).unwrap().unwrap();
    let endless = "SELECT COUNT(*) FROM records a, records b, records c, records d WHERE a.latency_ms < b.at + c.at";
    let error = connection.query_row(endless, [], |row| row.get::<_, i64>(0)).unwrap_err();
    assert!(matches!(deadline.error(error), QueryError::TimedOut(_)));
}

#[test]
fn a_record_that_comes_again_is_not_counted_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.spool().append(&record(1, DAY_MS)).unwrap();
    log.spool().append(&record(1, DAY_MS)).unwrap();
    assert!(log.flush(WITHIN));
    log.spool().append(&record(1, DAY_MS)).unwrap();
    assert_eq!(all(&log, &Filter::default()), vec![1]);
    assert_eq!(log.usage(&Usage::default(), WITHIN).unwrap().total.calls, 1);
    assert_eq!(log.stats().repeated, 2);
}

#[test]
fn records_and_sums_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let log = open(dir.path());
        (1..=50).for_each(|id| log.spool().append(&record(id, DAY_MS + small(id))).unwrap());
        log.usage(&Usage::default(), WITHIN).unwrap()
    };
    let log = open(dir.path());
    assert_eq!(all(&log, &Filter::default()), (1..=50).rev().collect::<Vec<_>>());
    assert_eq!(log.usage(&Usage::default(), WITHIN).unwrap(), before);
}

#[test]
fn what_comes_after_the_end_waits_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.spool().append(&record(1, DAY_MS)).unwrap();
    log.shutdown();
    let left = fs::read_dir(dir.path().join("spool")).unwrap();
    let names: Vec<_> = left.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["boot"], "a clean end leaves no spool file");
    log.spool().append(&record(2, DAY_MS)).unwrap();
    drop(log);
    assert_eq!(all(&open(dir.path()), &Filter::default()), vec![2, 1]);
}

#[test]
fn a_panic_of_the_thread_does_not_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let calls = AtomicU64::new(0);
    // The second look at the clock panics; the first is that of the one who opens.
    let clock: Clock = Arc::new(move || {
        assert_ne!(calls.fetch_add(1, Ordering::Relaxed), 1, "this panic belongs to a test");
        DAY_MS
    });
    let log = RequestLog::open(&Options::new(dir.path()), clock).unwrap();
    log.spool().append(&record(1, DAY_MS)).unwrap();
    assert_eq!(all(&log, &Filter::default()), vec![1]);
    assert_eq!(log.stats().panics, 1);
}

#[test]
fn models_and_tools_are_summed_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.spool().append(&record(1, DAY_MS)).unwrap();
    log.spool().append(&record(2, DAY_MS + 3_600_000)).unwrap();
    let mut tool = Record::new(3, DAY_MS, Arc::from("node-a"), Kind::ToolCall);
    tool.key = Some(Arc::from("app"));
    tool.server = Some(Arc::from("search"));
    tool.tool = Some(Arc::from("find"));
    tool.status = Status::Failed;
    tool.cost_nano_usd = 7;
    log.spool().append(&tool).unwrap();
    let group_by = vec![Dimension::Model, Dimension::Tool, Dimension::Hour];
    let answer = log.usage(&Usage { group_by, ..Usage::default() }, WITHIN).unwrap();
    let name = |it: Option<&str>| Group::Name(it.map(Arc::from));
    let rows: Vec<_> = answer
        .rows
        .iter()
        .map(|(group, sums)| (group.clone(), sums.calls, sums.cost_nano_usd))
        .collect();
    assert_eq!(
        rows,
        vec![
            (vec![name(None), name(Some("find")), Group::From(DAY_MS)], 1, 7),
            (vec![name(Some("gpt-4o")), name(None), Group::From(DAY_MS)], 1, 1_000),
            (vec![name(Some("gpt-4o")), name(None), Group::From(DAY_MS + 3_600_000)], 1, 1_000),
        ]
    );
    assert_eq!(
        (answer.total.calls, answer.total.errors, answer.total.cost_nano_usd),
        (3, 1, 2_007)
    );
    let only = vec![(Dimension::Server, "search".to_owned())];
    assert_eq!(log.usage(&Usage { only, ..Usage::default() }, WITHIN).unwrap().total.calls, 1);
    let later = Usage { from_ms: Some(DAY_MS + 60_000), ..Usage::default() };
    assert_eq!(log.usage(&later, WITHIN).unwrap().total.calls, 1);
}

#[test]
fn a_damaged_day_is_moved_aside_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("2026-11-25.sqlite"), vec![0x5a; 20_000]).unwrap();
    let log = open(dir.path());
    log.spool().append(&record(1, DAY_MS)).unwrap();
    assert_eq!(all(&log, &Filter::default()), vec![1]);
    assert_eq!(log.stats().corrupt_files, 1);
    let aside = fs::read_dir(dir.path())
        .unwrap()
        .filter(|it| it.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".corrupt"));
    assert_eq!(aside.count(), 1);
}

#[test]
fn a_damaged_day_of_the_past_is_left_out_and_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("2026-11-20.sqlite"), vec![0x5a; 20_000]).unwrap();
    let log = open(dir.path());
    log.spool().append(&record(1, DAY_MS)).unwrap();
    let page = log.logs(&Filter::default(), None, 10, WITHIN).unwrap();
    assert_eq!(ids(&page), vec![1]);
    assert!(!page.is_complete);
}

#[test]
fn while_the_database_cannot_be_written_records_wait_and_are_then_moved() {
    let dir = tempfile::tempdir().unwrap();
    // A folder where the file should be.
    let in_the_way = dir.path().join("2026-11-25.sqlite");
    fs::create_dir(&in_the_way).unwrap();
    let log = open(dir.path());
    (1..=3).for_each(|id| log.spool().append(&record(id, DAY_MS)).unwrap());
    assert!(!log.flush(Duration::from_millis(500)));
    assert!(0 < log.stats().failed_batches);
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(all(&log, &Filter::default()), vec![3, 2, 1]);
}

thread_local! {
    static SYNCED: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
    static IS_DISK_BAD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn note_sync(path: &Path) -> io::Result<()> {
    if IS_DISK_BAD.get() {
        return Err(io::Error::other("the disk is bad"));
    }
    fs::File::open(path)?.sync_all()?;
    SYNCED.with_borrow_mut(|it| it.push(path.file_name().unwrap().to_str().unwrap().to_owned()));
    Ok(())
}

#[test]
fn all_that_was_written_is_synced_whoever_reads_and_whatever_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records");
    fs::create_dir(&path).unwrap();
    let mut writer = Writer::new(&path);
    writer.sync_path = note_sync;
    writer.insert(&[record(1, DAY_MS)], DAY_MS).unwrap();
    // A reader that began when nothing was in the log, and does not end.
    let reader = rusqlite::Connection::open(Day::of(DAY_MS).file(&path)).unwrap();
    reader.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM records").unwrap();
    let mut with_bodies = record(2, DAY_MS);
    with_bodies.bodies = Some(Box::new(Bodies {
        request: Body::new(&"question".into()),
        response: Body::new(&"answer".into()),
    }));
    writer.insert(&[with_bodies], DAY_MS).unwrap();
    // So many other days that the first is closed.
    for day in 1..5 {
        writer.insert(&[record(2 + u128::from(day), DAY_MS - day * A_DAY)], DAY_MS).unwrap();
    }
    IS_DISK_BAD.set(true);
    assert!(!writer.sync(), "a disk that refuses is told");
    IS_DISK_BAD.set(false);
    assert!(writer.sync());
    let synced: HashSet<String> = SYNCED.take().into_iter().collect();
    let above = dir.path().file_name().unwrap().to_str().unwrap();
    for wanted in [
        "2026-11-25.sqlite",
        "2026-11-25.sqlite-wal",
        "2026-11-21.sqlite",
        "records",
        "bodies",
        above,
    ] {
        assert!(synced.contains(wanted), "{wanted}: {synced:?}");
    }
    assert!(writer.sync() && SYNCED.take().is_empty(), "once is enough");
}

#[test]
fn a_file_that_is_not_as_it_was_left_is_looked_at_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(dir.path());
    writer.insert(&[record(1, DAY_MS)], DAY_MS).unwrap();
    let other = rusqlite::Connection::open(Day::of(DAY_MS).file(dir.path())).unwrap();
    let copy = "INSERT INTO records SELECT 2, x'00112233445566778899aabbccddeeff', at, node, kind, key, team, customer, provider, \
provider_key, model, server, tool, status, http_status, error, stream, latency_ms, overhead_us, attempts, input, cached_input, \
cache_write, output, reasoning, estimated, cost, parent, arguments_sha256, arguments, has_bodies, chain FROM records";
    other.execute(copy, []).unwrap();
    assert!(writer.insert(&[record(2, DAY_MS)], DAY_MS).is_err(), "its place is taken");
    assert_eq!(writer.insert(&[record(2, DAY_MS)], DAY_MS).unwrap(), 1);
}

#[test]
fn old_days_go_and_today_stays() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (0..5).for_each(|day| {
        log.spool().append(&record(u128::from(day), DAY_MS - day * A_DAY)).unwrap();
    });
    drop(log);
    fs::write(dir.path().join("2026-11-01.sqlite.1.corrupt"), b"x").unwrap();
    let options = Options { keep_days: 2, ..Options::new(dir.path()) };
    let log = RequestLog::open(&options, clock_at(DAY_MS + 1_000).0).unwrap();
    log.shutdown();
    let days: Vec<_> = day::list(dir.path()).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(days, ["2026-11-23", "2026-11-24", "2026-11-25"]);
    assert!(!dir.path().join("2026-11-01.sqlite.1.corrupt").exists());
}

#[test]
fn above_the_disk_limit_the_oldest_days_go_but_never_today() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (0..5).for_each(|day| {
        log.spool().append(&record(u128::from(day), DAY_MS - day * A_DAY)).unwrap();
    });
    drop(log);
    let sweep = |disk_bytes_max| {
        let retention = Retention {
            dir: dir.path().to_owned(),
            bodies_dir: bodies_dir(dir.path()),
            keep_days: 30,
            bodies_keep_days: 30,
            disk_bytes_max,
        };
        let left = retention::sweep(&retention, DAY_MS, &mut |_| {});
        (left, day::list(dir.path()).unwrap().len())
    };
    let (all_bytes, five) = sweep(u64::MAX);
    assert_eq!(five, 5);
    assert_eq!(sweep(all_bytes - 1).1, 4);
    assert_eq!(sweep(0).1, 1);
}

#[test]
fn retention_goes_on_while_the_log_is_open_and_clocks_move() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, now) = clock_at(DAY_MS);
    let options = Options { keep_days: 1, ..Options::new(dir.path()) };
    let log = RequestLog::open(&options, clock).unwrap();
    log.spool().append(&record(1, DAY_MS)).unwrap();
    assert_eq!(all(&log, &Filter::default()), vec![1]);
    now.store(DAY_MS + 3 * A_DAY, Ordering::Relaxed);
    log.spool().append(&record(2, DAY_MS + 3 * A_DAY)).unwrap();
    log.shutdown();
    assert_eq!(day::list(dir.path()).unwrap(), [Day::of(DAY_MS + 3 * A_DAY)]);
}

#[test]
fn the_chain_finds_a_row_that_was_changed_or_removed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (1..=10).for_each(|id| log.spool().append(&record(id, DAY_MS)).unwrap());
    assert!(log.flush(WITHIN));
    let day = Day::of(DAY_MS);
    let head = log.chain_head(day, WITHIN).unwrap().unwrap();
    assert_eq!(head.count, 10);
    assert_eq!(log.verify(day, WITHIN).unwrap(), Some(Verdict::Whole(head)));
    let file = rusqlite::Connection::open(day.file(dir.path())).unwrap();
    file.execute("UPDATE records SET cost = 1 WHERE seq = 4", []).unwrap();
    assert_eq!(log.verify(day, WITHIN).unwrap(), Some(Verdict::Broken { at: 4 }));
    file.execute("UPDATE records SET cost = 1000 WHERE seq = 4", []).unwrap();
    assert_eq!(log.verify(day, WITHIN).unwrap(), Some(Verdict::Whole(head)));
    file.execute("DELETE FROM records WHERE seq = 7", []).unwrap();
    assert_eq!(log.verify(day, WITHIN).unwrap(), Some(Verdict::Broken { at: 7 }));
    file.execute("DELETE FROM records WHERE seq > 6", []).unwrap();
    assert_ne!(
        log.verify(day, WITHIN).unwrap(),
        Some(Verdict::Whole(head)),
        "a kept head tells that the end was cut"
    );
}

#[test]
fn the_chain_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3u128 {
        let log = open(dir.path());
        (1..=10).for_each(|id| log.spool().append(&record(round * 100 + id, DAY_MS)).unwrap());
    }
    let log = open(dir.path());
    let verdict = log.verify(Day::of(DAY_MS), WITHIN).unwrap();
    assert!(matches!(verdict, Some(Verdict::Whole(Head { count: 30, .. }))), "{verdict:?}");
}

#[test]
fn days_are_named_as_the_calendar_names_them() {
    for (ms, text) in [
        (0, "1970-01-01"),
        (DAY_MS, "2026-11-25"),
        (951_782_400_000, "2000-02-29"),
        (4_107_542_400_000, "2100-03-01"),
        (253_402_300_799_999, "9999-12-31"),
    ] {
        assert_eq!(Day::of(ms).to_string(), text);
        assert_eq!(Day::parse(text), Some(Day::of(ms)));
    }
    for text in ["2026-02-29", "2026-13-01", "2026-1-1", "+026-01-01", "1969-12-31", ""] {
        assert_eq!(Day::parse(text), None, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sums_are_the_sums_of_the_rows(records in proptest::collection::vec(any_record(DAY_MS - 3_600_000..DAY_MS + 7_200_000), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let mut by_id = BTreeMap::new();
        for record in &records {
            log.spool().append(record).unwrap();
            by_id.entry(record.id).or_insert(record);
        }
        let mut expected: BTreeMap<Vec<Group>, Sums> = BTreeMap::new();
        let mut total = Sums::default();
        for record in by_id.values() {
            let name = |it: &Option<Arc<str>>| Group::Name(it.clone().filter(|it| !it.is_empty()));
            let hour = Group::From(record.at_ms / 3_600_000 * 3_600_000);
            expected.entry(vec![hour, name(&record.key), name(&record.model)]).or_default().add(&Sums::of(record));
            total.add(&Sums::of(record));
        }
        let group_by = vec![Dimension::Hour, Dimension::Key, Dimension::Model];
        let answer = log.usage(&Usage { group_by, ..Usage::default() }, WITHIN).unwrap();
        prop_assert_eq!(answer.total, total);
        prop_assert_eq!(answer.rows, expected.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(all(&log, &Filter::default()).len(), by_id.len());
        for day in day::list(dir.path()).unwrap() {
            prop_assert!(matches!(log.verify(day, WITHIN).unwrap(), Some(Verdict::Whole(_))));
        }
    }
}

const CHILD: &str = "ALTHING_TEST_RECORDS_DIR";

/// Not a test of its own: what [`nothing_that_was_appended_is_lost_by_kill_9`] runs and kills.
#[test]
#[expect(clippy::disallowed_methods, reason = "how the parent names the folder")]
fn child_that_appends_until_it_is_killed() {
    use std::io::Write as _;
    let Ok(dir) = std::env::var(CHILD) else { return };
    let (dir, first) = dir.rsplit_once(',').unwrap();
    let first: u128 = first.parse().unwrap();
    let log = open(Path::new(dir));
    let out = io::stdout();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (log, out) = (&log, &out);
            scope.spawn(move || {
                for id in (first + thread..).step_by(3) {
                    log.spool().append_blocking(&record(id, DAY_MS + small(id) % 1_000));
                    // A whole line in one write: said only after the append returned.
                    out.lock().write_all(format!("kept {id}\n").as_bytes()).unwrap();
                    out.lock().flush().unwrap();
                }
            });
        }
    });
}

impl Spool {
    fn append_blocking(&self, record: &Record) {
        self.append(record).unwrap();
    }
}

#[test]
fn nothing_that_was_appended_is_lost_by_kill_9() {
    use std::io::{BufRead as _, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut kept: HashSet<u128> = HashSet::new();
    for life in 0..4u128 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "request_log::tests::child_that_appends_until_it_is_killed",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, format!("{},{}", dir.path().display(), life * 1_000_000))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut count = 0;
        for line in lines {
            // The harness writes to the same line as the first.
            let line = line.unwrap();
            let Some((_, id)) = line.split_once("kept ") else { continue };
            kept.insert(id.parse().unwrap());
            count += 1;
            if count == 3_000 + life * 700 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }
    assert!(12_000 < kept.len());
    let log = open(dir.path());
    assert!(log.flush(WITHIN));
    let mut found = HashSet::new();
    let mut cursor = None;
    loop {
        let page = log.logs(&Filter::default(), cursor.as_ref(), PAGE_MAX, WITHIN).unwrap();
        for id in ids(&page) {
            assert!(found.insert(id), "{id} is there twice");
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let lost: Vec<_> = kept.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), kept.len());
    // What was appended but not yet said: at most one a thread and life.
    assert!(found.len() <= kept.len() + 12, "{} found, {} kept", found.len(), kept.len());
    assert_eq!(log.usage(&Usage::default(), WITHIN).unwrap().total.calls, found.len() as u64);
    assert!(matches!(log.verify(Day::of(DAY_MS), WITHIN).unwrap(), Some(Verdict::Whole(_))));
}
