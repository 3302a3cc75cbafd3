//! A node's own connection to a backend, from the very address and port that a translated connection from outside bears:
//! whichever came first, both live, and each hears its own answers.

use std::net::{IpAddr, SocketAddr};

use lb_lab::{
    Host, LabConfig, Network, Peer,
    peer::{Open, Ping, Seen, Transport},
};

use crate::{
    cell::{Backend, Call, Cell, Client, Family, Mode, NodeId, Policy, Port, Ranges, Target, Variant},
    oracle::{Expected, expected},
    world::{TARGET_PORT, World},
};

/// How often both are used in turn.
const TURNS: usize = 5;
/// Source ports of the clients outside; each client has its own.
const FIRST_PORT: u16 = 20_000;

#[test]
fn host_gw() {
    check(LabConfig { rp_filter: 1, ..LabConfig::default() });
}

#[test]
fn vxlan() {
    check(LabConfig { network: Network::Vxlan, ..LabConfig::default() });
}

/// A connection of the node itself from a port that is a NodePort of it, as masquerading takes one now and then: its
/// answers come without a flow of ours, and are the node's.
#[test]
fn from_the_port_of_a_node_port() {
    // Masquerading would take another port.
    let world = World::new(LabConfig { masquerade: false, ..LabConfig::default() }, Mode::Packets);
    let service = Variant { backends: &[Backend::PodB], policy: Policy::Cluster, ranges: Ranges::None };
    let (client, target, port, call) = (Client::Outside, Target::NodePort(NodeId::A), Port::Service, Call::Tcp);
    let mut report = Vec::new();
    for family in Family::ALL {
        let cell = Cell { client, target, port, call, family, service };
        let node_port = world.destination(&cell);
        for backend in [Backend::PodA, Backend::PodB, Backend::HostB] {
            let from = SocketAddr::new(any(family), node_port.port());
            let own = |world: &World| {
                let mut direct = own(world, call, from, backend, family)?;
                for _ in 0..TURNS {
                    direct.ping()?;
                    let mut client = Talk::open(
                        world.place(client).peer().unwrap(),
                        call,
                        SocketAddr::new(any(family), 0),
                        node_port,
                    )?;
                    client.ping()?;
                }
                Ok::<_, String>(())
            };
            report.extend(own(&world).err().map(|fault| format!("{family:?}, the node to {backend:?}: {fault}")));
        }
    }
    assert!(report.is_empty(), "{}", report.join("\n"));
}

/// Clients whose source is replaced on node A, what they ask, and who answers.
const TRANSLATED: [(Client, Target, &[Backend]); 3] = [
    (Client::Outside, Target::NodePort(NodeId::A), &[Backend::PodB]),
    (Client::Outside, Target::NodePort(NodeId::A), &[Backend::HostB]),
    // To itself: it sees the gateway's address, which is also the node's own towards its pods.
    (Client::BackendA, Target::ClusterIp, &[Backend::PodA]),
];

fn check(config: LabConfig) {
    let world = World::new(config, Mode::Packets);
    let mut port = FIRST_PORT;
    let mut report = Vec::new();
    let mut clashes = 0;
    for (client, target, backends) in TRANSLATED {
        for family in Family::ALL {
            for call in [Call::Tcp, Call::Connected] {
                for node_first in [false, true] {
                    let service = Variant { backends, policy: Policy::Cluster, ranges: Ranges::None };
                    let cell = Cell { client, target, port: Port::Service, call, family, service };
                    clashes += 1;
                    port += 1;
                    if let Err(fault) = clash(&world, &cell, backends[0], port, node_first) {
                        report.push(format!("{cell}, the node's own connection first: {node_first}: {fault}"));
                    }
                }
            }
        }
    }
    eprintln!("{clashes} clashes");
    assert!(report.is_empty(), "{} of {clashes}:\n{}", report.len(), report.join("\n"));
}

/// An open socket and who it talks to.
struct Talk {
    peer: Peer,
    id: u32,
}

impl Talk {
    fn open(mut peer: Peer, call: Call, from: SocketAddr, to: SocketAddr) -> Result<Self, String> {
        let transport = if call == Call::Tcp { Transport::Tcp } else { Transport::Udp };
        let open = Open { transport, connect: true, from: Some(from), ..Open::tcp(to) };
        let id = peer.ask(open).unwrap().id.map_err(|failure| format!("{from} to {to}: {failure}"))?;
        Ok(Self { peer, id })
    }

    fn ping(&mut self) -> Result<Seen, String> {
        let exchange = self.peer.ask(Ping::new(self.id)).unwrap();
        exchange.result.map_err(|failure| format!("{:?} to {:?}: {failure}", exchange.local, exchange.peer))
    }
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => [0, 0, 0, 0].into(),
        Family::V6 => [0; 16].into(),
    }
}

/// A connection of node A to a backend, past all Services.
fn own(world: &World, call: Call, from: SocketAddr, backend: Backend, family: Family) -> Result<Talk, String> {
    let to = SocketAddr::new(world.backend_address(backend, family), TARGET_PORT);
    Talk::open(world.node(NodeId::A).peer().unwrap(), call, from, to)
}

fn clash(world: &World, cell: &Cell, backend: Backend, port: u16, node_first: bool) -> Result<(), String> {
    let any = any(cell.family);
    let client = |world: &World| {
        let peer = world.place(cell.client).peer().unwrap();
        Talk::open(peer, cell.call, SocketAddr::new(any, port), world.destination(cell))
    };
    let own = |world: &World, from| own(world, cell.call, from, backend, cell.family);
    let (mut translated, mut direct, bears) = if node_first {
        // Ports are kept where nothing is in the way, so this is where the clash will be.
        let Expected::Answer(seen) = expected(world.setup, cell) else { unreachable!("{cell}") };
        let bears = SocketAddr::new(world.source(seen[0].1, cell.client, cell.family), port);
        let mut direct = own(world, bears)?;
        direct.ping()?;
        (client(world)?, direct, bears)
    } else {
        let mut translated = client(world)?;
        let bears = translated.ping()?.client;
        // What stands for clients towards other nodes' pods is an address that the node itself never takes there, unless
        // a process binds to it on purpose; so the same port is all that they have in common.
        let from = if backend == Backend::PodB { SocketAddr::new(any, bears.port()) } else { bears };
        (translated, own(world, from)?, bears)
    };
    let (first, own_first) = (translated.ping()?, direct.ping()?);
    for _ in 0..TURNS {
        let (seen, own) = (translated.ping()?, direct.ping()?);
        if seen != (Seen { token: seen.token, ..first.clone() }) || seen.name != backend.name() {
            return Err(format!("the client's connection changed: {first:?} became {seen:?}"));
        }
        if own != (Seen { token: own.token, ..own_first.clone() }) || own.name != backend.name() {
            return Err(format!("the node's connection changed: {own_first:?} became {own:?}"));
        }
        if seen.client == own.client {
            return Err(format!("one server sees both as {bears}"));
        }
    }
    Ok(())
}
