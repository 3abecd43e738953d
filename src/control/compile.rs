//! From the law to the view of it, one change at a time.

use std::sync::Arc;

use althing_domain::apply::Changes;
use althing_domain::budget::{Level, Owner};
use althing_domain::id::Name;
use althing_domain::object::{Kind, Object};
use althing_domain::policy;
use althing_domain::query::KeyPath;
use althing_domain::state::State;
use althing_domain::time::UnixMillis;
use arc_swap::ArcSwap;
use imbl::HashMap;

use super::view::{
    BuildContext, Hasher, KeyProviderView, KeyView, ProviderView, Standing, View, same_client,
};
use crate::admit::{Cells, LevelSpec};
use crate::secret::Resolver;

/// Keeps the view equal to the law. One thread at a time calls it: the one that applies.
pub struct Compiler {
    cells: Arc<Cells>,
    secrets: Arc<dyn Resolver>,
    views: Arc<ArcSwap<View>>,
    specs: Vec<(Name, Arc<policy::Provider>)>,
}

impl Compiler {
    /// A compiler whose view is empty until [`Compiler::rebuild`].
    #[must_use]
    pub fn new(cells: Arc<Cells>, secrets: Arc<dyn Resolver>, hasher: Hasher) -> Self {
        let empty = View {
            index: 0,
            policy: 0,
            providers: Arc::default(),
            groups: HashMap::new(),
            keys: HashMap::new(),
            hashes: HashMap::new(),
            anonymous: Arc::new(KeyView::anonymous()),
            admin: None,
            hasher,
        };
        Self { cells, secrets, views: Arc::new(ArcSwap::from_pointee(empty)), specs: Vec::new() }
    }

    /// Where the view is read.
    #[must_use]
    pub fn views(&self) -> Arc<ArcSwap<View>> {
        Arc::clone(&self.views)
    }

    /// Compiles the whole law: at start, and after a snapshot.
    pub fn rebuild(&mut self, state: &State) {
        let mut view = View::clone(&self.views.load());
        view.index = state.index();
        view.policy = state.index();
        view.admin = state.admin_key().map(|it| it.0);
        view.groups = state
            .tables()
            .tool_groups
            .iter()
            .map(|it| (it.spec.name.clone(), Arc::clone(&it.spec)))
            .collect();
        view.providers = self.providers(state, &view.providers);
        let old = std::mem::take(&mut view.keys);
        let hashes = std::mem::take(&mut view.hashes);
        for row in state.tables().virtual_keys.iter() {
            let before = hashes
                .get(&row.spec.name)
                .and_then(|it| old.get(it.first()?))
                .map(|it| Arc::clone(&it.0));
            self.put_key(&mut view, state, &row.spec.name, before);
        }
        self.cells.seen(state.budgets(state.now()));
        self.publish(view);
    }

    /// Compiles what a command changed. When this returns, every request that begins sees it.
    pub fn update(&mut self, state: &State, changes: &Changes) {
        let mut view = View::clone(&self.views.load());
        view.index = state.index();
        if !changes.objects.is_empty() {
            view.policy = state.index();
        }
        if changes.admin_key {
            view.admin = state.admin_key().map(|it| it.0);
        }
        let mut providers_changed = false;
        for change in &changes.objects {
            match change.kind {
                Kind::Provider => providers_changed = true,
                Kind::McpServer => {}
                Kind::ToolGroup => match state.tables().tool_groups.get(change.name.as_str()) {
                    Some(row) => {
                        view.groups.insert(change.name.clone(), Arc::clone(&row.spec));
                    }
                    None => {
                        view.groups.remove(&change.name);
                    }
                },
                Kind::VirtualKey => self.replace_key(&mut view, state, &change.name),
                Kind::Customer | Kind::Team => {
                    for name in dependants(state, change.kind, &change.name) {
                        self.replace_key(&mut view, state, &name);
                    }
                }
            }
        }
        if providers_changed {
            view.providers = self.providers(state, &view.providers);
        }
        let is_policy = !changes.objects.is_empty();
        self.cells
            .seen(changes.budgets.iter().filter_map(|it| state.budget(it.as_str(), state.now())));
        self.publish(view);
        if is_policy {
            self.cells.sweep();
        }
    }

