//! The objects and their history: one counter numbers every change, as etcd does. No I/O, no faults.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    object::Stored,
    resource::{Key, Resource},
};

/// One change of one object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) old: Option<Arc<Stored>>,
    pub(super) new: Option<Arc<Stored>>,
}

/// The history before `oldest` is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Expired {
    pub(super) oldest: u64,
}

/// Everything that would be in etcd.
#[derive(Clone)]
pub(super) struct Store {
    version: u64,
    /// Watches and exact lists may begin here or later.
    oldest: u64,
    objects: BTreeMap<Key, Arc<Stored>>,
    /// By version. Compaction keeps them, for watches that began before it.
    log: Vec<Change>,
    uids: u64,
}

/// No cluster that serves anybody is at 0, and a client must not take a version for a count.
const FIRST_VERSION: u64 = 100;

impl Store {
    pub(super) fn new() -> Self {
        Self { version: FIRST_VERSION, oldest: FIRST_VERSION, objects: BTreeMap::new(), log: Vec::new(), uids: 0 }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Stored>> {
        self.objects.get(key)
    }

    pub(super) fn of(&self, resource: Resource) -> impl Iterator<Item = (&Key, &Arc<Stored>)> {
        self.objects.iter().filter(move |(key, _)| key.resource == resource)
    }

    /// Creates or replaces an object. An equal one changes nothing and gets no version, as with a real server.
    pub(super) fn put(&mut self, mut object: Value) -> Result<Key> {
        let key = Key::of(&object)?;
        let old = self.objects.get(&key).cloned();
        let metadata = object["metadata"].as_object_mut().context("metadata is no map")?;
        if key.resource.is_namespaced() {
            metadata.insert("namespace".into(), json!(key.namespace));
        }
        for own in ["uid", "creationTimestamp"] {
            match old.as_ref().and_then(|old| old.metadata.get(own)) {
                // An operator's file may give an age; a later one without it does not change it.
                Some(value) => drop(metadata.entry(own).or_insert_with(|| value.clone())),
                None if own == "uid" => {
                    self.uids += 1;
                    let uid = format!("00000000-0000-4000-8000-{:012x}", self.uids);
                    metadata.entry(own).or_insert_with(|| json!(uid));
                }
                None => {
                    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                    metadata.entry(own).or_insert_with(|| json!(now));
                }
            }
        }
        let mut object = Stored::new(object)?;
        if let Some(old) = &old {
            object.metadata["resourceVersion"] = old.metadata["resourceVersion"].clone();
            if **old == object {
                return Ok(key);
            }
        }
        self.version += 1;
        object.set_version(self.version);
        let new = Some(Arc::new(object));
        self.objects.extend(new.clone().map(|new| (key.clone(), new)));
        self.log.push(Change { version: self.version, key: key.clone(), old, new });
        Ok(key)
    }

    /// Whether there was such an object.
    pub(super) fn delete(&mut self, key: &Key) -> bool {
        let Some(old) = self.objects.remove(key) else { return false };
        self.version += 1;
        self.log.push(Change { version: self.version, key: key.clone(), old: Some(old), new: None });
        true
    }

    /// The changes after `version`, oldest first. A later version than the present has none, as with a real server:
    /// changes up to it are not sent.
    pub(super) fn after(&self, version: u64) -> &[Change] {
        &self.log[self.log.partition_point(|change| change.version <= version)..]
    }

    /// Whether a watch may begin after `version`, or a list be as of it.
    pub(super) fn check_version(&self, version: u64) -> Result<(), Expired> {
        if version < self.oldest { Err(Expired { oldest: self.oldest }) } else { Ok(()) }
    }

    /// The objects of a resource as they were at a version that [`Self::check_version`] allows.
    pub(super) fn at(&self, resource: Resource, version: u64) -> BTreeMap<&Key, &Arc<Stored>> {
        let mut objects: BTreeMap<_, _> = self.of(resource).collect();
        for change in self.after(version).iter().rev().filter(|change| change.key.resource == resource) {
            match &change.old {
                Some(old) => drop(objects.insert(&change.key, old)),
                None => drop(objects.remove(&change.key)),
            }
        }
        objects
    }

    /// A change of something that is not served here.
    pub(super) fn count_on(&mut self) {
        self.version += 1;
    }

    /// Forgets all history.
    pub(super) fn compact(&mut self) {
        self.oldest = self.version;
    }

    /// As after etcd was restored elsewhere: the same objects, counted anew from a low number.
    pub(super) fn renumber(&mut self) {
        self.version = FIRST_VERSION;
        self.log.clear();
        for object in self.objects.values_mut() {
            self.version += 1;
            Arc::make_mut(object).set_version(self.version);
        }
        self.oldest = self.version;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, label: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"l": label}}})
    }

    #[test]
    fn every_change_has_a_version_and_an_equal_object_none() {
        let mut store = Store::new();
        let start = store.version();
        let key = store.put(node("a", "1")).unwrap();
        let first = store.get(&key).unwrap().clone();
        store.put(node("a", "1")).unwrap();
        assert_eq!((store.version(), store.get(&key)), (start + 1, Some(&first)));
        store.put(node("a", "2")).unwrap();
        let second = store.get(&key).unwrap().clone();
        assert_eq!(second.metadata["resourceVersion"], json!((start + 2).to_string()));
        assert_eq!(first.metadata["uid"], second.metadata["uid"]);
        assert!(store.delete(&key) && !store.delete(&key));
        store.put(node("a", "2")).unwrap();
        assert_ne!(store.get(&key).unwrap().metadata["uid"], second.metadata["uid"], "another object");
        assert_eq!(store.after(start + 2).len(), 2);
    }

    #[test]
    fn the_past_can_be_read_until_it_is_compacted() {
        let mut store = Store::new();
        store.put(node("a", "1")).unwrap();
        let then = store.version();
        let past: Vec<_> = store.of(Resource::Nodes).map(|(_, object)| object.clone()).collect();
        let a = store.put(node("a", "2")).unwrap();
        store.put(node("b", "1")).unwrap();
        store.delete(&a);
        assert_eq!(store.at(Resource::Nodes, then).into_values().cloned().collect::<Vec<_>>(), past);
        assert_eq!(store.check_version(then), Ok(()));
        store.compact();
        assert_eq!(store.check_version(then), Err(Expired { oldest: store.version() }));
        assert_eq!(store.after(then).len(), 3, "for watches that run");
        store.renumber();
        assert_eq!(store.version(), FIRST_VERSION + 1);
        assert_eq!(store.after(0).len(), 0);
    }
}
