//! Random worlds: whatever happened before, the state is the one that a fresh planner would make of what is left.
//!
//! The worlds are small and crowded on purpose, so that Services fight over addresses, slices change hands and nodes
//! move in almost every run.

#[expect(dead_code, unused_imports, reason = "shared with tests of the maps")]
mod maps_support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use berrylb::{
    maps::Faults,
    model::{
        Created, Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Endpoints, Node, Object, ObjectRef, Policy,
        Service, ServicePort, ServiceType, SliceFamily, Weights,
    },
    plan::{
        Diagnostic, PlanConfig, Planner,
        state::{Action, Algorithm, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceName, State},
    },
};
use maps_support::agent::{Agent, World};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::{select, subsequence},
};

#[derive(Clone, Debug)]
enum Op {
    Upsert(Box<Object>),
    Remove(usize),
    NodeAddresses(Option<Vec<IpAddr>>),
    Look,
}

fn name() -> impl Strategy<Value = ServiceName> {
    select(vec![("a", "web"), ("a", "db"), ("b", "web"), ("b", "api")]).prop_map(|(ns, n)| ServiceName::new(ns, n))
}

fn virtual_ips() -> impl Strategy<Value = Vec<IpAddr>> {
    let v4 = |n| IpAddr::V4(Ipv4Addr::new(10, 96, 0, n));
    let v6 = |n| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n));
    subsequence(vec![v4(1), v4(2), v6(1), v4(3), node_ip(1)], 0..=3)
}

fn node_ip(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, n))
}

fn cluster_ips() -> impl Strategy<Value = Vec<IpAddr>> {
    let v4 = (1..4u8).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 96, 0, n)));
    let v6 = (1..3u16).prop_map(|n| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n)));
    (option::weighted(0.9, v4), option::weighted(0.3, v6)).prop_map(|(a, b)| a.into_iter().chain(b).collect())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn policy() -> impl Strategy<Value = Policy> {
    select(vec![Policy::Cluster, Policy::Local])
}

fn weights() -> impl Strategy<Value = Weights> {
    let address = (1..6u8).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 1, 0, n)));
    let node = select(vec!["n1", "n2"]).prop_map(Into::into);
    (btree_map(address, 0..4u16, 0..3), btree_map(node, 0..4u16, 0..2))
        .prop_map(|(addresses, nodes)| Weights { addresses, nodes })
}

fn service() -> impl Strategy<Value = Object> {
    let port = (select(vec!["", "http"]), select(vec![80u16, 81]), option::of(select(vec![80u16, 30080])), protocol())
        .prop_map(|(name, port, node_port, protocol)| ServicePort { name: name.into(), port, node_port, protocol });
    let kinds = vec![
        ServiceType::ClusterIp,
        ServiceType::NodePort,
        ServiceType::LoadBalancer,
        ServiceType::LoadBalancer,
        ServiceType::ExternalName,
    ];
    let ranges = subsequence(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()], 0..=2);
    (
        (name(), option::of(0..3i64), proptest::bool::weighted(0.05), select(kinds), proptest::bool::weighted(0.05)),
        (any::<bool>(), cluster_ips(), virtual_ips(), virtual_ips(), vec(port, 0..3)),
        (policy(), policy(), option::of(1..3u32), ranges, option::of(32000..32002u16)),
        (option::of(select(vec![Algorithm::Random, Algorithm::Maglev])), weights()),
    )
        .prop_map(|((name, created, ignored, kind, headless), b, c, (algorithm, weights))| {
            let (has_selector, cluster_ips, external_ips, load_balancer_ips, ports) = b;
            let (internal_policy, external_policy, affinity_seconds, source_ranges, health_check_node_port) = c;
            Object::Service(Service {
                name,
                created: Created(created),
                uid: None,
                ignored,
                kind,
                headless,
                has_selector,
                cluster_ips,
                external_ips,
                load_balancer_ips,
                ports,
                internal_policy,
                external_policy,
                affinity_seconds,
                source_ranges,
                health_check_node_port,
                algorithm,
                weights,
                bad_annotations: Vec::new(),
            })
        })
}

