//! What the watches of the API server tell, for the loop: what is known whole, what is bad, what cannot be followed.
//!
//! Objects are not kept here: they are the planner's. Nothing reaches the datapath before every kind was read whole once,
//! as Services without their slices would refuse what an earlier run still serves.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    files::{ObjectChange, Outcome},
    state::Agent,
};
use crate::{
    k8s::watch::{Event, KINDS, Update, Watches},
    model::{Kind, ObjectRef},
};

/// State of the source that the watches are.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Kinds that were read whole.
    whole: BTreeSet<Kind>,
    /// Objects that are left out, each with the reason that was logged.
    bad: BTreeMap<ObjectRef, String>,
    /// Kinds that cannot be followed now, and why.
    failing: BTreeMap<Kind, String>,
}

impl Cluster {
    /// Whether every kind was read whole once.
    pub(super) fn is_synced(&self) -> bool {
        KINDS.iter().all(|kind| self.whole.contains(kind))
    }

    /// Whether an object is left out now.
    pub(super) fn has_bad_objects(&self) -> bool {
        !self.bad.is_empty()
    }

    /// How many kinds cannot be followed.
    pub(super) fn failing(&self) -> usize {
        self.failing.len()
    }

    /// Takes what a watch tells. A bad object keeps its last good version, so it is no change.
    pub(super) fn take(&mut self, Update { kind, seen: _, events }: Update) -> Outcome {
        let mut outcome = Outcome::default();
        for event in events {
            match event {
                Event::Put(object) => {
                    if !self.bad.is_empty() && self.bad.remove(&object.key()).is_some() {
                        outcome.messages.push(format!("{}: is good again", object.key()));
                    }
                    outcome.changes.push(ObjectChange::Upsert(object));
                }
                Event::Bad { key, cause } => {
                    if self.bad.get(&key) != Some(&cause) {
                        outcome.messages.push(format!("{key}: {cause}; this version of it is left out"));
                        self.bad.insert(key, cause);
                    }
                }
                Event::Gone(key) => {
                    self.bad.remove(&key);
                    outcome.changes.push(ObjectChange::Remove(key));
                }
                Event::Whole(keys) => {
                    self.bad.retain(|key, _| key.kind != kind || keys.contains(key));
                    self.whole.insert(kind);
                    outcome.changes.push(ObjectChange::Retain(kind, keys));
                }
                Event::Failing(reason) => {
                    tracing::error!("{reason}; what is known stays in force");
                    self.failing.insert(kind, reason);
                }
                Event::Working => {
                    if self.failing.remove(&kind).is_some() {
                        tracing::info!("{kind} objects can be followed again");
                    }
                }
            }
        }
        outcome
    }
}

impl Agent {
    /// Takes an update and all that wait behind it, and settles once.
    pub(super) fn take_updates(&mut self, first: Update, watches: &mut Watches) {
        let seen = first.seen;
        let (mut next, mut taken) = (Some(first), 0);
        while let Some(update) = next {
            taken += update.events.len();
            let was_synced = self.cluster.as_ref().is_none_or(Cluster::is_synced);
            if let Some(cluster) = &mut self.cluster {
                let heard = update.events.iter().any(|event| !matches!(event, Event::Failing(_) | Event::Working));
                let outcome = cluster.take(update);
                if !was_synced && cluster.is_synced() {
                    tracing::info!("every list of the API server was read whole");
                }
                let outcome = self.hold_back(outcome, heard);
                self.plan(outcome);
                self.release();
            }
            next = watches.try_next();
        }
        if self.settle() {
            self.syncs.reached(seen.elapsed());
        }
        tracing::debug!(micros = seen.elapsed().as_micros(), events = taken, "from API event to datapath");
    }
}

/// The next update, if there are watches.
pub(super) async fn next(watches: &mut Option<Watches>) -> Update {
    match watches {
        Some(watches) => watches.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model::{Node, Object};

    fn update(kind: Kind, events: Vec<Event>) -> Update {
        Update { kind, seen: Instant::now(), events }
    }

    fn key(kind: Kind, name: &str) -> ObjectRef {
        ObjectRef::new(kind, if kind.is_namespaced() { "default" } else { "" }, name)
    }

    #[test]
    fn it_is_synced_once_every_kind_was_whole() {
        let mut cluster = Cluster::default();
        for kind in KINDS {
            assert!(!cluster.is_synced());
            cluster.take(update(kind, vec![Event::Whole(BTreeSet::new())]));
        }
        assert!(cluster.is_synced());
        cluster.take(update(Kind::Service, vec![Event::Failing("x".into())]));
        assert!(cluster.is_synced() && cluster.failing() == 1, "a failure unlearns nothing");
        cluster.take(update(Kind::Service, vec![Event::Working]));
        assert_eq!(cluster.failing(), 0);
    }

    #[test]
    fn a_bad_object_is_no_change_and_is_told_once() {
        let mut cluster = Cluster::default();
        let bad = |cause: &str| Event::Bad { key: key(Kind::Node, "n1"), cause: cause.into() };
        let outcome = cluster.take(update(Kind::Node, vec![bad("x"), bad("x"), bad("y")]));
        assert_eq!((outcome.changes.len(), outcome.messages.len()), (0, 2), "{outcome:?}");
        assert!(cluster.has_bad_objects());
        let good = Node { name: "n1".into(), addresses: Vec::new(), zone: None, leaving: false };
        let outcome = cluster.take(update(Kind::Node, vec![Event::Put(Box::new(Object::Node(good)))]));
        assert_eq!((outcome.changes.len(), cluster.has_bad_objects()), (1, false));
    }

    #[test]
    fn a_bad_object_that_is_gone_is_bad_no_more() {
        let mut cluster = Cluster::default();
        let bad = |name: &str| Event::Bad { key: key(Kind::Service, name), cause: "x".into() };
        cluster.take(update(Kind::Service, vec![bad("a"), bad("b"), Event::Gone(key(Kind::Service, "a"))]));
        cluster.take(update(Kind::Node, vec![Event::Whole(BTreeSet::new())]));
        assert!(cluster.has_bad_objects(), "a list of another kind says nothing of it");
        cluster.take(update(Kind::Service, vec![Event::Whole(BTreeSet::new())]));
        assert!(!cluster.has_bad_objects());
    }
}
