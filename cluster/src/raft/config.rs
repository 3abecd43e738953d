//! Our settings as openraft's.

use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};

use crate::node::Settings;

/// Entries in one replication message at most; it is bounded by bytes as well (see `log`).
const APPEND_ENTRIES_MAX: u64 = 512;
/// Requests that openraft queues. Proposals are bounded before they come here.
const API_QUEUE_MAX: u64 = 4_096;
/// The budget of a whole snapshot transfer.
const SNAPSHOT_TIMEOUT_MS: u64 = 60_000;

pub(crate) fn config(settings: &Settings) -> Result<Arc<Config>, openraft::ConfigError> {
    let config = Config {
        cluster_name: settings.cluster_name.clone(),
        heartbeat_interval: settings.heartbeat_ms,
        election_timeout_min: settings.election_min_ms,
        election_timeout_max: settings.election_max_ms,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_every),
        // We purge ourselves, up to the older of the two snapshots that are kept, so that it is of use if the newer is damaged.
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(API_QUEUE_MAX),
        enable_pre_vote: Some(true),
        // A restarted leader has to ask again: what it had committed is not flushed, and its state is in memory.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}
