//! What a change costs from decoded objects to maps, and the first sync, by number of Services. The count of work is
//! asserted; times are printed (`--nocapture`), as they are measured on whatever runs beside it.
//!
//! `BERRYLB_COST_SERVICES="10 1000 10000 50000"` for the large ones, best with `--release`.

use std::{
    collections::HashMap,
    env,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use berrylb::{
    maps::{Capacities, MemStore, Tables},
    model::{Created, Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Object, Service, ServicePort, SliceFamily},
    plan::{
        PlanConfig, Planner,
        state::{Protocol, ServiceName},
    },
};

const ENDPOINTS: u32 = 10;
const EVENTS: u32 = 500;
/// Map writes that an event may take: a Service's new slots, its state, and two endpoints.
const MOST_WRITES: u64 = 16;

fn sizes() -> Vec<u32> {
    let text = env::var("BERRYLB_COST_SERVICES").unwrap_or_else(|_| "10 300".to_owned());
    text.split_whitespace().map(|n| n.parse().expect("a number of Services")).collect()
}

fn name(n: u32) -> ServiceName {
    ServiceName::new(&format!("ns{}", n % 20), &format!("s{n:05}"))
}

fn mk_service(n: u32) -> Object {
    Object::Service(Service {
        created: Created(Some(n.into())),
        ports: vec![ServicePort { name: "".into(), port: 80, node_port: None, protocol: Protocol::Tcp }],
        ..Service::new(name(n), vec![Ipv4Addr::from(0x0a60_0000 + n).into()])
    })
}

/// A slice of ten endpoints, of which one is not ready if `lame` says so.
fn mk_slice(n: u32, lame: Option<u32>) -> Object {
    let service = name(n);
    let endpoint = |i| Endpoint {
        ready: lame != Some(i),
        serving: lame != Some(i),
        ..Endpoint::new(Ipv4Addr::from(0x6440_0000 + n * ENDPOINTS + i).into())
    };
    Object::EndpointSlice(EndpointSlice {
        name: format!("{}-x", service.name()).into(),
        namespace: service.namespace().into(),
        service: Some(service),
        ignored: false,
        mirrored: false,
        family: SliceFamily::V4,
        triggered: None,
        group: EndpointGroup {
            ports: vec![EndpointPort { name: "".into(), port: 8080, protocol: Protocol::Tcp }],
            endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        },
    })
}

fn capacities(services: u32) -> Capacities {
    Capacities {
        services: services * 2 + 64,
        svc_state: services * 2 + 64,
        slots: services * ENDPOINTS * 2 + 1024,
        backends: services * ENDPOINTS * 2 + 1024,
        addrs: Capacities::addrs_for(services * 2 + 64),
        ..Capacities::DEFAULT
    }
}

/// What the agent does after an event, but for what it does with links.
fn settle(planner: &mut Planner, tables: &mut Tables<MemStore>) -> usize {
    if planner.peers_changed() {
        tables.set_peer_addresses(&planner.peer_addresses()).expect("written");
        planner.peers_told();
    }
    tables.set_link_addresses(&planner.node_addresses(), &[], &[]).expect("written");
    let changes = planner.take_changes();
    let (_, errors) = tables.apply_all(&changes);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(!planner.take_listeners_changed());
    assert!(planner.take_news().new.is_empty());
    changes.len()
}

/// Works through a cluster of this size; returns the writes that each event took.
fn run(services: u32) -> Vec<u64> {
    let mut planner = Planner::new(PlanConfig::default());
    let mut tables = Tables::new(MemStore::new(capacities(services)));
    let objects: Vec<Object> = (0..services).flat_map(|n| [mk_service(n), mk_slice(n, None)]).collect();
    let start = Instant::now();
    objects.into_iter().for_each(|object| planner.upsert(object));
    let told = settle(&mut planner, &mut tables);
    let first = start.elapsed();
    assert_eq!(told, services as usize);
    let (plans, reads) = (planner.plans(), planner.reads());
    let mut times: Vec<Duration> = Vec::new();
    let mut writes = Vec::new();
    let mut rounds: HashMap<u32, u32> = HashMap::new();
    for event in 0..EVENTS {
        // Spread over all, so that no Service is warm.
        let service = event.wrapping_mul(0x9e37_79b1) % services;
        let round: &mut u32 = rounds.entry(service).or_default();
        let slice = mk_slice(service, Some(*round % ENDPOINTS));
        *round += 1;
        let before = tables.store().writes();
        let start = Instant::now();
        planner.upsert(slice);
        assert_eq!(settle(&mut planner, &mut tables), 1);
        times.push(start.elapsed());
        writes.push(tables.store().writes() - before);
        if event % 50 == 0 {
            tables.collect().expect("nothing fails");
        }
    }
    assert_eq!(planner.plans() - plans, u64::from(EVENTS), "each event plans its Service and no other");
    assert!(planner.reads() - reads == u64::from(EVENTS), "telling it reads no other");
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    eprintln!(
        "{services:>6} services × {ENDPOINTS} endpoints: first sync {:>8.1} ms; an event p50 {:>4} µs, p99 {:>4} µs",
        first.as_secs_f64() * 1e3,
        at(50),
        at(99)
    );
    writes
}

#[test]
fn an_event_costs_one_service_whatever_their_number() {
    for services in sizes() {
        let writes = run(services);
        assert!(writes.iter().all(|writes| *writes <= MOST_WRITES), "of {services} Services: {writes:?}");
    }
}
