//! Policy objects: what an admin writes, in a file or over the API, and what the nodes agree on.
//!
//! One type serves the YAML file, the JSON bodies, the OpenAPI document and the stored
//! form (see `docs/decisions/`). A field added later must be optional with a default, so
//! that what an older build stored still reads.

mod budget;
mod mcp_server;
mod people;
mod provider;
mod tool_group;
mod virtual_key;

pub use budget::{Budget, BudgetMode, Budgets, Period, PeriodError, Rate, Span};
pub use mcp_server::{Auth, Command, Grant, McpServer, OAuth, Transport};
pub use people::{Customer, Team};
pub use provider::{DialectName, ModelPrice, Provider, ProviderKey};
pub use tool_group::ToolGroup;
pub use virtual_key::{KeyProvider, VirtualKey};

pub(crate) const fn yes() -> bool {
    true
}

pub(crate) const fn one() -> u32 {
    1
}
