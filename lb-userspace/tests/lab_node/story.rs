//! Points 2 to 5 and 8 of the story, in each cell of networks, modes, clients, calls and address families.

use std::net::{IpAddr, SocketAddr};

use lb_lab::{
    Host, LabConfig, Network,
    config::{SERVICE_NETWORK, SERVICE_NETWORK6},
    peer::{Failure, Step, TcpAsk},
};

use crate::{
    rules::{Call, Client, Manner, Mode, Path, assert_spread},
    world::{PORT, Sample, VIPS, World, at, manifest, sample_service},
};

/// Requests of one cell.
const REQUESTS: u32 = 3_000;

#[test]
fn host_gw_by_socket() {
    play(Network::HostGw, Mode::Socket);
}

#[test]
fn host_gw_by_packet() {
    play(Network::HostGw, Mode::Packet);
}

#[test]
fn host_gw_by_both() {
    play(Network::HostGw, Mode::Both);
}

#[test]
fn vxlan_by_socket() {
    play(Network::Vxlan, Mode::Socket);
}

#[test]
fn vxlan_by_packet() {
    play(Network::Vxlan, Mode::Packet);
}

#[test]
fn vxlan_by_both() {
    play(Network::Vxlan, Mode::Both);
}

fn play(network: Network, mode: Mode) {
    let mut world = World::new(LabConfig { network, ..LabConfig::default() });
    let sample = Sample::start(&world.lab, &[80]);
    let near = world.node("raspi002").add_pod("near").unwrap();
    let far = world.node("raspi001").add_pod("far").unwrap();
    world.start_everywhere(mode.flags());
    direct(&world, &sample);

    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    let clients = [Client::Pod(&near), Client::Pod(&far), Client::Node(world.node("raspi001"))];
    for client in clients {
        for vip in VIPS {
            for call in Call::ALL {
                match client.path(mode, call) {
                    Path::None => assert_unanswered(client, vip, call),
                    path @ (Path::Socket | Path::Packet) => cell(&world, &sample, client, vip, call, path),
                }
            }
        }
    }
    outside(&world);
    direct(&world, &sample);

    world.remove("sample");
    for node in world.lab.nodes() {
        assert_eq!(world.agent(node.name()).dump().unwrap()["frontends"], serde_json::json!([]));
    }
    for client in clients {
        for vip in VIPS {
            Call::ALL.into_iter().for_each(|call| assert_unanswered(client, vip, call));
        }
    }
    direct(&world, &sample);
}

/// Point 2: what works without any Service, agents or not.
fn direct(world: &World, sample: &Sample) {
    let control_plane = world.node("raspi001");
    for vip in VIPS {
        let family: IpAddr = vip.parse().unwrap();
        for server in sample.all() {
            let to = SocketAddr::new(server.ip_like(family), 80);
            let clients = sample.all().map(Client::Pod).into_iter().chain([Client::Node(control_plane)]);
            for client in clients {
                for call in Call::ALL {
                    let answers = call.ask(client.place(), to, Manner::times(1));
                    assert_eq!(answers.all()[0].name, server.name(), "{} to {to}", client.place().name());
                    call.assert_shows(&answers, to);
                }
            }
            let localhost: IpAddr = if family.is_ipv4() { [127, 0, 0, 1].into() } else { "::1".parse().unwrap() };
            let own = server.ask(TcpAsk::to(SocketAddr::new(localhost, 80))).unwrap();
            assert_eq!(own.all()[0].name, server.name());
        }
    }
}

/// Point 4: all requests are answered by the three pods, evenly, and by the path that the rules say.
fn cell(world: &World, sample: &Sample, client: Client<'_>, vip: &str, call: Call, path: Path) {
    let what = format!("{} {call:?} to {vip} by {path:?}", client.place().name());
    let counters = || {
        let count = |name| world.counter(client.node_name(), name);
        [count("socket_tcp"), count("socket_udp"), count("packet_flows")]
    };
    let before = counters();
    let answers = call.ask(client.place(), at(vip), Manner::times(REQUESTS));
    let after = counters();

    let seen = answers.all();
    assert_eq!(seen.len(), REQUESTS as usize, "{what}");
    assert_spread(&answers.names(), sample.names());
    call.assert_shows(&answers, at(vip));
    for seen in seen {
        assert!(client.is_seen_as(seen.client.ip()), "{what}: {seen:?}");
        assert_eq!(seen.server.port(), 80, "{what}: {seen:?}");
    }

    let [tcp, udp, flows] = [0, 1, 2].map(|i| after[i] - before[i]);
    let requests = u64::from(REQUESTS);
    match (path, call) {
        (Path::Socket, Call::Tcp) => assert_eq!([tcp, udp, flows], [requests, 0, 0], "{what}"),
        (Path::Socket, Call::Connected | Call::Unconnected) => {
            assert_eq!([tcp, udp, flows], [0, requests, 0], "{what}");
        }
        // A socket that gets the source port of an earlier one goes on in its flow, and the birthday paradox has some.
        (Path::Packet, _) => {
            assert_eq!([tcp, udp], [0, 0], "{what}");
            assert!(flows > requests * 2 / 3 && flows <= requests, "{what}: {flows} flows");
        }
        (Path::None, _) => unreachable!("{what}"),
    }
}

fn assert_unanswered(client: Client<'_>, vip: &str, call: Call) {
    let answers = call.ask(client.place(), at(vip), Manner::in_vain());
    assert!(answers.one().result.is_err(), "{} {call:?} to {vip}: {answers:?}", client.place().name());
}

/// Point 5: a machine outside gets no answer, and each of its packets is counted.
fn outside(world: &World) {
    let outside = world.lab.outside();
    let gateway = &world.lab.config().nodes[world.lab.config().service_gateway];
    for vip in VIPS {
        for (call, step) in [(Call::Tcp, Step::Connect), (Call::Connected, Step::Receive)] {
            let before = world.counter(gateway, "drop_closed");
            let answers = call.ask(outside.place(), at(vip), Manner::in_vain());
            assert_eq!(answers.one().result, Err(Failure::timeout(step)), "{call:?} to {vip}:{PORT}");
            assert!(world.counter(gateway, "drop_closed") > before, "{call:?} to {vip}:{PORT} was not counted");
        }
    }
}

/// A ClusterIP that arrives over an overlay is from outside as well: pods' own traffic to Services is translated before
/// it gets there.
#[test]
fn closed_on_overlays() {
    let mut world = World::new(LabConfig { network: Network::Vxlan, ..LabConfig::default() });
    let sample = Sample::start(&world.lab, &[80]);
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    // A node without an agent that takes raspi002 for the way to Services.
    let stranger = world.node("raspi001");
    let tunnel = world.node("raspi002").gateway();
    let routes = [
        (SERVICE_NETWORK.to_string(), tunnel.v4.network().to_string(), "flannel.1"),
        (SERVICE_NETWORK6.to_string(), tunnel.v6.network().to_string(), "flannel-v6.1"),
    ];
    for (vip, (to, via, device)) in VIPS.into_iter().zip(routes) {
        stranger.sh(&format!("ip route replace {to} via {via} dev {device} onlink")).unwrap();
        for (call, step) in [(Call::Tcp, Step::Connect), (Call::Connected, Step::Receive)] {
            let before = world.counter("raspi002", "drop_closed");
            let answers = call.ask(stranger.place(), at(vip), Manner::in_vain());
            assert_eq!(answers.one().result, Err(Failure::timeout(step)), "{call:?} to {vip}");
            assert!(world.counter("raspi002", "drop_closed") > before, "{call:?} to {vip} was not counted");
        }
    }
}
