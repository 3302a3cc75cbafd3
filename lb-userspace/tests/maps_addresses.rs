//! The table of addresses: what each side says of an address, in which order, and what happens when it cannot be said.

use std::net::IpAddr;

use berrylb::{
    maps::{Capacities, Faults, MapStore as _, MemStore, Tables},
    plan::state::{
        Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceChange, ServiceName,
    },
};
use lb_common::abi::{Addr, AddrInfo, addr_flag};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A Service with one port at each of these addresses.
fn service(name: &str, port: u16, at: &[(FrontendType, &str)]) -> ServiceChange {
    let service = ServiceName::new("default", name);
    let backend = Backend {
        address: ip("10.244.1.72"),
        port: 80,
        state: BackendState::Active,
        local: false,
        weight: 1,
        zone: None,
    };
    let frontends = at.iter().map(|(kind, address)| Frontend {
        address: ip(address),
        port,
        protocol: Protocol::Tcp,
        scope: Scope::Internal,
        service: Some(service.clone()),
        port_name: Some("".into()),
        kind: *kind,
        action: Action::Forward,
        algorithm: Algorithm::Random,
        affinity_seconds: None,
        source_ranges: Vec::new(),
        has_source_ranges: false,
        backends: vec![backend.clone()],
        draining: Vec::new(),
    });
    ServiceChange { service: service.clone(), frontends: frontends.collect() }
}

fn gone(name: &str) -> ServiceChange {
    service(name, 0, &[])
}

fn tables(addrs: u32) -> Tables<MemStore> {
    Tables::new(MemStore::new(Capacities { addrs, ..Capacities::DEFAULT }))
}

fn flags(tables: &Tables<MemStore>, address: &str) -> Option<u32> {
    tables.store().contents().addrs.get(&Addr::from(ip(address))).map(|info| info.flags)
}

use FrontendType::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
use addr_flag::{CLUSTER_IP, FRONTEND, LOOPBACK, NODE, PEER, SOURCE};

#[test]
fn an_address_has_the_bits_of_all_who_use_it() {
    let mut tables = tables(64);
    let node = [ip("192.168.1.2"), ip("127.0.0.1")];
    assert!(tables.set_link_addresses(&node, &[], &[ip("192.168.1.2"), ip("10.244.1.1")]).expect("written"));
    tables
        .apply(&service("a", 80, &[(ClusterIp, "10.96.0.1"), (ExternalIp, "192.168.1.2"), (LoadBalancer, "192.0.2.1")]))
        .expect("applied");
    tables.apply(&service("b", 81, &[(LoadBalancer, "192.0.2.1"), (NodePort, "192.168.1.2")])).expect("applied");
    for (address, bits) in [
        ("192.168.1.2", NODE | SOURCE | FRONTEND),
        ("127.0.0.1", NODE | LOOPBACK),
        ("10.244.1.1", SOURCE),
        ("10.96.0.1", FRONTEND | CLUSTER_IP),
        ("192.0.2.1", FRONTEND),
    ] {
        assert_eq!(flags(&tables, address), Some(bits), "{address}");
    }
    assert_eq!(tables.store().contents().addrs.len(), 5, "a node port has no address of its own");

    tables.apply(&gone("a")).expect("deleted");
    assert_eq!(flags(&tables, "192.168.1.2"), Some(NODE | SOURCE));
    assert_eq!(flags(&tables, "192.0.2.1"), Some(FRONTEND), "another Service has a port there");
    assert_eq!(flags(&tables, "10.96.0.1"), None);
    assert!(tables.set_link_addresses(&[], &[], &[ip("192.168.1.2")]).expect("written"));
    assert_eq!(flags(&tables, "192.168.1.2"), Some(SOURCE));
    tables.apply(&gone("b")).expect("deleted");
    tables.set_link_addresses(&[], &[], &[]).expect("written");
    assert!(tables.store().contents().addrs.is_empty());
}

#[test]
fn an_address_that_changes_hands_keeps_what_its_new_owner_needs() {
    let mut tables = tables(64);
    tables.apply(&service("a", 80, &[(ExternalIp, "10.96.0.1")])).expect("applied");
    assert_eq!(flags(&tables, "10.96.0.1"), Some(FRONTEND));
    tables.apply(&service("b", 80, &[(ClusterIp, "10.96.0.1")])).expect("applied");
    assert_eq!(flags(&tables, "10.96.0.1"), Some(FRONTEND | CLUSTER_IP));
    tables.apply(&service("b", 80, &[(LoadBalancer, "10.96.0.1")])).expect("applied");
    assert_eq!(flags(&tables, "10.96.0.1"), Some(FRONTEND));
}

#[test]
fn without_room_for_its_address_a_frontend_is_not_written_and_the_flag_is_named() {
    let mut tables = tables(1);
    tables.apply(&service("a", 80, &[(ClusterIp, "10.96.0.1")])).expect("there is room");
    let b = service("b", 80, &[(ClusterIp, "10.96.0.2")]);
    let error = tables.apply(&b).expect_err("no room").to_string();
    assert_eq!(
        error,
        "service default/b address 10.96.0.2 is not in the datapath as wanted: map addrs is full (1 entries): raise \
         --max-addresses"
    );
    assert_eq!(tables.store().services().expect("readable").len(), 1);
    tables.apply(&gone("a")).expect("deleted");
    tables.apply(&b).expect("there is room now");
    assert_eq!(flags(&tables, "10.96.0.2"), Some(FRONTEND | CLUSTER_IP));
}