fn group(v4: bool) -> impl Strategy<Value = EndpointGroup> {
    let port = (select(vec!["", "http"]), select(vec![8080u16, 8081]), protocol())
        .prop_map(|(name, port, protocol)| EndpointPort { name: name.into(), port, protocol });
    let places = || option::of(select(vec!["n1", "n2"])).prop_map(|n| n.map(Into::into));
    let zones = || option::of(select(vec!["za", "zb"])).prop_map(|n| n.map(Into::into));
    let conditions = select(vec![
        (true, true, false),
        (true, true, false),
        (false, false, false),
        (false, true, true),
        (true, true, true),
        (false, false, true),
    ]);
    let endpoint = (1..6u8, conditions, places(), zones(), zones(), places()).prop_map(
        move |(n, (ready, serving, terminating), node_name, zone, zone_hint, node_hint)| Endpoint {
            address: if v4 {
                IpAddr::V4(Ipv4Addr::new(10, 1, 0, n))
            } else {
                IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, n.into()))
            },
            ready,
            serving,
            terminating,
            node_name,
            zone,
            zone_hints: zone_hint.into_iter().collect(),
            node_hints: node_hint.into_iter().collect(),
        },
    );
    (vec(port, 0..3), vec(endpoint, 0..5)).prop_map(|(ports, endpoints)| EndpointGroup { ports, endpoints })
}

fn slice() -> impl Strategy<Value = Object> {
    // Some begin with the name of a Service, be it theirs or another's.
    let slice_name = select(vec![("a", "s1"), ("a", "web-1"), ("a", "web-2"), ("b", "web-1"), ("b", "api-1")]);
    let flags = (proptest::bool::weighted(0.1), proptest::bool::weighted(0.3));
    (slice_name, option::weighted(0.9, select(vec!["web", "db", "api"])), flags, any::<bool>())
        .prop_flat_map(|(name, service, flags, v4)| (Just((name, service, flags, v4)), group(v4)))
        .prop_map(|(((namespace, name), service, (ignored, mirrored), v4), group)| {
            Object::EndpointSlice(EndpointSlice {
                namespace: namespace.into(),
                name: name.into(),
                service: service.map(|s| ServiceName::new(namespace, s)),
                ignored,
                mirrored,
                family: if v4 { SliceFamily::V4 } else { SliceFamily::V6 },
                triggered: None,
                group,
            })
        })
}

fn endpoints() -> impl Strategy<Value = Object> {
    (name(), proptest::bool::weighted(0.2), vec(group(true), 0..3))
        .prop_map(|(name, skip_mirror, groups)| Object::Endpoints(Endpoints { name, skip_mirror, groups }))
}

