//! The tables over the kernel's own maps. Needs root.

#[expect(dead_code, unused_imports, reason = "shared with tests in memory")]
mod maps_support;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use berrylb::{
    maps::{BpfStore, Capacities, MapStore, OpenError, PodNet, Tables, create_pinned, dump},
    plan::state::{
        Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceChange, ServiceName,
        State,
    },
};
use lb_common::abi::{Addr, Counter, Dev, FlowFilter, ServiceState, StateWord, backend_state, dev_kind, map};
use maps_support::{Cluster, Rng, check, dumped, gone, node_addresses, settle, small};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const SMALL: Capacities = Capacities {
    services: 1024,
    svc_state: 256,
    slots: 2048,
    backends: 512,
    flows: 64,
    embryos: 64,
    frags: 16,
    sock_revnat: 64,
    affinity: 64,
    source_ranges: 512,
    addrs: 128,
    pod_nets: 16,
    devs: 16,
};

/// Runs a test with a folder on a bpffs that only its thread, and threads it starts, can see: it is gone with them.
fn on_bpffs(capacities: Capacities, test: impl FnOnce(&Path) + Send) {
    let dir = tempfile::Builder::new().prefix("berrylb-maps").tempdir().expect("a folder");
    let outcome = thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).expect("unshare: these tests need root");
                let nothing = None::<&str>;
                mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private mounts");
                mount(Some("bpffs"), dir.path(), Some("bpf"), MsFlags::empty(), nothing).expect("a bpffs");
                let folder: PathBuf = dir.path().join("node/v4");
                create_pinned(&folder, &capacities).expect("maps");
                test(&folder);
            })
            .join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn open(folder: &Path) -> BpfStore {
    BpfStore::open(folder).unwrap_or_else(|error| panic!("{error}"))
}

fn check_empty(tables: &mut Tables<BpfStore>) {
    tables.collect().expect("a grace period");
    tables.set_link_addresses(&[], &[], &[]).expect("deleted");
    let store = tables.store();
    assert_eq!(store.services().unwrap(), []);
    assert_eq!(store.source_ranges().unwrap(), []);
    assert_eq!(store.addrs().unwrap(), []);
    assert!((0..SMALL.svc_state).all(|index| store.state(index) == Some(ServiceState::default())));
    assert!(store.backends().unwrap().iter().all(|(_, backend)| backend.state == backend_state::GONE));
    assert!(tables.usage().iter().all(|usage| usage.used == 0), "{:?}", tables.usage());
}

/// The same sequences as over memory: changes, restarts, and in the end nothing.
#[test]
fn the_kernel_holds_what_is_wanted() {
    for seed in 0..6 {
        on_bpffs(SMALL, |folder| {
            let mut rng = Rng::new(seed);
            let mut cluster = Cluster::new(5, 8);
            let mut tables = small(Tables::new(open(folder)));
            let mut before: BTreeMap<ServiceName, ServiceChange> = BTreeMap::new();
            for step in 0..25 {
                let context = format!("seed {seed} step {step}");
                cluster.step(&mut rng);
                let mut changes = cluster.changes(&before);
                rng.shuffle(&mut changes);
                node_addresses(&mut tables, &cluster);
                settle(&mut tables, &changes, &context);
                before = cluster.wanted();
                check(&tables, &cluster.state(), &context);
                if rng.one_in(4) {
                    tables.collect().expect("a grace period");
                }
                if rng.one_in(5) {
                    drop(tables);
                    let (adopted, repaired) = Tables::adopt(open(folder)).expect("adopted");
                    assert_eq!(repaired.broken_frontends + repaired.stale_ranges, 0);
                    tables = small(adopted);
                    let all: Vec<ServiceChange> = before.values().cloned().collect();
                    let (outcome, errors) = tables.apply_all(&all);
                    assert!(errors.is_empty() && !outcome.changed(), "{context}: {outcome:?} {errors:?}");
                    tables.prune(&cluster.names()).expect("nothing to prune");
                    check(&tables, &cluster.state(), &context);
                }
                let reader = BpfStore::open_read_only(folder).expect("readable");
                let found = dump(&reader, Some(&tables.names()), "node", Vec::new()).expect("dumped");
                assert_eq!(found, dumped(&tables), "{context}: another process sees the same");
            }
            cluster.clear();
            settle(&mut tables, &cluster.changes(&before), "cleared");
            check_empty(&mut tables);
        });
    }
}

