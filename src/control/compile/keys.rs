//! Virtual keys, compiled when they are first used.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use althing_domain::budget::{Level, Owner};
use althing_domain::digest::Digest;
use althing_domain::id::Name;
use althing_domain::policy::{KeyProvider, VirtualKey};
use althing_domain::query::KeyPath;
use althing_domain::time::UnixMillis;
use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::admit::{Cells, LevelSpec};
use crate::control::view::{Credential, KeyProviderView, KeyView, Standing, View};

/// Compiles keys, each when it is first used, and again when the law changes what it may do.
pub(in crate::control) struct KeyCompiler {
    cells: Arc<Cells>,
    /// Weak: the view itself leads here.
    views: Weak<ArcSwap<View>>,
    /// Whoever holds this is the only one that makes a new view.
    pub(super) compiled: Mutex<Compiled>,
}

/// What was compiled, and is in the current view.
#[derive(Default)]
pub(super) struct Compiled {
    pub(super) keys: HashMap<Name, Arc<KeyView>, RandomState>,
    /// Of the last key whose providers have no limits of their own: the next key may have the same.
    providers: Option<Providers>,
}

/// A key's providers in the law, and compiled.
type Providers = (Arc<[KeyProvider]>, Arc<[KeyProviderView]>);

impl KeyCompiler {
    pub(super) fn new(cells: Arc<Cells>, views: Weak<ArcSwap<View>>) -> Self {
        Self { cells, views, compiled: Mutex::default() }
    }

    /// The key with this hash, from the law as it is by now. Of a key in use the first request alone comes here.
    pub(in crate::control) fn first_use(&self, hash: &[u8; 32]) -> Option<Credential> {
        let views = self.views.upgrade()?;
        let mut compiled = self.compiled.lock();
        let current = views.load_full();
        if let Some(found) = current.keys.get(hash) {
            return Some(found.clone());
        }
        let key = current.law.key_by_hash(&Digest(*hash), UnixMillis(0))?;
        let mut view = View::clone(&current);
        self.put(&mut view, &mut compiled, &key.spec.name, None);
        let found = view.keys.get(hash).cloned();
        views.store(Arc::new(view));
        found
    }

    /// Takes what `view` has of a key out of it, and puts in what its law says; nothing where the key was never used.
    pub(super) fn replace(&self, view: &mut View, compiled: &mut Compiled, name: &Name) {
        let Some(before) = compiled.keys.remove(name) else { return };
        before.hashes.iter().for_each(|it| view.keys.remove(it));
        self.put(view, compiled, name, Some(&before));
    }

    /// Puts a key into `view`, compiled from its law, where that has it.
    pub(super) fn put(
        &self,
        view: &mut View,
        compiled: &mut Compiled,
        name: &Name,
        before: Option<&KeyView>,
    ) {
        let law = Arc::clone(&view.law);
        let Some(path) = law.path(name.as_str()) else { return };
        let credentials = law.credentials(name.as_str());
        let mut key = self.key(&path, compiled, before);
        key.hashes = credentials.iter().map(|it| it.hash.0).collect();
        let limits = key.providers.iter().map(|it| &it.limits).chain([&key.limits]);
        let made = limits.flat_map(|it| it.budgets()).filter(|it| it.view().0.is_none());
        self.cells.seen(made.map(|it| it.id()), |it| law.budget(it.as_str(), law.now()));
        let key = Arc::new(key);
        for credential in credentials {
            view.keys.insert(credential.hash.0, (Arc::clone(&key), credential.not_after));
        }
        compiled.keys.insert(key.name.clone(), key);
    }

    fn key(
        &self,
        path: &KeyPath<'_>,
        compiled: &mut Compiled,
        before: Option<&KeyView>,
    ) -> KeyView {
        let spec = &path.key.spec;
        KeyView {
            name: spec.name.clone(),
            number: path.key.id,
            label: spec.name.to_shared(),
            team_label: path.team.map(|it| it.spec.name.to_shared()),
            customer_label: path.customer.map(|it| it.spec.name.to_shared()),
            standing: standing(path),
            expires_at: spec
                .expires_at
                .as_deref()
                .map(|it| UnixMillis::parse_rfc3339(it).unwrap_or_default()),
            providers: self.providers(spec, compiled),
            tools: Arc::clone(&spec.tools),
            groups: Arc::clone(&spec.tool_groups),
            default_max_tokens: spec.default_max_tokens,
            record_opt_out: spec.record_opt_out,
            limits: self.cells.limits_for(&levels(path)),
            in_flight: before.map_or_else(Arc::default, |it| Arc::clone(&it.in_flight)),
            hashes: smallvec::SmallVec::new(),
        }
    }

    fn providers(&self, spec: &VirtualKey, compiled: &mut Compiled) -> Arc<[KeyProviderView]> {
        if let Some((known, views)) = &compiled.providers
            && Arc::ptr_eq(known, &spec.providers)
        {
            return Arc::clone(views);
        }
        let views = spec.providers.iter().enumerate().map(|(at, it)| KeyProviderView {
            name: it.name.clone(),
            models: it.models.clone(),
            weight: it.weight,
            limits: self.cells.limits_for(&[LevelSpec {
                owner: Owner {
                    level: Level::KeyProvider,
                    name: spec.name.clone(),
                    provider: Some(it.name.0.clone()),
                },
                budgets: spec.provider_budgets(at),
                rate: it.rate.as_ref(),
            }]),
        });
        let views: Arc<[_]> = views.collect();
        if views.iter().all(|it| it.limits.is_empty()) {
            compiled.providers = Some((Arc::clone(&spec.providers), Arc::clone(&views)));
        }
        views
    }
}

/// Customer, team, key: the levels of every request of a key.
fn levels<'a>(path: &KeyPath<'a>) -> Vec<LevelSpec<'a>> {
    use althing_domain::object::Policy;

    let mut levels = Vec::with_capacity(3);
    if let Some(customer) = path.customer {
        let owner =
            Owner { level: Level::Customer, name: customer.spec.name.clone(), provider: None };
        levels.push(LevelSpec {
            owner,
            budgets: customer.spec.budgets(),
            rate: customer.spec.rate.as_ref(),
        });
    }
    if let Some(team) = path.team {
        let owner = Owner { level: Level::Team, name: team.spec.name.clone(), provider: None };
        levels.push(LevelSpec {
            owner,
            budgets: team.spec.budgets(),
            rate: team.spec.rate.as_ref(),
        });
    }
    let spec = &path.key.spec;
    let owner = Owner { level: Level::VirtualKey, name: spec.name.clone(), provider: None };
    levels.push(LevelSpec { owner, budgets: spec.own_budgets(), rate: spec.rate.as_ref() });
    levels
}

fn standing(path: &KeyPath<'_>) -> Standing {
    use althing_domain::query::Standing as Law;

    // Time is judged at each request; here only what does not pass by itself.
    match path.standing(UnixMillis(0)) {
        Law::Disabled(Level::Team) => Standing::Disabled("the key's team is disabled"),
        Law::Disabled(Level::Customer) => Standing::Disabled("the key's customer is disabled"),
        Law::Disabled(_) => Standing::Disabled("the key is disabled"),
        Law::Good | Law::Expired(_) => Standing::Active,
    }
}