fn node() -> impl Strategy<Value = Object> {
    let addresses =
        subsequence(vec![node_ip(1), node_ip(2), "127.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()], 0..=3);
    (select(vec!["n1", "n2"]), addresses, option::of(select(vec!["za", "zb"]))).prop_map(|(name, addresses, zone)| {
        Object::Node(Node { name: name.into(), addresses, zone: zone.map(Into::into), leaving: false })
    })
}

fn op() -> impl Strategy<Value = Op> {
    let upsert = |object: BoxedStrategy<Object>| object.prop_map(|o| Op::Upsert(Box::new(o)));
    prop_oneof![
        6 => upsert(service().boxed()),
        6 => upsert(slice().boxed()),
        2 => upsert(endpoints().boxed()),
        2 => upsert(node().boxed()),
        4 => any::<prop::sample::Index>().prop_map(|i| Op::Remove(i.index(64))),
        1 => option::of(subsequence(vec![node_ip(1), node_ip(3), "::1".parse().unwrap()], 0..=2)).prop_map(Op::NodeAddresses),
        4 => Just(Op::Look),
    ]
}

fn config() -> impl Strategy<Value = PlanConfig> {
    let algorithm = select(vec![Algorithm::Random, Algorithm::Maglev]);
    (select(vec!["n1", "n1", ""]), option::weighted(0.3, Just("zb".to_owned())), any::<bool>(), algorithm).prop_map(
        |(node_name, zone, node_port_source_ranges, algorithm)| PlanConfig {
            node_name: node_name.to_owned(),
            node_addresses: None,
            zone,
            node_port_source_ranges,
            algorithm,
            ..PlanConfig::default()
        },
    )
}

/// What must hold of any state, whatever made it.
fn check_document(state: &State) {
    let mut seen = BTreeMap::new();
    for f in &state.frontends {
        let key = (f.address, f.port, f.protocol, f.scope);
        assert!(seen.insert(key, f.service.clone()).is_none(), "{key:?} is listed twice");
        assert!(!f.address.is_unspecified());
        let other = if f.scope == Scope::Internal { Scope::External } else { Scope::Internal };
        let pair =
            state.frontends.iter().find(|o| (o.address, o.port, o.protocol, o.scope) == (key.0, key.1, key.2, other));
        let pair = pair.expect("both scopes are listed");
        assert_eq!((&pair.service, pair.kind), (&f.service, f.kind), "both scopes belong to one owner");
        assert_eq!(f.action == Action::Forward, !f.backends.is_empty());
        assert!(f.draining.is_empty() || f.backends.iter().all(|b| b.state == BackendState::Active));
        for b in f.backends.iter().chain(&f.draining) {
            assert_eq!(b.address.is_ipv4(), f.address.is_ipv4());
            assert!(!b.local || state.node == "n1");
        }
        let mut sockets: Vec<_> = f.backends.iter().chain(&f.draining).map(|b| (b.address, b.port)).collect();
        let all = sockets.len();
        sockets.sort_unstable();
        sockets.dedup();
        assert_eq!(sockets.len(), all, "each backend once");
        assert!(f.source_ranges.is_empty() || f.has_source_ranges);
        if (f.kind, f.scope) == (FrontendType::ClusterIp, Scope::External) {
            assert_eq!(f.action, Action::Drop);
        }
    }
    let mut weights = BTreeMap::new();
    for f in &state.frontends {
        for b in f.backends.iter().chain(&f.draining) {
            let key = (&f.service, &f.port_name, f.protocol, b.address, b.port);
            assert_eq!(*weights.entry(key).or_insert(b.weight), b.weight, "an endpoint has one weight everywhere");
        }
    }
    let sorted = State::new(state.node.clone(), state.frontends.clone(), state.health_checks.clone());
    assert_eq!(&sorted, state);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn incremental_is_from_scratch(config in config(), ops in vec(op(), 1..40)) {
        let mut planner = Planner::new(config.clone());
        let mut fresh_config = config;
        let mut world: BTreeMap<ObjectRef, Object> = BTreeMap::new();
        let mut told: BTreeMap<ServiceName, Vec<Frontend>> = BTreeMap::new();
        let mut said: Vec<Diagnostic> = Vec::new();
        let mut listening = (Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::Upsert(object) => {
                    world.insert(object.key(), (*object).clone());
                    planner.upsert(*object);
                }
                Op::Remove(n) => {
                    if let Some(key) = world.keys().nth(n % world.len().max(1)).cloned() {
                        world.remove(&key);
                        planner.remove(&key);
                    }
                }
                Op::NodeAddresses(addresses) => {
                    fresh_config.node_addresses.clone_from(&addresses);
                    planner.set_node_addresses(addresses);
                }
                Op::Look => {
                    let restricted = planner.restricted();
                    loop {
                        let changes = planner.take_some_changes(told.len() % 3);
                        if changes.is_empty() {
                            break;
                        }
                        for change in changes {
                            prop_assert_ne!(told.get(&change.service), Some(&change.frontends), "told without need");
                            told.insert(change.service, change.frontends);
                        }
                    }
                    for change in restricted {
                        prop_assert_eq!(told.get(&change.service), Some(&change.frontends), "as it is told a moment later");
                    }
                    let (new, stand) = (planner.take_news().new, planner.diagnostics());
                    let wanted: BTreeSet<_> = stand.iter().filter(|remark| !said.contains(*remark)).cloned().collect();
                    prop_assert_eq!(new, wanted);
                    said = stand;
                    let ports = planner.health_checks().into_iter().map(|check| check.port);
                    let ports: BTreeSet<u16> = ports.collect();
                    let owners = |port| planner.health_check_at(port).map(|check| (port, check.service));
                    let now = (ports.into_iter().filter_map(owners).collect(), planner.node_addresses());
                    prop_assert!(planner.take_listeners_changed() || now == listening);
                    listening = now;
                }
            }
        }
        for change in planner.take_changes() {
            told.insert(change.service, change.frontends);
        }
        prop_assert!(planner.take_changes().is_empty());

        let mut fresh = Planner::new(fresh_config);
        for object in world.values().rev() {
            fresh.upsert(object.clone());
        }
        let state = planner.state();
        prop_assert_eq!(&state, &fresh.state());
        prop_assert_eq!(planner.diagnostics(), fresh.diagnostics());
        prop_assert_eq!(planner.node_addresses(), fresh.node_addresses());
        let kept: BTreeSet<_> = planner.shared_objects().iter().map(|object| serde_json::json!(object).to_string()).collect();
        let there: BTreeSet<_> = world.values().map(|object| serde_json::json!(object).to_string()).collect();
        prop_assert_eq!(kept, there);
        let told: Vec<Frontend> = told.into_values().flatten().collect();
        prop_assert_eq!(&State::new(state.node.clone(), told, planner.health_checks()), &state);
        check_document(&state);

        let now: Vec<ObjectRef> = world.keys().step_by(2).cloned().collect();
        planner.retain(|key| now.contains(key));
        fresh.retain(|key| now.contains(key));
        prop_assert_eq!(planner.state(), fresh.state());
        planner.retain(|_| false);
        prop_assert!(planner.state().frontends.is_empty());
    }
}

/// What happens to the agent after a change of the objects.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It looks later.
    Sleeps,
    Follows,
    /// Stops where it is; another one starts.
    Restarts,
    /// Is killed in the middle of its work, after so many writes; another one starts.
    Killed(u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Sleeps),
        4 => Just(Fate::Follows),
        1 => Just(Fate::Restarts),
        2 => (0..40u64).prop_map(Fate::Killed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Objects change, writes fail, agents are stopped and killed: in the end the maps hold what a planner makes of the
    /// objects that are left.
    #[test]
    fn maps_hold_the_plan_of_what_is_left(
        config in config(),
        life in vec((vec(op(), 1..4), fate()), 1..14),
        percent in select(vec![0u64, 10, 30]),
        seed in any::<u64>(),
    ) {
        let mut config = config;
        let mut world = World::new();
        let mut agent = Agent::new(config.clone(), Faults::Percent { percent, seed });
        for (n, (ops, fate)) in life.into_iter().enumerate() {
            let context = format!("change {n}, {fate:?}");
            for op in ops {
                match op {
                    Op::Upsert(object) => {
                        world.insert(object.key(), (*object).clone());
                        agent.planner.upsert(*object);
                    }
                    Op::Remove(n) => {
                        if let Some(key) = world.keys().nth(n % world.len().max(1)).cloned() {
                            world.remove(&key);
                            agent.planner.remove(&key);
                        }
                    }
                    Op::NodeAddresses(addresses) => {
                        config.node_addresses.clone_from(&addresses);
                        agent.planner.set_node_addresses(addresses);
                    }
                    Op::Look => {}
                }
            }
            match fate {
                Fate::Sleeps => continue,
                Fate::Follows => agent.follow(&context),
                Fate::Restarts => agent = agent.restart(config.clone(), &world, &context),
                Fate::Killed(writes) => {
                    agent.be_killed(writes);
                    agent = agent.restart(config.clone(), &world, &context);
                }
            }
            let now = agent.planner.state();
            agent.check(&now, &context);
        }
        agent.follow("the end");
        let mut fresh = Planner::new(config);
        world.into_values().for_each(|object| fresh.upsert(object));
        agent.check(&fresh.state(), "the end");
        agent.end("everything deleted");
    }
}
