//! Our face to MCP clients.

mod rpc;