#[test]
fn a_first_state_goes_in_by_batches() {
    on_bpffs(SMALL, |folder| {
        let mut rng = Rng::new(77);
        let mut cluster = Cluster::new(12, 12);
        cluster.fill(&mut rng);
        cluster.crowd(10);
        let mut tables = small(Tables::adopt(open(folder)).expect("empty maps").0);
        node_addresses(&mut tables, &cluster);
        let changes: Vec<ServiceChange> = cluster.wanted().into_values().collect();
        let (_, errors) = tables.apply_all(&changes);
        assert!(errors.is_empty(), "{errors:?}");
        check(&tables, &cluster.state(), "first state");
        let (_, errors) = tables.apply_all(&changes.iter().map(|c| gone(&c.service)).collect::<Vec<_>>());
        assert!(errors.is_empty(), "{errors:?}");
        check_empty(&mut tables);
    });
}

fn backend(address: IpAddr, weight: u16, state: BackendState) -> Backend {
    Backend { address, port: 80, state, local: false, weight, zone: None }
}

/// A Service with one port and a cluster IP.
fn simple(n: u32, backends: Vec<Backend>, draining: Vec<Backend>, affinity: Option<u32>) -> ServiceChange {
    let service = ServiceName::new("default", &format!("simple-{n}"));
    let frontend = |scope| Frontend {
        address: IpAddr::V4((0x0a60_0000 + n).into()),
        port: 80,
        protocol: Protocol::Tcp,
        scope,
        service: Some(service.clone()),
        port_name: Some("http".into()),
        kind: FrontendType::ClusterIp,
        action: if scope == Scope::Internal { Action::Forward } else { Action::Drop },
        algorithm: Algorithm::Random,
        affinity_seconds: affinity,
        source_ranges: Vec::new(),
        has_source_ranges: false,
        backends: if scope == Scope::Internal { backends.clone() } else { Vec::new() },
        draining: if scope == Scope::Internal { draining.clone() } else { Vec::new() },
    };
    let frontends = vec![frontend(Scope::External), frontend(Scope::Internal)];
    ServiceChange { service: service.clone(), frontends }
}

fn active(first: u32, count: u32) -> Vec<Backend> {
    (first..first + count).map(|n| backend(IpAddr::V4(n.into()), 1, BackendState::Active)).collect()
}

/// The goal of the design: a first state of 10,000 services with 10 backends each takes milliseconds, not seconds.
#[test]
fn ten_thousand_services_at_once() {
    let (services, addrs) = (32_768, Capacities::addrs_for(32_768));
    let default = Capacities::DEFAULT;
    let capacities = Capacities { services, addrs, svc_state: 16_384, slots: 262_144, backends: 131_072, ..default };
    on_bpffs(capacities, |folder| {
        let changes: Vec<ServiceChange> =
            (0..10_000).map(|n| simple(n, active(0x0af4_0000 + n * 10, 10), Vec::new(), None)).collect();
        let mut tables = Tables::adopt(open(folder)).expect("empty maps").0;
        let start = Instant::now();
        let (outcome, errors) = tables.apply_all(&changes);
        let first = start.elapsed();
        assert!(errors.is_empty(), "{:?}", errors.first());
        assert_eq!((outcome.backends_added, outcome.frontends_written), (100_000, 20_000));
        let start = Instant::now();
        let (outcome, _) = tables.apply_all(&changes);
        let again = start.elapsed();
        assert!(!outcome.changed());
        let start = Instant::now();
        let mut tables = Tables::adopt(open(folder)).expect("adopted").0;
        let adopt = start.elapsed();
        let start = Instant::now();
        tables.apply_all(&changes);
        let claim = start.elapsed();
        let mut one: Vec<Duration> = (0..200)
            .map(|n| {
                let change = simple(n, active(0x0af4_0000 + n * 10, 9), Vec::new(), None);
                let start = Instant::now();
                assert!(tables.apply(&change).expect("applied").changed());
                start.elapsed()
            })
            .collect();
        one.sort();
        let start = Instant::now();
        let state = dump(tables.store(), None, "", Vec::new()).expect("dumped");
        let dumped = start.elapsed();
        assert_eq!(state.frontends.len(), 20_000);
        eprintln!(
            "10,000 services with 10 backends: first state {first:?}, the same again {again:?}, adopted {adopt:?} and \
             claimed {claim:?}, one endpoint less {:?} (p50) {:?} (p99), dump {dumped:?}",
            one[100], one[198]
        );
        assert!(first < Duration::from_secs(5), "{first:?}");
    });
}

