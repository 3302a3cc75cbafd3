//! What single changes cost and keep, and what adoption makes of damaged maps.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use berrylb::{
    maps::{Adopted, BackendCounts, Capacities, MapStore as _, MemStore, RangeEntry, Tables, dump},
    plan::state::{
        Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceChange, ServiceName,
        State,
    },
};
use lb_common::abi::{
    Addr, Port, ServiceKey, ServiceRef, ServiceState, StateWord, action, backend_state, proto, scope,
};

fn pod(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 244, 1, n))
}

fn backends(pods: &[u8]) -> Vec<Backend> {
    let backend = |n: &u8| Backend {
        address: pod(*n),
        port: 80,
        state: BackendState::Active,
        local: false,
        weight: 1,
        zone: None,
    };
    pods.iter().map(backend).collect()
}

/// A Service `web` with a cluster IP and a load balancer's address in front of the same pods.
fn web(pods: &[u8]) -> ServiceChange {
    let service = ServiceName::new("default", "web");
    let frontend = |kind, address: [u8; 4], scope| {
        let closed = kind == FrontendType::ClusterIp && scope == Scope::External;
        Frontend {
            address: address.into(),
            port: 80,
            protocol: Protocol::Tcp,
            scope,
            service: Some(service.clone()),
            port_name: Some("http".into()),
            kind,
            action: if closed { Action::Drop } else { Action::Forward },
            algorithm: Algorithm::Random,
            affinity_seconds: None,
            source_ranges: Vec::new(),
            has_source_ranges: false,
            backends: if closed { Vec::new() } else { backends(pods) },
            draining: Vec::new(),
        }
    };
    let kinds = [(FrontendType::ClusterIp, [10, 96, 0, 7]), (FrontendType::LoadBalancer, [192, 0, 2, 7])];
    let scopes = [Scope::Internal, Scope::External];
    let frontends = kinds.into_iter().flat_map(|(kind, a)| scopes.map(|scope| frontend(kind, a, scope))).collect();
    ServiceChange { service: service.clone(), frontends }
}

fn tables(pods: &[u8]) -> Tables<MemStore> {
    let mut tables = Tables::new(MemStore::new(Capacities::DEFAULT));
    tables.apply(&web(pods)).expect("there is room");
    tables
}

/// Living backends: id and generation by last byte of the address.
fn living(tables: &Tables<MemStore>) -> BTreeMap<u8, (u32, u32)> {
    let living = tables.store().backends().expect("readable").into_iter();
    living
        .filter(|(_, b)| b.state != backend_state::GONE)
        .map(|(id, b)| (b.addr.v4_octets()[3], (id, b.generation)))
        .collect()
}

#[track_caller]
fn check(tables: &Tables<MemStore>, change: &ServiceChange) {
    let found = dump(tables.store(), Some(&tables.names()), "", Vec::new()).expect("readable");
    assert_eq!(found, State::new(String::new(), change.frontends.clone(), Vec::new()));
}

/// Places that wait for their grace period beside the tables are not missing to an apply that has no others.
#[test]
fn what_waits_elsewhere_is_room_for_an_apply_in_need() {
    let mut tables = Tables::new(MemStore::new(Capacities { backends: 3, ..Capacities::DEFAULT }));
    let nothing = ServiceChange { frontends: Vec::new(), ..web(&[]) };
    tables.apply(&web(&[1, 2, 3])).expect("there is room");
    for pods in [[4, 5, 6], [7, 8, 9]] {
        tables.apply(&nothing).expect("deleted");
        let freed = tables.begin_collect();
        tables.apply(&web(&pods)).expect("all three are free after a grace period");
        // By now its places are used again: they are not to be freed once more.
        tables.finish_collect(freed);
        check(&tables, &web(&pods));
        assert!(!tables.needs_collect());
    }
    tables.apply(&nothing).expect("deleted");
    let freed = tables.begin_collect();
    tables.give_up_collect(freed);
    assert!(tables.needs_collect(), "what could not be awaited is awaited again");
    tables.collect().expect("collected");
    tables.apply(&web(&[1, 2, 3])).expect("there is room again");
}

