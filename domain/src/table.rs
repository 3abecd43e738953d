//! A table of policy objects of one kind: found by name, listed in the order of creation.

use std::sync::Arc;

use imbl::OrdMap;

use crate::id::Name;
use crate::object::Policy;
use crate::time::UnixMillis;

/// An object as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// Unique over all kinds and for ever; grows in the order of creation.
    pub id: u64,
    /// Log index of the last write.
    pub version: u64,
    /// When it was created.
    pub created: UnixMillis,
    /// When it was last written.
    pub updated: UnixMillis,
    /// The object.
    pub spec: Arc<T>,
}

/// Objects of one kind. A clone is cheap and shares what it can.
#[derive(Debug, Clone)]
pub struct Table<T> {
    rows: OrdMap<Name, Arc<Stored<T>>>,
    order: OrdMap<u64, Arc<Stored<T>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: OrdMap::new(), order: OrdMap::new() }
    }
}

impl<T> Table<T> {
    /// The one of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Stored<T>> {
        self.rows.get(name).map(Arc::as_ref)
    }

    /// All, in the order of their creation.
    pub fn iter(&self) -> impl Iterator<Item = &Stored<T>> {
        self.iter_after(0)
    }

    /// Those that were created after the one with id `after`, in the order of their creation.
    pub fn iter_after(&self, after: u64) -> impl Iterator<Item = &Stored<T>> {
        self.order
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(_, it)| it.as_ref())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(row) = self.rows.remove(name) {
            self.order.remove(&row.id);
        }
    }
}

impl<T: Policy> Table<T> {
    /// What it has in common with the one created last is shared with that: keys that are made in numbers differ in
    /// little more than their names.
    pub(crate) fn insert(&mut self, mut row: Stored<T>) {
        if let Some((_, last)) = self.order.get_max() {
            row.spec = row.spec.sharing(&last.spec);
        }
        let row = Arc::new(row);
        self.rows.insert(row.spec.name().clone(), Arc::clone(&row));
        self.order.insert(row.id, row);
    }
}
