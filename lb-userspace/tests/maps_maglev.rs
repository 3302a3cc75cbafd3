//! Maglev tables in the maps: equal on nodes with different pasts, rebuilt only for the Service that changed, and told of
//! when they find no room.

use std::net::{IpAddr, Ipv4Addr};

use berrylb::{
    maps::{Capacities, MaglevSize, MapStore as _, MemStore, Tables, dump},
    plan::state::{
        Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceChange, ServiceName,
        State,
    },
};
use lb_common::abi::{ServiceKey, proto, scope, service_flag};

const SIZE: u16 = 251;

fn tables(slots: u32) -> Tables<MemStore> {
    let store = MemStore::new(Capacities { slots, ..Capacities::DEFAULT });
    Tables::new(store).with_maglev_size(MaglevSize::new(SIZE).expect("a prime"))
}

fn vip(service: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, service))
}

/// A Service with pods as last byte of address and weight.
fn service(n: u8, algorithm: Algorithm, pods: &[(u8, u16)]) -> ServiceChange {
    let service = ServiceName::new("default", &format!("s{n}"));
    let backend = |&(pod, weight): &(u8, u16)| Backend {
        address: IpAddr::V4(Ipv4Addr::new(10, 244, 0, pod)),
        port: 80,
        state: BackendState::Active,
        local: false,
        weight,
        zone: None,
    };
    let frontend = Frontend {
        address: vip(n),
        port: 80,
        protocol: Protocol::Tcp,
        scope: Scope::Internal,
        service: Some(service.clone()),
        port_name: Some("http".into()),
        kind: FrontendType::ClusterIp,
        action: Action::Forward,
        algorithm,
        affinity_seconds: None,
        source_ranges: Vec::new(),
        has_source_ranges: false,
        backends: pods.iter().map(backend).collect(),
        draining: Vec::new(),
    };
    ServiceChange { service, frontends: vec![frontend] }
}

/// Last bytes of the addresses that a Service's slots lead to, in order.
fn slots(tables: &Tables<MemStore>, n: u8) -> Vec<u8> {
    let key = ServiceKey {
        addr: vip(n).into(),
        port: lb_common::abi::Port::new(80),
        proto: proto::TCP,
        scope: scope::INTERNAL,
    };
    let store = tables.store();
    let (_, found) = store.services().unwrap().into_iter().find(|(k, _)| *k == key).expect("the frontend is there");
    let state = store.state(found.index()).unwrap();
    assert_eq!(state.flags & service_flag::MAGLEV != 0, state.word.count() == SIZE);
    let backends: std::collections::HashMap<_, _> = store.backends().unwrap().into_iter().collect();
    let ids = store.slots(state.word.offset(), state.word.count().into()).unwrap();
    ids.iter().map(|id| backends[id].addr.octets()[15]).collect()
}

#[track_caller]
fn assert_dumps(tables: &Tables<MemStore>, changes: &[&ServiceChange]) {
    let frontends = changes.iter().flat_map(|change| change.frontends.clone()).collect();
    let found = dump(tables.store(), Some(&tables.names()), "node", Vec::new()).unwrap();
    assert_eq!(found, State::new("node".into(), frontends, Vec::new()));
}

/// Ids, indexes and places of runs depend on a node's past; which backend a hash finds does not.
#[test]
fn nodes_with_different_pasts_have_equal_tables() {
    let pods: Vec<(u8, u16)> = (1..=20).map(|n| (n, u16::from(n % 4))).collect();
    let wanted = service(9, Algorithm::Maglev, &pods);
    let mut fresh = tables(16_384);
    fresh.apply(&wanted).unwrap();

    let mut old = tables(16_384);
    for (n, pods) in [(1, &pods[3..]), (2, &pods[..7]), (9, &pods[5..6]), (9, &pods[2..11])] {
        old.apply(&service(n, Algorithm::Maglev, pods)).unwrap();
    }
    old.apply(&service(1, Algorithm::Random, &[])).unwrap();
    old.collect().unwrap();
    let mut backwards = wanted.clone();
    backwards.frontends[0].backends.reverse();
    old.apply(&backwards).unwrap();
    assert_eq!(slots(&fresh, 9), slots(&old, 9));
    assert_dumps(&fresh, &[&wanted]);
    for (pod, weight) in pods {
        let share = slots(&fresh, 9).iter().filter(|slot| **slot == pod).count();
        assert_eq!(share == 0, weight == 0, "pod {pod}");
    }
}

