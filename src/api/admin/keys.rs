//! Rotating virtual keys.

use std::sync::Arc;

use althing_config::Problem;
use althing_domain::command::{Expect, Op};
use althing_domain::object::Kind;
use althing_domain::policy::Span;
use althing_domain::secret::Secret;
use althing_domain::time::UnixMillis;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;

use super::call::{Call, Failure, Reply};
use super::secrets::Credential;
use super::{Admin, policy, secrets};

/// The longest that two secrets of a key hold at the same time: 90 days.
const OVERLAP_MS_MAX: u64 = 90 * 86_400_000;

/// How a key is rotated.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the old secret holds beside the new one, such as `24h`. Absent: not a moment.
    #[serde(default)]
    overlap: Option<Span>,
    /// The new secret. Absent: one is made.
    #[serde(default)]
    value: Option<Secret>,
}

pub(super) async fn rotate(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let rotation: Rotation = serde_json::from_value(call.json()?)
        .map_err(|it| Failure::invalid(vec![Problem::new("", it.to_string())]))?;
    let overlap = rotation.overlap.map_or(0, |it| it.0.get());
    if OVERLAP_MS_MAX < overlap {
        return Err(vec![Problem::new("overlap", "at most 90d")].into());
    }
    let row = policy::find(&admin.law.state(), Kind::VirtualKey, &call.name)?;
    let credential = match &rotation.value {
        None => secrets::make(&admin)?,
        Some(value) => {
            let value = secrets::given(&admin, value)
                .map_err(|it| Failure::invalid(vec![Problem::new("value", it)]))?;
            let hash = admin.law.hash(value.expose_secret().as_bytes());
            Credential { hash: Some(hash), made: None }
        }
    };
    let Some(hash) = credential.hash else {
        return Err(secrets::internal("no key was made"));
    };
    let old_valid_until =
        (overlap != 0).then(|| UnixMillis(admin.clock.now().0.saturating_add(overlap)));
    let name = row.object.name().clone();
    let expect = call.if_match()?.unwrap_or(Expect::Any);
    let op = Op::RotateKey { name: name.clone(), hash, old_valid_until, expect };
    let (index, _) = policy::propose(&admin, &call, op).await?;
    let row = policy::find(&admin.law.state(), Kind::VirtualKey, name.as_str())?;
    let mut body = json!({
        "object": policy::public(&row)?,
        "index": index,
        "certain_by": policy::certain_by(&admin),
        "old_valid_until": old_valid_until.map(UnixMillis::to_rfc3339),
    });
    policy::show_once(&mut body, credential.made);
    Ok(Reply::json(body).with_version(row.version).with_index(index))
}
