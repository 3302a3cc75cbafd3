//! The table of call forms: v4-mapped sockets, and UDP sockets that live longer than a datagram and than a backend.

use std::collections::BTreeMap;

use lb_lab::{
    Host, LabConfig, Peer,
    peer::{Big, Exchange, Open, Ping, UdpAsk},
};

use crate::{
    rules::{Call, Client, Manner, Mode, PATIENT_MS, Path, SHORT_MS},
    world::{Sample, VIPS, World, at, manifest, sample_service},
};

/// A JVM's sockets are IPv6 ones that speak IPv4; each call form has a hook of its own.
#[test]
fn mapped_sockets_in_all_call_forms() {
    for mode in Mode::ALL {
        let mut world = World::new(LabConfig::default());
        let sample = Sample::start(&world.lab, &[80]);
        let pod = world.node("raspi002").add_pod("jvm").unwrap();
        world.start("raspi002", mode.flags());
        world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
        let [vip, _] = VIPS;
        for client in [Client::Pod(&pod), Client::Node(world.node("raspi002"))] {
            for call in Call::ALL {
                let manner = match client.path(mode, call) {
                    Path::None => Manner { mapped: true, ..Manner::in_vain() },
                    Path::Socket | Path::Packet => Manner { mapped: true, ..Manner::times(100) },
                };
                let answers = call.ask(client.place(), at(vip), manner);
                if client.path(mode, call) == Path::None {
                    assert!(answers.one().result.is_err(), "{call:?} of {} in {mode:?}", client.place().name());
                    continue;
                }
                assert!(answers.all().iter().all(|seen| client.is_seen_as(seen.client.ip())), "{answers:?}");
                assert_eq!(answers.names().len(), 3, "{call:?}: {:?}", answers.names());
                call.assert_shows(&answers, at(vip));
            }
            if client.path(mode, Call::Tcp) != Path::None {
                let echoed = client.place().ask(Big { mapped: true, ..Big::new(at(vip), 1 << 18) }).unwrap();
                assert!(echoed.result.is_ok(), "{echoed:?}");
            }
        }
    }
}

/// QUIC, DTLS and TFTP break when the datagrams of one socket go to several backends.
#[test]
fn an_unconnected_socket_keeps_its_backend() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    for client in [Client::Pod(&pod), Client::Node(world.node("raspi002"))] {
        for vip in VIPS {
            let mut chosen = BTreeMap::new();
            // The chance that forty random choices miss one of three backends is below 1e-6.
            for _ in 0..40 {
                let ask = UdpAsk { count: 25, fresh: false, timeout_ms: PATIENT_MS, ..UdpAsk::to(at(vip)) };
                let names = client.place().ask(ask).unwrap().names();
                assert_eq!(names.values().collect::<Vec<_>>(), [&25], "one socket was answered by {names:?}");
                *chosen.entry(names.into_keys().next()).or_insert(0) += 1;
            }
            assert_eq!(chosen.len(), 3, "{chosen:?}");
        }
    }
}

/// Whichever path a long-lived UDP socket takes, it leaves a backend that goes with its next datagram, and a backend
/// that comes is no reason to change.
#[test]
fn a_udp_socket_leaves_a_backend_that_goes() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pods = ["raspi002", "raspi003"].map(|node| world.node(node).add_pod(&format!("client-{node}")).unwrap());
    world.start("raspi002", Mode::Both.flags());
    world.start("raspi003", Mode::Packet.flags());
    let clients = [
        (Client::Pod(&pods[0]), Mode::Both, Call::Connected, Path::Packet),
        (Client::Pod(&pods[0]), Mode::Both, Call::Unconnected, Path::Socket),
        (Client::Pod(&pods[1]), Mode::Packet, Call::Unconnected, Path::Packet),
        (Client::Node(world.node("raspi002")), Mode::Both, Call::Unconnected, Path::Socket),
    ];
    for (client, mode, call, path) in clients {
        assert_eq!(client.path(mode, call), path);
        for vip in VIPS {
            let what = format!("{} {call:?} to {vip}", client.place().name());
            let all = manifest(&sample_service(), &sample.all());
            world.put("sample", &[&all]);
            let mut peer = client.place().peer().unwrap();
            let open = Open { connect: call == Call::Connected, ..Open::udp(at(vip)) };
            let id = peer.ask(open).unwrap().id.unwrap();
            let first = same_name(&mut peer, id, &what);

            world.put("sample", &[&manifest(&sample_service(), &sample.without(&first))]);
            let second = same_name(&mut peer, id, &what);
            assert_ne!(second, first, "{what}");

            world.put("sample", &[&all]);
            assert_eq!(same_name(&mut peer, id, &what), second, "{what}: it changed though its backend is there");
        }
    }
}

/// Who answers several datagrams, and the first at once; the application sees the frontend only.
fn same_name(peer: &mut Peer, id: u32, what: &str) -> String {
    let answers: Vec<Exchange> =
        (0..5).map(|_| peer.ask(Ping { timeout_ms: PATIENT_MS, ..Ping::new(id) }).unwrap()).collect();
    let names: Vec<String> = answers
        .iter()
        .map(|exchange| match &exchange.result {
            Ok(seen) => seen.name.clone(),
            Err(failure) => panic!("{what}: {failure}: {answers:?}"),
        })
        .collect();
    assert!(names.iter().all(|name| *name == names[0]), "{what}: {names:?}");
    for exchange in &answers {
        let shown = exchange.peer.or(exchange.from).unwrap();
        assert!(VIPS.map(at).contains(&shown), "{what} shows {shown}");
    }
    names[0].clone()
}

/// A port that the Service does not have is nobody's: the socket is left alone, and no backend is asked.
#[test]
fn other_ports_of_the_address_are_left_alone() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80, 9]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    for client in [Client::Pod(&pod), Client::Node(world.node("raspi002"))] {
        for vip in VIPS {
            for call in Call::ALL {
                let mut to = at(vip);
                to.set_port(9);
                let answers = call.ask(client.place(), to, Manner { timeout_ms: SHORT_MS, ..Manner::in_vain() });
                assert!(answers.one().result.is_err(), "{} {call:?} to {to}: {answers:?}", client.place().name());
            }
        }
    }
}
