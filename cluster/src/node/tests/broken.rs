//! A disk that breaks for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_storage::log::{Bounds, Done, Error, Log, Meta};
use althing_storage::memory::MemoryLog;
use bytes::Bytes;
use tokio::time::Instant;

use super::settings;
use crate::node::{Cluster, Parts, Store};
use crate::testing::Register;
use crate::transport::Alone;
use crate::{Peer, ProposeError};

/// A log whose disk fails with the next append once it is armed: the entries are taken, and then are not written.
#[derive(Default)]
struct Breakable {
    log: MemoryLog,
    is_armed: AtomicBool,
    is_broken: AtomicBool,
}

impl Breakable {
    fn error(&self) -> Option<Error> {
        let broken = || Error::Write { file: "disk".into(), reason: "input/output error".into() };
        self.is_broken.load(Ordering::SeqCst).then(broken)
    }

    fn unless_broken(
        &self,
        done: Done,
        op: impl FnOnce(Done) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self.error() {
            Some(error) => {
                done(Err(error));
                Ok(())
            }
            None => op(done),
        }
    }
}

impl Log for Breakable {
    fn append(&self, first: u64, entries: &[Bytes], done: Done) -> Result<(), Error> {
        if self.is_armed.swap(false, Ordering::SeqCst) {
            self.is_broken.store(true, Ordering::SeqCst);
        }
        self.unless_broken(done, |done| self.log.append(first, entries, done))
    }

    fn truncate_after(&self, index: Option<u64>, done: Done) -> Result<(), Error> {
        self.unless_broken(done, |done| self.log.truncate_after(index, done))
    }

    fn purge(&self, index: u64, marker: Bytes, done: Done) -> Result<(), Error> {
        self.unless_broken(done, |done| self.log.purge(index, marker, done))
    }

    fn set_meta(&self, meta: Meta, value: Bytes, done: Done) -> Result<(), Error> {
        self.unless_broken(done, |done| self.log.set_meta(meta, value, done))
    }

    fn meta(&self, meta: Meta) -> Option<Bytes> {
        self.log.meta(meta)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Bytes>, Error> {
        self.log.read(from, to, bytes_max)
    }

    fn bounds(&self) -> Bounds {
        self.log.bounds()
    }

    fn failed(&self) -> Option<Error> {
        self.error()
    }

    fn close(&self) {}
}

#[tokio::test]
async fn a_broken_disk_is_not_trusted_again_but_reads_go_on() {
    let tmp = tempfile::tempdir().unwrap();
    let log = Arc::new(Breakable::default());
    let machine = Register::default();
    let view = machine.view.clone();
    let parts = Parts {
        id: 7,
        peer: Peer::default(),
        store: Store::with_log(log.clone(), tmp.path()).unwrap(),
        machine,
        transport: Arc::new(Alone),
        settings: settings(),
    };
    let cluster = Cluster::start(parts).await.unwrap();
    cluster.propose(b"set a 1".to_vec(), 0).await.unwrap();
    log.is_armed.store(true, Ordering::SeqCst);
    let failed = cluster.propose(b"set a 2".to_vec(), 0).await;
    assert!(matches!(failed, Err(ProposeError::Storage(_))), "{failed:?}");
    let deadline = Instant::now() + Duration::from_secs(5);
    while cluster.status().term > 0 {
        assert!(Instant::now() < deadline, "the failure was not noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Everything would work again, and yet.
    log.is_broken.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = cluster.propose(b"set a 4".to_vec(), 0).await;
    assert!(matches!(refused, Err(ProposeError::Storage(_))), "{refused:?}");
    assert_eq!(view.lock().values["a"], "1");
    assert!(cluster.status().refusal.is_some());
    cluster.shutdown().await;
}
