//! Floods from many source ports against open connections, busy ones and idle ones: the table of flows is full many
//! times over, and who is connected stays so, with the same backend.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
    time::Duration,
};

use lb_lab::{
    Agent, Folder, Host, Lab, LabConfig, Peer, Place, Pod,
    objects::{self, Endpoint, Port, Service},
    peer::{Hold, Open, Ping},
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};

use crate::world::{BERRYLB, counter};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 3, 1);
const PORT: u16 = 80;
/// A port whose backends do not listen.
const VOID: u16 = 9;
const NODE_PORT: u16 = 32000;
const VOID_NODE_PORT: u16 = 32001;
/// Packets of a flood: several times what all tables of flows hold by default.
const FLOOD: u32 = 60_000;
/// Longest pause between two answers on a busy connection. The flood takes all of this machine's processors.
const GAP_LIMIT: Duration = Duration::from_secs(2);

struct World {
    agents: Vec<Agent>,
    _servers: Vec<Peer>,
    _backends: [Pod; 2],
    client: Pod,
    attacker: Pod,
    lab: Lab,
}

impl World {
    fn new() -> Self {
        let nodes = vec!["raspi001".into(), "raspi002".into()];
        let lab = Lab::new(LabConfig { nodes, ..LabConfig::default() }).unwrap();
        let [first, second] = lab.nodes() else { unreachable!("two nodes") };
        let backends = [first.add_pod("backend-1").unwrap(), second.add_pod("backend-2").unwrap()];
        let servers = backends.each_ref().map(|pod| pod.serve(&[PORT]).unwrap());
        let (client, attacker) = (first.add_pod("client").unwrap(), first.add_pod("attacker").unwrap());
        let folder = Folder::create(&lab.dir().join("objects")).unwrap();
        folder.put("nodes", &[&objects::nodes(&lab)]).unwrap();
        let port = |port, node_port| Port { node_port: Some(node_port), ..port };
        let ports = [
            port(Port::tcp("tcp", PORT, PORT), NODE_PORT),
            port(Port::udp("udp", PORT, PORT), NODE_PORT),
            port(Port::udp("void", VOID, VOID), VOID_NODE_PORT),
        ];
        let service = Service { kind: "NodePort", ..Service::new("flooded", &[VIP.into()], &ports) };
        let slice = service.slice(&backends.each_ref().map(Endpoint::v4));
        folder.put("flooded", &[&service, &slice]).unwrap();
        let start = |node| Agent::start(node, Path::new(BERRYLB), folder.path(), &["--socket-lb", "off"]).unwrap();
        let agents = lab.nodes().iter().map(start).collect();
        Self { agents, _servers: servers.into(), _backends: backends, client, attacker, lab }
    }

    fn node_port(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.lab.nodes()[0].addresses().v4.addr(), port)
    }
}

#[test]
fn of_syns_from_a_pod() {
    check(Flood::Syns { answered: false }, Attacker::Pod);
}

#[test]
fn of_answered_syns_from_a_pod() {
    check(Flood::Syns { answered: true }, Attacker::Pod);
}

#[test]
fn of_datagrams_from_a_pod() {
    check(Flood::Datagrams, Attacker::Pod);
}

#[test]
fn of_syns_from_outside() {
    check(Flood::Syns { answered: false }, Attacker::Outside);
}

#[test]
fn of_answered_syns_from_outside() {
    check(Flood::Syns { answered: true }, Attacker::Outside);
}

