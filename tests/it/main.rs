//! Black-box tests: the real binary, real sockets, real peers where a registry has one.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test owns its runtime: nothing outlives it")]
#![expect(clippy::indexing_slicing, reason = "a missing field of an answer fails the test")]

mod bad_input;
mod durability;
mod first_use;
mod governance;
mod http2;
mod mcp_peers;
mod models;
mod oauth;
mod operations;
mod records;
mod sdk;
mod secrets;
mod support;
mod telemetry;
mod tidy;
mod tools;
