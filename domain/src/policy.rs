//! Policy objects: what an admin writes, in a file or over the API, and what the nodes agree on.
//!
//! One type serves the YAML file, the JSON bodies, the API description and the stored
//! form (see `docs/decisions/`). A field added later must be optional with a default, and
//! left out when it has that default: so what an older build stored still reads, and
//! digests to the same on every build.

mod budget;
mod mcp_server;
mod people;
mod provider;
mod tool_group;
mod virtual_key;

pub use budget::{Budget, BudgetMode, Budgets, Fraction, Period, PeriodError, Rate, Span};
pub use mcp_server::{Auth, Command, Grant, McpServer, OAuth, Transport};
pub use people::{Customer, Team};
pub use provider::{DialectName, ModelPrice, Provider, ProviderKey};
pub use tool_group::ToolGroup;
pub use virtual_key::{KEY_BYTES_MIN, KeyProvider, VirtualKey};

pub(crate) const fn yes() -> bool {
    true
}

pub(crate) const fn one() -> u32 {
    1
}