#[test]
fn of_datagrams_from_outside() {
    check(Flood::Datagrams, Attacker::Outside);
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flood {
    /// Each from an address and port of its own. Answered: the answers reach the attacker, who ignores them; otherwise
    /// nobody has these addresses.
    Syns { answered: bool },
    /// Each from a port of its own, to backends that do not listen.
    Datagrams,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Attacker {
    Pod,
    Outside,
}

impl Attacker {
    fn place(self, world: &World) -> &Place {
        match self {
            Self::Pod => world.attacker.place(),
            Self::Outside => world.lab.outside().place(),
        }
    }

    fn aim(self, world: &World, flood: Flood) -> SocketAddrV4 {
        match (self, flood) {
            (Self::Pod, Flood::Syns { .. }) => SocketAddrV4::new(VIP, PORT),
            (Self::Pod, Flood::Datagrams) => SocketAddrV4::new(VIP, VOID),
            (Self::Outside, Flood::Syns { .. }) => world.node_port(NODE_PORT),
            (Self::Outside, Flood::Datagrams) => world.node_port(VOID_NODE_PORT),
        }
    }

    /// One of the hundred addresses that SYNs come from.
    fn source(self, number: u32) -> Ipv4Addr {
        let last = 100 + (number % 100) as u8;
        match self {
            Self::Pod => Ipv4Addr::new(10, 244, 0, last),
            Self::Outside => Ipv4Addr::new(192, 168, 178, last),
        }
    }

    /// Lets the attacker's machine have these addresses, and hear no answer.
    fn own_sources(self, world: &World) {
        let place = self.place(world);
        let addresses: String =
            (0..100).map(|number| format!("address add {}/32 dev lo\n", self.source(number))).collect();
        place.command("ip").args(["-batch", "-"]).input(addresses).ok().unwrap();
        let rule = "table ip deaf { chain input { type filter hook input priority 0; tcp flags & (syn | ack) == syn | ack \
                    ip daddr & 0.0.0.255 >= 0.0.0.100 ip daddr & 0.0.0.255 < 0.0.0.200 drop; }; }";
        place.command("nft").args(["-f", "-"]).input(rule).ok().unwrap();
    }
}

/// A source port for packet `number`, none that the clients here use.
fn port(number: u32) -> u16 {
    1024 + (number / 3 % 30_000) as u16
}

fn check(flood: Flood, attacker: Attacker) {
    let world = World::new();
    let clients = [
        ("a pod", world.client.place(), SocketAddr::from((VIP, PORT))),
        ("outside", world.lab.outside().place(), world.node_port(NODE_PORT).into()),
    ];
    let mut idle = Vec::new();
    let mut busy = Vec::new();
    for (what, place, to) in &clients {
        for open in [Open::tcp(*to), Open { connect: true, ..Open::udp(*to) }] {
            // As many as to find both backends.
            for _ in 0..8 {
                let mut peer = place.peer().unwrap();
                let id = peer.ask(open.clone()).unwrap().id.unwrap();
                let seen = peer.ask(Ping::new(id)).unwrap().result.unwrap();
                // Once more, so that no table takes it for a beginning.
                peer.ask(Ping::new(id)).unwrap().result.unwrap();
                idle.push((format!("{what} {:?}", open.transport), peer, id, seen));
            }
            let hold = Hold { open, interval_ms: 20, duration_ms: 120_000, timeout_ms: 5_000 };
            busy.push((*what, place.begin(hold).unwrap()));
        }
    }
    if flood == (Flood::Syns { answered: true }) {
        attacker.own_sources(&world);
    }
    let flows = counter(&world.agents[0], "packet_flows");
    let to = attacker.aim(&world, flood);
    let send = || match flood {
        Flood::Syns { .. } => send_syns(attacker, to),
        Flood::Datagrams => send_datagrams(to),
    };
    attacker
        .place(&world)
        .netns()
        .enter(|| {
            send();
            Ok(())
        })
        .unwrap();
    let flows = counter(&world.agents[0], "packet_flows") - flows;
    assert!(flows > u64::from(FLOOD / 10 * 9), "the flood made {flows} flows only");

    let mut report = Vec::new();
    for (what, mut peer, id, before) in idle {
        match peer.ask(Ping::new(id)).unwrap().result {
            Ok(after) if after.name == before.name && after.client == before.client => {}
            other => report.push(format!("idle, {what}: {before:?} became {other:?}")),
        }
    }
    for (what, hold) in busy {
        let held = hold.stop().unwrap();
        let gap = Duration::from_micros(held.longest_gap_micros);
        if !held.failures.is_empty() || held.names.len() != 1 || gap > GAP_LIMIT {
            report.push(format!("busy, {what}: {held:?}"));
        }
    }
    for (node, agent) in world.lab.nodes().iter().zip(&world.agents) {
        if !report.is_empty() {
            report.push(format!("counters of {}:\n{}", node.name(), agent.command(&["counters"]).ok().unwrap()));
        }
    }
    assert!(report.is_empty(), "\n{}", report.join("\n"));
}

fn send_syns(attacker: Attacker, to: SocketAddrV4) {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
    for number in 0..FLOOD {
        let packet = syn(SocketAddrV4::new(attacker.source(number), port(number)), to, number);
        sendto(raw.as_raw_fd(), &packet, &SockaddrIn::from(to), MsgFlags::empty()).unwrap();
    }
}

fn send_datagrams(to: SocketAddrV4) {
    for number in 0..FLOOD {
        // A port may be that of a client here.
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 1024 + (number % 60_000) as u16)) {
            socket.send_to(b"1", to).unwrap();
        }
    }
}

/// A SYN with its IPv4 header; the kernel adds length, identification and checksum to that (raw(7)).
fn syn(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> Vec<u8> {
    const TTL: u8 = 64;
    const TCP: u8 = 6;
    const SYN: u8 = 2;
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend([0; 4]);
    // Header of five words; window; checksum; urgent pointer.
    segment.extend([5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [addresses.as_slice(), &[0, TCP, 0, 20]].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2)).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&(!sum as u16).to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, TTL, TCP, 0, 0];
    packet.extend(addresses);
    packet.extend(segment);
    packet
}
