//! What was made of a catalogue for somebody, kept until the catalogue changes.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use super::catalog::Catalog;

/// So that cores seldom wait for each other.
const SHARDS: usize = 8;
/// What an entry costs beside its key and its value, in bytes.
const ENTRY_BYTES: usize = 256;

/// Values made of the catalogue as it is now. Those of an earlier one are forgotten, and with them the earlier catalogue.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
    /// What one shard may hold; over it all of the shard is forgotten.
    shard_bytes_max: usize,
}

#[derive(Debug)]
struct Shard<K, V> {
    catalog: Option<Arc<Catalog>>,
    bytes: usize,
    values: HashMap<K, Arc<V>>,
}

impl<K, V> Default for Shard<K, V> {
    fn default() -> Self {
        Self { catalog: None, bytes: 0, values: HashMap::new() }
    }
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// One that holds about `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            shard_bytes_max: bytes_max / SHARDS,
        }
    }

    /// The value for `key` of `catalog`; `make` makes it where there is none. `bytes` says what key and value hold.
    pub(crate) fn get_or_make(
        &self,
        catalog: &Arc<Catalog>,
        key: K,
        make: impl FnOnce(&K) -> V,
        bytes: impl FnOnce(&K, &V) -> usize,
    ) -> Arc<V> {
        let at = usize::try_from(self.hasher.hash_one(&key) % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.shards.get(at) else { return Arc::new(make(&key)) };
        {
            let shard = shard.lock();
            if shard.is_of(catalog)
                && let Some(value) = shard.values.get(&key)
            {
                return Arc::clone(value);
            }
        }
        // Made outside the lock: two at once make it twice, and one of them is kept.
        let value = Arc::new(make(&key));
        let cost = ENTRY_BYTES + bytes(&key, &value);
        let mut shard = shard.lock();
        if !shard.is_of(catalog) || self.shard_bytes_max < shard.bytes + cost {
            *shard = Shard { catalog: Some(Arc::clone(catalog)), ..Shard::default() };
        }
        if cost <= self.shard_bytes_max && shard.values.insert(key, Arc::clone(&value)).is_none() {
            shard.bytes += cost;
        }
        value
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        let held = self.shards.iter().map(|it| {
            let shard = it.lock();
            (shard.values.len(), shard.bytes)
        });
        held.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }
}

impl<K, V> Shard<K, V> {
    fn is_of(&self, catalog: &Arc<Catalog>) -> bool {
        self.catalog.as_ref().is_some_and(|it| Arc::ptr_eq(it, catalog))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::Cache;
    use crate::mcp::catalog::Catalog;

    #[test]
    fn a_value_is_made_once_for_a_key_and_a_catalogue() {
        let cache = Cache::<&str, usize>::new(1 << 20);
        let (first, second) = (Arc::new(Catalog::default()), Arc::new(Catalog::default()));
        let made = Cell::new(0);
        let get = |catalog, key| {
            let make = |_: &&str| {
                made.set(made.get() + 1);
                made.get()
            };
            *cache.get_or_make(catalog, key, make, |_, _| 1)
        };
        assert_eq!((get(&first, "a"), get(&first, "a"), get(&first, "b")), (1, 1, 2));
        assert_eq!((get(&second, "a"), get(&second, "a")), (3, 3));
    }

    #[test]
    fn keys_without_end_are_forgotten_and_no_old_catalogue_is_kept() {
        let cache = Cache::<String, ()>::new(1 << 20);
        let old = Arc::new(Catalog::default());
        for number in 0..10_000 {
            let key = format!("{number:01000}");
            cache.get_or_make(&old, key, |_| (), |key, ()| key.len());
        }
        let (count, bytes) = cache.held();
        assert!(count <= 1000 && bytes <= 1 << 20, "{count} {bytes}");
        let new = Arc::new(Catalog::default());
        for number in 0..1000 {
            cache.get_or_make(&new, number.to_string(), |_| (), |key, ()| key.len());
        }
        assert_eq!(Arc::strong_count(&old), 1);
        // What is over the bound by itself is made each time.
        let held = cache.held();
        cache.get_or_make(&new, "x".repeat(1 << 20), |_| (), |key, ()| key.len());
        assert!(cache.held().0 <= held.0);
    }
}