/// A change of one Service costs its own table; an equal one costs none, also after a restart.
#[test]
fn only_the_changed_services_table_is_written() {
    let all = |n| (1..=n).map(|pod| (pod, 1)).collect::<Vec<_>>();
    let mut tables = tables(16_384);
    let others: Vec<ServiceChange> = (1..=5).map(|n| service(n, Algorithm::Maglev, &all(10))).collect();
    for other in &others {
        tables.apply(other).unwrap();
    }
    let before: Vec<Vec<u8>> = (1..=5).map(|n| slots(&tables, n)).collect();
    let writes = tables.store().writes();
    let outcome = tables.apply(&service(3, Algorithm::Maglev, &all(9))).unwrap();
    assert_eq!((outcome.sets_committed, outcome.backends_removed, outcome.backends_added), (1, 1, 0));
    let cost = tables.store().writes() - writes;
    // Each slot is a write of the model.
    assert!(cost <= u64::from(SIZE) + 8, "{cost} writes");
    for (n, before) in (1..=5).zip(&before) {
        if n != 3 {
            assert_eq!(slots(&tables, n), *before);
        }
    }
    let moved = before[2].iter().zip(slots(&tables, 3)).filter(|(a, b)| **a != 10 && **a != *b).count();
    assert!(moved < usize::from(SIZE) / 10, "{moved} slots moved without need");

    let mut store = tables.into_store();
    store.restart();
    let mut tables = Tables::adopt(store).unwrap().0.with_maglev_size(MaglevSize::new(SIZE).unwrap());
    assert!(!tables.apply(&others[0]).unwrap().changed());
    // Another size, as after a change of the flag, is a new table of that Service.
    let mut tables = tables.with_maglev_size(MaglevSize::new(509).unwrap());
    assert_eq!(tables.apply(&others[0]).unwrap().sets_committed, 1);
}

#[test]
fn an_algorithm_may_change_and_weights_may_go() {
    let mut tables = tables(16_384);
    for (algorithm, pods) in [
        (Algorithm::Random, &[(1, 3), (2, 1)][..]),
        (Algorithm::Maglev, &[(1, 3), (2, 1)]),
        (Algorithm::Maglev, &[(1, 0), (2, 1)]),
        (Algorithm::Random, &[(1, 0), (2, 500), (3, 1000)]),
        (Algorithm::Maglev, &[(1, 1000), (2, 1)]),
        (Algorithm::Random, &[(1, 1000), (2, 999)]),
    ] {
        let wanted = service(1, algorithm, pods);
        tables.apply(&wanted).unwrap();
        assert_dumps(&tables, &[&wanted]);
        let slots = slots(&tables, 1);
        let expected = match (algorithm, pods) {
            (Algorithm::Maglev, _) => usize::from(SIZE),
            (Algorithm::Random, [(1, 3), (2, 1)]) => 4,
            (Algorithm::Random, [(1, 0), ..]) => 3,
            (Algorithm::Random, _) => 1024,
        };
        assert_eq!(slots.len(), expected, "{algorithm:?} {pods:?}");
        for (pod, weight) in pods {
            assert_eq!(slots.contains(pod), *weight > 0, "{algorithm:?} {pods:?}");
        }
    }
}

/// A table that does not fit is told with the flag to raise, and its Service chooses at random meanwhile.
#[test]
fn without_room_for_a_table_endpoints_are_chosen_at_random() {
    let mut small = tables(2 * u32::from(SIZE) + 50);
    let first = service(1, Algorithm::Maglev, &[(1, 1), (2, 1)]);
    let second = service(2, Algorithm::Maglev, &[(1, 1)]);
    small.apply(&first).unwrap();
    small.apply(&second).unwrap();
    let third = service(3, Algorithm::Maglev, &[(1, 1), (3, 1)]);
    let error = small.apply(&third).unwrap_err().to_string();
    for part in [
        "service default/s3 port \"http\" TCP chooses endpoints at random, not by Maglev",
        "map slots is full (552 entries; 251 needed at once, 50 free)",
        "raise --max-slots",
    ] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    let at_random = service(3, Algorithm::Random, &[(1, 1), (3, 1)]);
    assert_dumps(&small, &[&first, &second, &at_random]);
    // Another try that finds no more room writes nothing.
    assert!(!small.apply(&third).unwrap_err().outcome.changed());
    // A changed table needs room beside the old one, which would lead to an endpoint that is gone.
    let error = small.apply(&service(1, Algorithm::Maglev, &[(1, 1)])).unwrap_err().to_string();
    assert!(error.contains("raise --max-slots"), "{error}");
    assert_dumps(&small, &[&service(1, Algorithm::Random, &[(1, 1)]), &second, &at_random]);
    // Its old table has made room: it is done with the next try.
    small.collect().unwrap();
    small.apply(&third).unwrap();
    small.apply(&service(3, Algorithm::Random, &[])).unwrap();
    // Once there is room, it is done.
    small.apply(&service(2, Algorithm::Random, &[])).unwrap();
    let changed = service(1, Algorithm::Maglev, &[(1, 1)]);
    small.apply(&changed).unwrap();

    let crowd: Vec<(u8, u16)> = (1..=252).map(|n| (n, 1)).chain([(253, 0)]).collect();
    let error = small.apply(&service(1, Algorithm::Maglev, &crowd)).unwrap_err().to_string();
    for part in ["service default/s1", "252 endpoints", "251 slots", "raise --maglev-table-size"] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    assert_eq!(slots(&small, 1).len(), 252, "each endpoint has a slot");
}
