//! What the API server tells while a snapshot serves, or may yet: kept until every list was read whole, then told at once.
//! A Service without its slices would refuse what the snapshot serves.

use std::collections::{BTreeMap, BTreeSet};

use super::super::files::{ObjectChange, Outcome};
use crate::{
    k8s::watch::KINDS,
    model::{Object, ObjectRef},
};

/// The objects that were told, each once: however long it takes, it is no more than the server has.
#[derive(Debug, Default)]
pub(super) struct Held {
    objects: BTreeMap<ObjectRef, Box<Object>>,
    /// All that are there, those among them that are bad now as well.
    there: BTreeSet<ObjectRef>,
}

impl Held {
    /// Takes the changes out of an outcome.
    pub(super) fn take(&mut self, changes: Vec<ObjectChange>) {
        for change in changes {
            match change {
                ObjectChange::Upsert(object) => {
                    self.there.insert(object.key());
                    self.objects.insert(object.key(), object);
                }
                ObjectChange::Remove(key) => {
                    self.there.remove(&key);
                    self.objects.remove(&key);
                }
                ObjectChange::Retain(kind, keys) => {
                    self.objects.retain(|key, _| key.kind != kind || keys.contains(key));
                    self.there.retain(|key| key.kind != kind);
                    self.there.extend(keys);
                }
            }
        }
    }

    /// Hands out everything. `whole`: every list was read to its end, so that what is not among it is gone.
    pub(super) fn release(self, whole: bool) -> Outcome {
        let Self { objects, there } = self;
        let of = |kind| there.iter().filter(move |key| key.kind == kind).cloned().collect();
        let retains = KINDS.into_iter().filter(|_| whole).map(|kind| ObjectChange::Retain(kind, of(kind)));
        let mut changes: Vec<ObjectChange> = retains.collect();
        changes.extend(objects.into_values().map(ObjectChange::Upsert));
        Outcome { changes, ..Outcome::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Node};

    fn node(name: &str, zone: &str) -> Box<Object> {
        let zone = Some(zone.into());
        Box::new(Object::Node(Node { name: name.into(), addresses: Vec::new(), zone, leaving: false }))
    }

    fn key(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Node, "", name)
    }

    #[test]
    fn what_is_released_is_what_there_is_in_the_end() {
        let mut held = Held::default();
        let upsert = |name, zone| ObjectChange::Upsert(node(name, zone));
        held.take(vec![upsert("early", "a"), upsert("twice", "a"), upsert("gone", "a")]);
        // A list that holds a bad object beside the good ones.
        held.take(vec![ObjectChange::Retain(Kind::Node, ["twice", "gone", "bad"].map(key).into())]);
        held.take(vec![upsert("twice", "b"), ObjectChange::Remove(key("gone")), upsert("late", "a")]);
        let Outcome { changes, messages, good_again } = held.release(true);
        assert_eq!([messages, good_again].concat(), [""; 0]);
        let (retains, upserts): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| matches!(change, ObjectChange::Retain(..)));
        assert_eq!(retains.len(), KINDS.len(), "each kind, or what a snapshot knows of it would stay");
        assert!(retains.contains(&ObjectChange::Retain(Kind::Node, ["twice", "bad", "late"].map(key).into())));
        assert!(retains.contains(&ObjectChange::Retain(Kind::Service, BTreeSet::new())));
        assert_eq!(upserts, [upsert("late", "a"), upsert("twice", "b")]);
    }

    #[test]
    fn without_whole_lists_nothing_is_said_to_be_gone() {
        let mut held = Held::default();
        held.take(vec![ObjectChange::Upsert(node("n", "a")), ObjectChange::Retain(Kind::Service, BTreeSet::new())]);
        assert_eq!(held.release(false).changes, [ObjectChange::Upsert(node("n", "a"))]);
    }
}
