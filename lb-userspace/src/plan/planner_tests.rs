//! What a change costs, and what is told of it. That the outcome is right is shown by `tests/golden*.rs`.

use super::*;
use crate::model::{
    Created, Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Kind, Node, Policy, Service, ServicePort,
    ServiceType, SliceFamily,
};
use crate::plan::state::{Action, FrontendType, Protocol};

pub(super) const SERVICES: u8 = 100;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mk_name(n: u8) -> ServiceName {
    ServiceName::new("default", &format!("s{n:03}"))
}

fn mk_service(n: u8) -> Service {
    Service {
        created: Created(Some(n.into())),
        ports: vec![ServicePort { name: "".into(), port: 80, node_port: None, protocol: Protocol::Tcp }],
        ..Service::new(mk_name(n), vec![IpAddr::from([10, 96, 0, n])])
    }
}

pub(super) fn mk_slice(n: u8, endpoints: u8) -> EndpointSlice {
    let endpoint = |i| Endpoint::new(IpAddr::from([10, 1, n, i]));
    EndpointSlice {
        namespace: "default".into(),
        name: format!("s{n:03}-x").into(),
        service: Some(mk_name(n)),
        ignored: false,
        mirrored: false,
        family: SliceFamily::V4,
        triggered: None,
        group: EndpointGroup {
            ports: vec![EndpointPort { name: "".into(), port: 8080, protocol: Protocol::Tcp }],
            endpoints: (1..=endpoints).map(endpoint).collect(),
        },
    }
}

/// The API server's own Service and its slice, of one endpoint with these conditions.
fn mk_api_server(ready: bool, terminating: bool) -> [Object; 2] {
    let name = ServiceName::new("default", "kubernetes");
    let mut slice = EndpointSlice { name: "kubernetes".into(), service: Some(name.clone()), ..mk_slice(1, 1) };
    slice.group.endpoints[0] = Endpoint { ready, serving: ready, terminating, ..slice.group.endpoints[0].clone() };
    [Object::Service(Service { name, ..mk_service(1) }), Object::EndpointSlice(slice)]
}

fn mk_node(addresses: &[&str], zone: Option<&str>) -> Object {
    let addresses = addresses.iter().map(|a| ip(a)).collect();
    Object::Node(Node { name: "n1".into(), addresses, zone: zone.map(Into::into), leaving: false })
}

/// A hundred Services with a slice each, all told; every tenth has a node port.
pub(super) fn mk_planner() -> Planner {
    let mut planner = Planner::new(PlanConfig { node_name: "n1".into(), ..PlanConfig::default() });
    planner.upsert(mk_node(&["192.168.1.1"], Some("a")));
    for n in 0..SERVICES {
        let mut service = mk_service(n);
        if n % 10 == 0 {
            service.kind = ServiceType::NodePort;
            service.ports[0].node_port = Some(30_000 + u16::from(n));
        }
        planner.upsert(Object::Service(service));
        planner.upsert(Object::EndpointSlice(mk_slice(n, 3)));
    }
    assert_eq!(planner.take_changes().len(), usize::from(SERVICES));
    assert_eq!(planner.plans(), u64::from(SERVICES), "a burst plans each Service once");
    planner
}

#[test]
fn changes_in_parts_are_the_same_ones() {
    let (mut at_once, mut in_parts) = (mk_planner(), mk_planner());
    for planner in [&mut at_once, &mut in_parts] {
        // Of every second one the plan changes, of the others only the object does.
        for n in 0..SERVICES {
            planner.upsert(Object::EndpointSlice(EndpointSlice { mirrored: true, ..mk_slice(n, 3 + n % 2) }));
        }
    }
    let mut parts = Vec::new();
    while let Some(part) = Some(in_parts.take_some_changes(10)).filter(|part| !part.is_empty()) {
        assert_eq!(part.len(), 5, "of ten");
        parts.extend(part);
        assert_eq!(in_parts.is_changing(&mk_name(SERVICES - 1)), parts.len() < usize::from(SERVICES / 2));
    }
    assert_eq!(parts.len(), usize::from(SERVICES / 2));
    assert_eq!(parts, at_once.take_changes());
}

