//! What a packet costs in the kernel: mean time of a program's run above that of an empty program, by kind of packet,
//! with 10,000 services in the table. All kinds and the empty program take turns in one process, so that what else the
//! machine does falls on all alike; the table shows the median and the 10th and 90th percentile over the rounds.
//!
//! BERRYLB_PERF_KIND leaves only the kinds whose names hold its text, and BERRYLB_PERF_RUNS sets the runs in a turn.
//! It fails only where a number is far out of reach of noise: the budgets are read, not enforced, here.

mod bpf_packets_support;

use std::os::fd::AsFd as _;

use bpf_packets_support::{
    Kernel, netns,
    raw::{empty_classifier, test_run},
    tables::now,
};
use lb_common::{
    abi::{
        Addr, Backend, Port, ServiceKey, ServiceRef, ServiceState, StateWord, Tuple, action, frontend, map, proto,
        role, scope,
    },
    datapath::FlowTable,
    testing::{Contents, DEV_CLIENT, FlowSpec, Hook, Net, PacketSpec, World, pair},
};

/// Services in the table.
const SERVICES: u32 = 10_000;
/// Index of the first of the services that are measured.
const MEASURED: u32 = 20_000;

/// Turns that every kind takes, and runs in each: so short that most turns are not interrupted.
const ROUNDS: usize = 301;
const RUNS: u32 = 1_000;

/// Above this a kind is broken rather than slow, in nanoseconds.
const FAR_OUT: f64 = 2_000.0;

struct Kind {
    name: &'static str,
    hook: Hook,
    packet: PacketSpec,
    /// Times above the empty program's of the same round, in nanoseconds.
    nanos: Vec<f64>,
}

#[test]
fn nanoseconds_per_packet() {
    let (empty, kinds) = netns::in_node(measure);
    eprintln!("\nnanoseconds per packet above an empty program ({empty:.1} ns), {SERVICES} services");
    eprintln!("{:<58} {:>8} {:>8} {:>8}", "percentile", "50", "10", "90");
    for mut kind in kinds {
        kind.nanos.sort_by(f64::total_cmp);
        let [low, median, high] = [ROUNDS / 10, ROUNDS / 2, ROUNDS - ROUNDS / 10].map(|at| kind.nanos[at]);
        eprintln!("{:<58} {median:>8.1} {low:>8.1} {high:>8.1}", kind.name);
        assert!(median < FAR_OUT, "{} takes {median} ns", kind.name);
        assert!(median > 0.0, "{} takes no time, so it was not measured", kind.name);
    }
}

fn measure() -> (f64, Vec<Kind>) {
    let kernel = prepare();
    let empty = empty_classifier().expect("an empty program loads");
    let only = std::env::var("BERRYLB_PERF_KIND").unwrap_or_default();
    let mut kinds: Vec<Kind> = kinds().into_iter().filter(|kind| kind.name.contains(&only)).collect();
    assert!(!kinds.is_empty(), "no kind of packet has `{only}` in its name");
    let runs =
        std::env::var("BERRYLB_PERF_RUNS").map_or(RUNS, |runs| runs.parse().expect("BERRYLB_PERF_RUNS is a number"));
    let mut base = Vec::new();
    let frame = kinds[0].packet.build();
    for round in 0..=ROUNDS {
        let nothing = f64::from(test_run(empty.as_fd(), &frame, 0, runs).expect("a test run").nanos);
        for kind in &mut kinds {
            let run = test_run(kernel.program(kind.hook), &kind.packet.build(), kind.hook.ifindex(), runs);
            let nanos = f64::from(run.expect("a test run").nanos);
            // The first round warms up.
            if round > 0 {
                kind.nanos.push(nanos - nothing);
            }
        }
        base.push(nothing);
    }
    base.sort_by(f64::total_cmp);
    (base[ROUNDS / 2], kinds)
}

/// A test run repeats on the bytes that the run before it left. So what is to be measured again and again must lead
/// back to itself: two frontends are each other's backend, and a reply's two names likewise.
fn prepare() -> Kernel {
    let sizes = [
        (map::SERVICES, 4 * SERVICES),
        (map::SVC_STATE, 4 * SERVICES),
        (map::SLOTS, 4 * SERVICES),
        (map::BACKENDS, 4 * SERVICES),
        (map::SVC_COUNTERS, 4 * SERVICES),
        (map::FLOWS, 65_536),
        (map::EMBRYOS, 65_536),
    ];
    let mut kernel = Kernel::with_sizes(&sizes);
    let mut contents = World::tcp(Net::V4).redirect().contents(now());
    for index in 0..SERVICES {
        let [_, b, c, d] = (100 + index).to_be_bytes();
        service(&mut contents, 100 + index, Addr::v4([172, b, c, d]), 80, proto::TCP, Net::V4.remote(), 80);
    }
    for net in Net::BOTH {
        for proto in [proto::TCP, proto::UDP] {
            let base = MEASURED + 10 * u32::from(proto) + if net.v4 { 0 } else { 5 };
            service(&mut contents, base, net.vip(), 9000, proto, net.other_vip(), 9001);
            service(&mut contents, base + 1, net.other_vip(), 9001, proto, net.vip(), 9000);
            let there = net.from_client(proto, net.vip(), 9000);
            let back = net.from_client(proto, net.other_vip(), 9001);
            for (key, to, index) in [(there, back, base), (back, there, base + 1)] {
                flow(&mut contents, key, to, index, role::FORWARD);
            }
            // Replies: the same, the other way round, on ports of their own.
            let answer = |tuple: Tuple| {
                let mut tuple = tuple.reversed();
                tuple.dport = Port::new(40_001);
                tuple
            };
            for (key, to) in [(answer(there), answer(back)), (answer(back), answer(there))] {
                flow(&mut contents, key, to, base, 0);
            }
        }
    }
    kernel.tables.reset(&contents);
    kernel
}

