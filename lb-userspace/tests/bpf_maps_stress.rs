//! BPF programs that look services up at full rate, on every CPU, while the tables change under them as fast as they can
//! and everything is reused at once: no lookup ever ends at a backend of another service. Needs root.
//!
//! Some readers dwell on each thing they have found for longer than a change takes. Tried with grace periods that do not
//! wait, they end at other services' backends some 30 times a run.

#[path = "maps_support/reader.rs"]
mod reader;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use berrylb::{
    maps::{BpfStore, Capacities, Fnv, MapStore as _, Tables, create_pinned, port_identity},
    plan::state::{
        Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceChange, ServiceName,
    },
};
use lb_common::abi::{Addr, Port, ServiceKey, proto, scope};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use reader::{Count, reader, test_run};
use zerocopy::IntoBytes as _;

/// Just enough for the services below, so that every index, id, slot and hash element is reused all the time.
const TIGHT: Capacities = Capacities {
    services: 4,
    svc_state: 5,
    slots: 24,
    backends: 12,
    flows: 16,
    embryos: 16,
    frags: 16,
    sock_revnat: 16,
    affinity: 16,
    source_ranges: 16,
    addrs: 128,
    pod_nets: 16,
    devs: 16,
};
const SERVICES: u32 = 4;

fn key(n: u32) -> ServiceKey {
    let addr = Addr::from(std::net::Ipv4Addr::from(0x0a60_0000 + n));
    ServiceKey { addr, port: Port::new(80), proto: proto::TCP, scope: scope::INTERNAL }
}

fn name(n: u32) -> ServiceName {
    ServiceName::new("stress", &format!("svc-{n}"))
}

fn change(n: u32, endpoints: std::ops::Range<u32>) -> ServiceChange {
    let backend = |at: u32| Backend {
        address: std::net::Ipv4Addr::from(0x0af4_0000 + at).into(),
        port: 80,
        state: BackendState::Active,
        local: false,
        weight: 1,
        zone: None,
    };
    let frontend = Frontend {
        address: key(n).addr.into(),
        port: 80,
        protocol: Protocol::Tcp,
        scope: Scope::Internal,
        service: Some(name(n)),
        port_name: Some("".into()),
        kind: FrontendType::ClusterIp,
        action: Action::Forward,
        algorithm: Algorithm::Random,
        affinity_seconds: None,
        source_ranges: Vec::new(),
        has_source_ranges: false,
        backends: endpoints.map(backend).collect(),
        draining: Vec::new(),
    };
    ServiceChange { service: name(n), frontends: vec![frontend] }
}

/// Changes services for a while, as fast as it goes; gives the number of changes.
fn write(tables: &mut Tables<BpfStore>, time: Duration) -> u32 {
    let (start, mut changes, mut x) = (Instant::now(), 0_u32, 88_172_645_463_325_252_u64);
    while start.elapsed() < time {
        // xorshift64 (Marsaglia, 2003).
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let n = (x % u64::from(SERVICES)) as u32;
        // All services draw from the same addresses: ids go from one to another, and only the owner differs.
        let first = (x >> 8) as u32 % 4;
        let change = if (x >> 20).is_multiple_of(3) {
            ServiceChange { service: name(n), frontends: Vec::new() }
        } else {
            change(n, first..first + 1 + (x >> 32) as u32 % 2)
        };
        tables.apply(&change).unwrap_or_else(|error| panic!("{error}"));
        changes += 1;
    }
    changes
}

/// Stops the readers, also when the writer panics: they are waited for.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn stress(folder: &Path) {
    // At full rate, and such as are interrupted for longer than a change takes.
    let programs = [(reader(folder, 0), 500), (reader(folder, 15_000), 5)];
    let store = BpfStore::open(folder).unwrap_or_else(|error| panic!("{error}"));
    let mut tables = Tables::new(store);
    let stop = AtomicBool::new(false);
    let changes = thread::scope(|scope| {
        let cpus = thread::available_parallelism().map_or(2, usize::from);
        for (program, repeat) in programs.iter().cycle().take(cpus.max(2)) {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for n in 0..SERVICES {
                        let identity = port_identity(&Fnv, &name(n), "", Protocol::Tcp);
                        let mut packet = key(n).as_bytes().to_vec();
                        packet.extend_from_slice(&key(n).tag().to_ne_bytes());
                        packet.extend_from_slice(&identity.to_ne_bytes());
                        test_run(program, &packet, *repeat);
                    }
                }
            });
        }
        let _readers = StopAtEnd(&stop);
        write(&mut tables, Duration::from_secs(4))
    });
    let counters = tables.store().counters().expect("counters");
    let count = |count: Count| counters[count as usize];
    eprintln!(
        "{changes} changes under {} lookups: {} own, {} foreign, {} misses, {} recycled, {} twice, {} empty, {} beyond",
        counters.iter().sum::<u64>(),
        count(Count::Own),
        count(Count::Foreign),
        count(Count::Miss),
        count(Count::Recycled),
        count(Count::RecycledTwice),
        count(Count::Empty),
        count(Count::Beyond)
    );
    for never in [Count::Foreign, Count::Empty, Count::Beyond] {
        assert_eq!(count(never), 0);
    }
    assert!(changes > 50 && count(Count::Own) > 100_000 && count(Count::Miss) > 0, "too little happened");
}

#[test]
fn no_program_follows_another_services_value() {
    let dir = tempfile::Builder::new().prefix("berrylb-stress").tempdir().expect("a folder");
    let outcome = thread::scope(|scope| {
        let test = || {
            unshare(CloneFlags::CLONE_NEWNS).expect("unshare: this test needs root");
            let nothing = None::<&str>;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private mounts");
            mount(Some("bpffs"), dir.path(), Some("bpf"), MsFlags::empty(), nothing).expect("a bpffs");
            let folder: PathBuf = dir.path().join("node/v4");
            fs::create_dir_all(&folder).expect("a folder");
            create_pinned(&folder, &TIGHT).expect("maps");
            stress(&folder);
        };
        scope.spawn(test).join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
