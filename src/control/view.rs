//! The law as the request path reads it: compiled once a change, immutable, behind an arc-swap.
//!
//! A request takes one [`View`] at its start and keeps it: one request, one policy. Only what a command changed is
//! compiled anew, so a write costs the same with ten virtual keys and with a hundred thousand. A key is compiled when
//! it is first used, so those that nobody uses cost neither memory nor time at start.

mod key;
mod model;
mod provider;
mod table;

use std::sync::Arc;

use althing_domain::digest::Digest;
use althing_domain::id::Name;
use althing_domain::pattern::Pattern;
use althing_domain::policy;
use althing_domain::state::State;
use althing_domain::time::UnixMillis;
use imbl::HashMap;

pub use key::{KeyProviderView, KeyView, Standing};
pub use model::ModelView;
pub use provider::{BuildContext, KeyCell, ProviderView, same_client};
pub(super) use table::KeyTable;

use super::compile::KeyCompiler;

/// Finds the keyed hash of what a caller shows.
pub type Hasher = Arc<dyn Fn(&[u8]) -> [u8; 32] + Send + Sync>;

/// A key as the view finds it by hash: the key, and until when this credential of it holds.
pub type Credential = (Arc<KeyView>, Option<UnixMillis>);

/// A snapshot of the law.
#[derive(Clone)]
pub struct View {
    /// The log index it stands at.
    pub index: u64,
    /// Providers, in the order of their creation.
    pub providers: Arc<Vec<Arc<ProviderView>>>,
    /// Tool groups by name.
    pub groups: HashMap<Name, Arc<policy::ToolGroup>>,
    /// The keys that were used since the start, by hash.
    pub(super) keys: KeyTable,
    /// The law that it was compiled from, which has the others.
    pub(super) law: Arc<State>,
    pub(super) compiler: Arc<KeyCompiler>,
    /// Who calls without a key where that is allowed: everything, unbounded.
    pub anonymous: Arc<KeyView>,
    /// The keyed hash of administrators' keys.
    pub admin: Option<[u8; 32]>,
    /// The keyed hash itself.
    pub hasher: Hasher,
}

impl View {
    /// The key behind what a caller shows. One that is used for the first time is compiled from the law as it is by
    /// now, which may be later than this view.
    #[must_use]
    pub fn key(&self, shown: &str) -> Option<Credential> {
        self.key_of(&(self.hasher)(shown.as_bytes()))
    }

    /// A key by its name.
    #[must_use]
    pub fn key_named(&self, name: &str) -> Option<Arc<KeyView>> {
        let current = self.law.credentials(name).first()?;
        // The hash may be another key's by now, in the newest law.
        self.key_of(&current.hash.0).map(|it| it.0).filter(|it| it.name.as_str() == name)
    }

    fn key_of(&self, hash: &[u8; 32]) -> Option<Credential> {
        if let Some(found) = self.keys.get(hash) {
            return Some(found.clone());
        }
        // What is nobody's key is found out without a lock: whoever tries keys makes no one wait.
        self.law.key_by_hash(&Digest(*hash), UnixMillis(0))?;
        self.compiler.first_use(hash)
    }

    /// A provider by its name.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Arc<ProviderView>> {
        self.providers.iter().find(|it| it.name.as_str() == name)
    }

    /// Whether `key` may call `server/tool`: by its own list, or by one of its groups.
    #[must_use]
    pub fn may_call(&self, key: &KeyView, policy_name: &str) -> bool {
        key.tools.iter().any(|it| it.matches(policy_name))
            || key.groups.iter().any(|group| self.group_has(group.as_str(), policy_name))
    }

    /// Whether the group names `server/tool`.
    #[must_use]
    pub fn group_has(&self, group: &str, policy_name: &str) -> bool {
        self.groups
            .get(group)
            .is_some_and(|it| it.tools.iter().any(|pattern| pattern.matches(policy_name)))
    }

    /// Whether `key` may use the group at all. Who may use every tool may use every group.
    #[must_use]
    pub fn may_use_group(&self, key: &KeyView, group: &str) -> bool {
        self.groups.contains_key(group)
            && (key.groups.iter().any(|it| it.as_str() == group)
                || key.tools.contains(&Pattern::from("*")))
    }
}