fn service(contents: &mut Contents, index: u32, addr: Addr, port: u16, proto: u8, backend: Addr, to_port: u16) {
    let key = ServiceKey { addr, port: Port::new(port), proto, scope: scope::INTERNAL };
    contents.services.push((key, ServiceRef::new(key, index, frontend::CLUSTER_IP)));
    let word = StateWord::new(index, 1, action::FORWARD, 1);
    contents.states.push((index, ServiceState::new(word, u64::from(index), 0, 0, 0)));
    contents.slots.push((index, index));
    contents.backends.push((index, Backend::new(backend, Port::new(to_port), proto, u64::from(index))));
}

fn flow(contents: &mut Contents, key: Tuple, to: Tuple, index: u32, role: u8) {
    let [forward, _] = pair(key, to);
    let spec = FlowSpec { service: index, identity: index, backend: index, role, state: 2, ..forward };
    contents.flows.push((FlowTable::Flows, key, spec.flow(now())));
}

fn kinds() -> Vec<Kind> {
    let ingress = Hook::PodIngress(DEV_CLIENT);
    let packet = |net: Net, proto, dst, port| PacketSpec::new(net.from_client(proto, dst, port));
    let kind = |name, hook, packet| Kind { name, hook, packet, nanos: Vec::new() };
    let answer = |net: Net, proto| {
        let mut tuple = net.from_client(proto, net.vip(), 9000).reversed();
        tuple.dport = Port::new(40_001);
        PacketSpec::new(tuple)
    };
    let (v4, v6) = (Net::V4, Net::V6);
    vec![
        kind(
            "pod ingress: ARP, passes",
            ingress,
            packet(v4, proto::TCP, v4.remote(), 9).with(|p| p.edits.push((12, vec![8, 6]))),
        ),
        kind("pod ingress: TCP v4 to no service, passes", ingress, packet(v4, proto::TCP, v4.remote(), 9)),
        kind("pod ingress: TCP v6 to no service, passes", ingress, packet(v6, proto::TCP, v6.remote(), 9)),
        kind("pod ingress: UDP v4 to no service, passes", ingress, packet(v4, proto::UDP, v4.remote(), 9)),
        kind("pod ingress: SYN v4 to no service, passes", ingress, packet(v4, proto::TCP, v4.remote(), 9).flags(2)),
        kind("pod ingress: TCP v4 flow hit, translated", ingress, packet(v4, proto::TCP, v4.vip(), 9000)),
        kind("pod ingress: TCP v6 flow hit, translated", ingress, packet(v6, proto::TCP, v6.vip(), 9000)),
        kind("pod ingress: UDP v4 flow hit, translated", ingress, packet(v4, proto::UDP, v4.vip(), 9000)),
        kind("pod ingress: UDP v6 flow hit, translated", ingress, packet(v6, proto::UDP, v6.vip(), 9000)),
        kind("pod ingress: TCP v4 without flow, dropped", ingress, packet(v4, proto::TCP, v4.vip(), 8080)),
        kind("pod egress: TCP v4 to no flow, passes", Hook::PodEgress, packet(v4, proto::TCP, v4.remote(), 9)),
        kind("pod egress: TCP v4 reply, translated", Hook::PodEgress, answer(v4, proto::TCP)),
        kind("pod egress: TCP v6 reply, translated", Hook::PodEgress, answer(v6, proto::TCP)),
        kind("pod egress: UDP v4 reply, translated", Hook::PodEgress, answer(v4, proto::UDP)),
        kind("uplink: TCP v4 to no clusterIP, passes", Hook::Uplink, packet(v4, proto::TCP, v4.remote(), 9)),
        kind("uplink: TCP v4 to a clusterIP, dropped", Hook::Uplink, packet(v4, proto::TCP, v4.vip(), 8080)),
        kind("uplink: TCP v6 to no clusterIP, passes", Hook::Uplink, packet(v6, proto::TCP, v6.remote(), 9)),
    ]
}
