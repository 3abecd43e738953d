//! Three nodes in one process, joined by memory: what goes through `network` and `answer`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use althing_storage::memory::MemoryLog;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::node::{Cluster, Parts, Settings, Store};
use crate::testing::{Register, View};
use crate::transport::{PeerTransport, Request, TransportError};
use crate::{Applied, Peer, ProposeError};

/// The cables: which nodes there are, and which are cut off.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Cables>>);

#[derive(Default)]
struct Cables {
    nodes: BTreeMap<u64, Cluster<Register>>,
    cut: BTreeSet<u64>,
    snapshots: u32,
}

/// One end of the wire.
struct Plug {
    wire: Wire,
    id: u64,
}

impl PeerTransport for Plug {
    fn call(
        &self,
        id: u64,
        _: &Peer,
        request: Request,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let node = {
            let mut cables = self.wire.0.lock();
            cables.snapshots += u32::from(request.file.is_some());
            let is_cut = cables.cut.contains(&id) || cables.cut.contains(&self.id);
            cables.nodes.get(&id).filter(|_| !is_cut).cloned()
        };
        Box::pin(async move {
            let node =
                node.ok_or_else(|| TransportError::Unreachable("the cable is cut".into()))?;
            let answer = tokio::time::timeout(within, node.answer(request)).await;
            let lost = |e: &dyn std::fmt::Display| TransportError::Lost(e.to_string());
            answer.map_err(|e| lost(&e))?.map_err(|e| lost(&e))
        })
    }
}

/// Quick elections: nothing here waits for a network.
fn settings() -> Settings {
    Settings {
        snapshot_every: 50,
        heartbeat_ms: 30,
        election_min_ms: 150,
        election_max_ms: 300,
        ..Settings::default()
    }
}

struct Group {
    wire: Wire,
    views: BTreeMap<u64, Arc<Mutex<View>>>,
    _dir: TempDir,
}

impl Group {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let founders: BTreeMap<u64, Peer> = (1..=3).map(|id| (id, Peer::default())).collect();
        let mut group = Self { wire: Wire::default(), views: BTreeMap::new(), _dir: dir };
        for id in 1..=3 {
            let snapshots = group._dir.path().join(id.to_string());
            std::fs::create_dir(&snapshots).unwrap();
            let machine = Register::default();
            group.views.insert(id, machine.view.clone());
            let parts = Parts {
                id,
                peer: Peer::default(),
                store: Store::with_log(Arc::new(MemoryLog::new()), &snapshots).unwrap(),
                machine,
                transport: Arc::new(Plug { wire: group.wire.clone(), id }),
                settings: settings(),
            };
            let node = Cluster::start_with(parts, Some(founders.clone())).await.unwrap();
            group.wire.0.lock().nodes.insert(id, node);
        }
        group
    }

    fn node(&self, id: u64) -> Cluster<Register> {
        self.wire.0.lock().nodes[&id].clone()
    }

    /// Writes through whichever node leads, other than those cut off.
    async fn set(&self, name: &str) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            for id in 1..=3 {
                if self.wire.0.lock().cut.contains(&id) {
                    continue;
                }
                let command = format!("set {name} x").into_bytes();
                match self.node(id).propose(command, 0).await {
                    Ok(Applied { .. }) => return id,
                    Err(ProposeError::NoLeader) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn wait_for(&self, id: u64, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.views[&id].lock().values.contains_key(name) {
            assert!(Instant::now() < deadline, "node {id} never saw {name}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn what_one_writes_all_see() {
    let group = Group::start().await;
    let leader = group.set("a").await;
    for id in 1..=3 {
        group.wait_for(id, "a").await;
    }
    assert!(group.node(leader).read_index().await.is_ok());
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let refused = group.node(follower).propose(b"set b x".to_vec(), 0).await;
    assert_eq!(refused.err(), Some(ProposeError::NoLeader), "forwarding is not the cluster's yet");
    assert_eq!(group.node(follower).status().voters, [1, 2, 3]);
}

#[tokio::test]
async fn the_others_go_on_without_the_leader_and_it_catches_up_by_a_snapshot() {
    let group = Group::start().await;
    let old = group.set("before").await;
    group.wire.0.lock().cut.insert(old);
    let new = group.set("without").await;
    assert_ne!(new, old);
    let lone = group.node(old).propose(b"set lone x".to_vec(), 0).await;
    assert!(lone.is_err(), "a minority acknowledges nothing");
    // So much that the log which the old leader lacks is gone.
    for i in 0..400 {
        group.set(&format!("k{i}")).await;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while group.node(new).status().log.purged.is_none_or(|purged| purged < 100) {
        assert!(Instant::now() < deadline, "{:?}", group.node(new).status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    group.wire.0.lock().cut.clear();
    group.wait_for(old, "k399").await;
    assert!(group.wire.0.lock().snapshots > 0, "it came by the log");
    group.set("after").await;
    group.wait_for(old, "after").await;
    let values = |id: u64| group.views[&id].lock().values.clone();
    for id in 1..=3 {
        group.wait_for(id, "after").await;
        assert_eq!(values(id), values(new));
    }
    assert!(!values(old).contains_key("lone"));
}
