//! An agent without kernel and without API: a planner, and the maps in memory that follow it through faults and restarts.

use std::collections::{BTreeMap, HashSet};

use berrylb::{
    maps::{Faults, MemStore, Tables, dump},
    model::{Object, ObjectRef},
    plan::{PlanConfig, Planner, state::State},
};

use super::suite::{SMALL, check_addresses, check_empty, settle, small};

/// The objects that there are, as an API server has them.
pub(crate) type World = BTreeMap<ObjectRef, Object>;

/// A planner and the maps it feeds.
pub(crate) struct Agent {
    pub(crate) planner: Planner,
    tables: Tables<MemStore>,
    faults: Faults,
}

impl Agent {
    /// One with empty maps of which these writes fail.
    pub(crate) fn new(config: PlanConfig, faults: Faults) -> Self {
        let mut tables = small(Tables::new(MemStore::new(SMALL)));
        tables.store_mut().set_faults(faults);
        Self { planner: Planner::new(config), tables, faults }
    }

    /// Another agent takes the maps over and is told what there is now: of what was deleted meanwhile it learns only by its
    /// absence.
    pub(crate) fn restart(self, config: PlanConfig, world: &World, context: &str) -> Self {
        let mut agent = self.adopted(config);
        world.values().cloned().for_each(|object| agent.planner.upsert(object));
        agent.follow(context);
        agent.prune();
        agent
    }

    /// Another agent that has taken the maps over and knows no object yet.
    pub(crate) fn adopted(self, config: PlanConfig) -> Self {
        let Self { tables, faults, .. } = self;
        let mut store = tables.into_store();
        store.restart();
        let mut tables = small(Tables::adopt(store).expect("nothing fails").0);
        tables.store_mut().set_faults(faults);
        Self { planner: Planner::new(config), tables, faults }
    }

    /// Deletes what an agent before this one left and nobody claims.
    pub(crate) fn prune(&mut self) {
        let state = self.planner.state();
        let names: HashSet<_> = state.frontends.into_iter().filter_map(|frontend| frontend.service).collect();
        while self.tables.prune(&names).is_err() {}
    }

    /// Is killed after so many writes of what it would have to do now.
    pub(crate) fn be_killed(&mut self, writes: u64) {
        self.tables.store_mut().kill_after(writes);
        let addresses = self.planner.node_addresses();
        let _killed = self.tables.set_link_addresses(&addresses, &[], &[]);
        for change in self.planner.take_changes() {
            let _killed = self.tables.apply(&change);
        }
        let _killed = self.tables.collect();
    }

    /// Applies what has changed, until it is in.
    pub(crate) fn follow(&mut self, context: &str) {
        let changes = self.planner.take_changes();
        let addresses = self.planner.node_addresses();
        while self.tables.set_link_addresses(&addresses, &[], &[]).is_err() {}
        settle(&mut self.tables, &changes, context);
    }

    /// The maps say what `wanted` says, byte by byte.
    #[track_caller]
    pub(crate) fn check(&self, wanted: &State, context: &str) {
        let names = self.tables.names();
        let checks = wanted.health_checks.clone();
        let found = dump(self.tables.store(), Some(&names), &wanted.node, checks).expect("the maps can be read");
        let text = |state: &State| serde_json::to_string_pretty(state).expect("a state is JSON");
        assert_eq!(text(&found), text(wanted), "{context}");
        // What the document does not tell: ranges of the other family only.
        assert_eq!(found, *wanted, "{context}");
        check_addresses(self.tables.store(), context);
    }

    /// Everything is deleted: the maps end empty.
    #[track_caller]
    pub(crate) fn end(mut self, context: &str) {
        self.planner.retain(|_| false);
        self.follow(context);
        check_empty(&mut self.tables, context);
    }
}
