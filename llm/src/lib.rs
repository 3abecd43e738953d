//! How to speak to models: requests, replies, streams and prices as data.
//!
//! Sans-IO. Bytes come in, bytes go out; sockets, secrets and retries belong to the
//! caller, so that every dialect is tested from recorded bytes alone.

pub mod catalog;
pub mod chat;
pub mod dialect;
pub mod embed;
mod hash;
mod json;
mod lost;
pub mod price;
pub mod provider;
pub mod scan;
pub mod seal;
pub mod sse;
pub mod tap;
pub mod tokens;
pub mod usage;

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod testing;