/// Asserts how many Services a change plans anew, and which are told.
#[track_caller]
fn check(change: impl FnOnce(&mut Planner), plans: u64, told: &[u8]) {
    let mut planner = mk_planner();
    change(&mut planner);
    let changes = planner.take_changes();
    let names: Vec<_> = changes.iter().map(|c| c.service.clone()).collect();
    assert_eq!(names, told.iter().map(|n| mk_name(*n)).collect::<Vec<_>>());
    assert_eq!(planner.plans() - u64::from(SERVICES), plans);
    assert_eq!(planner.take_changes(), [], "told once");
}

fn with_external_ip(n: u8) -> Object {
    Object::Service(Service { external_ips: vec![ip("192.0.2.1")], ..mk_service(n) })
}

#[test]
fn one_object_costs_one_service() {
    check(|p| p.upsert(Object::EndpointSlice(mk_slice(7, 4))), 1, &[7]);
    check(|p| p.remove(&ObjectRef::new(Kind::EndpointSlice, "default", "s007-x")), 1, &[7]);
    check(|p| p.remove(&ObjectRef::new(Kind::Service, "default", "s007")), 1, &[7]);
    check(|p| p.upsert(with_external_ip(7)), 1, &[7]);
}

#[test]
fn what_changes_nothing_costs_nothing() {
    check(|p| p.upsert(Object::Service(mk_service(7))), 0, &[]);
    check(|p| p.upsert(Object::EndpointSlice(mk_slice(7, 3))), 0, &[]);
    check(|p| p.upsert(mk_node(&["192.168.1.1"], Some("a"))), 0, &[]);
    check(|p| p.remove(&ObjectRef::new(Kind::Service, "default", "unknown")), 0, &[]);
    check(|p| p.remove(&ObjectRef::new(Kind::Node, "", "n2")), 0, &[]);
    let other_node =
        Object::Node(Node { name: "n2".into(), addresses: vec![ip("192.168.1.2")], zone: None, leaving: false });
    check(|p| p.upsert(other_node), 0, &[]);
    let not_ready = |mut slice: EndpointSlice| {
        slice.group.ports.push(EndpointPort { name: "unused".into(), port: 1, protocol: Protocol::Udp });
        Object::EndpointSlice(slice)
    };
    check(|p| p.upsert(not_ready(mk_slice(7, 3))), 1, &[]);
}

/// All that the agent asks after an event reads the one Service that changed, whatever the others have.
#[test]
fn telling_one_change_reads_one_service() {
    let mut planner = mk_planner();
    for n in 100..200 {
        let wrong_family = vec![ip("fd00::1")];
        planner.upsert(Object::Service(Service { external_ips: wrong_family, ..mk_local(n, 31_000 + u16::from(n)) }));
        planner.upsert(Object::EndpointSlice(mk_slice(n, 1)));
    }
    planner.take_changes();
    assert_eq!(planner.take_news().new.len(), 100);
    assert!(planner.take_listeners_changed() && planner.peers_changed());
    planner.peers_told();
    for (n, endpoints) in [(7, 4), (107, 4), (107, 0)] {
        let (plans, reads) = (planner.plans(), planner.reads());
        planner.upsert(Object::EndpointSlice(mk_slice(n, endpoints)));
        assert_eq!(planner.take_changes().len(), 1);
        assert!(planner.take_news().new.is_empty());
        assert!(!planner.take_listeners_changed() && !planner.peers_changed());
        assert_eq!((planner.plans() - plans, planner.reads() - reads), (1, 1));
    }
}

/// A load balancer that wants to know which nodes have endpoints.
fn mk_local(n: u8, health_port: u16) -> Service {
    Service {
        kind: ServiceType::LoadBalancer,
        external_policy: Policy::Local,
        health_check_node_port: Some(health_port),
        ..mk_service(n)
    }
}

#[test]
fn a_remark_is_told_once_while_it_stands() {
    let mut planner = mk_planner();
    let told = |planner: &mut Planner| {
        let said: Vec<_> = planner.take_news().new.iter().map(|d| d.service().name().to_owned()).collect();
        said.join(" ")
    };
    let plain = |n| Object::Service(mk_service(n));
    assert_eq!(told(&mut planner), "");
    planner.upsert(with_external_ip(3));
    planner.upsert(with_external_ip(5));
    assert_eq!(told(&mut planner), "s005");
    planner.upsert(plain(3));
    assert_eq!(told(&mut planner), "");
    planner.upsert(with_external_ip(3));
    assert_eq!(told(&mut planner), "s005", "it stood no more in between");
    planner.upsert(plain(3));
    planner.take_changes();
    planner.upsert(with_external_ip(3));
    assert_eq!(told(&mut planner), "", "nobody saw that it did not stand");
    planner.upsert(plain(5));
    planner.take_changes();
    planner.upsert(with_external_ip(9));
    assert_eq!(told(&mut planner), "s009");

    planner.remove(&ObjectRef::new(Kind::Node, "", "n1"));
    assert_eq!(told(&mut planner), "s000", "no address for node ports");
    planner.upsert(plain(0));
    assert_eq!(told(&mut planner), "s010", "another one is the first of them");
    planner.upsert(mk_node(&["192.168.1.1"], None));
    assert_eq!(told(&mut planner), "");
    assert_eq!(planner.diagnostics().len(), 1);
}