#[test]
fn an_address_that_cannot_be_let_go_of_is_a_problem_of_its_service_until_it_is() {
    let mut tables = tables(64);
    tables.apply(&service("a", 80, &[(ClusterIp, "10.96.0.1")])).expect("applied");
    // The frontend's deletion succeeds, and so do the writes for backends; the address's deletion is the last one.
    let mut others = 0;
    let error = loop {
        let mut victim = Tables::adopt(tables.store().clone()).expect("no faults").0;
        victim.apply(&service("a", 80, &[(ClusterIp, "10.96.0.1")])).expect("claimed");
        victim.store_mut().kill_after(others);
        match victim.apply(&gone("a")) {
            Err(error) if victim.store().services().expect("readable").is_empty() && error.problems.len() == 1 => {
                victim.store_mut().restart();
                victim.apply(&service("other", 80, &[(ClusterIp, "10.96.0.9")])).expect("applied");
                assert_eq!(flags(&victim, "10.96.0.1"), None, "the next apply of any Service settles it");
                break error.to_string();
            }
            Err(_) => others += 1,
            Ok(_) => panic!("never only the address"),
        }
    };
    assert!(error.starts_with("service default/a address 10.96.0.1 is not in the datapath as wanted:"), "{error}");
}

#[test]
fn adoption_repairs_addresses_and_leaves_the_links_part_for_later() {
    let mut first = tables(64);
    first.set_link_addresses(&[ip("192.168.1.2")], &[], &[ip("10.244.1.1")]).expect("written");
    first.apply(&service("a", 80, &[(ClusterIp, "10.96.0.1"), (ExternalIp, "192.168.1.2")])).expect("applied");
    let mut store = first.into_store();
    let contents = store.contents_mut();
    contents.addrs.remove(&Addr::from(ip("10.96.0.1")));
    contents.addrs.insert(ip("192.168.1.2").into(), AddrInfo { flags: NODE | CLUSTER_IP });
    contents.addrs.insert(ip("192.0.2.99").into(), AddrInfo { flags: FRONTEND });
    let (mut tables, _) = Tables::adopt(store).expect("no faults");
    assert_eq!(flags(&tables, "10.96.0.1"), Some(FRONTEND | CLUSTER_IP));
    assert_eq!(flags(&tables, "192.168.1.2"), Some(NODE | FRONTEND));
    assert_eq!(flags(&tables, "192.0.2.99"), None);
    assert_eq!(flags(&tables, "10.244.1.1"), Some(SOURCE));
    assert!(!tables.set_link_addresses(&[ip("192.168.1.2")], &[], &[ip("10.244.1.1")]).expect("nothing to write"));
}

#[test]
fn link_addresses_that_failed_are_told_again() {
    let mut tables = tables(64);
    tables.store_mut().set_faults(Faults::Every(1));
    assert!(tables.set_link_addresses(&[ip("192.168.1.2")], &[], &[]).is_err());
    tables.store_mut().set_faults(Faults::None);
    // An apply writes it along the way; that it changed is still to be told.
    tables.apply(&service("a", 80, &[(ClusterIp, "10.96.0.1")])).expect("applied");
    assert!(tables.set_link_addresses(&[ip("192.168.1.2")], &[], &[]).expect("written"));
    assert!(!tables.set_link_addresses(&[ip("192.168.1.2")], &[], &[]).expect("nothing to write"));
    assert_eq!(flags(&tables, "192.168.1.2"), Some(NODE));
}

#[test]
fn other_nodes_are_known_until_they_go_and_never_what_is_the_nodes_own() {
    let mut tables = tables(64);
    tables.set_link_addresses(&[ip("192.168.1.2")], &[], &[]).expect("written");
    tables.apply(&service("a", 80, &[(ExternalIp, "192.168.1.4")])).expect("applied");
    let peers = ["192.168.1.2", "192.168.1.3", "192.168.1.4"].map(ip);
    tables.store_mut().set_faults(Faults::Every(1));
    assert!(tables.set_peer_addresses(&peers).is_err());
    tables.store_mut().set_faults(Faults::None);
    tables.set_peer_addresses(&peers).expect("written");
    let all = |tables: &Tables<MemStore>| peers.map(|peer| flags(tables, &peer.to_string()));
    assert_eq!(all(&tables), [Some(NODE), Some(PEER), Some(FRONTEND | PEER)]);

    // The next run goes on from there.
    let (mut tables, _) = Tables::adopt(tables.into_store()).expect("no faults");
    assert_eq!(all(&tables), [Some(NODE), Some(PEER), Some(FRONTEND | PEER)]);
    tables.set_link_addresses(&[ip("192.168.1.3")], &[], &[]).expect("written");
    tables.set_peer_addresses(&peers).expect("written");
    assert_eq!(all(&tables), [Some(PEER), Some(NODE), Some(FRONTEND | PEER)]);
    tables.set_peer_addresses(&[]).expect("written");
    assert_eq!(all(&tables), [None, Some(NODE), Some(FRONTEND)]);
}
