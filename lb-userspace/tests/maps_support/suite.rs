//! What every test of the maps does with a store of whatever kind: apply, dump, compare.

use std::collections::HashMap;

use berrylb::{
    maps::{Capacities, MaglevSize, MapStore, MemStore, Tables, dump},
    plan::state::{ServiceChange, State},
};

use lb_common::abi::{Addr, ServiceState, addr_flag, backend_state, frontend};

use super::Cluster;

/// Maps that any test cluster fits into.
pub(crate) const SMALL: Capacities = Capacities {
    services: 1024,
    svc_state: 256,
    slots: 2048,
    backends: 512,
    flows: 16,
    embryos: 16,
    frags: 16,
    sock_revnat: 16,
    affinity: 16,
    source_ranges: 512,
    addrs: 128,
    pod_nets: 16,
    devs: 16,
};

/// Tables whose Maglev tables fit into small maps; no test cluster has more endpoints in a set.
pub(crate) fn small<S: MapStore>(tables: Tables<S>) -> Tables<S> {
    tables.with_maglev_size(MaglevSize::new(13).expect("a prime"))
}

pub(crate) fn dumped<S: MapStore>(tables: &Tables<S>) -> State {
    dump(tables.store(), Some(&tables.names()), "node", Vec::new()).expect("the maps can be read")
}

#[track_caller]
pub(crate) fn check<S: MapStore>(tables: &Tables<S>, wanted: &State, context: &str) {
    let found = dumped(tables);
    let bytes = |state: &State| serde_json::to_string_pretty(state).expect("a state is JSON");
    if found != *wanted || bytes(&found) != bytes(wanted) {
        for (f, w) in found.frontends.iter().zip(&wanted.frontends) {
            assert_eq!(f, w, "{context}");
        }
        assert_eq!(bytes(&found), bytes(wanted), "{context}");
        panic!("{context}: states differ");
    }
    check_addresses(tables.store(), context);
}

/// What stands in `addrs` follows from the frontends and the node's addresses, and from nothing else.
#[track_caller]
pub(crate) fn check_addresses(store: &impl MapStore, context: &str) {
    let mut wanted: HashMap<Addr, u32> = HashMap::new();
    for (key, found) in store.services().expect("readable") {
        let bits = match found.bits() & frontend::TYPE_MASK {
            frontend::NODE_PORT => continue,
            frontend::CLUSTER_IP => addr_flag::FRONTEND | addr_flag::CLUSTER_IP,
            _ => addr_flag::FRONTEND,
        };
        *wanted.entry(key.addr).or_default() |= bits;
    }
    let mut found: HashMap<Addr, u32> = HashMap::new();
    for (addr, info) in store.addrs().expect("readable") {
        assert_ne!(info.flags, 0, "{context}: an address of nobody");
        if info.flags & !addr_flag::LINKS != 0 {
            found.insert(addr, info.flags & !addr_flag::LINKS);
        }
    }
    assert_eq!(found, wanted, "{context}: addresses");
}

/// Applies until everything is in, as the agent does.
pub(crate) fn settle<S: MapStore>(tables: &mut Tables<S>, changes: &[ServiceChange], context: &str) {
    let mut left: Vec<ServiceChange> = changes.to_vec();
    for _ in 0..100 {
        left.retain(|change| tables.apply(change).is_err());
        if left.is_empty() {
            return;
        }
    }
    panic!("{context}: {} Services never get complete: {}", left.len(), tables.apply(&left[0]).unwrap_err());
}

pub(crate) fn node_addresses<S: MapStore>(tables: &mut Tables<S>, cluster: &Cluster) {
    while tables.set_link_addresses(&cluster.node_addresses, &[], &[]).is_err() {}
}

/// Everything deleted and a grace period later, nothing is left in any map.
#[track_caller]
pub(crate) fn check_empty(tables: &mut Tables<MemStore>, context: &str) {
    while tables.collect().is_err() {}
    while tables.set_link_addresses(&[], &[], &[]).is_err() {}
    for usage in tables.usage() {
        assert_eq!(usage.used, 0, "{context}: {} of {} in use", usage.used, usage.map);
    }
    let contents = tables.store().contents();
    assert_eq!(contents.services.entries().count(), 0, "{context}");
    assert!(contents.source_ranges.is_empty() && contents.addrs.is_empty(), "{context}");
    assert!(contents.svc_state.iter().all(|state| *state == ServiceState::default()), "{context}");
    assert!(contents.backends.iter().all(|backend| backend.state == backend_state::GONE), "{context}");
    assert_eq!(tables.services().count(), 0, "{context}");
    assert_eq!(tables.names().sets.len(), 0, "{context}");
}
