//! The gateway. A request goes one way through it:
//!
//! listen → auth → admit → route → execute → settle
//!
//! Each stage is a module of that name, takes what the stage before it returned, and never calls back up.
//! Chat, embeddings and `tools/call` take the same way: a tool call is a request whose target is a tool.
//! `tests/it/tidy.rs` holds the allowed edges between modules.

pub mod admit;
pub mod api;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod control;
pub mod demo;
pub mod error;
pub mod execute;
pub mod gateway;
pub mod listen;
pub mod mcp;
pub mod route;
pub mod secret;
pub mod settle;
pub mod tasks;
pub mod telemetry;
pub mod trust;
