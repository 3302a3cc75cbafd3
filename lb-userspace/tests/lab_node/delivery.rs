//! `--pod-delivery`: what a Service sends to a pod of this node comes by the bridge, by the pod's link past the bridge, or
//! appears in its network namespace at once.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use lb_lab::{
    Host, LabConfig, Pod,
    peer::{Big, Open, Ping},
};

use crate::{
    rules::{Call, Manner},
    world::{VIPS, World, at, manifest, sample_service},
};

/// Longer than a pod that was not heard of is believed to be where it was: four ticks of 1.07 s.
const FORGOTTEN: Duration = Duration::from_secs(6);
const PINGS: u64 = 200;

/// Packets that left a node by a device.
fn sent_by(world: &World, device: &str) -> u64 {
    let shown = world.node("raspi002").sh(&format!("ip -j -s link show dev {device}")).unwrap();
    let links: serde_json::Value = serde_json::from_str(&shown).unwrap();
    links[0]["stats64"]["tx"]["packets"].as_u64().unwrap_or_else(|| panic!("{shown}"))
}

/// How many packets left by each of these devices while `client` asked a Service many times on one connection.
fn pings<const N: usize>(
    world: &World,
    client: &impl Host,
    to: SocketAddr,
    server: &Pod,
    devices: [&str; N],
) -> [u64; N] {
    let mut peer = client.peer().unwrap();
    let id = peer.ask(Open::tcp(to)).unwrap().id.unwrap();
    let mut ask = |count: u64| {
        for _ in 0..count {
            let answer = peer.ask(Ping::new(id)).unwrap().result.unwrap();
            assert_eq!(answer.name, server.name(), "{to}");
        }
    };
    // The first packets tell where the pods are.
    ask(3);
    let before = devices.map(|device| sent_by(world, device));
    ask(PINGS);
    std::array::from_fn(|n| sent_by(world, devices[n]) - before[n])
}

#[test]
fn the_bridge_and_a_pods_link_are_passed_as_far_as_asked_for() {
    // By the bridge, and by both pods' links.
    for (flags, passed) in [
        (["--pod-delivery", "bridge"].as_slice(), [true, true, true]),
        (&[], [false, true, true]),
        (&["--pod-delivery", "direct"], [false, false, false]),
    ] {
        let mut world = World::new(LabConfig::default());
        let node = world.node("raspi002");
        let (client, server) = (node.add_pod("client").unwrap(), node.add_pod("server").unwrap());
        let _serving = server.serve(&[80]).unwrap();
        world.start("raspi002", &[&["--socket-lb", "off", "--local-path", "redirect"], flags].concat());
        world.put("sample", &[&manifest(&sample_service(), &[&server])]);
        for vip in VIPS {
            for call in Call::ALL {
                let answers = call.ask(client.place(), at(vip), Manner::times(50));
                assert_eq!(answers.names(), [("server".to_owned(), 50)].into(), "{call:?} to {vip}");
            }
            // Packets of full size, segmentation offload and partial checksums.
            let echoed = client.ask(Big::new(at(vip), 1 << 20)).unwrap();
            assert_eq!(echoed.result.unwrap().name, "server");
            let counts = pings(&world, &client, at(vip), &server, ["cni0", client.link(), server.link()]);
            assert_eq!(counts.map(|count| count > PINGS / 4), passed, "{flags:?}, {vip}: {counts:?} of {PINGS}");
        }
    }
}

#[test]
fn from_outside_and_to_a_pod_that_took_anothers_address() {
    let mut world = World::new(LabConfig::default());
    let node = world.node("raspi002");
    let bystander = node.add_pod("bystander").unwrap();
    let first = node.add_pod_at("first", 99).unwrap();
    let serving = first.serve(&[80]).unwrap();
    world.start("raspi002", &["--pod-delivery", "direct"]);
    let mut service = sample_service();
    service.kind = "NodePort";
    service.ports[0].node_port = Some(30_080);
    world.put("sample", &[&manifest(&service, &[&first])]);
    for ip in world.node("raspi002").ips() {
        let to = SocketAddr::new(ip, 30_080);
        let counts = pings(&world, world.lab.outside(), to, &first, [first.link()]);
        assert!(counts[0] < PINGS / 4, "{to}: {counts:?} of {PINGS} by link");
    }
    drop(serving);
    drop(first);
    thread::sleep(FORGOTTEN);
    let second = world.node("raspi002").add_pod_at("second", 99).unwrap();
    let _serving = second.serve(&[80]).unwrap();
    let gateway = world.node("raspi002").gateway();
    for (vip, gateway) in VIPS.into_iter().zip([IpAddr::from(gateway.v4.addr()), gateway.v6.addr().into()]) {
        // Whoever is new asks for the gateway's link-layer address, and so shows its own.
        let refused = second.peer().unwrap().ask(Open::tcp(SocketAddr::new(gateway, 9))).unwrap();
        assert!(refused.id.is_err(), "nobody listens at {gateway}");
        let answers = Call::Connected.ask(bystander.place(), at(vip), Manner::times(20));
        assert_eq!(answers.names(), [("second".to_owned(), 20)].into(), "{vip}");
    }
}