/// A word that is the same before and after names a run that was whole all the time between, at full write rate.
#[test]
fn a_committed_run_is_whole_for_who_reads_the_memory() {
    on_bpffs(SMALL, |folder| {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tables = Tables::new(open(folder));
        // Every backend's address tells its generation of the Service, and every such set has its own size.
        let change = |round: u32| simple(1, active(0x0a00_0000 + (round % 7) * 256, 3 + round % 7), Vec::new(), None);
        tables.apply(&change(0)).expect("applied");
        let folder = folder.to_owned();
        let reader = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let store = BpfStore::open_read_only(&folder).expect("readable");
                let index = store.services().expect("services")[0].1.index();
                let (mut whole, mut torn, mut words) = (0_u64, 0_u64, HashSet::new());
                while !stop.load(Ordering::Relaxed) {
                    let word: StateWord = store.state(index).expect("in the map").word;
                    let ids = store.slots(word.offset(), u32::from(word.count())).expect("in the map");
                    let backends: Vec<_> = ids.iter().map(|id| store.backend(*id).expect("read")).collect();
                    if store.state(index).expect("in the map").word != word {
                        torn += 1;
                        continue;
                    }
                    let rounds: HashSet<u32> = backends
                        .iter()
                        .map(|backend| u32::from_be_bytes(backend.expect("written").addr.v4_octets()) >> 8 & 7)
                        .collect();
                    assert_eq!(rounds.len(), 1, "a mixture of rounds {rounds:?} in {word:?}");
                    assert_eq!(ids.len() as u32, 3 + rounds.iter().next().expect("one"), "{word:?}");
                    words.insert(word.to_word());
                    whole += 1;
                }
                (whole, torn, words.len())
            })
        };
        let (mut rounds, start) = (0, Instant::now());
        while start.elapsed() < Duration::from_secs(2) {
            rounds += 1;
            tables.apply(&change(rounds)).expect("applied");
        }
        stop.store(true, Ordering::Relaxed);
        let (whole, torn, words) = reader.join().expect("no mixture was seen");
        eprintln!("{rounds} commits, {whole} whole reads of {words} different words, {torn} overtaken");
        assert!(whole > 100 && words > 10, "the reader saw too little: {whole} reads of {words} words");
    });
}

/// Stops the readers, also when the writer panics: they are waited for.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A dump beside a running writer shows one state or the next, whatever changes from one to the other.
#[test]
fn a_dump_never_shows_a_mixture() {
    on_bpffs(SMALL, |folder| {
        let states = [
            simple(1, active(0x0a00_0001, 4), Vec::new(), None),
            simple(
                1,
                active(0x0a00_0001, 2),
                vec![backend("10.0.0.3".parse().unwrap(), 1, BackendState::Terminating)],
                Some(7),
            ),
            simple(
                1,
                vec![
                    backend("10.0.0.3".parse().unwrap(), 3, BackendState::Active),
                    backend("10.0.0.4".parse().unwrap(), 0, BackendState::Active),
                ],
                vec![backend("10.0.0.9".parse().unwrap(), 1, BackendState::Terminating)],
                None,
            ),
            simple(1, vec![backend("10.0.0.9".parse().unwrap(), 1, BackendState::Terminating)], Vec::new(), Some(9)),
        ];
        let nameless = |change: &ServiceChange| {
            let mut frontends = change.frontends.clone();
            frontends.iter_mut().for_each(|f| (f.service, f.port_name) = (None, None));
            State::new(String::new(), frontends, Vec::new())
        };
        let wanted: Vec<State> = states.iter().map(nameless).collect();
        let stop = AtomicBool::new(false);
        let mut tables = Tables::new(open(folder));
        tables.apply(&states[0]).expect("applied");
        thread::scope(|scope| {
            let dumps = scope.spawn(|| {
                let store = BpfStore::open_read_only(folder).expect("readable");
                let mut seen = [0_u32; 4];
                while !stop.load(Ordering::Relaxed) {
                    let found = dump(&store, None, "", Vec::new()).expect("dumped");
                    let which = wanted.iter().position(|state| *state == found);
                    seen[which.unwrap_or_else(|| panic!("a mixture: {found:#?}"))] += 1;
                }
                seen
            });
            let readers = StopAtEnd(&stop);
            let mut rng = Rng::new(1);
            for _ in 0..600 {
                let change = &states[rng.below(4) as usize];
                tables.apply(change).expect("applied");
                if rng.one_in(10) {
                    tables.collect().expect("a grace period");
                }
                thread::sleep(Duration::from_micros(rng.below(4000)));
            }
            drop(readers);
            let seen = dumps.join().expect("no mixture was seen");
            eprintln!("dumps by state: {seen:?}");
            assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
        });
    });
}

#[test]
fn wrong_pins_are_named() {
    on_bpffs(SMALL, |folder| {
        let message = |error: Result<BpfStore, OpenError>| error.err().expect("refused").to_string();
        let at = |name: &str| folder.join(name);
        fs::rename(at("devs"), at("aside")).unwrap();
        let missing = message(BpfStore::open(folder));
        assert!(missing.starts_with(&format!("no map is pinned at {}", at("devs").display())), "{missing}");

        fs::rename(at("addrs"), at("devs")).unwrap();
        fs::rename(at("aside"), at("addrs")).unwrap();
        let wrong = message(BpfStore::open_read_only(folder));
        let found = format!("map addrs at {} has key size 4, wanted 16", at("addrs").display());
        assert!(wrong.starts_with(&found) && wrong.contains("berrylb cleanup"), "{wrong}");

        fs::remove_file(at("backends")).unwrap();
        create_pinned(folder, &Capacities { backends: 8, ..SMALL }).unwrap();
        let wrong = message(BpfStore::open(folder));
        assert!(wrong.contains("map svc_counters") && wrong.contains("max_entries 512, wanted 8"), "{wrong}");
    });
}

