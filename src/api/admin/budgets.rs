//! Where the money is.

use std::sync::Arc;

use althing_domain::budget::View;
use serde_json::Value;

use super::call::{Call, Failure, Reply};
use super::page::Wanted;
use super::{Admin, secrets};
use crate::error::{Code, Error};

pub(super) async fn list(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let (wanted, state) = (Wanted::of(&call)?, admin.law.state());
    let after = wanted.after.as_deref().unwrap_or_default();
    let rows = state.budgets(admin.clock.now()).filter_map(|view| {
        let id = view.id.as_str().to_owned();
        let is_wanted = after < id.as_str() && wanted.finds(&[&id]);
        is_wanted.then(|| json(&view).ok().map(|it| (id, it))).flatten()
    });
    Ok(wanted.page(rows).with_index(state.index()))
}

pub(super) async fn show(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let state = admin.law.state();
    let view = state.budget(&call.name, admin.clock.now()).ok_or_else(|| {
        Error::new(Code::NotFound, "there is no such budget: ids look like `virtual-key:app:month`")
    })?;
    Ok(Reply::json(json(&view)?).with_index(state.index()))
}

/// A budget, its time as people write it.
fn json(view: &View) -> Result<Value, Failure> {
    let mut json =
        serde_json::to_value(view).map_err(|_| secrets::internal("the budget does not read"))?;
    if let Some(fields) = json.as_object_mut() {
        let resets_at = view.resets_at.map(|it| it.to_rfc3339());
        fields.insert("resets_at".to_owned(), resets_at.into());
    }
    Ok(json)
}
