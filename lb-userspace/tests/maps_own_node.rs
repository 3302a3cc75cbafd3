//! Source ranges and the node itself: its sockets are let in exactly while one of its addresses is in the ranges.

use std::net::IpAddr;

use berrylb::{
    maps::{Capacities, MapStore as _, MemStore, RangeEntry, Tables, dump},
    plan::state::{
        Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceChange, ServiceName,
    },
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn restricted() -> ServiceChange {
    let service = ServiceName::new("default", "web");
    let backend = Backend {
        address: ip("10.244.1.72"),
        port: 80,
        state: BackendState::Active,
        local: false,
        weight: 1,
        zone: None,
    };
    let frontend = Frontend {
        address: ip("192.0.2.10"),
        port: 80,
        protocol: Protocol::Tcp,
        scope: Scope::Internal,
        service: Some(service.clone()),
        port_name: Some("".into()),
        kind: FrontendType::LoadBalancer,
        action: Action::Forward,
        algorithm: Algorithm::Random,
        affinity_seconds: None,
        source_ranges: vec!["192.168.1.0/24".parse().expect("a range")],
        has_source_ranges: true,
        backends: vec![backend],
        draining: Vec::new(),
    };
    ServiceChange { service, frontends: vec![frontend] }
}

#[test]
fn the_node_is_let_in_while_one_of_its_addresses_is() {
    let change = restricted();
    let mut tables = Tables::new(MemStore::new(Capacities::DEFAULT));
    let own = |tables: &Tables<MemStore>| {
        let ranges = tables.store().source_ranges().expect("readable");
        ranges.iter().filter(|entry| entry.is_node_itself()).copied().collect::<Vec<RangeEntry>>()
    };

    assert!(tables.set_link_addresses(&[ip("192.168.1.11"), ip("fd00::11")], &[], &[]).expect("written"));
    tables.apply(&change).expect("applied");
    let index = tables.store().services().expect("readable")[0].1.index();
    assert_eq!(own(&tables), [RangeEntry::node_itself(index, true)]);
    let shown = dump(tables.store(), Some(&tables.names()), "", Vec::new()).expect("a dump");
    assert_eq!(shown.frontends, change.frontends, "the dump does not show it as a range");

    assert!(!tables.set_link_addresses(&[ip("fd00::11"), ip("192.168.1.11")], &[], &[]).expect("nothing to write"));
    assert!(tables.set_link_addresses(&[ip("10.0.0.1")], &[], &[]).expect("written"));
    assert!(tables.apply(&change).expect("applied").changed() || own(&tables).is_empty());
    assert!(own(&tables).is_empty(), "an address outside the ranges lets nobody in");
    assert!(tables.set_link_addresses(&[ip("10.0.0.1")], &[ip("192.168.1.11")], &[]).expect("written"));
    tables.apply(&change).expect("applied");
    assert!(own(&tables).is_empty(), "nor does one that nobody named");
    assert!(tables.set_own_addresses(vec![ip("10.0.0.1"), ip("192.168.1.11")]));
    tables.apply(&change).expect("applied");
    assert_eq!(own(&tables), [RangeEntry::node_itself(index, true)], "but one without node ports does");
    assert!(!tables.set_own_addresses(vec![ip("10.0.0.1"), ip("192.168.1.11")]));
    assert!(tables.set_own_addresses(Vec::new()));
    tables.apply(&change).expect("applied");
    assert!(own(&tables).is_empty());

    tables.apply(&ServiceChange { frontends: Vec::new(), ..change }).expect("deleted");
    assert!(tables.store().source_ranges().expect("readable").is_empty());
}
