//! State → maps → state: whatever sequence of changes, faults and restarts lies between.

#[expect(dead_code, reason = "shared with tests of objects")]
mod maps_support;

use std::collections::{BTreeMap, HashSet};

use berrylb::{
    maps::{Faults, Identify, MemStore, Tables, dump},
    plan::state::{ServiceChange, ServiceName, State},
};
use maps_support::{Cluster, Rng, SMALL, check, check_empty, dumped, gone, node_addresses, settle, small};

#[test]
fn a_state_comes_back_as_it_went_in() {
    for seed in 0..60 {
        let context = format!("seed {seed}");
        let mut rng = Rng::new(seed);
        let mut cluster = Cluster::new(8, 12);
        cluster.fill(&mut rng);
        let mut tables = small(Tables::new(MemStore::new(SMALL)));
        node_addresses(&mut tables, &cluster);
        let changes: Vec<ServiceChange> = cluster.wanted().into_values().collect();
        let (outcome, errors) = tables.apply_all(&changes);
        assert!(errors.is_empty(), "{context}: {errors:?}");
        assert!(outcome.changed());
        check(&tables, &cluster.state(), &context);

        let writes = tables.store().writes();
        let (outcome, errors) = tables.apply_all(&changes);
        assert!(errors.is_empty() && !outcome.changed(), "{context}: {outcome:?}");
        assert_eq!(tables.store().writes(), writes, "{context}: an equal state writes nothing");

        settle(&mut tables, &changes.iter().map(|c| gone(&c.service)).collect::<Vec<_>>(), &context);
        check_empty(&mut tables, &context);
    }
}

#[test]
fn without_names_a_dump_has_nulls() {
    let mut rng = Rng::new(3);
    let mut cluster = Cluster::new(4, 6);
    cluster.fill(&mut rng);
    let mut tables = small(Tables::new(MemStore::new(SMALL)));
    node_addresses(&mut tables, &cluster);
    settle(&mut tables, &cluster.wanted().into_values().collect::<Vec<_>>(), "");
    let mut wanted = cluster.state();
    for f in &mut wanted.frontends {
        (f.service, f.port_name) = (None, None);
        f.backends.iter_mut().chain(&mut f.draining).for_each(|b| b.zone = None);
    }
    assert_eq!(dump(tables.store(), None, "node", Vec::new()).unwrap(), wanted);
}

/// Changes, one write in ten failing, restarts and collections at random moments.
fn churn(seed: u64, faults: Faults) {
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::new(5, 8);
    let mut tables = small(Tables::new(MemStore::new(SMALL)));
    let mut before: BTreeMap<ServiceName, ServiceChange> = BTreeMap::new();
    for step in 0..40 {
        let context = format!("seed {seed} {faults:?} step {step}");
        for _ in 0..=rng.below(3) {
            cluster.step(&mut rng);
        }
        let mut changes = cluster.changes(&before);
        rng.shuffle(&mut changes);
        tables.store_mut().set_faults(faults);
        node_addresses(&mut tables, &cluster);
        settle(&mut tables, &changes, &context);
        before = cluster.wanted();
        check(&tables, &cluster.state(), &context);
        if rng.one_in(3) {
            // An error leaves everything as it is, for the next time.
            let _retried = tables.collect();
        }
        if rng.one_in(5) {
            let mut store = tables.into_store();
            store.restart();
            tables = small(Tables::adopt(store).expect("nothing fails").0);
            let writes = tables.store().writes();
            let all: Vec<ServiceChange> = cluster.wanted().into_values().collect();
            settle(&mut tables, &all, &context);
            assert_eq!(tables.store().writes(), writes, "{context}: an adopted state is not written again");
            let pruned = tables.prune(&cluster.names()).expect("nothing fails");
            assert!(!pruned.changed(), "{context}: {pruned:?}");
            check(&tables, &cluster.state(), &context);
        }
    }
    cluster.clear();
    let context = format!("seed {seed} {faults:?} end");
    settle(&mut tables, &cluster.changes(&before), &context);
    check_empty(&mut tables, &context);
}

#[test]
fn changes_converge() {
    (0..30).for_each(|seed| churn(seed, Faults::None));
}

#[test]
fn changes_converge_with_a_tenth_of_writes_failing() {
    (0..30).for_each(|seed| churn(seed, Faults::Percent { percent: 10, seed }));
    (0..10).for_each(|seed| churn(seed, Faults::Every(7)));
}

/// A large change of which some writes fail each time goes on from where it was, and does not start again.
#[test]
fn progress_is_kept() {
    let mut rng = Rng::new(5);
    let mut cluster = Cluster::new(2, 60);
    cluster.fill(&mut rng);
    cluster.crowd(50);
    let mut tables = small(Tables::new(MemStore::new(SMALL)));
    node_addresses(&mut tables, &cluster);
    tables.store_mut().set_faults(Faults::Percent { percent: 50, seed: 9 });
    let changes: Vec<ServiceChange> = cluster.wanted().into_values().collect();
    settle(&mut tables, &changes, "half of the writes fail");
    check(&tables, &cluster.state(), "half of the writes fail");
    settle(&mut tables, &changes.iter().map(|c| gone(&c.service)).collect::<Vec<_>>(), "deleted");
    check_empty(&mut tables, "deleted");
}

