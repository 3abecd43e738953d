//! What a start writes into the law: the admin key, and the file's policy.

use althing_config::Config;
use althing_config::section::NodeSecret;
use althing_domain::command::{Expect, Op, Put, Reply, Write};
use althing_domain::object::Object;
use althing_domain::state::At;
use secrecy::{ExposeSecret, SecretString};

use super::Error;
use super::law::LawOf;
use crate::api::admin::ports::Law;
use crate::control::Control;

const ADMIN_PREFIX: &str = "al-admin-";
const KEY_PREFIX: &str = "sk-al-";
/// Who writes what the node's own file says.
const FILE: &str = "file";

/// Keys that were made and are told once.
#[derive(Default)]
pub(super) struct Made {
    pub(super) admin_key: Option<SecretString>,
    pub(super) virtual_keys: Vec<(String, SecretString)>,
}

/// A secret of the node's own settings.
///
/// # Errors
///
/// [`Error::Config`] names the setting, never the value.
pub(super) fn node_secret(setting: &str, secret: &NodeSecret) -> Result<SecretString, Error> {
    althing_config::secret_ref::resolve(&secret.0).map_err(|it| Error::Config(format!("{setting}: {it}")))
}

/// Writes what the start must: the admin key that the file names or a new one, then the file's policy where the law is
/// empty or `apply` asks for it.
pub(super) async fn writes(control: &Control, config: &Config, apply: bool) -> Result<Made, Error> {
    let law = LawOf(control.clone());
    let mut made = Made { admin_key: admin_key(&law, config).await?, virtual_keys: Vec::new() };
    if config.policy.is_empty() {
        return Ok(made);
    }
    let is_empty = law.state().is_without_policy();
    if !is_empty && !apply {
        tell_difference(&law, config)?;
        return Ok(made);
    }
    let (batch, keys) = batch(&law, &config.policy)?;
    let outcome = law.propose(rand::random(), FILE, Op::Batch(batch)).await.map_err(|it| Error::First(it.to_string()))?;
    if let Reply::Refused(refusal) = outcome.reply {
        return Err(Error::First(format!("the file's policy was refused: {refusal}")));
    }
    tracing::info!(objects = config.policy.len(), index = outcome.index, "the file's policy is in the law");
    made.virtual_keys = keys;
    Ok(made)
}

async fn admin_key(law: &LawOf, config: &Config) -> Result<Option<SecretString>, Error> {
    let (key, is_new) = match &config.admin.key {
        Some(key) => (node_secret("admin.key", key)?, false),
        None if law.state().admin_key().is_some() => return Ok(None),
        None => (token(law, ADMIN_PREFIX)?, true),
    };
    let hash = law.hash(key.expose_secret().as_bytes());
    if law.state().admin_key() != Some(hash) {
        let op = Op::SetAdminKey { hash, expect: Expect::Any };
        law.propose(rand::random(), FILE, op).await.map_err(|it| Error::First(it.to_string()))?;
    }
    Ok(is_new.then_some(key))
}

fn token(law: &LawOf, prefix: &str) -> Result<SecretString, Error> {
    let token = law.create_token(prefix).map_err(|it| Error::First(it.to_string()))?;
    Ok(SecretString::from(token.as_str()))
}

/// The file's objects as one atomic write: literal secrets sealed, keys hashed, keys without a value made.
fn batch(law: &LawOf, objects: &[Object]) -> Result<(Vec<Write>, Vec<(String, SecretString)>), Error> {
    let mut made = Vec::new();
    let mut writes = Vec::with_capacity(objects.len());
    for object in objects {
        let mut object = object.clone();
        let credential = match &object {
            Object::VirtualKey(key) => match &key.value {
                Some(value) => {
                    let setting = format!("virtual_keys[{}].value", key.name);
                    let value = node_secret(&setting, &NodeSecret(value.clone()))?;
                    Some(law.hash(value.expose_secret().as_bytes()))
                }
                None if law.state().credentials(key.name.as_str()).is_empty() => {
                    let value = token(law, KEY_PREFIX)?;
                    let hash = law.hash(value.expose_secret().as_bytes());
                    made.push((key.name.to_string(), value));
                    Some(hash)
                }
                None => None,
            },
            _ => None,
        };
        if let Object::VirtualKey(key) = &mut object {
            std::sync::Arc::make_mut(key).value = None;
        }
        let mut failed = None;
        object.visit_secrets(&mut |path, secret| {
            if let althing_domain::secret::Form::Literal(value) = secret.form() {
                match law.seal(value) {
                    Ok(sealed) => *secret = althing_domain::secret::Secret::new(format!("sealed:{sealed}")),
                    Err(_) => failed = Some(path.to_string()),
                }
            }
        });
        if let Some(path) = failed {
            return Err(Error::First(format!("{path}: the secret cannot be sealed")));
        }
        writes.push(Write::Put(Put { object, expect: Expect::Any, credential }));
    }
    Ok((writes, made))
}

/// Says so where the file differs from the law, which stands.
fn tell_difference(law: &LawOf, config: &Config) -> Result<(), Error> {
    let state = law.state();
    let (batch, _) = batch(law, &config.policy)?;
    let command = althing_domain::command::Command { request_id: rand::random(), who: FILE.to_owned(), op: Op::Batch(batch) };
    let outcome = state.dry_run(At { index: state.index() + 1, time: state.now() }, &command);
    // A sealed value differs from its own second sealing, so what has literal secrets always counts as changed.
    let literal: Vec<String> = config.policy.iter().filter(|it| !it.literal_secrets().is_empty()).map(|it| it.name().to_string()).collect();
    let changed: Vec<String> = outcome
        .changes
        .objects
        .iter()
        .filter(|it| !literal.contains(&it.name.to_string()))
        .map(|it| format!("{} {}", it.kind, it.name))
        .collect();
    if !changed.is_empty() {
        let file = config.file.as_ref().map_or_else(|| "FILE".to_owned(), |it| it.display().to_string());
        tracing::warn!(
            changed = changed.join(", "),
            "the file's policy differs from the law, which stands: see `althing diff -f {file}`, take it with `althing apply -f {file}`, or start with --apply"
        );
    }
    Ok(())
}
