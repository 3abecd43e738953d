use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use althing_storage::dir::Dir;
use althing_storage::log::Log;
use althing_storage::memory::MemoryLog;
use althing_storage::raft_log::Quota;
use parking_lot::Mutex;
use tokio::time::Instant;

mod broken;
mod group;

use super::{
    COMMAND_BYTES_MAX, Cluster, Failure, Parts, ProposeError, Settings, StartError, Store,
};
use crate::Peer;
use crate::testing::{Register, View};
use crate::transport::Alone;

struct Running {
    cluster: Cluster<Register>,
    view: Arc<Mutex<View>>,
    /// Holds the lock on the directory.
    _dir: Dir,
}

impl Running {
    async fn set(&self, name: &str, value: &str) -> Result<Option<String>, ProposeError> {
        let command = format!("set {name} {value}").into_bytes();
        self.cluster.propose(command, 1_000).await.map(|applied| applied.reply)
    }

    fn value(&self, name: &str) -> Option<String> {
        self.view.lock().values.get(name).cloned()
    }
}

fn settings() -> Settings {
    Settings { reopen_after: Duration::from_millis(50), snapshot_every: 200, ..Settings::default() }
}

async fn try_start(path: &Path, quota: Quota) -> Result<Running, StartError> {
    let mut dir = Dir::open(path)?;
    let machine = Register::default();
    let view = machine.view.clone();
    let parts = Parts {
        id: dir.identity().node_id,
        peer: Peer::default(),
        store: Store::on_disk(&mut dir, quota)?,
        machine,
        transport: Arc::new(Alone),
        settings: settings(),
    };
    Ok(Running { cluster: Cluster::start(parts).await?, view, _dir: dir })
}

async fn start(path: &Path) -> Running {
    try_start(path, Quota::unlimited()).await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_can_be_read_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    assert_eq!(node.set("a", "1").await, Ok(None));
    assert_eq!(node.value("a").as_deref(), Some("1"));
    assert_eq!(node.set("a", "2").await, Ok(Some("1".into())), "the reply is of this very command");
    let index = node.cluster.applied();
    assert_eq!(node.view.lock().index, index);
    assert_eq!(node.cluster.read_index().await, Ok(index));
    let status = node.cluster.status();
    assert_eq!(
        (status.leader, status.applied, status.refusal),
        (Some(status.id), Some(index), None)
    );
    assert_eq!(status.voters, [status.id]);
    node.cluster.shutdown().await;
    assert!(matches!(node.set("a", "3").await, Err(ProposeError::Stopped(_))));
    assert_eq!(node.value("a").as_deref(), Some("2"), "reading goes on");
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    for i in 0..20 {
        node.set(&format!("k{i}"), "v").await.unwrap();
    }
    let (before, applied) = (node.view.lock().values.clone(), node.cluster.applied());
    node.cluster.shutdown().await;
    drop(node);
    for round in 0..3 {
        let began = Instant::now();
        let node = start(tmp.path()).await;
        println!("restart {round}: {:?}", began.elapsed());
        assert_eq!(node.view.lock().values, before);
        assert!(node.cluster.applied() > applied);
        node.cluster.shutdown().await;
    }
}

#[tokio::test]
async fn a_thousand_writes_are_there_although_nobody_shut_down() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    let began = Instant::now();
    for i in 0..1000 {
        node.set(&format!("k{}", i % 50), &i.to_string()).await.unwrap();
    }
    println!("1000 writes one after the other: {:?} each", began.elapsed() / 1000);
    let before = node.view.lock().values.clone();
    let cluster = node.cluster.clone();
    drop(node);
    // The log is still held by the tasks of the node until its last handle goes.
    drop(cluster);
    let node = again(tmp.path()).await;
    assert_eq!(node.view.lock().values, before);
    assert!(node.cluster.status().snapshot.is_some(), "it started from a snapshot");
}

