//! What the nodes agree on: policy, and the money that policy bounds.
//!
//! This crate is pure. It has no clock, no randomness, no sockets, no floats and no
//! iteration over unordered maps, so that every replica that applies the same
//! commands in the same order holds the same state to the last byte.

pub mod id;
pub mod money;
pub mod pattern;
pub mod policy;
pub mod secret;
pub mod time;
