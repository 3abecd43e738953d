//! The MCP servers of this node, beyond their policy.

use std::sync::Arc;

use althing_domain::object::{Kind, Object};
use serde_json::json;

use super::call::{Call, Failure, Reply};
use super::{Admin, policy};
use crate::error::{Code, Error};

/// The name of the server that a route is about; it must be one of policy.
fn server(admin: &Admin, call: &Call) -> Result<String, Failure> {
    let row = policy::find(&admin.law.state(), Kind::McpServer, &call.name)?;
    let is_enabled = matches!(&row.object, Object::McpServer(it) if it.enabled);
    if is_enabled {
        return Ok(row.object.name().to_string());
    }
    let text = format!("the MCP server `{}` is disabled: enable it first", row.object.name());
    Err(Error::new(Code::Conflict, text).into())
}

pub(super) async fn reconnect(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let name = server(&admin, &call)?;
    if !admin.servers.reconnect(&name) {
        let text = format!("`{name}` is not started on this node yet: try again");
        return Err(Error::new(Code::ServerUnavailable, text).into());
    }
    let status = admin.servers.status().into_iter().find(|(it, _)| *it == name).map(|it| it.1);
    Ok(Reply::json(json!({ "reconnecting": true, "server": status })))
}

pub(super) async fn authorize(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let name = server(&admin, &call)?;
    let url = admin.servers.authorize(&name).await?;
    Ok(Reply::json(json!({ "authorize_url": url })))
}

pub(super) async fn tools(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let name = server(&admin, &call)?;
    let status = admin.servers.status().into_iter().find(|(it, _)| *it == name).map(|it| it.1);
    let state = status.as_ref().and_then(|it| it.get("state").cloned());
    Ok(Reply::json(json!({ "items": admin.servers.tools(&name), "next": null, "state": state })))
}
