//! A least-recently-used map like the kernel's, but exact: the kernel evicts approximately, per CPU.

use std::{collections::HashMap, hash::Hash};

/// Evicts the entry that was used longest ago when a new key finds no room.
#[derive(Clone, Debug)]
pub(super) struct LruMap<K, V> {
    entries: HashMap<K, (V, u64)>,
    capacity: Option<usize>,
    uses: u64,
}

impl<K: Copy + Eq + Hash, V: Copy> LruMap<K, V> {
    /// Without a limit.
    pub(super) fn new() -> Self {
        Self { entries: HashMap::new(), capacity: None, uses: 0 }
    }

    /// At most `capacity` entries from now on.
    pub(super) fn limit(&mut self, capacity: usize) {
        assert!(capacity > 0, "an LRU map holds at least one entry");
        self.capacity = Some(capacity);
    }

    /// The value, which counts as a use.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.uses += 1;
        let (value, used) = self.entries.get_mut(key)?;
        *used = self.uses;
        Some(*value)
    }

    /// Changes a value in place, which counts as a use; false if there is none.
    pub(super) fn update(&mut self, key: &K, change: impl FnOnce(&mut V)) -> bool {
        self.uses += 1;
        let Some((value, used)) = self.entries.get_mut(key) else { return false };
        *used = self.uses;
        change(value);
        true
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.uses += 1;
        if !self.entries.contains_key(&key)
            && self.capacity.is_some_and(|capacity| self.entries.len() >= capacity)
            && let Some(oldest) = self.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert(key, (value, self.uses));
    }

    pub(super) fn remove(&mut self, key: &K) -> bool {
        self.entries.remove(key).is_some()
    }

    /// All entries, those used longest ago first; not a use.
    pub(super) fn entries(&self) -> Vec<(K, V)> {
        let mut all: Vec<_> = self.entries.iter().map(|(key, (value, used))| (*used, *key, *value)).collect();
        all.sort_by_key(|(used, ..)| *used);
        all.into_iter().map(|(_, key, value)| (key, value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_used_longest_ago_goes() {
        let mut map = LruMap::new();
        map.limit(2);
        map.insert(1, 'a');
        map.insert(2, 'b');
        assert_eq!(map.get(&1), Some('a'));
        map.insert(3, 'c');
        assert_eq!(map.entries(), [(1, 'a'), (3, 'c')]);
    }

    #[test]
    fn replacing_evicts_nobody() {
        let mut map = LruMap::new();
        map.limit(2);
        map.insert(1, 'a');
        map.insert(2, 'b');
        map.insert(1, 'c');
        assert_eq!(map.entries(), [(2, 'b'), (1, 'c')]);
    }
}