#[test]
fn a_health_port_has_one_owner() {
    let mut planner = mk_planner();
    let owner = |planner: &mut Planner| planner.health_check_at(31_000).map(|check| check.service);
    assert!(planner.take_listeners_changed(), "the node's addresses");
    planner.upsert(Object::Service(mk_local(5, 31_000)));
    assert!(planner.take_listeners_changed());
    planner.upsert(Object::Service(mk_local(9, 31_000)));
    assert!(!planner.take_listeners_changed());
    assert_eq!(owner(&mut planner), Some(mk_name(5)));
    assert_eq!(planner.take_news().new.first().map(|d| d.service().clone()), Some(mk_name(9)));
    planner.upsert(Object::Service(mk_local(3, 31_000)));
    assert!(planner.take_listeners_changed());
    assert_eq!(owner(&mut planner), Some(mk_name(3)));
    assert_eq!(planner.take_news().new.len(), 2, "both are told who has it now");
    planner.upsert(Object::Service(mk_local(3, 31_001)));
    assert!(planner.take_listeners_changed());
    assert_eq!(owner(&mut planner), Some(mk_name(5)));
    planner.retain(|key| key.kind != Kind::Service);
    assert!(planner.take_listeners_changed());
    assert_eq!((owner(&mut planner), planner.diagnostics()), (None, Vec::new()));
}

#[test]
fn a_slice_that_moves_costs_both() {
    let moved = EndpointSlice { service: Some(mk_name(9)), ..mk_slice(7, 3) };
    check(|p| p.upsert(Object::EndpointSlice(moved)), 2, &[7, 9]);
}

#[test]
fn an_address_costs_its_contenders() {
    let claim = |p: &mut Planner| [3, 5, 9].map(with_external_ip).into_iter().for_each(|s| p.upsert(s));
    check(claim, 3, &[3]);
    let mut planner = mk_planner();
    claim(&mut planner);
    planner.take_changes();
    let external = |change: &ServiceChange| change.frontends.iter().any(|f| f.kind == FrontendType::ExternalIp);
    let before = planner.plans();
    planner.upsert(Object::Service(mk_service(3)));
    let changes = planner.take_changes();
    let gained: Vec<_> = changes.iter().map(|c| (c.service.clone(), external(c))).collect();
    assert_eq!(gained, [(mk_name(3), false), (mk_name(5), true)], "the next in age gets it; the third is not told");
    assert_eq!(planner.plans() - before, 3);
    let before = planner.plans();
    planner.upsert(with_external_ip(51));
    assert_eq!(planner.take_changes(), []);
    assert_eq!(planner.plans() - before, 1, "one more loser costs nobody else");
}

#[test]
fn the_node_costs_what_depends_on_it() {
    let node_ports: Vec<u8> = (0..SERVICES).step_by(10).collect();
    check(|p| p.upsert(mk_node(&["192.168.1.1", "192.168.1.2"], Some("a"))), 10, &node_ports);
    check(|p| p.upsert(mk_node(&["192.168.1.1", "127.0.0.1"], Some("a"))), 0, &[]);
    check(|p| p.set_node_addresses(Some(vec![ip("127.0.0.1")])), 10, &node_ports);
    check(|p| p.set_node_addresses(Some(vec![ip("192.168.1.1"), ip("::")])), 0, &[]);
    check(|p| p.remove(&ObjectRef::new(Kind::Node, "", "n1")), u64::from(SERVICES), &node_ports);
    check(|p| p.upsert(mk_node(&["192.168.1.1"], Some("b"))), u64::from(SERVICES), &[]);
}