/// The hot path of the design: one store commits an endpoint for all frontends of the port.
#[test]
fn an_endpoint_costs_its_own_write_and_one_store() {
    let mut tables = tables(&[1, 2, 3]);
    let before = tables.store().writes();
    let outcome = tables.apply(&web(&[1, 2, 3, 4])).expect("there is room");
    assert_eq!((outcome.backends_added, outcome.sets_committed, outcome.frontends_written), (1, 1, 0));
    // The new backend, four slots, the commit word.
    assert_eq!(tables.store().writes() - before, 1 + 4 + 1);
    check(&tables, &web(&[1, 2, 3, 4]));

    let before = tables.store().writes();
    let outcome = tables.apply(&web(&[2, 3, 4])).expect("there is room");
    assert_eq!((outcome.backends_removed, outcome.sets_committed, outcome.frontends_written), (1, 1, 0));
    // Three slots, the commit word, the backend that is gone.
    assert_eq!(tables.store().writes() - before, 3 + 1 + 1);
    check(&tables, &web(&[2, 3, 4]));
}

/// Flows hold ids and generations: they stay while the backend does, through changes and restarts.
#[test]
fn a_backend_keeps_its_id_and_generation() {
    let mut tables = tables(&[1, 2, 3]);
    let first = living(&tables);
    tables.apply(&web(&[2, 3, 4])).expect("there is room");
    tables.collect().expect("no faults");
    let (mut tables, _) = Tables::adopt(tables.into_store()).expect("no faults");
    tables.apply(&web(&[2, 3, 5])).expect("there is room");
    let now = living(&tables);
    assert_eq!((now[&2], now[&3]), (first[&2], first[&3]));
}

/// An id that goes to another endpoint has another generation, also when the agent restarts between.
#[test]
fn a_reused_id_has_another_generation() {
    let mut seen: HashSet<(u32, u32)> = HashSet::new();
    let mut tables = Tables::new(MemStore::new(Capacities { backends: 4, ..Capacities::DEFAULT }));
    for round in 0..100 {
        let pods = [round, round + 1, round + 2].map(|n| n * 2 % 250 + 1);
        tables.apply(&ServiceChange { frontends: Vec::new(), ..web(&[]) }).expect("no faults");
        tables.apply(&web(&pods)).expect("there is room");
        for (id, generation) in living(&tables).into_values() {
            assert_ne!(generation, 0);
            assert!(seen.insert((id, generation)), "id {id} had generation {generation} before");
        }
        if round % 3 == 0 {
            tables = Tables::adopt(tables.into_store()).expect("no faults").0;
            // A Service that goes while no agent knows its name goes with the prune.
            tables.prune(&HashSet::new()).expect("no faults");
        }
    }
}

/// Nobody clears what was counted for an id's last holder: it is told by its generation.
#[test]
fn a_backend_is_told_only_what_was_counted_for_it() {
    let mut tables = Tables::new(MemStore::new(Capacities { backends: 1, ..Capacities::DEFAULT }));
    let counted = |tables: &Tables<MemStore>| -> Vec<(IpAddr, u64, u64)> {
        let mut all = tables.backend_counts(tables.store().backend_counters().expect("no faults"));
        BackendCounts::sort(&mut all);
        let all = all.into_iter();
        all.map(|counts| (counts.backend.ip(), counts.counter.connections, counts.counter.to.bytes)).collect()
    };
    tables.apply(&web(&[1])).expect("there is room");
    let (id, generation) = living(&tables)[&1];
    assert_eq!(counted(&tables), []);
    let mut store = tables.into_store();
    let counter = &mut store.contents_mut().backend_counters[id as usize];
    (counter.generation, counter.connections, counter.to.bytes) = (generation, 7, 40);
    let (mut tables, _) = Tables::adopt(store).expect("readable");
    tables.apply(&web(&[1])).expect("it is there already");
    assert_eq!(counted(&tables), [(pod(1), 7, 40)], "it goes on over a restart");
    tables.apply(&web(&[])).expect("no faults");
    tables.apply(&web(&[2])).expect("there is room");
    assert_eq!(living(&tables)[&2].0, id, "the id is another one's");
    assert_eq!(counted(&tables), [], "who begins at nothing");
}

