//! The MCP gateway: what it federates, and how it serves it.
