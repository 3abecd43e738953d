//! What the nodes agree on: policy, and the money that policy bounds.
//!
//! This crate is pure. It has no clock, no randomness, no sockets, no floats and no
//! iteration over unordered maps, so that every replica that applies the same
//! commands in the same order holds the same state to the last byte.
//!
//! [`State::apply`] takes a [`Command`] at its place in the log and answers an [`Outcome`].
//! [`validate`] says what is wrong with an object before it is proposed.

#![cfg_attr(not(test), deny(clippy::float_arithmetic, clippy::wildcard_enum_match_arm))]

pub mod apply;
pub mod audit;
pub mod budget;
pub mod command;
pub mod digest;
pub mod id;
pub mod money;
pub mod object;
pub mod pattern;
pub mod policy;
pub mod query;
pub mod secret;
pub mod snapshot;
pub mod state;
pub mod table;
#[cfg(test)]
mod testdata;
pub mod time;
pub mod validate;

pub use apply::{Change, Changes, Outcome};
pub use command::{Command, Op, Refusal, Reply};
pub use digest::Digest;
pub use object::{Kind, Object, Row};
pub use state::{At, State};
