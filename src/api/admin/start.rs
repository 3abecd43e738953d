//! What a node's start asks of the administration: the admin key, and the file's policy.

use althing_domain::command::{Expect, Op, Refusal, Reply};
use althing_domain::object::Object;
use althing_domain::state::State;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::call::Failure;
use super::ports::Law;
use super::{Admin, apply};
use crate::error::{Code, Error};

/// Who the node's own acts are noted under.
const WHO: &str = "node";

/// What became of the admin key.
#[derive(Debug)]
pub enum AdminKey {
    /// There is one, as configured or as made earlier.
    Known,
    /// It was made just now: show it once.
    Made(SecretString),
}

/// Sets the configured admin key; makes one where there is none at all.
///
/// # Errors
///
/// Where the law cannot be written.
pub async fn ensure_admin_key(
    law: &dyn Law,
    configured: Option<&SecretString>,
) -> Result<AdminKey, Error> {
    let current = law.state().admin_key();
    if let Some(key) = configured {
        let hash = law.hash(key.expose_secret().as_bytes());
        if current != Some(hash) {
            set(law, key, Expect::Any).await?;
        }
        return Ok(AdminKey::Known);
    }
    if current.is_some() {
        return Ok(AdminKey::Known);
    }
    let key = make(law)?;
    // Another node may have been first: then its key stands.
    let is_ours = set(law, &key, Expect::Absent).await?;
    Ok(if is_ours { AdminKey::Made(key) } else { AdminKey::Known })
}

/// Makes another admin key; the old one ends at once. For who has lost it.
///
/// # Errors
///
/// Where the law cannot be written.
pub async fn reset_admin_key(law: &dyn Law) -> Result<SecretString, Error> {
    let key = make(law)?;
    set(law, &key, Expect::Any).await?;
    Ok(key)
}

fn make(law: &dyn Law) -> Result<SecretString, Error> {
    let token = law.create_token(althing_storage::seal::ADMIN_PREFIX)?;
    Ok(SecretString::from(token.as_str()))
}

/// Whether it was set: not, where `expect` did not hold.
async fn set(law: &dyn Law, key: &SecretString, expect: Expect) -> Result<bool, Error> {
    let hash = law.hash(key.expose_secret().as_bytes());
    let op = Op::SetAdminKey { hash, expect };
    match law.propose(Uuid::new_v4().as_u128(), WHO, op).await?.reply {
        Reply::Refused(Refusal::AlreadySet { .. }) => Ok(false),
        Reply::Refused(refusal) => Err(Error::new(Code::Internal, refusal.to_string())),
        Reply::Done | Reply::Written(_) | Reply::Leases(_) | Reply::Closed { .. } => Ok(true),
    }
}

/// What applying a file's policy did.
#[derive(Debug, Default)]
pub struct Applied {
    /// The log index that it took effect at.
    pub index: u64,
    /// What changed: `added`, `changed`, `removed`.
    pub changes: Value,
    /// Virtual keys that were made because the file gave no value: name to key. Show them once.
    pub keys: Map<String, Value>,
}

/// Makes the law what `objects` say; what they do not name stays. Who wrote the node's file may refer to any secret
/// that it names: put the file's references into [`Admin::allow`].
///
/// # Errors
///
/// All that is wrong with them, or that the law cannot be written.
pub async fn apply_file(
    admin: &Admin,
    objects: Vec<Object>,
    who: &str,
) -> Result<Applied, Failure> {
    let state = admin.law.state();
    let (diff, writes, keys) = apply::prepare(admin, &state, objects, false)?;
    let changes = apply::changes(&diff, false);
    let mut index = state.index();
    if !writes.is_empty() {
        let outcome = admin.law.propose(Uuid::new_v4().as_u128(), who, Op::Batch(writes)).await?;
        if let Reply::Refused(refusal) = outcome.reply {
            return Err(refusal.into());
        }
        index = outcome.index;
    }
    Ok(Applied { index, changes, keys })
}

/// In what a file's policy differs from the law, for the log line that says so.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What is not as the file says: `virtual-keys/app`, and where it is there, the fields that are others: `teams/web (enabled)`.
    pub unlike: Vec<String>,
    /// How many objects the law has that the file does not name.
    pub unnamed: usize,
}

/// Compares a file's policy with the law.
#[must_use]
pub fn differs(admin: &Admin, state: &State, objects: &[Object]) -> Difference {
    let diff = apply::compared(admin, state, objects);
    let added = diff.added.iter().map(|it| format!("{}/{}", it.kind.route(), it.name));
    let changed = diff.changed.iter().map(|it| {
        let fields: Vec<&str> = it.fields.iter().map(|it| it.path.as_str()).collect();
        format!("{}/{} ({})", it.kind.route(), it.name, fields.join(", "))
    });
    Difference { unlike: added.chain(changed).collect(), unnamed: diff.removed.len() }
}