#[test]
fn full_maps_are_named_with_their_flag() {
    let tiny = Capacities { services: 3, backends: 8, slots: 8, ..SMALL };
    on_bpffs(tiny, |folder| {
        let mut tables = Tables::new(open(folder));
        tables.apply(&simple(1, active(1, 4), Vec::new(), None)).expect("there is room");
        let error = tables.apply(&simple(2, active(11, 5), Vec::new(), None)).expect_err("no room");
        let text = error.to_string();
        assert_eq!(
            text,
            "service default/simple-2 port \"http\" TCP is not updated in the datapath: map backends is full (8 entries; 5 \
             needed at once, 4 free): raise --max-backends"
        );
        let error = tables.apply(&simple(2, active(11, 4), Vec::new(), None)).expect_err("no room");
        let text = error.to_string();
        assert!(text.contains("map services is full (3 entries): raise --max-services"), "{text}");
        tables.apply(&gone(&simple(1, Vec::new(), Vec::new(), None).service)).expect("deleted");
        tables.apply(&simple(2, active(11, 4), Vec::new(), None)).expect("there is room again");
        check(
            &tables,
            &State::new("node".into(), simple(2, active(11, 4), Vec::new(), None).frontends, Vec::new()),
            "",
        );
    });
}

#[test]
fn the_other_tables_are_read_and_written() {
    on_bpffs(SMALL, |folder| {
        let mut store = open(folder);
        let dev = Dev::new(dev_kind::POD, 14, 1450, 3, Addr::v4([10, 244, 1, 1]), Addr::UNSPECIFIED);
        store.put_dev(7, dev).unwrap();
        assert_eq!(store.devs().unwrap(), [(7, dev)]);
        store.delete_dev(7).unwrap();
        store.delete_dev(7).expect("deleting what is missing is success");
        assert_eq!(store.devs().unwrap(), []);
        let net = PodNet::new(Addr::v4([10, 244, 2, 0]), 24);
        store.put_pod_net(net).unwrap();
        assert_eq!(store.pod_nets().unwrap(), [net]);
        store.delete_pod_net(net).unwrap();
        store.delete_pod_net(net).expect("deleting what is missing is success");
        assert_eq!(store.pod_nets().unwrap(), []);
        let mut config = store.config().unwrap();
        config.grace_until = 5;
        store.put_config(config).unwrap();
        assert_eq!(store.config().unwrap(), config);
        assert_eq!(store.counters().unwrap(), vec![0; Counter::ALL.len()]);
        assert_eq!(store.backend_counters().unwrap(), []);
        assert_eq!(store.flows(lb_common::datapath::FlowTable::Flows).unwrap(), []);
        assert_eq!(store.affinity().unwrap(), []);
        assert_eq!(store.sock_revnat().unwrap(), []);
    });
}

/// The formula of the budget against what the kernel says of itself (`memlock` in fdinfo, exact since Linux 6.4).
#[test]
fn memory_is_what_the_kernel_counts() {
    on_bpffs(Capacities::DEFAULT, |folder| {
        let memlock = || -> u64 {
            let maps = fs::read_dir("/proc/self/fd")
                .unwrap()
                .flatten()
                .filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("bpf-map")));
            let info = |entry: fs::DirEntry| {
                let info = fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).unwrap();
                let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).expect("memlock").trim();
                line.parse::<u64>().unwrap()
            };
            maps.map(info).sum()
        };
        let before = memlock();
        let store = open(folder);
        let counted = memlock() - before;
        // No descriptors hold `svc_state`, `slots` and `flow_filter` open; the tries and `skips` are empty.
        let filter = size_of::<FlowFilter>() as u64;
        let arrays = u64::from(Capacities::DEFAULT.svc_state) * 24 + u64::from(Capacities::DEFAULT.slots) * 8 + filter;
        let pod_nets = u64::from(Capacities::DEFAULT.pod_nets) * (40 + 20 + 4);
        let trie = u64::from(Capacities::DEFAULT.source_ranges) * 64 + pod_nets;
        let skips = u64::from(Capacities::DEFAULT.of(map::SKIPS).unwrap()) * 72;
        let cpus = aya::util::nr_cpus().unwrap() as u64;
        let formula = Capacities::DEFAULT.memory(cpus) - arrays - trie - skips;
        assert!(formula.abs_diff(counted) < 20_000, "formula {formula}, kernel {counted}");
        drop(store);
    });
}
