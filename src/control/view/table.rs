//! The keys of a view by hash: a map whose copies share what they have in common.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Credential;

/// So that a change copies a small part. Hashes are even, so their first byte says where a key is.
const SHARDS: usize = 256;

type Shard = HashMap<[u8; 32], Credential, RandomState>;

/// See the module.
#[derive(Clone)]
pub(in crate::control) struct KeyTable(Arc<[Arc<Shard>; SHARDS]>);

impl Default for KeyTable {
    fn default() -> Self {
        let empty = Arc::<Shard>::default();
        Self(Arc::new(std::array::from_fn(|_| Arc::clone(&empty))))
    }
}

impl KeyTable {
    pub(in crate::control) fn get(&self, hash: &[u8; 32]) -> Option<&Credential> {
        self.0[usize::from(hash[0])].get(hash)
    }

    pub(in crate::control) fn insert(&mut self, hash: [u8; 32], credential: Credential) {
        let shards = Arc::make_mut(&mut self.0);
        Arc::make_mut(&mut shards[usize::from(hash[0])]).insert(hash, credential);
    }

    pub(in crate::control) fn remove(&mut self, hash: &[u8; 32]) {
        if self.get(hash).is_some() {
            let shards = Arc::make_mut(&mut self.0);
            Arc::make_mut(&mut shards[usize::from(hash[0])]).remove(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::KeyTable;
    use crate::control::view::KeyView;

    #[test]
    fn a_copy_stays_as_it_was() {
        let key = Arc::new(KeyView::anonymous());
        let hash = |at: u8, end: u8| {
            let mut hash = [0; 32];
            (hash[0], hash[31]) = (at, end);
            hash
        };
        let mut table = KeyTable::default();
        for end in 0..10 {
            table.insert(hash(7, end), (Arc::clone(&key), None));
        }
        let before = table.clone();
        table.remove(&hash(7, 3));
        table.insert(hash(8, 3), (key, None));
        assert!(before.get(&hash(7, 3)).is_some() && before.get(&hash(8, 3)).is_none());
        assert!(table.get(&hash(7, 3)).is_none() && table.get(&hash(8, 3)).is_some());
        assert!(table.get(&hash(7, 4)).is_some());
    }
}