/// Starts a node whose predecessor in this process may not have let go of its files yet.
async fn again(path: &Path) -> Running {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match try_start(path, Quota::unlimited()).await {
            Ok(node) => return node,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_their_flushes() {
    let tmp = tempfile::tempdir().unwrap();
    let node = Arc::new(start(tmp.path()).await);
    let began = Instant::now();
    let writers = (0..64).map(|writer| {
        let node = node.clone();
        async move {
            for i in 0..50 {
                node.set(&format!("w{writer}"), &i.to_string()).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(writers).await;
    println!("3200 writes by 64: {:?}", began.elapsed());
    for writer in 0..64 {
        assert_eq!(node.value(&format!("w{writer}")).as_deref(), Some("49"));
    }
}

#[tokio::test]
async fn a_restart_from_a_snapshot_and_a_purged_log_finds_everything() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    let writes = |node: Arc<Running>, from: u32| async move {
        let all = (from..from + 700).map(|i| {
            let node = node.clone();
            async move { node.set(&format!("k{i}"), "v").await.unwrap() }
        });
        futures_util::future::join_all(all).await;
    };
    let node = Arc::new(node);
    for round in 0..3 {
        writes(node.clone(), round * 700).await;
        node.cluster.snapshot_now().await.unwrap();
    }
    node.set("after", "the snapshot").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while node.cluster.status().log.purged.is_none() {
        assert!(Instant::now() < deadline, "nothing was purged: {:?}", node.cluster.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = node.view.lock().values.clone();
    assert_eq!(before.len(), 2101);
    node.cluster.shutdown().await;
    drop(node);

    let node = start(tmp.path()).await;
    assert_eq!(node.view.lock().values, before);
    assert!(node.view.lock().times.len() < 1000, "the log was replayed from the beginning");
    node.cluster.shutdown().await;
    drop(node);

    // The newest snapshot is damaged: the one before will do, since the log covers the difference.
    let mut snapshots: Vec<_> = std::fs::read_dir(tmp.path().join("snapshots"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    snapshots.sort();
    assert_eq!(snapshots.len(), 2);
    std::fs::write(&snapshots[1], "rubbish").unwrap();
    let node = start(tmp.path()).await;
    assert_eq!(node.view.lock().values, before);
    node.cluster.shutdown().await;
    drop(node);

    // Both are damaged.
    for snapshot in std::fs::read_dir(tmp.path().join("snapshots")).unwrap() {
        std::fs::write(snapshot.unwrap().path(), "rubbish").unwrap();
    }
    let error = try_start(tmp.path(), Quota::unlimited()).await.err().unwrap().to_string();
    assert!(error.contains(".snap is corrupt"), "{error}");

    // Both are gone: what the log holds is not all.
    for snapshot in std::fs::read_dir(tmp.path().join("snapshots")).unwrap() {
        std::fs::remove_file(snapshot.unwrap().path()).unwrap();
    }
    let error = try_start(tmp.path(), Quota::unlimited()).await.err().expect("it is refused");
    assert!(matches!(error, StartError::SnapshotLost { .. }), "{error}");
}

#[tokio::test]
async fn few_large_entries_are_compacted_too() {
    let tmp = tempfile::tempdir().unwrap();
    let mut dir = Dir::open(tmp.path()).unwrap();
    let parts = Parts {
        id: dir.identity().node_id,
        peer: Peer::default(),
        store: Store::on_disk(&mut dir, Quota::unlimited()).unwrap(),
        machine: Register::default(),
        transport: Arc::new(Alone),
        settings: Settings { log_bytes: 5 << 20, ..Settings::default() },
    };
    let cluster = Cluster::start(parts).await.unwrap();
    let large = format!("set large {}", "x".repeat(1 << 20));
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.status().log.purged.is_none() {
        assert!(Instant::now() < deadline, "nothing was purged: {:?}", cluster.status());
        cluster.propose(large.clone().into_bytes(), 0).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_damaged_log_is_refused_with_the_reason() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    for i in 0..100 {
        node.set(&format!("key{i}"), "value").await.unwrap();
    }
    node.cluster.shutdown().await;
    drop(node);
    let file = tmp.path().join("raft.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(5).position(|w| w == b"key50").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let error = try_start(tmp.path(), Quota::unlimited()).await.err().unwrap();
    assert!(error.to_string().contains("raft.redb is corrupt"), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = try_start(tmp.path(), Quota::unlimited()).await.err().unwrap();
    assert!(error.to_string().contains("the raft log is missing"), "{error}");
}

#[tokio::test]
async fn an_empty_log_beside_a_snapshot_is_a_loss() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    node.set("a", "1").await.unwrap();
    node.cluster.snapshot_now().await.unwrap();
    node.cluster.shutdown().await;
    drop(node);
    std::fs::write(tmp.path().join("raft.redb"), "").unwrap();
    let error = try_start(tmp.path(), Quota::unlimited()).await.err().unwrap();
    assert!(matches!(error, StartError::LogLost { .. }), "{error}");
}

#[tokio::test]
async fn a_directory_of_another_node_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    start(tmp.path()).await.cluster.shutdown().await;
    let node = tmp.path().join("node.json");
    let text = std::fs::read_to_string(&node).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["node_id"] = 12345.into();
    std::fs::write(&node, json.to_string()).unwrap();
    let error = try_start(tmp.path(), Quota::unlimited()).await.err().unwrap();
    assert!(matches!(error, StartError::NotMember { id: 12345 }), "{error}");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_is_left_behind() {
    let tmp = tempfile::tempdir().unwrap();
    let quota = Quota::unlimited();
    let node = try_start(tmp.path(), quota.clone()).await.unwrap();
    node.set("a", "1").await.unwrap();
    quota.set(0);
    let big = "x".repeat(300_000);
    let mut acknowledged = 0;
    let error = loop {
        match node.set(&format!("big{acknowledged}"), &big).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100, "the quota has no effect");
    };
    assert!(
        matches!(&error, ProposeError::Storage(e) if e.to_string().contains("no space is left")),
        "{error}"
    );
    assert_eq!(node.value("a").as_deref(), Some("1"), "reading goes on");
    for _ in 0..5 {
        let began = Instant::now();
        assert!(matches!(node.set("a", &big).await, Err(ProposeError::Storage(_))));
        assert!(began.elapsed() < Duration::from_secs(1), "refused at once");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert!(node.cluster.failure().borrow().is_none(), "this is not for good");

    quota.set(u64::MAX);
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = node.set("b", "2").await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.value("b").as_deref(), Some("2"));
    let before = node.view.lock().values.clone();
    assert!((0..acknowledged).all(|i| before.contains_key(&format!("big{i}"))));
    node.cluster.shutdown().await;
    drop(node);
    assert_eq!(start(tmp.path()).await.view.lock().values, before);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_stored_is_made_later_and_stops_nobody() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    let folder = tmp.path().join("snapshots");
    let set_aside = tmp.path().join("set-aside");
    std::fs::rename(&folder, &set_aside).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    for i in 0..500 {
        node.set(&format!("a{i}"), "1").await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*node.cluster.failure().borrow(), None);
    assert_eq!(node.cluster.status().snapshot, None);
    node.set("b", "1").await.unwrap();

    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&set_aside, &folder).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.cluster.status().snapshot.is_none() {
        assert!(Instant::now() < deadline, "no snapshot was made");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.set("b", "2").await.unwrap();
    node.cluster.shutdown().await;
    drop(node);
    assert_eq!(start(tmp.path()).await.value("b").as_deref(), Some("2"));
}

#[tokio::test]
async fn an_apply_that_panics_stops_the_node_loudly_and_for_good() {
    for command in ["panic", "what is this"] {
        let tmp = tempfile::tempdir().unwrap();
        let node = start(tmp.path()).await;
        node.set("a", "1").await.unwrap();
        let mut failure = node.cluster.failure();
        let refused = node.cluster.propose(command.into(), 0).await;
        assert!(matches!(refused, Err(ProposeError::Stopped(_))), "{refused:?}");
        let told = failure.wait_for(Option::is_some).await.unwrap().clone();
        assert!(matches!(told, Some(Failure::Apply { .. })), "{told:?}");
        assert!(matches!(node.set("a", "2").await, Err(ProposeError::Stopped(_))));
        assert_eq!(node.value("a").as_deref(), Some("1"));
        drop(node);
        // It is in the log, so the next start finds it as well instead of skipping it.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let error = try_start(tmp.path(), Quota::unlimited()).await.err().unwrap();
            let text = error.to_string();
            if matches!(error, StartError::Recover(_) | StartError::NotReady(_)) {
                break;
            }
            assert!(Instant::now() < deadline, "{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn time_never_goes_backwards() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    for time in [5, 9, 7, 0, 12] {
        node.cluster.propose(b"set a b".to_vec(), time).await.unwrap();
    }
    assert_eq!(node.view.lock().times, [5, 9, 9, 9, 12]);
    node.cluster.snapshot_now().await.unwrap();
    node.cluster.shutdown().await;
    drop(node);
    let node = start(tmp.path()).await;
    node.cluster.propose(b"set a b".to_vec(), 3).await.unwrap();
    assert_eq!(node.view.lock().times.last(), Some(&12), "the snapshot remembers the time");
}

#[tokio::test]
async fn too_much_is_refused_and_not_queued() {
    let tmp = tempfile::tempdir().unwrap();
    let node = start(tmp.path()).await;
    let huge = node.cluster.propose(vec![b'x'; COMMAND_BYTES_MAX + 1], 0).await;
    assert_eq!(huge.err(), Some(ProposeError::TooLarge(COMMAND_BYTES_MAX + 1)));
    let large = format!("set large {}", "x".repeat(3 << 20));
    let many = (0..40).map(|_| node.cluster.propose(large.clone().into_bytes(), 0));
    let results = futures_util::future::join_all(many).await;
    let refused = results.iter().filter(|r| matches!(r, Err(ProposeError::Overloaded))).count();
    let done = results.iter().filter(|r| r.is_ok()).count();
    assert!(refused > 0 && done > 0 && refused + done == 40, "{refused} refused, {done} done");
    node.set("a", "1").await.unwrap();
}

#[tokio::test]
async fn the_watch_tells_of_every_change() {
    let tmp = tempfile::tempdir().unwrap();
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let machine = Register::default();
    let parts = Parts {
        id: 7,
        peer: Peer::default(),
        store: Store::with_log(log, tmp.path()).unwrap(),
        machine,
        transport: Arc::new(Alone),
        settings: settings(),
    };
    let cluster = Cluster::start(parts).await.unwrap();
    let mut watch = cluster.watch();
    let index = cluster.propose(b"set a b".to_vec(), 0).await.unwrap().index;
    assert_eq!(*watch.wait_for(|applied| *applied >= index).await.unwrap(), index);
}

const CHILD: &str = "node::tests::child_that_is_killed";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is the child process of the test below, which gives it a directory and kills it"]
async fn child_that_is_killed() {
    let node = Arc::new(start(&std::env::current_dir().unwrap().join("data")).await);
    let round = node.cluster.applied();
    let writers = (0..4).map(|writer| {
        let node = node.clone();
        async move {
            for i in 0_u64.. {
                let name = format!("r{round}w{writer}i{i}");
                node.set(&name, "x").await.unwrap();
                // One write(2) a line, so that a line is whole or not there.
                std::io::stdout().write_all(format!("acknowledged {name}\n").as_bytes()).unwrap();
                std::io::stdout().flush().unwrap();
            }
        }
    });
    futures_util::future::join_all(writers).await;
}

#[tokio::test]
async fn kill_9_loses_no_acknowledged_write() {
    let tmp = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..3_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--ignored", "--nocapture"])
            .current_dir(tmp.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < 150 + 200 * round {
            let line = lines.next().expect("the child ended by itself").unwrap();
            seen += usize::from(line.contains("acknowledged "));
            note(&line, &mut acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died counts as well.
        for line in lines.map_while(Result::ok) {
            note(&line, &mut acknowledged);
        }
        let node = start(&tmp.path().join("data")).await;
        let view = node.view.lock().values.clone();
        let lost: Vec<_> = acknowledged.keys().filter(|name| !view.contains_key(*name)).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?} of {}", acknowledged.len());
        node.cluster.shutdown().await;
    }
    assert!(acknowledged.len() >= 1000);
}

fn note(line: &str, acknowledged: &mut BTreeMap<String, ()>) {
    if let Some((_, name)) = line.split_once("acknowledged ") {
        acknowledged.insert(name.to_owned(), ());
    }
}
