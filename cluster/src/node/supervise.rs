//! Bringing a node back after its disk was full.
//!
//! openraft stops for good when storage fails, and so does the log. The state in memory is right nevertheless: it holds nothing that was not
//! durable. So the log is opened again, from time to time, until it takes writes, and openraft is started over the same state.
//!
//! A disk that fails otherwise is not trusted again: after a failed flush the system may show data that never reached it. Such a node
//! goes on reading and refuses writes until somebody has looked and starts it again.

use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use althing_storage::log;
use openraft::RaftMetrics;
use openraft::alias::WatchReceiverOf;
use openraft::rt::WatchReceiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Failure, Node, ProposeError, Running, build, make_ready, shutdown};
use crate::raft::types::Types;
use crate::state_machine::StateMachine;

/// How long the tasks of the old openraft may hold on to the log.
const RELEASE_MAX: Duration = Duration::from_secs(5);
/// Opening reads the whole log, so it is not done all the time.
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(15);
const SIZE_CHECKED_EVERY: Duration = Duration::from_secs(1);

#[expect(
    clippy::disallowed_methods,
    reason = "the handle is kept, and awaited or aborted with the node"
)]
pub(super) fn spawn<S: StateMachine>(node: &Arc<Node<S>>) -> JoinHandle<()> {
    let stop = node.stop.subscribe();
    tokio::spawn(run(Arc::downgrade(node), stop))
}

async fn run<S: StateMachine>(node: Weak<Node<S>>, mut stop: watch::Receiver<bool>) {
    loop {
        if watch_over(&node, &mut stop).await.is_break() {
            return;
        }
        let Some(node) = node.upgrade() else { return };
        let Some(error) = storage_error(&node) else {
            // Not the disk: an apply that failed has said so itself.
            node.shared.fail(Failure::Stopped("the consensus task has ended".into()));
            return;
        };
        let is_full = matches!(error, log::Error::Full { .. });
        let down = Running::Down(ProposeError::Storage(error));
        let running = std::mem::replace(&mut *node.running.write(), down);
        if let Running::Up { raft, log } = running {
            shutdown(&raft).await;
            drop(raft);
            if is_full {
                release(log).await;
            }
        }
        if !is_full {
            tracing::error!(
                "the disk has failed: this node serves reads and refuses policy writes until it is started again"
            );
            return;
        }
        tracing::error!(
            "the disk is full: this node serves reads and refuses policy writes until there is room"
        );
        let mut pause = node.settings.reopen_after;
        loop {
            tokio::select! {
                () = asked(&mut stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
            match reopen(&node).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(error = %error, "the raft log cannot be used yet"),
            }
            pause = pause.saturating_mul(2).min(REOPEN_PAUSE_MAX.max(node.settings.reopen_after));
        }
        tracing::info!("the disk takes policy writes again");
    }
}

/// Purges the log as snapshots are made, until openraft has stopped (`Continue`) or the node is to stop (`Break`).
async fn watch_over<S: StateMachine>(
    node: &Weak<Node<S>>,
    stop: &mut watch::Receiver<bool>,
) -> ControlFlow<()> {
    let (died, mut purgeable) = {
        let Some(node) = node.upgrade() else { return ControlFlow::Break(()) };
        let Running::Up { raft, .. } = &*node.running.read() else { return ControlFlow::Break(()) };
        (raft.metrics(), node.shared.purgeable())
    };
    let mut died = std::pin::pin!(stopped(died));
    let mut sizes = tokio::time::interval(SIZE_CHECKED_EVERY);
    loop {
        tokio::select! {
            _ = sizes.tick() => {
                let Some(node) = node.upgrade() else { return ControlFlow::Break(()) };
                compact_if_large(&node).await;
            }
            () = asked(stop) => return ControlFlow::Break(()),
            () = &mut died => return ControlFlow::Continue(()),
            changed = purgeable.changed() => {
                let upto = *purgeable.borrow_and_update();
                let raft = node.upgrade().and_then(|node| node.raft().ok());
                if changed.is_err() {
                    return ControlFlow::Break(());
                }
                if let Some(raft) = raft
                    && let Err(error) = raft.trigger().purge_log(upto).await
                {
                    tracing::debug!(error = %error, "the log could not be purged");
                }
            }
        }
    }
}

/// Asks for a snapshot when the log is large, although it has few entries.
async fn compact_if_large<S: StateMachine>(node: &Node<S>) {
    let status = node.status();
    if status.log.bytes < node.settings.log_bytes || status.applied <= status.snapshot {
        return;
    }
    if let Ok(raft) = node.raft()
        && let Err(error) = raft.trigger().snapshot().await
    {
        tracing::debug!(error = %error, "no snapshot could be asked for");
    }
}

async fn asked(stop: &mut watch::Receiver<bool>) {
    // An error means that the node is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn stopped(mut metrics: WatchReceiverOf<Types, RaftMetrics<Types>>) {
    loop {
        if metrics.borrow_watched().running_state.is_err() || metrics.changed().await.is_err() {
            return;
        }
    }
}

fn storage_error<S: StateMachine>(node: &Node<S>) -> Option<log::Error> {
    if node.shared.failed().is_some() {
        return None;
    }
    match &*node.running.read() {
        Running::Up { log, .. } => log.failed(),
        Running::Down(_) => None,
    }
}

/// Waits until nobody else holds the log, since its file can be open only once.
async fn release(log: Arc<dyn log::Log>) {
    let deadline = tokio::time::Instant::now() + RELEASE_MAX;
    while Arc::strong_count(&log) > 1 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Joins the writer's thread.
    let dropped = tokio::task::spawn_blocking(move || drop(log));
    let _ = dropped.await;
}

async fn reopen<S: StateMachine>(node: &Arc<Node<S>>) -> Result<(), super::StartError> {
    let opener = node.clone();
    let opened = tokio::task::spawn_blocking(move || (opener.open_log)()).await;
    let log = opened.map_err(|e| super::StartError::Recover(e.to_string()))??;
    let raft =
        build(node.id, &node.settings, &node.shared, log.clone(), node.transport.clone()).await?;
    if let Err(error) = make_ready(node.id, None, &raft).await {
        shutdown(&raft).await;
        drop(raft);
        release(log).await;
        return Err(error);
    }
    *node.running.write() = Running::Up { raft, log };
    Ok(())
}
