//! Maps that somebody else has written to: each difference is found and named, and the way of a restart mends it, without
//! touching what is as it should be.

#[expect(dead_code, reason = "shared with tests of objects")]
mod maps_support;

use std::collections::HashSet;

use berrylb::{
    maps::{MapStore, MemStore, RangeEntry, Tables},
    plan::{compare::Difference, state::ServiceChange},
};
use lb_common::abi::{
    Addr, AddrInfo, Backend, Port, ServiceKey, ServiceRef, ServiceState, StateWord, backend_state, frontend, proto,
    scope,
};
use maps_support::{Cluster, Rng, SMALL, check, check_empty, dumped, gone, node_addresses, settle, small};

fn filled(seed: u64) -> (Tables<MemStore>, Cluster, Vec<ServiceChange>) {
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::new(8, 6);
    cluster.fill(&mut rng);
    let mut tables = small(Tables::new(MemStore::new(SMALL)));
    node_addresses(&mut tables, &cluster);
    let changes: Vec<ServiceChange> = cluster.wanted().into_values().collect();
    settle(&mut tables, &changes, "filled");
    (tables, cluster, changes)
}

fn differences(tables: &Tables<MemStore>, cluster: &Cluster) -> Vec<Difference> {
    tables.verify(&cluster.state(), false, &HashSet::new()).expect("the maps can be read")
}

/// As the agent does it.
fn mend(tables: &mut Tables<MemStore>, cluster: &Cluster, changes: &[ServiceChange]) {
    let (found, _) = Tables::adopt(tables.store().clone()).expect("the maps can be read");
    tables.go_on_from(found);
    node_addresses(tables, cluster);
    settle(tables, changes, "mended");
    let keep: HashSet<_> = changes.iter().map(|change| change.service.clone()).collect();
    tables.prune(&keep).expect("nothing fails");
}

