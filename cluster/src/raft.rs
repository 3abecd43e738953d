//! The adapters between openraft and our ports. Only the files below name openraft, and `node.rs` through them.

pub(crate) mod apply;
pub(crate) mod config;
pub(crate) mod dto;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod snapshot;
pub(crate) mod types;
