//! A named set of tools: a virtual MCP server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::object::Policy;
use crate::pattern::Pattern;
use crate::validate::Report;

/// A named set of tools, served as one MCP server at `/mcp/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolGroup {
    /// Its name: `^[a-zA-Z][a-zA-Z0-9_]{0,31}$`.
    pub name: Name,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The tools, as `server/tool`; `*` stands for any run of characters.
    #[serde(default)]
    pub tools: Vec<Pattern>,
}

impl Policy for ToolGroup {
    fn name(&self) -> &Name {
        &self.name
    }

    fn check(&self, report: &mut Report<'_>) {
        self.validate(report);
    }
}
