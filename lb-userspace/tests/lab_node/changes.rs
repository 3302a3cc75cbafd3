//! What becomes of a Service as its objects change: several ports, both protocols on one number, another Service on the
//! same address.

use lb_lab::{
    Host, LabConfig, Peer, Pod,
    objects::{Port, Service},
    peer::{Open, Ping},
};

use crate::{
    rules::{Call, Client, Manner, Mode, PATIENT_MS, Path},
    world::{PORT, Sample, VIPS, World, at, dual_stack, manifest},
};

/// Each port of a Service leads to its own target, whatever the number, and TCP and UDP of one number do not mix.
#[test]
fn several_ports_and_both_protocols_on_one() {
    let ports = [
        Port::tcp("http", PORT, 80),
        Port::udp("other-on-the-same-number", PORT, 81),
        Port::tcp("admin", 9090, 82),
        Port::udp("", 53, 80),
    ];
    for mode in [Mode::Both, Mode::Packet] {
        let mut world = World::new(LabConfig::default());
        let sample = Sample::start(&world.lab, &[80, 81, 82]);
        let pod = world.node("raspi002").add_pod("client").unwrap();
        world.start("raspi002", mode.flags());
        world.put("sample", &[&manifest(&dual_stack("many", &ports), &sample.all())]);
        for client in [Client::Pod(&pod), Client::Node(world.node("raspi002"))] {
            for vip in VIPS {
                for port in ports {
                    let calls: &[Call] =
                        if port.protocol == "TCP" { &[Call::Tcp] } else { &[Call::Connected, Call::Unconnected] };
                    for call in calls.iter().filter(|call| client.path(mode, **call) != Path::None) {
                        let mut to = at(vip);
                        to.set_port(port.port);
                        let answers = call.ask(client.place(), to, Manner::times(10));
                        for seen in answers.all() {
                            assert_eq!(seen.server.port(), port.target, "{call:?} to {to}");
                        }
                        call.assert_shows(&answers, to);
                    }
                }
            }
        }
    }
}

/// A port that is taken out of a Service is closed, the others go on; the same port put to another target moves.
#[test]
fn ports_change() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80, 81]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", &[]);
    let http = Port::tcp("http", PORT, 80);
    let states: [(&[Port], Option<u16>, Option<u16>); 4] = [
        (&[http, Port::tcp("admin", 9090, 81)], Some(80), Some(81)),
        (&[http], Some(80), None),
        (&[Port::tcp("http", PORT, 81)], Some(81), None),
        (&[Port::tcp("admin", 9090, 80)], None, Some(80)),
    ];
    for (ports, first, second) in states {
        world.put("sample", &[&manifest(&dual_stack("changing", ports), &sample.all())]);
        for client in [Client::Pod(&pod), Client::Node(world.node("raspi002"))] {
            for vip in VIPS {
                for (port, target) in [(PORT, first), (9090, second)] {
                    let mut to = at(vip);
                    to.set_port(port);
                    let manner = if target.is_some() { Manner::times(10) } else { Manner::in_vain() };
                    let answers = Call::Tcp.ask(client.place(), to, manner);
                    match target {
                        Some(target) => {
                            assert!(answers.all().iter().all(|seen| seen.server.port() == target), "{answers:?}");
                        }
                        None => assert!(answers.one().result.is_err(), "{to}: {answers:?}"),
                    }
                }
            }
        }
    }
}