    fn publish(&self, view: View) {
        self.views.store(Arc::new(view));
    }

    fn replace_key(&self, view: &mut View, state: &State, name: &Name) {
        let mut before = None;
        for hash in view.hashes.remove(name).iter().flatten() {
            if let Some((key, _)) = view.keys.remove(hash) {
                before = Some(key);
            }
        }
        self.put_key(view, state, name, before);
    }

    fn put_key(&self, view: &mut View, state: &State, name: &Name, before: Option<Arc<KeyView>>) {
        let Some(path) = state.path(name.as_str()) else { return };
        let key = Arc::new(self.key(&path, before));
        let credentials = state.credentials(name.as_str());
        for credential in credentials {
            view.keys.insert(credential.hash.0, (Arc::clone(&key), credential.not_after));
        }
        view.hashes.insert(name.clone(), credentials.iter().map(|it| it.hash.0).collect());
    }

    fn key(&self, path: &KeyPath<'_>, before: Option<Arc<KeyView>>) -> KeyView {
        let spec = &path.key.spec;
        let providers = spec.providers.iter().enumerate().map(|(at, it)| KeyProviderView {
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
        KeyView {
            name: spec.name.clone(),
            label: Arc::from(spec.name.as_str()),
            team_label: path.team.map(|it| Arc::from(it.spec.name.as_str())),
            customer_label: path.customer.map(|it| Arc::from(it.spec.name.as_str())),
            standing: standing(path),
            expires_at: spec
                .expires_at
                .as_deref()
                .map(|it| UnixMillis::parse_rfc3339(it).unwrap_or_default()),
            providers: providers.collect(),
            tools: spec.tools.clone(),
            groups: spec.tool_groups.clone(),
            default_max_tokens: spec.default_max_tokens,
            limits: self.cells.limits_for(&levels(path)),
            in_flight: before.map_or_else(Arc::default, |it| Arc::clone(&it.in_flight)),
        }
    }

    /// Compiles the providers that are not as they were, and keeps the others with their connections.
    fn providers(
        &mut self,
        state: &State,
        old: &[Arc<ProviderView>],
    ) -> Arc<Vec<Arc<ProviderView>>> {
        let mut specs = Vec::new();
        let mut views = Vec::new();
        for row in state.tables().providers.iter() {
            let name = &row.spec.name;
            let old_spec = self.specs.iter().find(|it| it.0 == *name).map(|it| &it.1);
            let old_view = old.iter().find(|it| it.name == *name);
            let view = match (old_spec, old_view) {
                (Some(spec), Some(view)) if *spec == row.spec => Arc::clone(view),
                _ => {
                    let reuse = old_spec
                        .filter(|it| same_client(it, &row.spec))
                        .and(old_view)
                        .map(|it| it.client.clone());
                    Arc::new(self.provider(&row.spec, reuse))
                }
            };
            specs.push((name.clone(), Arc::clone(&row.spec)));
            views.push(view);
        }
        self.specs = specs;
        Arc::new(views)
    }

    fn provider(
        &self,
        spec: &policy::Provider,
        reuse: Option<crate::execute::egress::Client>,
    ) -> ProviderView {
        let owner = Owner { level: Level::Provider, name: spec.name.clone(), provider: None };
        let budgets = Object::from(spec.clone());
        let level =
            LevelSpec { owner, budgets: budgets.policy().budgets(), rate: spec.rate.as_ref() };
        let limits = self.cells.limits_for(&[level]);
        ProviderView::build(spec, BuildContext { secrets: self.secrets.as_ref(), reuse, limits })
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

/// The keys that a customer or team pays for, directly or through its teams.
fn dependants(state: &State, kind: Kind, name: &Name) -> Vec<Name> {
    let mut keys = Vec::new();
    for (kind, name) in state.referrers(kind, name) {
        match kind {
            Kind::VirtualKey => keys.push(name),
            Kind::Team => {
                keys.extend(
                    state
                        .referrers(Kind::Team, &name)
                        .into_iter()
                        .filter(|it| it.0 == Kind::VirtualKey)
                        .map(|it| it.1),
                );
            }
            Kind::Provider | Kind::McpServer | Kind::ToolGroup | Kind::Customer => {}
        }
    }
    keys
}
