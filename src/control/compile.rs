//! From the law to the view of it, one change at a time.

mod keys;

use std::sync::Arc;

use althing_domain::apply::Changes;
use althing_domain::budget::{Level, Owner};
use althing_domain::id::Name;
use althing_domain::object::{Kind, Object};
use althing_domain::policy;
use althing_domain::state::State;
use arc_swap::ArcSwap;
use imbl::HashMap;

pub(super) use self::keys::KeyCompiler;
use super::view::{BuildContext, Hasher, KeyTable, KeyView, ProviderView, View, same_client};
use crate::admit::{Cells, LevelSpec};
use crate::secret::Resolver;

/// Keeps the view equal to the law. One thread at a time calls it: the one that applies.
pub struct Compiler {
    cells: Arc<Cells>,
    secrets: Arc<dyn Resolver>,
    views: Arc<ArcSwap<View>>,
    keys: Arc<KeyCompiler>,
    specs: Vec<(Name, Arc<policy::Provider>)>,
}

impl Compiler {
    /// A compiler whose view is empty until [`Compiler::rebuild`].
    #[must_use]
    pub fn new(cells: Arc<Cells>, secrets: Arc<dyn Resolver>, hasher: Hasher) -> Self {
        let views = Arc::new_cyclic(|views| {
            ArcSwap::from_pointee(View {
                index: 0,
                providers: Arc::default(),
                groups: HashMap::new(),
                keys: KeyTable::default(),
                law: Arc::default(),
                compiler: Arc::new(KeyCompiler::new(Arc::clone(&cells), views.clone())),
                anonymous: Arc::new(KeyView::anonymous()),
                admin: None,
                hasher,
            })
        });
        let keys = Arc::clone(&views.load().compiler);
        Self { cells, secrets, views, keys, specs: Vec::new() }
    }

    /// Where the view is read.
    #[must_use]
    pub fn views(&self) -> Arc<ArcSwap<View>> {
        Arc::clone(&self.views)
    }

    /// Compiles the whole law: at start, and after a snapshot.
    pub fn rebuild(&mut self, state: &State) {
        let providers = self.providers(state, &self.views().load().providers);
        let mut compiled = self.keys.compiled.lock();
        let mut view = View::clone(&self.views.load());
        view.index = state.index();
        view.law = Arc::new(state.clone());
        view.admin = state.admin_key().map(|it| it.0);
        view.groups = state
            .tables()
            .tool_groups
            .iter()
            .map(|it| (it.spec.name.clone(), Arc::clone(&it.spec)))
            .collect();
        view.providers = providers;
        view.keys = KeyTable::default();
        for (name, before) in std::mem::take(&mut compiled.keys) {
            self.keys.put(&mut view, &mut compiled, &name, Some(&before));
        }
        self.cells.seen_all(|it| state.budget(it.as_str(), state.now()));
        self.publish(view);
    }

    /// Compiles what a command changed. When this returns, every request that begins sees it.
    pub fn update(&mut self, state: &State, changes: &Changes) {
        let providers = changes
            .objects
            .iter()
            .any(|it| it.kind == Kind::Provider)
            .then(|| self.providers(state, &self.views().load().providers));
        // From here on no key is used for the first time: it would be compiled from the law before this.
        let mut compiled = self.keys.compiled.lock();
        let mut view = View::clone(&self.views.load());
        view.index = state.index();
        view.law = Arc::new(state.clone());
        if changes.admin_key {
            view.admin = state.admin_key().map(|it| it.0);
        }
        for change in &changes.objects {
            match change.kind {
                Kind::Provider | Kind::McpServer => {}
                Kind::ToolGroup => match state.tables().tool_groups.get(change.name.as_str()) {
                    Some(row) => {
                        view.groups.insert(change.name.clone(), Arc::clone(&row.spec));
                    }
                    None => {
                        view.groups.remove(&change.name);
                    }
                },
                Kind::VirtualKey => self.keys.replace(&mut view, &mut compiled, &change.name),
                Kind::Customer | Kind::Team => {
                    for name in dependants(state, change.kind, &change.name) {
                        self.keys.replace(&mut view, &mut compiled, &name);
                    }
                }
            }
        }
        if let Some(providers) = providers {
            view.providers = providers;
        }
        self.cells.seen(&changes.budgets, |it| state.budget(it.as_str(), state.now()));
        self.publish(view);
        drop(compiled);
        if !changes.objects.is_empty() {
            self.cells.sweep();
        }
    }

    fn publish(&self, view: View) {
        self.views.store(Arc::new(view));
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

#[cfg(test)]
mod tests;