#[test]
fn what_a_confirmed_list_lacks_is_removed() {
    let mut planner = mk_planner();
    planner.retain(|key| key.kind != Kind::Service || &*key.name >= "s098");
    let gone = planner.take_changes();
    assert_eq!(gone.len(), 98);
    assert!(gone.iter().all(|c| c.frontends.is_empty()));
    let left = planner.state().frontends;
    assert!(left.iter().all(|f| f.service.as_ref().is_some_and(|s| *s >= mk_name(98))));
    assert_eq!(left.iter().filter(|f| f.action == Action::Forward).count(), 2);
}

#[test]
fn a_service_that_came_and_went_is_not_told() {
    check(
        |p| {
            let new = Service { cluster_ips: vec![ip("10.97.0.1")], ..mk_service(200) };
            p.upsert(Object::Service(new));
            p.remove(&ObjectRef::new(Kind::Service, "default", "s200"));
        },
        1,
        &[],
    );
}

#[test]
fn peers_are_the_other_nodes() {
    let mut planner = Planner::new(PlanConfig { node_name: "n1".into(), ..PlanConfig::default() });
    let other = |name: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| ip(text)).collect();
        Object::Node(Node { name: name.into(), addresses, zone: None, leaving: false })
    };
    planner.upsert(mk_node(&["192.168.1.1"], None));
    planner.upsert(other("n3", &["192.168.1.3", "fd00::3"]));
    planner.upsert(other("n2", &["192.168.1.2", "192.168.1.1"]));
    assert_eq!(planner.peer_addresses(), ["192.168.1.2", "192.168.1.3", "fd00::3"].map(ip));
}

#[test]
fn the_api_server_keeps_its_last_backends_until_its_service_is_gone() {
    let backends = |planner: &mut Planner| -> Vec<IpAddr> {
        let state = planner.state();
        state.frontends.iter().flat_map(|f| f.backends.iter().map(|b| b.address)).collect()
    };
    let kept =
        |planner: &mut Planner| planner.diagnostics().iter().any(|d| matches!(d, Diagnostic::KeptBackends { .. }));
    let [service, slice] = mk_api_server(true, false);
    let mut planner = Planner::new(PlanConfig::default());
    planner.upsert(service.clone());
    planner.upsert(mk_api_server(false, false)[1].clone());
    assert_eq!(backends(&mut planner), [] as [IpAddr; 0], "nothing was there that could be kept");
    planner.upsert(slice.clone());
    assert_eq!(backends(&mut planner), [ip("10.1.1.1")]);

    let [_, unready] = mk_api_server(false, false);
    for gone in [&unready, &mk_api_server(false, true)[1]] {
        planner.upsert(gone.clone());
        assert_eq!(backends(&mut planner), [ip("10.1.1.1")]);
        assert!(kept(&mut planner));
    }
    planner.remove(&slice.key());
    assert_eq!(backends(&mut planner), [ip("10.1.1.1")]);
    let Object::EndpointSlice(mut moved) = slice else { unreachable!() };
    moved.group.endpoints[0].address = ip("10.1.1.9");
    planner.upsert(Object::EndpointSlice(moved.clone()));
    assert_eq!(backends(&mut planner), [ip("10.1.1.9")], "a new endpoint takes the place of what was kept");
    assert!(!kept(&mut planner));

    planner.remove(&Object::EndpointSlice(moved).key());
    planner.remove(&service.key());
    assert_eq!(backends(&mut planner), [] as [IpAddr; 0]);
    planner.upsert(service);
    assert_eq!(backends(&mut planner), [] as [IpAddr; 0], "a new Service has nothing of the old one");
}