/// A flow's look at its backend sees that it is gone at once, and not only after the grace period.
#[test]
fn a_removed_backend_is_gone_at_once() {
    let mut tables = tables(&[1, 2]);
    let (id, generation) = living(&tables)[&1];
    tables.apply(&web(&[2])).expect("there is room");
    let gone = tables.store().backend(id).expect("readable").expect("was written");
    assert_eq!(gone.state, backend_state::GONE);
    assert_ne!(gone.generation, generation);
    assert_eq!(IpAddr::from(gone.addr), pod(1), "whoever has just chosen it still finds its address");
    assert!(tables.needs_collect());
}

#[test]
fn damaged_maps_are_repaired() {
    let key = |n: u8, port| ServiceKey {
        addr: Addr::v4([10, 96, 9, n]),
        port: Port::new(port),
        proto: proto::TCP,
        scope: scope::INTERNAL,
    };
    let tables = tables(&[1, 2, 3]);
    let mut store = tables.into_store();
    let index = store.services().expect("readable")[0].1.index();
    let sound = store.contents().clone();
    let word = sound.svc_state[index as usize].word;
    let contents = store.contents_mut();
    // To a free index, beyond the map, with another key's tag, and to a set whose run is another's.
    contents.put_service(key(1, 80), ServiceRef::new(key(1, 80), 77, 0)).expect("there is room");
    contents.put_service(key(2, 80), ServiceRef::new(key(2, 80), u32::MAX, 0)).expect("there is room");
    contents.put_service(key(3, 80), ServiceRef::new(key(4, 81), index, 0)).expect("there is room");
    contents.put_service(key(5, 80), ServiceRef::new(key(5, 80), 99, 0)).expect("there is room");
    contents.svc_state[99] = ServiceState::new(word, 12_345, 0, 0, 0);
    // A set that no frontend leads to, and ranges of nobody.
    contents.svc_state[50] = ServiceState::new(StateWord::new(9000, 3, action::FORWARD, 2), 54_321, 0, 0, 0);
    contents.source_ranges.insert(RangeEntry::new(50, Addr::v4([10, 0, 0, 0]), 8));

    let (mut tables, adopted) = Tables::adopt(store).expect("no faults");
    let Adopted { frontends, broken_frontends, unfinished_sets, stale_ranges, .. } = adopted;
    assert_eq!((frontends, broken_frontends, unfinished_sets, stale_ranges), (4, 4, 2, 1));
    assert!(!tables.apply(&web(&[1, 2, 3])).expect("no faults").changed(), "what was sound is untouched");
    check(&tables, &web(&[1, 2, 3]));
    assert_eq!(tables.store().contents().svc_state, sound.svc_state);
    assert!(tables.store().source_ranges().expect("readable").is_empty());
}

/// What new connections get is told after an adoption as before, and what they do not get is not.
#[test]
fn what_a_port_sends_connections_to_is_told() {
    let standing = |tables: &Tables<MemStore>, name: &str, protocol| -> Vec<(IpAddr, bool)> {
        let all = tables.standing(&ServiceName::new("default", "web"), name, protocol);
        assert!(all.iter().all(|standing| standing.port == 80 && !standing.local));
        all.into_iter().map(|standing| (standing.address, standing.terminating)).collect()
    };
    let (http, both) = (|tables: &Tables<MemStore>| standing(tables, "http", Protocol::Tcp), [pod(1), pod(2)]);
    let adopted = |tables: Tables<MemStore>| Tables::adopt(tables.into_store()).expect("readable").0;
    let mut tables = tables(&[2, 1]);
    assert_eq!(http(&tables), both.map(|address| (address, false)));
    assert_eq!(standing(&tables, "other", Protocol::Tcp), []);
    assert_eq!(standing(&tables, "http", Protocol::Udp), []);
    tables = adopted(tables);
    assert_eq!(http(&tables), both.map(|address| (address, false)));

    let mut change = web(&[1, 3]);
    for frontend in change.frontends.iter_mut().filter(|frontend| frontend.action == Action::Forward) {
        frontend.backends[0].state = BackendState::Terminating;
        frontend.draining = backends(&[2]);
    }
    tables.apply(&change).expect("there is room");
    tables = adopted(tables);
    assert_eq!(http(&tables), [(pod(1), true), (pod(3), false)], "2 takes none any more");

    let mut change = web(&[]);
    for frontend in change.frontends.iter_mut().filter(|frontend| frontend.action == Action::Forward) {
        frontend.action = Action::Reject;
    }
    tables.apply(&change).expect("there is room");
    assert_eq!(http(&adopted(tables)), []);
}
