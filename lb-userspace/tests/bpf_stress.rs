//! The real programs at full rate, on every CPU, while the agent's tables change under them as fast as they can and every
//! index, id, slot and hash element is reused at once: no packet ever reaches another service's backend. Needs root and
//! the BPF object. That it can fail, the same datapath shows on the host (`lb-common/src/datapath/tests.rs`).
//!
//! Each service is its own backend, so that a test run can repeat on the packet it made: a right translation changes
//! nothing, and one to another service's backend leaves a destination that no later run takes back.

mod bpf_packets_support;

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::{Ebpf, EbpfLoader, programs::SchedClassifier};
use berrylb::{
    maps::{BpfStore, Capacities, MapStore as _, Tables, create_pinned},
    plan::state::{
        Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceChange, ServiceName,
    },
};
use bpf_packets_support::{
    Kernel,
    interrupts::Interrupts,
    object,
    raw::test_run,
    tables::{KernelTables, Plain, now},
};
use lb_common::{
    abi::{
        Addr, Backend as BackendEntry, Counter, Port, ServiceKey, ServiceRef, Tuple, addr_flag, frontend, map, program,
        proto, scope,
    },
    testing::{Hook, Net, PacketSpec, ServiceSpec, World, dissect},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Just enough for the services below, so that everything is reused all the time.
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
const PORT: u16 = 80;
/// How long the tables change.
const TIME: Duration = Duration::from_secs(4);
/// What is to happen at least while the element is recycled: how often it is, flows that are opened by it, and packets.
const RECYCLINGS: u32 = 10_000;
const RECYCLED_FLOWS: u64 = 100;
const RECYCLING_PACKETS: u64 = 100_000;
/// Timer interrupts a second on each CPU, where they are wanted.
const INTERRUPTS: u64 = 50_000;
/// Runs on one packet in one call.
const REPEAT: u32 = 500;

fn vip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + n)
}

fn name(n: u32) -> ServiceName {
    ServiceName::new("stress", &format!("svc-{n}"))
}

/// The service with itself as its backend, in a run of `weight` slots; or, with 0, its removal.
fn change(n: u32, weight: u16) -> ServiceChange {
    let backend =
        Backend { address: vip(n).into(), port: PORT, state: BackendState::Active, local: false, weight, zone: None };
    let frontend = |protocol| Frontend {
        address: vip(n).into(),
        port: PORT,
        protocol,
        scope: Scope::Internal,
        service: Some(name(n)),
        port_name: Some("".into()),
        kind: FrontendType::ClusterIp,
        action: Action::Forward,
        algorithm: Algorithm::Random,
        affinity_seconds: None,
        source_ranges: Vec::new(),
        has_source_ranges: false,
        backends: vec![backend.clone()],
        draining: Vec::new(),
    };
    let protocol = if protocol(n) == proto::TCP { Protocol::Tcp } else { Protocol::Udp };
    let frontends = if weight == 0 { Vec::new() } else { vec![frontend(protocol)] };
    ServiceChange { service: name(n), frontends }
}

/// Loads the programs over the pinned maps.
fn load(folder: &Path) -> Ebpf {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for name in map::ALL {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut bpf = loader.load(&object()).unwrap_or_else(|error| panic!("load the BPF object: {error:?}"));
    let program: &mut SchedClassifier = bpf
        .program_mut(program::POD_INGRESS)
        .and_then(|program| program.try_into().ok())
        .expect("the object has pod_ingress");
    program.load().unwrap_or_else(|error| panic!("load pod_ingress: {error:?}"));
    bpf
}

/// What the readers did.
#[derive(Default)]
struct Readers {
    stop: AtomicBool,
    runs: AtomicU64,
    foreign: AtomicU64,
}

/// Even services are TCP, odd ones UDP: a flow is kept by one rule for each.
const fn protocol(n: u32) -> u8 {
    if n.is_multiple_of(2) { proto::TCP } else { proto::UDP }
}

/// Sends packets to every service in turn; `seed` makes the source ports of this reader.
fn read(program: BorrowedFd<'_>, readers: &Readers, protocol: fn(u32) -> u8, seed: u16) {
    let mut port = seed;
    while !readers.stop.load(Ordering::Relaxed) {
        for n in 0..SERVICES {
            port = port.wrapping_add(7) | 0x4000;
            let proto = protocol(n);
            let dst = Addr::from(vip(n));
            let tuple = Tuple::new(Net::V4.client(), Port::new(port), dst, Port::new(PORT), proto);
            let run = test_run(program, &PacketSpec::new(tuple).flags(2).build(), 0, REPEAT).expect("a test run");
            readers.runs.fetch_add(u64::from(REPEAT), Ordering::Relaxed);
            // A refused packet became its own answer: a reset, or an ICMP error.
            let Ok(after) = dissect(&run.packet, 14).map(|packet| packet.tuple) else { continue };
            if after == tuple.reversed() {
                continue;
            }
            if (after.dst, after.dport) != (dst, Port::new(PORT)) {
                readers.foreign.fetch_add(1, Ordering::Relaxed);
                eprintln!("to {dst:?}, and it went to {:?} port {:?}", after.dst, after.dport);
            }
        }
    }
}

/// Changes services for a while, as fast as it goes; gives the number of changes.
fn write(tables: &mut Tables<BpfStore>) -> u32 {
    let (start, mut changes, mut x) = (Instant::now(), 0_u32, 0x9e37_79b9_7f4a_7c15_u64);
    while start.elapsed() < TIME {
        // xorshift64 (Marsaglia, 2003).
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let n = (x % u64::from(SERVICES)) as u32;
        let weight = (x >> 20) as u16 % 4;
        tables.apply(&change(n, weight)).unwrap_or_else(|error| panic!("{error}"));
        changes += 1;
    }
    changes
}

/// Stops the readers, also when the writer panics: they are waited for.
struct StopAtEnd<'a>(&'a Readers);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn stress(folder: &Path) {
    let bpf = load(folder);
    let program: &SchedClassifier =
        bpf.program(program::POD_INGRESS).and_then(|program| program.try_into().ok()).expect("pod_ingress");
    let program = program.fd().expect("a loaded program").as_fd();
    let mut tables = Tables::new(BpfStore::open(folder).unwrap_or_else(|error| panic!("{error}")));
    let readers = Readers::default();
    let cpus = thread::available_parallelism().map_or(2, usize::from);
    let changes = thread::scope(|scope| {
        // One more than there are CPUs, so that some are interrupted in the midst of a packet.
        for seed in 0..=cpus as u16 {
            let readers = &readers;
            scope.spawn(move || read(program, readers, protocol, seed * 1000));
        }
        let _readers = StopAtEnd(&readers);
        write(&mut tables)
    });
    let counters = tables.store().counters().expect("counters");
    let count = |counter: Counter| counters[counter as usize];
    let (runs, foreign) = (readers.runs.into_inner(), readers.foreign.into_inner());
    eprintln!(
        "{changes} changes under {runs} packets: {} flows opened, {} recycled elements met, {foreign} packets astray",
        count(Counter::PacketFlows),
        count(Counter::Recycled)
    );
    assert_eq!(foreign, 0, "packets went to another service's backend");
    assert_eq!(count(Counter::DropInternal), 0, "a service led nowhere");
    assert!(changes > 50 && runs > 100_000 && count(Counter::PacketFlows) > 1_000, "too little happened");
}