/// A damage, and what has to stand in what is told of it.
type Damage = (&'static str, fn(&mut MemStore));

fn sorted(store: &MemStore) -> Vec<(ServiceKey, ServiceRef)> {
    let mut all = store.services().unwrap();
    all.sort_unstable_by_key(|(key, _)| (key.addr.octets(), key.port.get(), key.proto, key.scope));
    all
}

/// The first frontend whose set has backends, with the set.
fn forwarding(store: &MemStore) -> (ServiceKey, ServiceRef, ServiceState) {
    let found = sorted(store).into_iter().find_map(|(key, found)| {
        let state = store.state(found.index())?;
        (key.scope == scope::INTERNAL
            && found.bits() & frontend::TYPE_MASK == frontend::CLUSTER_IP
            && state.word.count() > 1)
            .then_some((key, found, state))
    });
    found.expect("one of the Services has backends")
}

fn stranger() -> ServiceKey {
    ServiceKey { addr: Addr::v4([10, 99, 99, 99]), port: Port::new(99), proto: proto::TCP, scope: scope::INTERNAL }
}

fn live(store: &MemStore) -> (u32, Backend) {
    let (_, _, state) = forwarding(store);
    let id = store.slots(state.word.offset(), 1).unwrap()[0];
    (id, store.backend(id).unwrap().unwrap())
}

const DAMAGES: &[Damage] = &[
    ("map has nothing, intent forward", |store| {
        let (key, ..) = forwarding(store);
        store.delete_services(&[key]).unwrap();
    }),
    ("10.99.99.99:99/TCP internal: map has forward", |store| {
        let (_, found, _) = forwarding(store);
        store.put_services(&[(stranger(), ServiceRef::new(stranger(), found.index(), found.bits()))]).unwrap();
    }),
    ("frontend 10.99.99.99:99/TCP internal: map has index 9999", |store| {
        store.put_services(&[(stranger(), ServiceRef::new(stranger(), 9999, 0))]).unwrap();
    }),
    // The tag of another key: the document looks right, and no program takes the element.
    ("tag 0x", |store| {
        let (key, found, _) = forwarding(store);
        store.put_services(&[(key, ServiceRef::new(stranger(), found.index(), found.bits()))]).unwrap();
    }),
    ("map has action reject", |store| {
        let (_, found, state) = forwarding(store);
        let word = StateWord::new(state.word.offset(), state.word.count(), 1, state.word.generation());
        store.commit(found.index(), word);
    }),
    ("map has affinity 77 s", |store| {
        let (_, found, mut state) = forwarding(store);
        state.affinity_seconds = 77;
        store.put_state(found.index(), &state);
    }),
    ("map has identity 0x5", |store| {
        let (_, found, mut state) = forwarding(store);
        state.identity = 5;
        store.put_state(found.index(), &state);
    }),
    ("slots that somebody else wrote", |store| {
        let (_, _, state) = forwarding(store);
        store.put_slots(state.word.offset(), &[400]);
    }),
    ("map has 10.66.66.66", |store| {
        let (id, mut backend) = live(store);
        backend.addr = Addr::v4([10, 66, 66, 66]);
        store.put_backends(&[(id, backend)]).unwrap();
    }),
    ("generation 4000", |store| {
        let (id, mut backend) = live(store);
        backend.generation = 4000;
        store.put_backends(&[(id, backend)]).unwrap();
    }),
    ("state 0, ", |store| {
        let (id, mut backend) = live(store);
        backend.state = backend_state::GONE;
        store.put_backends(&[(id, backend)]).unwrap();
    }),
    ("(id 400): map has 10.66.66.66:80/TCP", |store| {
        store.put_backends(&[(400, Backend::new(Addr::v4([10, 66, 66, 66]), Port::new(80), proto::TCP, 9))]).unwrap();
    }),
    ("source range 10.66.0.0/16", |store| {
        let (_, found, _) = forwarding(store);
        store.put_source_ranges(&[RangeEntry::new(found.index(), Addr::v4([10, 66, 0, 0]), 16)]).unwrap();
    }),
    ("source range", |store| {
        let ranges = store.source_ranges().unwrap();
        store.delete_source_ranges(&ranges).unwrap();
    }),
    ("address ", |store| {
        let (key, ..) = forwarding(store);
        store.delete_addrs(&[key.addr]).unwrap();
    }),
    ("address 10.66.66.66: map has node, intent nothing", |store| {
        store.put_addrs(&[(Addr::v4([10, 66, 66, 66]), AddrInfo { flags: 1 })]).unwrap();
    }),
];

#[test]
fn each_damage_is_named_and_mended() {
    for seed in 0..12 {
        for (at, (told, damage)) in DAMAGES.iter().enumerate() {
            let context = format!("seed {seed}, damage {at} ({told})");
            let (mut tables, cluster, changes) = filled(seed);
            assert_eq!(differences(&tables, &cluster), [], "{context}");
            let generations = tables.store().backends().unwrap();

            damage(tables.store_mut());
            let found = differences(&tables, &cluster);
            // Not every cluster has ranges to delete.
            if tables.store().source_ranges().unwrap().is_empty() && *told == "source range" && found.is_empty() {
                continue;
            }
            let named = found.iter().any(|difference| difference.to_string().contains(told));
            assert!(named, "{context}: {found:#?}");

            mend(&mut tables, &cluster, &changes);
            assert_eq!(differences(&tables, &cluster), [], "{context}");
            check(&tables, &cluster.state(), &context);
            // Connections to what was right are not cut.
            let kept = tables.store().backends().unwrap();
            let changed = generations.iter().filter(|backend| !kept.contains(backend)).count();
            assert!(changed <= 1, "{context}: {changed} backends were given up");

            settle(&mut tables, &changes.iter().map(|c| gone(&c.service)).collect::<Vec<_>>(), &context);
            check_empty(&mut tables, &context);
        }
    }
}

/// Places that wait for a grace period while the maps are adopted anew are not freed twice.
#[test]
fn what_was_waiting_is_free_once() {
    let (mut tables, cluster, changes) = filled(1);
    tables.apply(&gone(&changes[0].service)).unwrap();
    let freed = tables.begin_collect();
    mend(&mut tables, &cluster, &changes);
    tables.finish_collect(freed);
    assert_eq!(differences(&tables, &cluster), []);
    assert_eq!(dumped(&tables), cluster.state());
    settle(&mut tables, &changes.iter().map(|c| gone(&c.service)).collect::<Vec<_>>(), "");
    check_empty(&mut tables, "");
}

/// What a bad object left unclaimed is no difference while it is kept on purpose.
#[test]
fn what_is_kept_on_purpose_is_no_difference() {
    let (tables, _, changes) = filled(2);
    let (found, _) = Tables::adopt(tables.into_store()).unwrap();
    let mut tables = small(found);
    let empty = berrylb::plan::state::State::new("node".into(), Vec::new(), Vec::new());
    let nobody = HashSet::new();
    assert_eq!(tables.verify(&empty, true, &nobody).unwrap(), []);
    assert!(!tables.verify(&empty, false, &nobody).unwrap().is_empty());
    tables.apply(&changes[0]).unwrap();
    assert!(!tables.verify(&empty, true, &nobody).unwrap().is_empty(), "a Service that is not wanted");
}

/// A Service that could not be brought to what is wanted of it is known as such; what else differs is not hidden by it.
#[test]
fn what_could_not_be_applied_is_no_news() {
    let (mut tables, cluster, changes) = filled(3);
    let unfinished = HashSet::from([changes[0].service.clone()]);
    tables.apply(&gone(&changes[0].service)).unwrap();
    assert!(!differences(&tables, &cluster).is_empty(), "it is wanted and not there");
    assert_eq!(tables.verify(&cluster.state(), false, &unfinished).unwrap(), []);
    let (key, ..) = forwarding(tables.store());
    tables.store_mut().delete_services(&[key]).unwrap();
    let found = tables.verify(&cluster.state(), false, &unfinished).unwrap();
    assert!(found.iter().any(|difference| difference.to_string().contains("map has nothing")), "{found:?}");
}
