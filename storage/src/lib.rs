//! What a node keeps on its disk.
//!
//! Nothing here knows of HTTP, of policy or of the consensus library: the log holds opaque entries, snapshots hold opaque records.
//! Everything is written so that a power cut at any moment loses nothing that was acknowledged, and read so that damage is
//! noticed and named instead of believed.

mod boot;
pub mod codec;
pub mod dir;
pub mod log;
pub mod memory;
pub mod migrate;
pub mod raft_log;
pub mod record;
pub mod request_log;
pub mod seal;
pub mod snapshot;
pub mod spool;
pub mod usage_journal;