/// The address of a deleted Service is another's at once: new connections and UDP sockets that live on go to the other,
/// established TCP stays where it is.
#[test]
fn another_service_takes_the_address() {
    let mut world = World::new(LabConfig::default());
    let old = world.node("raspi003").add_pod("old").unwrap();
    let new = world.node("raspi003").add_pod("new").unwrap();
    let _servers = [&old, &new].map(|pod| pod.serve(&[80]).unwrap());
    let pods = ["raspi001", "raspi002"].map(|node| world.node(node).add_pod(&format!("client-{node}")).unwrap());
    world.start("raspi001", Mode::Packet.flags());
    world.start("raspi002", Mode::Both.flags());
    let ports = [Port::tcp("tcp", PORT, 80), Port::udp("udp", PORT, 80)];
    let service = |name: &str, pod: &Pod| manifest(&dual_stack(name, &ports), &[pod]);
    world.put("first", &[&service("first", &old)]);

    let clients = [
        (Client::Pod(&pods[0]), Mode::Packet),
        (Client::Pod(&pods[1]), Mode::Both),
        (Client::Node(world.node("raspi002")), Mode::Both),
    ];
    let mut open = Vec::new();
    for (client, mode) in clients {
        for vip in VIPS {
            for call in Call::ALL {
                // A host's connected UDP socket keeps its backend by design: nothing looks at it any more.
                let stays = matches!(client, Client::Node(_)) && call == Call::Connected;
                if client.path(mode, call) != Path::None && !stays {
                    let socket = Socket::open(client, vip, call);
                    open.push((format!("{} {call:?} to {vip}", client.place().name()), call, socket));
                }
            }
        }
    }
    for (what, _, socket) in &mut open {
        assert_eq!(socket.ask(), "old", "{what}");
    }
    // In one step, and once more in two files: the older Service first keeps the address, until it goes.
    world.put("first", &[&service("second", &new)]);
    for (what, call, socket) in &mut open {
        assert_eq!(socket.ask(), if *call == Call::Tcp { "old" } else { "new" }, "{what}");
    }
    for (client, mode) in clients {
        for vip in VIPS {
            for call in Call::ALL.into_iter().filter(|call| client.path(mode, *call) != Path::None) {
                let answers = call.ask(client.place(), at(vip), Manner::times(20));
                assert_eq!(answers.names(), [("new".to_owned(), 20)].into(), "{call:?} to {vip}");
            }
        }
    }
    world.put("claimant", &[&service("third", &old)]);
    let holder = |service: &str| {
        let dump = world.agent("raspi002").dump().unwrap();
        let frontends = dump["frontends"].as_array().unwrap();
        assert!(frontends.iter().all(|frontend| frontend["service"] == service), "not all of {service}: {dump}");
    };
    holder("default/second");
    world.remove("first");
    holder("default/third");
    for (what, _, socket) in &mut open {
        assert_eq!(socket.ask(), "old", "{what}");
    }
}

/// An open socket of a peer.
struct Socket {
    peer: Peer,
    id: u32,
}

impl Socket {
    fn open(client: Client<'_>, vip: &str, call: Call) -> Self {
        let mut peer = client.place().peer().unwrap();
        let open = match call {
            Call::Tcp => Open { timeout_ms: PATIENT_MS, ..Open::tcp(at(vip)) },
            Call::Connected => Open { connect: true, ..Open::udp(at(vip)) },
            Call::Unconnected => Open::udp(at(vip)),
        };
        let id = peer.ask(open).unwrap().id.unwrap();
        Self { peer, id }
    }

    fn ask(&mut self) -> String {
        let exchange = self.peer.ask(Ping { timeout_ms: PATIENT_MS, ..Ping::new(self.id) }).unwrap();
        exchange.result.unwrap_or_else(|failure| panic!("{failure}")).name
    }
}

/// A Service whose address moves, and one that becomes headless.
#[test]
fn addresses_change() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", &[]);
    let at_ips = |ips: &[&str]| {
        let ips: Vec<_> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        manifest(&Service::new("moving", &ips, &[Port::tcp("http", PORT, 80)]), &sample.all())
    };
    let places = ["10.96.7.7", "10.111.197.69"];
    for (ips, answers) in [(&places[..1], [true, false]), (&places[1..], [false, true]), (&[], [false, false])] {
        world.put("moving", &[&at_ips(ips)]);
        for client in [Client::Pod(&pod), Client::Node(world.node("raspi002"))] {
            for (ip, answered) in places.into_iter().zip(answers) {
                let manner = if answered { Manner::times(1) } else { Manner::in_vain() };
                let asked = Call::Tcp.ask(client.place(), at(ip), manner);
                assert_eq!(asked.one().result.is_ok(), answered, "{ip} when the Service is at {ips:?}: {asked:?}");
            }
        }
    }
}