/// What an agent before this one had counts as had.
#[test]
fn the_api_servers_backends_of_before_are_kept_from_the_start() {
    let backends = |planner: &mut Planner| -> Vec<IpAddr> {
        let state = planner.state();
        state.frontends.iter().flat_map(|f| f.backends.iter().map(|b| b.address)).collect()
    };
    let before = mk_api_server(true, false).to_vec();
    let [service, unready] = mk_api_server(false, false);
    let mk_started = |remember: &dyn Fn(&mut Planner)| {
        let mut planner = Planner::new(PlanConfig::default());
        // Somebody may ask before anything is known, and slices may come before their Service.
        planner.upsert(unready.clone());
        planner.state();
        remember(&mut planner);
        planner.state();
        planner.upsert(service.clone());
        planner
    };
    let Object::EndpointSlice(slice) = &before[1] else { unreachable!() };
    let by_groups = |planner: &mut Planner| planner.remember_api_server_groups(vec![slice.group.clone()]);
    let by_objects = |planner: &mut Planner| {
        planner.remember_api_server([mk_node(&[], None), Object::EndpointSlice(mk_slice(7, 1))].into());
        planner.remember_api_server(before.clone());
    };
    for remember in [&by_groups as &dyn Fn(&mut Planner), &by_objects] {
        let mut planner = mk_started(remember);
        assert_eq!(backends(&mut planner), [ip("10.1.1.1")]);
        // Nothing of before comes over what is known since.
        let mut moved = slice.clone();
        moved.group.endpoints[0].address = ip("10.1.1.9");
        planner.upsert(Object::EndpointSlice(moved));
        planner.state();
        remember(&mut planner);
        planner.upsert(unready.clone());
        assert_eq!(backends(&mut planner), [ip("10.1.1.9")]);

        let mut planner = mk_started(remember);
        planner.remove(&service.key());
        planner.upsert(service.clone());
        assert_eq!(backends(&mut planner), [] as [IpAddr; 0], "its Service was gone");

        let mut planner = Planner::new(PlanConfig::default());
        remember(&mut planner);
        planner.retain(|key| key.kind != Kind::Node);
        planner.upsert(service.clone());
        assert_eq!(backends(&mut planner), [ip("10.1.1.1")], "a list of nodes says nothing of it");
        let mut planner = Planner::new(PlanConfig::default());
        remember(&mut planner);
        planner.retain(|key| key.kind != Kind::Service);
        planner.upsert(service.clone());
        assert_eq!(backends(&mut planner), [] as [IpAddr; 0], "a list of Services did not have it");
    }
}

/// Who boots by these objects has a way to the API server, though its slices held none when they were put on the disk.
#[test]
fn kept_backends_are_among_the_shared_objects() {
    let slices = |planner: &Planner| -> Vec<(String, Vec<IpAddr>)> {
        let slice = |shared| match shared {
            Shared::EndpointSlice(slice) => {
                let slice = slice.to_slice();
                Some((slice.name.to_string(), slice.group.endpoints.iter().map(|e| e.address).collect()))
            }
            Shared::Service(_) | Shared::Endpoints(_) | Shared::Node(_) => None,
        };
        let mut all: Vec<_> = planner.shared_objects().into_iter().filter_map(slice).collect();
        all.sort();
        all
    };
    let [service, slice] = mk_api_server(true, false);
    let mut planner = Planner::new(PlanConfig::default());
    planner.upsert(Object::EndpointSlice(mk_slice(2, 1)));
    let other = ("s002-x".to_owned(), vec![ip("10.1.2.1")]);
    let kept = ("kubernetes".to_owned(), vec![ip("10.1.1.1")]);
    planner.upsert(service.clone());
    planner.upsert(slice.clone());
    planner.state();
    assert_eq!(slices(&planner), [kept.clone(), other.clone()]);
    planner.upsert(mk_api_server(false, false)[1].clone());
    planner.state();
    assert_eq!(slices(&planner), [kept.clone(), other.clone()], "the endpoint is ready there");
    planner.remove(&slice.key());
    planner.state();
    assert_eq!(slices(&planner), [kept, other.clone()]);
    planner.remember_api_server(Vec::new());
    planner.remove(&service.key());
    planner.state();
    assert_eq!(slices(&planner), [other]);
}

#[test]
fn any_other_service_loses_its_backends_with_its_endpoints() {
    let mut planner = mk_planner();
    planner.upsert(Object::EndpointSlice(mk_slice(1, 0)));
    let [change] = planner.take_changes().try_into().expect("one Service changed");
    assert!(change.frontends.iter().all(|frontend| frontend.backends.is_empty()));
}

#[test]
fn a_node_name_that_no_node_object_has_is_noticed() {
    let check = |name: &str, with_node: bool, expected: Option<usize>| {
        let mut planner = Planner::new(PlanConfig { node_name: name.into(), ..PlanConfig::default() });
        if with_node {
            planner.upsert(mk_node(&["192.168.1.1"], None));
        }
        assert_eq!(planner.nodes_without_ours(), expected, "{name:?}");
    };
    check("n1", true, None);
    check("n1.example.org", true, Some(1));
    check("n1.example.org", false, None);
    check("", true, None);
}
