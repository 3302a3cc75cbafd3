//! Connection tracking forgets everything, again and again, under open connections: what berrylb translates does not
//! depend on it.

use std::{
    thread,
    time::{Duration, Instant},
};

use lb_lab::{
    Host, LabConfig, Network,
    peer::{Hold, Open},
};

use crate::{
    cell::{Call, Cell, Mode, NodeId, Policy, Ranges, Target, cells},
    oracle::{Expected, expected},
    world::World,
};

/// How long connections are held.
const LENGTH: Duration = Duration::from_secs(4);
/// Between two times that everything is forgotten.
const INTERVAL: Duration = Duration::from_millis(30);
/// Between two questions on a connection.
const PING_MS: u64 = 40;
const TIMEOUT_MS: u64 = 3_000;

#[test]
fn host_gw() {
    check(LabConfig { rp_filter: 1, invalid_drop: true, bridge_netfilter: false, ..LabConfig::default() });
}

#[test]
fn vxlan() {
    check(LabConfig { network: Network::Vxlan, rp_filter: 2, invalid_drop: true, ..LabConfig::default() });
}

fn check(config: LabConfig) {
    let world = World::new(config, Mode::Packets);
    let mut holds = Vec::new();
    for cell in cells() {
        let Expected::Answer(backends) = expected(world.setup, &cell) else { continue };
        if is_of_interest(&cell) && !is_masqueraded(&cell) {
            let to = world.destination(&cell);
            let open = if cell.call == Call::Tcp { Open::tcp(to) } else { Open { connect: true, ..Open::udp(to) } };
            let duration_ms = 10 * u64::try_from(LENGTH.as_millis()).unwrap();
            let hold = Hold { open, interval_ms: PING_MS, duration_ms, timeout_ms: TIMEOUT_MS };
            holds.push((cell, backends[0].0.name(), world.place(cell.client).begin(hold).unwrap()));
        }
    }
    assert!(!holds.is_empty());
    let start = Instant::now();
    let mut flushes = 0;
    while start.elapsed() < LENGTH {
        for node in world.lab.nodes() {
            node.command("conntrack").arg("-F").ok().unwrap();
        }
        flushes += 1;
        thread::sleep(INTERVAL);
    }
    let mut report = Vec::new();
    let (connections, mut pings) = (holds.len(), 0);
    for (cell, backend, hold) in holds {
        let held = hold.stop().unwrap();
        pings += held.pings;
        if let Some((when, failure)) = held.failures.first() {
            report.push(format!("{cell} │ {failure} after {when} ms and {} answers", held.pings));
        } else if held.names.keys().ne([backend]) || held.pings < 5 {
            report.push(format!("{cell} │ {backend} was to answer, not {:?}", held.names));
        }
    }
    eprintln!("{connections} connections, {pings} pings, {flushes} times forgotten");
    for node in world.lab.nodes() {
        let dropped = node.invalid_drops().unwrap();
        if dropped > 0 {
            report.push(format!("{} dropped {dropped} packets as INVALID", node.name()));
        }
    }
    assert!(report.is_empty(), "{} of {connections} connections:\n{}", report.len(), report.join("\n"));
}

/// One backend, and targets that lead through one node and through another one.
fn is_of_interest(cell: &Cell) -> bool {
    cell.service.backends.len() == 1
        && cell.service.policy == Policy::Cluster
        && cell.service.ranges == Ranges::None
        && matches!(cell.call, Call::Tcp | Call::Connected)
        && matches!(cell.target, Target::ClusterIp | Target::NodePort(NodeId::A | NodeId::C))
}

/// Whether the lab's own netfilter rules translate this connection as well: a pod's that leaves its node for elsewhere
/// than a pod. Such a one does not outlive a flush, with or without a Service.
fn is_masqueraded(cell: &Cell) -> bool {
    let own = cell.client.node();
    let leaves = match cell.target {
        Target::NodePort(node) => Some(node) != own,
        Target::ClusterIp | Target::Loopback | Target::ExternalIp | Target::LoadBalancer => false,
    };
    let to_a_node = cell.service.backends.iter().any(|backend| !backend.is_pod() && Some(backend.node()) != own);
    cell.client.is_pod() && (leaves || to_a_node)
}
