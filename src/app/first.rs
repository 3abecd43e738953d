//! What a start writes into the law: the admin key, and the file's policy.

use althing_config::Config;
use althing_config::section::NodeSecret;
use secrecy::SecretString;

use super::Error;
use crate::api::admin::Admin;
use crate::api::admin::call::Failure;
use crate::api::admin::start::{self, AdminKey};

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
    althing_config::secret_ref::resolve(&secret.0)
        .map_err(|it| Error::Config(format!("{setting}: {it}")))
}

/// Writes what the start must: the admin key that the file names or a new one, then the file's policy where the law is
/// empty or `apply` asks for it.
pub(super) async fn writes(admin: &Admin, config: &Config, apply: bool) -> Result<Made, Error> {
    let configured =
        config.admin.key.as_ref().map(|it| node_secret("admin.key", it)).transpose()?;
    let key = start::ensure_admin_key(admin.law.as_ref(), configured.as_ref()).await;
    let admin_key = match key.map_err(|it| Error::First(it.to_string()))? {
        AdminKey::Made(key) => Some(key),
        AdminKey::Known => None,
    };
    let mut made = Made { admin_key, virtual_keys: Vec::new() };
    if config.policy.is_empty() {
        return Ok(made);
    }
    let state = admin.law.state();
    if !state.is_without_policy() && !apply {
        tell_difference(&start::differs(admin, &state, &config.policy), config);
        return Ok(made);
    }
    let applied = start::apply_file(admin, config.policy.clone(), FILE).await;
    let applied = applied.map_err(|it| Error::First(refused(&it)))?;
    tracing::info!(
        objects = config.policy.len(),
        index = applied.index,
        "the file's policy is in the law"
    );
    made.virtual_keys = applied
        .keys
        .into_iter()
        .filter_map(|(name, key)| Some((name, SecretString::from(key.as_str()?))))
        .collect();
    Ok(made)
}

/// Objects that a log line names; the rest is counted.
const NAMED_MAX: usize = 20;

/// Says so where the file differs from the law, which stands. What the law has beside the file is no difference to tell: the API made it.
fn tell_difference(difference: &start::Difference, config: &Config) {
    let start::Difference { unlike, unnamed } = difference;
    if unlike.is_empty() {
        tracing::debug!(unnamed, "the file's policy is in the law");
        return;
    }
    let named: Vec<&str> = unlike.iter().take(NAMED_MAX).map(String::as_str).collect();
    let file =
        config.file.as_ref().map_or_else(|| "FILE".to_owned(), |it| it.display().to_string());
    tracing::warn!(
        objects = unlike.len(),
        unlike = named.join("; "),
        unnamed,
        "the file's policy differs from the law, which stands: see `althing diff -f {file}`, take it with `althing apply -f {file}`, or start with --apply"
    );
}

fn refused(failure: &Failure) -> String {
    let problems: Vec<String> = failure.problems.iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        return format!("the file's policy was refused: {}", failure.error);
    }
    format!("the file's policy was refused: {}", problems.join("; "))
}
