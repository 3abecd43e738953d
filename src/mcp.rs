//! The MCP gateway: what it federates, and how it serves it.
//!
//! [`federation::Federation`] is the port: the law's servers go in, a [`catalog::Catalog`] of tools and calls of
//! them come out. Raw JSON in, raw JSON out: only method, name, ids and the error envelope of a message are parsed.

mod arguments;
pub mod bridge;
mod cache;
pub mod call;
pub mod caller;
pub mod catalog;
pub mod demo_server;
pub mod execute;
pub mod federation;
pub mod inject;
pub(crate) mod json;
pub mod names;
pub mod result;
pub mod scope;
pub mod server;
mod supervisor;
pub mod upstream;

pub use federation::{Federation, State};
