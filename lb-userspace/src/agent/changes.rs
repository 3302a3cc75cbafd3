//! Changes of objects on their way to the planner, and who else has to know of them.

use std::time::SystemTime;

use super::{
    files::{ObjectChange, Outcome},
    state::Agent,
    syncs,
};
use crate::{
    model::{Kind, Object},
    plan::state::ServiceName,
};

impl Agent {
    /// Hands changes of objects to the planner.
    pub(super) fn plan(&mut self, outcome: Outcome) {
        for message in outcome.messages {
            tracing::warn!("{message}");
        }
        for message in outcome.good_again {
            tracing::info!("{message}");
        }
        let now = SystemTime::now();
        for change in outcome.changes {
            self.own_node.note(&change, &self.settings.node_name);
            match change {
                ObjectChange::Upsert(object) => {
                    if let Object::Service(service) = &*object {
                        self.events.touch_known(&service.name);
                    }
                    self.syncs.queue(object.key().kind, 1, now);
                    // Before the first full state they say how long the agent was away.
                    let trigger = syncs::trigger_of(&object).filter(|_| self.ready);
                    self.recall_api_server(&object);
                    self.planner.upsert(*object);
                    if let Some((service, at)) = trigger.filter(|(service, _)| self.planner.is_changing(service)) {
                        self.syncs.trigger(service, at);
                    }
                }
                ObjectChange::Remove(name) => {
                    self.syncs.queue(name.kind, 1, now);
                    if name.kind == Kind::Service {
                        self.events.touch_known(&ServiceName::new(&name.namespace, &name.name));
                    }
                    self.planner.remove(&name);
                }
                ObjectChange::Retain(kind, keys) => {
                    if kind == Kind::Service {
                        self.events.touch_all_known();
                    }
                    let gone = self.planner.retain(|key| key.kind != kind || keys.contains(key));
                    self.syncs.queue(kind, u64::try_from(gone).unwrap_or(u64::MAX), now);
                }
            }
        }
    }
}