/// One element of the hash `services` for all services: it goes from one to the next under the eyes of its readers.
#[test]
fn a_recycled_element_of_the_services_hash_is_seen() {
    let mut kernel = Kernel::with_sizes(&[(map::SERVICES, SERVICES), (map::FLOWS, 4096), (map::EMBRYOS, 4096)]);
    let mut world = World::tcp(Net::V4);
    world.services.clear();
    world.backends.clear();
    for n in 0..SERVICES {
        world.services.push(ServiceSpec {
            index: n + 1,
            identity: u64::from(n + 1),
            frontends: Vec::new(),
            action: 0,
            slots: vec![n + 1],
            affinity_seconds: 0,
            flags: 0,
            ranges: Vec::new(),
        });
        let backend = BackendEntry::new(vip(n).into(), Port::new(PORT), proto::TCP, u64::from(n + 1));
        world.backends.push((n + 1, backend));
        // Its frontend comes and goes below.
        world.addrs.push((vip(n).into(), addr_flag::FRONTEND));
    }
    kernel.tables.reset(&world.contents(now()));
    let readers = Readers::default();
    let (program, tables) = kernel.parts(Hook::PodIngress(0));
    // A program holds an element for a nanosecond or two; only an interrupt gives the writer time to recycle it then.
    let _interrupts = Interrupts::start(INTERRUPTS).expect("perf's clock events: this test needs root");
    let changes = thread::scope(|scope| {
        for seed in 0..2 {
            let readers = &readers;
            // A SYN looks its service up each time.
            scope.spawn(move || read(program, readers, |_| proto::TCP, seed * 1000));
        }
        let _readers = StopAtEnd(&readers);
        recycle(tables, &readers)
    });
    let count = |counter: Counter| tables.counters()[counter as usize];
    let (runs, foreign) = (readers.runs.into_inner(), readers.foreign.into_inner());
    eprintln!(
        "{changes} recyclings under {runs} packets: {} flows opened, {} recycled elements met, {foreign} packets astray",
        count(Counter::PacketFlows),
        count(Counter::Recycled)
    );
    assert_eq!(foreign, 0, "packets went to another service's backend");
    assert_eq!(count(Counter::DropInternal), 0, "a service led nowhere");
    let flows = count(Counter::PacketFlows);
    assert!(changes > RECYCLINGS && runs > RECYCLING_PACKETS && flows > RECYCLED_FLOWS, "too little happened");
}

/// Deletes one service and inserts the next at once, which takes the element that was just freed; gives how often.
fn recycle(tables: &mut KernelTables, readers: &Readers) -> u32 {
    let (start, mut changes) = (Instant::now(), 0);
    let key =
        |n: u32| ServiceKey { addr: vip(n).into(), port: Port::new(PORT), proto: proto::TCP, scope: scope::INTERNAL };
    // On a machine that does other things as well, a fixed time brings too little now and then.
    let enough = |changes: u32, tables: &KernelTables| {
        changes > RECYCLINGS
            && readers.runs.load(Ordering::Relaxed) > RECYCLING_PACKETS
            && tables.counters()[Counter::PacketFlows as usize] > RECYCLED_FLOWS
    };
    while start.elapsed() < TIME || (start.elapsed() < 8 * TIME && !enough(changes, tables)) {
        for n in 0..SERVICES {
            let reference = ServiceRef::new(key(n), n + 1, frontend::CLUSTER_IP);
            tables.services.insert(Plain(key(n)), Plain(reference), 0).expect("room for one");
            tables.services.remove(&Plain(key(n))).expect("just inserted");
            changes += 1;
        }
    }
    changes
}

#[test]
fn no_packet_reaches_another_services_backend() {
    let dir = tempfile::Builder::new().prefix("berrylb-stress").tempdir().expect("a folder");
    let outcome = thread::scope(|scope| {
        let test = || {
            // A mount and a network namespace of this thread's own: the readers it starts share them.
            let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
            unshare(own).expect("unshare: this test needs root");
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
