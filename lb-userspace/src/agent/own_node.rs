//! What this node's own Node object says to the agent itself; the planner has it, too. Pure.

use super::files::ObjectChange;
use crate::model::{Kind, Node, Object, ObjectRef};

/// The node's object, as far as it matters here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct OwnNode {
    /// It names addresses; without it, the links do.
    pub(super) known: bool,
    /// The node is about to be deleted.
    pub(super) leaving: bool,
}

impl OwnNode {
    /// Takes in a change of any object; `name` is this node's.
    pub(super) fn note(&mut self, change: &ObjectChange, name: &str) {
        match change {
            ObjectChange::Upsert(object) => {
                if let Object::Node(Node { name: of, addresses, leaving, .. }) = &**object
                    && **of == *name
                {
                    *self = Self { known: !addresses.is_empty(), leaving: *leaving };
                }
            }
            ObjectChange::Remove(key) => {
                if *key == ObjectRef::new(Kind::Node, "", name) {
                    self.known = false;
                }
            }
            ObjectChange::Retain(kind, keys) => {
                self.known &= *kind != Kind::Node || keys.contains(&ObjectRef::new(Kind::Node, "", name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: ObjectChange, known: bool, leaving: bool) {
        let addresses = vec!["192.0.2.1".parse().unwrap()];
        let n1 = Node { name: "n1".into(), addresses, zone: None, leaving: true };
        let mut own = OwnNode::default();
        own.note(&ObjectChange::Upsert(Box::new(Object::Node(n1))), "n1");
        assert_eq!(own, OwnNode { known: true, leaving: true });
        own.note(&change, "n1");
        assert_eq!(own, OwnNode { known, leaving }, "{change:?}");
    }

    #[test]
    fn only_the_own_object_counts() {
        let key = |kind, name: &str| ObjectRef::new(kind, "", name);
        let nodes = |names: &[&str]| names.iter().map(|name| key(Kind::Node, name)).collect();
        let put = |name: &str, leaving| {
            let node = Node { name: name.into(), addresses: Vec::new(), zone: None, leaving };
            ObjectChange::Upsert(Box::new(Object::Node(node)))
        };
        check(put("n1", false), false, false);
        check(put("n2", false), true, true);
        check(ObjectChange::Remove(key(Kind::Node, "n1")), false, true);
        check(ObjectChange::Remove(key(Kind::Node, "n2")), true, true);
        check(ObjectChange::Remove(key(Kind::Service, "n1")), true, true);
        check(ObjectChange::Retain(Kind::Node, nodes(&["n1", "n2"])), true, true);
        check(ObjectChange::Retain(Kind::Service, nodes(&[])), true, true);
        // It was deleted while the agent could not be told, and others are still there.
        check(ObjectChange::Retain(Kind::Node, nodes(&["n2"])), false, true);
        check(ObjectChange::Retain(Kind::Node, nodes(&[])), false, true);
    }
}
