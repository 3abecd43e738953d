use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use althing_cluster::{ProposeError, Settings};
use althing_domain::command::{Command, Expect, Op, Put, Refusal, Reply};
use althing_domain::object::{Kind, Object};
use althing_domain::time::{Clock, UnixMillis};
use serde_json::json;
use tokio::time::Instant;

use super::{Control, Error, Options, StartError};
use crate::error::{self, Code};

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(1_800_000_000_000)
    }
}

async fn try_start(dir: &Path) -> Result<Control, StartError> {
    let settings = Settings { snapshot_every: 100, ..Settings::default() };
    Control::start(Options { settings, ..Options::new(dir) }, Arc::new(FixedClock)).await
}

async fn start(dir: &Path) -> Control {
    try_start(dir).await.unwrap()
}

fn put(name: &str, expect: Expect) -> Command {
    let object = Object::deserialize_as(Kind::Customer, &json!({ "name": name })).unwrap();
    let op = Op::Put(Put { object, expect, credential: None });
    Command { request_id: rand::random(), who: "admin".to_owned(), op }
}

fn names(control: &Control) -> Vec<String> {
    control.state().export().map(|row| row.object.name().to_string()).collect()
}

const PLACE: althing_storage::seal::Place<'_> =
    althing_storage::seal::Place { purpose: "a test", parts: &[] };

#[tokio::test]
async fn what_was_written_is_read_at_once_and_after_a_restart() {
    let tmp = tempfile::tempdir().unwrap();
    let control = start(tmp.path()).await;
    let mut changes = control.changes();
    let before = *changes.borrow_and_update();
    let committed = control.propose(&put("acme", Expect::Any)).await.unwrap();
    assert!(matches!(committed.reply, Reply::Written(_)), "{committed:?}");
    assert_eq!(names(&control), ["acme"]);
    assert_eq!(control.state().index(), committed.index);
    assert_eq!(control.state().now(), FixedClock.now());
    assert!(changes.has_changed().unwrap() && *changes.borrow_and_update() > before);
    assert_eq!(control.read_index().await, Ok(committed.index));

    let refused = control.propose(&put("acme", Expect::Absent)).await.unwrap();
    assert!(matches!(refused.reply, Reply::Refused(Refusal::Exists { .. })), "{refused:?}");
    control.shutdown().await;
    let stopped = control.propose(&put("late", Expect::Any)).await;
    assert!(matches!(stopped, Err(Error(ProposeError::Stopped(_)))));
    assert_eq!(names(&control), ["acme"], "the law can still be read");
    drop(control);

    let control = start(tmp.path()).await;
    assert_eq!(names(&control), ["acme"]);
    control.shutdown().await;
}

#[tokio::test]
async fn a_command_that_comes_twice_is_applied_once() {
    let tmp = tempfile::tempdir().unwrap();
    let control = start(tmp.path()).await;
    let command = put("acme", Expect::Absent);
    let first = control.propose(&command).await.unwrap();
    assert_eq!(control.propose(&command).await.unwrap(), first);
    control.shutdown().await;
    drop(control);
    let control = start(tmp.path()).await;
    assert_eq!(control.propose(&command).await.unwrap(), first, "also after a restart");
    control.shutdown().await;
}

#[tokio::test]
async fn the_law_comes_back_from_a_snapshot_to_the_last_byte() {
    let tmp = tempfile::tempdir().unwrap();
    let control = start(tmp.path()).await;
    for i in 0..250 {
        control.propose(&put(&format!("c{i}"), Expect::Any)).await.unwrap();
    }
    control.snapshot_now().await.unwrap();
    control.propose(&put("last", Expect::Any)).await.unwrap();
    let before: Vec<_> = control.state().to_records().collect();
    control.shutdown().await;
    drop(control);
    let began = Instant::now();
    let control = start(tmp.path()).await;
    println!("start with a snapshot: {:?}", began.elapsed());
    assert!(control.status().snapshot.is_some());
    assert_eq!(control.state().to_records().collect::<Vec<_>>(), before);
    control.shutdown().await;
}

#[tokio::test]
async fn the_data_key_is_made_once_and_its_loss_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    let control = start(tmp.path()).await;
    let sealed = control.data_key().seal(b"canary 17", &PLACE).unwrap();
    control.shutdown().await;
    drop(control);
    let control = start(tmp.path()).await;
    assert_eq!(control.data_key().open(&sealed, &PLACE).unwrap().as_slice(), b"canary 17");
    control.shutdown().await;
    drop(control);
    for file in std::fs::read_dir(tmp.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
        assert!(!bytes.windows(9).any(|it| it == b"canary 17"));
    }
    std::fs::remove_file(tmp.path().join("cluster.secret")).unwrap();
    let error = try_start(tmp.path()).await.unwrap_err();
    assert!(matches!(error, StartError::SecretLost { .. }), "{error}");
    // Nothing was made in its place, so putting it back helps.
    assert!(!tmp.path().join("cluster.secret").exists());
}

#[tokio::test]
async fn the_directory_is_locked_while_the_law_is_open() {
    let tmp = tempfile::tempdir().unwrap();
    let control = start(tmp.path()).await;
    let error = try_start(tmp.path()).await.unwrap_err().to_string();
    assert!(error.contains("is locked by another althing (process"), "{error}");
    control.shutdown().await;
    drop(control);
    start(tmp.path()).await.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_is_told_to_callers_and_does_not_stop_reads() {
    let tmp = tempfile::tempdir().unwrap();
    let quota = althing_storage::raft_log::Quota::unlimited();
    let options = Options { quota: quota.clone(), ..Options::new(tmp.path()) };
    let control = Control::start(options, Arc::new(FixedClock)).await.unwrap();
    control.propose(&put("acme", Expect::Any)).await.unwrap();
    quota.set(0);
    let large = |i: u32| Command { who: "x".repeat(1 << 20), ..put(&format!("c{i}"), Expect::Any) };
    let mut refused = None;
    for i in 0..50 {
        if let Err(error) = control.propose(&large(i)).await {
            refused = Some(error::Error::from(error));
            break;
        }
    }
    let refused = refused.expect("the quota has no effect");
    assert_eq!(refused.code, Code::StorageFull);
    assert!(refused.retry_after.is_some());
    assert!(names(&control).contains(&"acme".to_owned()));
    assert!(control.status().refusal.is_some());
    quota.set(u64::MAX);
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = control.propose(&put("after", Expect::Any)).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(names(&control).contains(&"after".to_owned()));
    control.shutdown().await;
}

#[test]
fn no_error_shows_a_path_to_callers() {
    let full =
        althing_storage::log::Error::Full { file: "/secret/place".into(), reason: "full".into() };
    let write =
        althing_storage::log::Error::Write { file: "/secret/place".into(), reason: "eio".into() };
    let all = [
        (ProposeError::Overloaded, Code::Overloaded),
        (ProposeError::TooLarge(9), Code::BodyTooLarge),
        (ProposeError::NoLeader, Code::NoQuorum),
        (ProposeError::Timeout, Code::NoQuorum),
        (ProposeError::LeaderChanged, Code::NoQuorum),
        (ProposeError::Storage(full), Code::StorageFull),
        (ProposeError::Storage(write), Code::StorageFull),
        (ProposeError::Stopped("/secret/place".into()), Code::Internal),
    ];
    for (error, code) in all {
        let shown = error::Error::from(Error(error));
        assert_eq!(shown.code, code);
        assert!(!shown.message.contains("secret"), "{}", shown.message);
    }
}
