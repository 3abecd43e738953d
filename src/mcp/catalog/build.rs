//! From what servers list to a catalogue.

use std::collections::hash_map::Entry;
use std::sync::{Arc, OnceLock};

use althing_domain::id::Name;
use althing_domain::policy::McpServer;
use serde_json::value::RawValue;

use super::{Catalog, Definition, ToolEntry};
use crate::mcp::names;

/// The longest tool name that is taken, in bytes. The specification allows 128; some servers use more.
const TOOL_NAME_BYTES_MAX: usize = 256;

/// What one server offers now.
pub(crate) struct Offer {
    /// Its settings: which tools, at what price.
    pub(crate) spec: Arc<McpServer>,
    /// Its tools as last listed; empty where they are not known.
    pub(crate) tools: Vec<Arc<RawValue>>,
    /// Whether calls can be made now.
    pub(crate) is_ready: bool,
}

/// Merges what the servers offer. Tools that did not change since `previous` keep their compiled schema.
pub(crate) fn build(offers: &[Offer], previous: &Catalog) -> Catalog {
    let mut catalog = Catalog::default();
    for offer in offers {
        if !offer.is_ready {
            catalog.not_ready.push(offer.spec.name.clone());
        }
        for raw in &offer.tools {
            match entry(&offer.spec, raw) {
                Ok(tool) if offered(&offer.spec, &tool.name) => add(&mut catalog, tool, previous),
                Ok(_) => {}
                Err(problem) => {
                    let server = &offer.spec.name;
                    tracing::warn!(server.name = %server, "server `{server}` lists a tool that cannot be offered: {problem}");
                }
            }
        }
    }
    catalog
}

fn offered(spec: &McpServer, tool: &str) -> bool {
    spec.tools.iter().any(|it| it.matches(tool))
}

fn add(catalog: &mut Catalog, tool: ToolEntry, previous: &Catalog) {
    let at = catalog.tools.len();
    let Entry::Vacant(by_policy) = catalog.by_policy.entry(Arc::clone(&tool.policy)) else {
        tracing::warn!(tool.name = %tool.policy, "tool `{}` is listed twice: the first one counts", tool.policy);
        return;
    };
    let Entry::Vacant(by_flat) = catalog.by_flat.entry(Arc::clone(&tool.flat)) else {
        tracing::warn!(tool.name = %tool.policy, "tool `{}` is not offered: its short name `{}` is taken by another", tool.policy, tool.flat);
        return;
    };
    by_policy.insert(at);
    by_flat.insert(at);
    catalog.tools.push(reuse(tool, previous));
}

/// The entry of `previous` where it says the same, with its compiled schema.
fn reuse(tool: ToolEntry, previous: &Catalog) -> Arc<ToolEntry> {
    match previous.by_policy(&tool.policy) {
        Some(old)
            if old.raw.get() == tool.raw.get()
                && old.price == tool.price
                && old.auto_execute == tool.auto_execute
                && old.code_mode == tool.code_mode =>
        {
            Arc::clone(old)
        }
        _ => Arc::new(tool),
    }
}

fn entry(spec: &McpServer, raw: &Arc<RawValue>) -> Result<ToolEntry, String> {
    let definition: Definition = serde_json::from_str(raw.get()).map_err(|it| it.to_string())?;
    check_name(&definition.name)?;
    let server: &Name = &spec.name;
    let hints = definition.hints();
    Ok(ToolEntry {
        server: server.clone(),
        flat: names::flat(server.as_str(), &definition.name).into(),
        policy: names::policy(server.as_str(), &definition.name).into(),
        price: spec.price(&definition.name),
        auto_execute: spec.auto_execute.iter().any(|it| it.matches(&definition.name)),
        code_mode: spec.code_mode,
        name: definition.name.into(),
        raw: Arc::clone(raw),
        description: definition.description.unwrap_or_default().into(),
        input_schema: Arc::new(definition.input_schema),
        hints,
        validator: OnceLock::new(),
    })
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("its name is empty".to_owned());
    }
    if TOOL_NAME_BYTES_MAX < name.len() {
        return Err(format!("its name has more than {TOOL_NAME_BYTES_MAX} bytes"));
    }
    if name.chars().any(char::is_control) {
        return Err("its name has a control character".to_owned());
    }
    Ok(())
}
