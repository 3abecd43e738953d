//! How this node is.

use std::sync::Arc;

use althing_domain::object::Kind;
use serde_json::{Map, Value, json};

use super::Admin;
use super::call::{Call, Failure, Reply};

pub(super) async fn status(admin: Arc<Admin>, _: Call) -> Result<Reply, Failure> {
    let state = admin.law.state();
    let counts: Map<String, Value> = Kind::ALL
        .iter()
        .map(|kind| (kind.field().to_owned(), state.tables().len(*kind).into()))
        .collect();
    let servers: Vec<Value> = admin.servers.status().into_iter().map(|(_, it)| it).collect();
    let mut body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": admin.node,
        "index": state.index(),
        "time": admin.clock.now().to_rfc3339(),
        "objects": counts,
        "mcp_servers": servers,
        "audit": { "entries": state.audit().count(), "head": state.audit().head().to_string() },
    });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), (admin.status)()) {
        body.extend(more);
    }
    Ok(Reply::json(body).with_index(state.index()))
}
