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
    model::{Kind, ObjectRef, Uid},
    plan::state::ServiceName,
};

/// State of the source that the watches are.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Kinds that were read whole.
    whole: BTreeSet<Kind>,
    /// Objects that are left out.
    bad: BTreeMap<ObjectRef, BadObject>,
    /// Services of which something in `bad` came or went since [`Self::take_changed_services`] was last called.
    changed_services: BTreeSet<ServiceName>,
    /// Kinds that cannot be followed now, and why.
    failing: BTreeMap<Kind, String>,
}

/// An object that is left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct BadObject {
    /// As it was logged.
    pub(super) cause: String,
    /// Its `metadata.uid`.
    pub(super) uid: Option<Uid>,
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

    /// Why a Service is left out, if it is.
    pub(super) fn bad_service(&self, service: &ServiceName) -> Option<&BadObject> {
        if self.bad.is_empty() {
            return None;
        }
        self.bad.get(&ObjectRef::new(Kind::Service, service.namespace(), service.name()))
    }

    /// The Services that are left out, and why.
    pub(super) fn bad_services(&self) -> impl Iterator<Item = (ServiceName, &str)> {
        let services = self.bad.iter().filter(|(key, _)| key.kind == Kind::Service);
        services.map(|(key, bad)| (ServiceName::new(&key.namespace, &key.name), bad.cause.as_str()))
    }

    /// The Services for which [`Self::bad_service`] says something else than at the last call.
    pub(super) fn take_changed_services(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changed_services)
    }

    /// Whether it was bad.
    fn forget_bad(&mut self, key: &ObjectRef) -> bool {
        let was_bad = self.bad.remove(key).is_some();
        if was_bad {
            self.note_change(key);
        }
        was_bad
    }

    fn note_change(&mut self, key: &ObjectRef) {
        if key.kind == Kind::Service {
            self.changed_services.insert(ServiceName::new(&key.namespace, &key.name));
        }
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
                    if !self.bad.is_empty() && self.forget_bad(&object.key()) {
                        outcome.good_again.push(format!("{}: is good again", object.key()));
                    }
                    outcome.changes.push(ObjectChange::Upsert(object));
                }
                Event::Bad { key, cause, uid } => {
                    let bad = BadObject { cause, uid };
                    if self.bad.get(&key) != Some(&bad) {
                        outcome.messages.push(format!("{key}: {}; this version of it is left out", bad.cause));
                        self.note_change(&key);
                        self.bad.insert(key, bad);
                    }
                }
                Event::Gone(key) => {
                    self.forget_bad(&key);
                    outcome.changes.push(ObjectChange::Remove(key));
                }
                Event::Whole(keys) => {
                    let gone = self.bad.keys().filter(|key| key.kind == kind && !keys.contains(*key));
                    for key in gone.cloned().collect::<Vec<_>>() {
                        self.forget_bad(&key);
                    }
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
        let bad = |cause: &str| Event::Bad { key: key(Kind::Node, "n1"), cause: cause.into(), uid: None };
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
        let bad = |name: &str| Event::Bad { key: key(Kind::Service, name), cause: "x".into(), uid: Uid::new("u") };
        let name = |name| ServiceName::new("default", name);
        cluster.take(update(Kind::Service, vec![bad("a"), bad("b"), Event::Gone(key(Kind::Service, "a"))]));
        assert_eq!(cluster.take_changed_services(), BTreeSet::from([name("a"), name("b")]));
        assert_eq!(cluster.bad_services().collect::<Vec<_>>(), [(name("b"), "x")]);
        assert_eq!(cluster.bad_service(&name("b")), Some(&BadObject { cause: "x".into(), uid: Uid::new("u") }));
        cluster.take(update(Kind::Node, vec![Event::Whole(BTreeSet::new())]));
        assert!(cluster.has_bad_objects(), "a list of another kind says nothing of it");
        cluster.take(update(Kind::Service, vec![bad("b")]));
        assert!(cluster.take_changed_services().is_empty(), "as it was");
        cluster.take(update(Kind::Service, vec![Event::Whole(BTreeSet::new())]));
        assert!(!cluster.has_bad_objects());
        assert_eq!(cluster.take_changed_services(), BTreeSet::from([name("b")]));
    }
}