/// An agent that is killed at any write leaves maps that the next one completes, and that serve meanwhile.
#[test]
fn every_kill_point_is_adopted() {
    let mut kill_points = 0;
    for seed in 0..12 {
        let mut rng = Rng::new(seed + 1000);
        let mut cluster = Cluster::new(3, 6);
        cluster.fill(&mut rng);
        let mut tables = small(Tables::new(MemStore::new(SMALL)));
        node_addresses(&mut tables, &cluster);
        settle(&mut tables, &cluster.wanted().into_values().collect::<Vec<_>>(), "first");
        for step in 0..3 {
            let before = cluster.wanted();
            for _ in 0..2 {
                cluster.step(&mut rng);
            }
            let changes = cluster.changes(&before);
            let base = tables.store().clone();
            let start = base.writes();
            node_addresses(&mut tables, &cluster);
            settle(&mut tables, &changes, "unharmed");
            tables.collect().expect("nothing fails");
            let writes = tables.store().writes() - start;
            for kill in 0..writes {
                let context = format!("seed {seed} step {step} killed after {kill} of {writes} writes");
                kill_points += 1;
                let mut victim = small(Tables::adopt(base.clone()).expect("nothing fails").0);
                // It knows its Services, as the one that was not harmed did.
                settle(&mut victim, &before.values().cloned().collect::<Vec<_>>(), &context);
                victim.store_mut().kill_after(kill);
                let _killed = victim.set_link_addresses(&cluster.node_addresses, &[], &[]);
                for change in &changes {
                    let _killed = victim.apply(change);
                }
                let _killed = victim.collect();

                let mut store = victim.into_store();
                store.restart();
                let mut next = small(Tables::adopt(store).expect("nothing fails").0);
                node_addresses(&mut next, &cluster);
                settle(&mut next, &cluster.wanted().into_values().collect::<Vec<_>>(), &context);
                next.prune(&cluster.names()).expect("nothing fails");
                check(&next, &cluster.state(), &context);
                let all: Vec<ServiceChange> = cluster.names().iter().map(gone).collect();
                settle(&mut next, &all, &context);
                check_empty(&mut next, &context);
            }
        }
    }
    assert!(kill_points > 500, "only {kill_points} kill points were tried");
}

/// What disappeared while no agent ran goes with the prune, and only then.
#[test]
fn prune_deletes_what_nobody_claims() {
    for seed in 0..10 {
        let mut rng = Rng::new(seed + 2000);
        let mut cluster = Cluster::new(6, 6);
        cluster.fill(&mut rng);
        let mut tables = small(Tables::new(MemStore::new(SMALL)));
        node_addresses(&mut tables, &cluster);
        settle(&mut tables, &cluster.wanted().into_values().collect::<Vec<_>>(), "");
        let full = cluster.state();

        let (tables, adopted) = Tables::adopt(tables.into_store()).unwrap();
        let mut tables = small(tables);
        assert_eq!(adopted.broken_frontends + adopted.unfinished_sets + adopted.stale_ranges, 0);
        let mut unnamed = full.clone();
        for f in &mut unnamed.frontends {
            (f.service, f.port_name) = (None, None);
            f.backends.iter_mut().chain(&mut f.draining).for_each(|b| b.zone = None);
        }
        check(&tables, &unnamed, "adopted maps serve as before");
        let one = cluster.wanted().into_values().next().unwrap();
        tables.apply(&one).unwrap();
        assert_eq!(dumped(&tables).frontends.len(), full.frontends.len(), "nothing is deleted before the prune");
        tables.prune(&HashSet::from([one.service.clone()])).unwrap();
        check(&tables, &State::new("node".into(), one.frontends.clone(), Vec::new()), "pruned");
        tables.apply(&gone(&one.service)).unwrap();
        check_empty(&mut tables, "pruned");
    }
}

/// A hash with few values: ports and sets collide all the time.
struct Weak;

impl Identify for Weak {
    fn identify(&self, bytes: &[u8]) -> u64 {
        1 + bytes.iter().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(*byte))) % 61
    }
}

#[test]
fn colliding_identities_get_out_of_each_others_way() {
    for seed in 0..20 {
        let context = format!("seed {seed}");
        let mut rng = Rng::new(seed);
        let mut cluster = Cluster::new(8, 6);
        let mut tables = small(Tables::new(MemStore::new(SMALL))).with_hash(Weak);
        let mut before = BTreeMap::new();
        for _ in 0..20 {
            cluster.step(&mut rng);
            node_addresses(&mut tables, &cluster);
            settle(&mut tables, &cluster.changes(&before), &context);
            before = cluster.wanted();
            check(&tables, &cluster.state(), &context);
            let sets = tables.names().sets;
            let identities: HashSet<u64> = sets.iter().map(|set| set.identity).collect();
            assert_eq!(identities.len(), sets.len(), "{context}: two sets have one identity");
        }
        tables = small(Tables::adopt(tables.into_store()).unwrap().0).with_hash(Weak);
        settle(&mut tables, &cluster.wanted().into_values().collect::<Vec<_>>(), &context);
        settle(&mut tables, &cluster.wanted().into_values().collect::<Vec<_>>(), &context);
        tables.prune(&cluster.names()).unwrap();
        check(&tables, &cluster.state(), &context);
    }
}
