use std::path::Path;
use std::sync::Arc;

use althing_storage::record::Kind;
use althing_storage::request_log::{Filter, Options, RequestLog};

use super::*;

/// 2026-11-25T00:00:01Z.
const NOW_MS: u64 = 1_795_564_801_000;
const WITHIN: Duration = Duration::from_secs(20);

fn open(dir: &Path, spool_bytes_max: u64) -> RequestLog {
    let options = Options { spool_bytes_max, ..Options::new(dir) };
    RequestLog::open(&options, Arc::new(|| NOW_MS)).expect("a request log")
}

fn record(id: u128) -> Record {
    Record::new(id, NOW_MS, Arc::from("a"), Kind::ModelCall)
}

fn ids(log: &RequestLog) -> Vec<u128> {
    let page = log.logs(&Filter::default(), None, 1000, WITHIN).expect("a page");
    page.entries.iter().map(|it| it.record.id).collect()
}

/// A log whose index is kept from going on by a folder in its way, filled to its bound.
fn full(dir: &Path) -> (RequestLog, std::path::PathBuf, u128) {
    let in_the_way = dir.join("2026-11-25.sqlite");
    std::fs::create_dir(&in_the_way).expect("a folder");
    let log = open(dir, 8 * 1024);
    let mut count = 0;
    while log.spool().append(&record(count + 1)).is_ok() {
        count += 1;
        assert!(count < 1_000, "it has no bound");
    }
    (log, in_the_way, count)
}

#[tokio::test]
async fn at_the_bound_a_request_is_refused_where_the_configuration_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, _, _) = full(dir.path());
    let tasks = Tasks::default();
    let recorder = Recorder::start(log.spool().clone(), WhenFull::Refuse, &tasks);
    let refused = tokio::time::timeout(Duration::from_secs(1), recorder.room()).await;
    let error = refused.expect("at once").expect_err("there is no room");
    assert_eq!((error.code, error.retry_after), (Code::RecordsFull, Some(RETRY_AFTER)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_bound_a_request_waits_where_the_configuration_says_so_and_no_record_is_lost() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, in_the_way, count) = full(dir.path());
    let tasks = Tasks::default();
    let recorder = Recorder::start(log.spool().clone(), WhenFull::Wait, &tasks);
    let mut waiting = std::pin::pin!(recorder.room());
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.as_mut()).await;
    assert!(early.is_err(), "it waits");
    std::fs::remove_dir(&in_the_way).expect("out of the way");
    let room = waiting.await.expect("room");
    recorder.append(room, &record(count + 1));
    assert_eq!(ids(&log).len() as u128, count + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_refuses_is_kept_nobody_is_admitted_meanwhile_and_it_is_written_in_the_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path(), 1 << 20);
    let (spool, aside) = (dir.path().join("spool"), dir.path().join("aside"));
    std::fs::rename(&spool, &aside).expect("set aside");
    std::fs::write(&spool, "in the way").expect("written");
    let tasks = Tasks::default();
    let recorder = Recorder::start(log.spool().clone(), WhenFull::Refuse, &tasks);
    let room = recorder.room().await.expect("room");
    recorder.append(room, &record(7));
    assert_eq!((recorder.stuck(), recorder.lost()), (1, 0));
    assert!(recorder.room().await.is_err(), "a call whose record may be lost is not made");

    std::fs::remove_file(&spool).expect("removed");
    std::fs::rename(&aside, &spool).expect("back");
    let until = tokio::time::Instant::now() + WITHIN;
    while 0 < recorder.stuck() {
        assert!(tokio::time::Instant::now() < until, "it is not written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(recorder.room().await.is_ok());
    assert_eq!(ids(&log), [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_still_waits_for_the_disk_at_the_end_is_tried_once_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path(), 1 << 20);
    let (spool, aside) = (dir.path().join("spool"), dir.path().join("aside"));
    std::fs::rename(&spool, &aside).expect("set aside");
    std::fs::write(&spool, "in the way").expect("written");
    let tasks = Tasks::default();
    let recorder = Recorder::start(log.spool().clone(), WhenFull::Refuse, &tasks);
    for id in 1..=3 {
        let room = log.spool().reserve().expect("room");
        recorder.append(room, &record(id));
    }
    assert_eq!(recorder.stuck(), 3);
    std::fs::remove_file(&spool).expect("removed");
    std::fs::rename(&aside, &spool).expect("back");
    assert!(tasks.shutdown(WITHIN).await);
    assert_eq!(recorder.stuck(), 0);
    assert_eq!(ids(&log), [3, 2, 1]);
}
