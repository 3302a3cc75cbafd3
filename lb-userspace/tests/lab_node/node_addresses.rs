//! `--nodeport-addresses`: which addresses answer, as they come and go on the node's links.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use lb_lab::{Agent, Host, LabConfig, objects::Port, peer::TcpAsk};

use crate::{
    rules::SHORT_MS,
    world::{BERRYLB, PORT, Sample, World, dual_stack, eventually, manifest},
};

const NODE_PORT: u16 = 30_080;
/// Outside of every lab's networks, on a device of its own.
const SPARE: &str = "10.99.0.7";
/// On eth0, beside the address that the Node object names.
const SECOND: &str = "192.168.178.99";

/// Whether a NodePort answers the node itself at this address.
fn answers(node: &impl Host, ip: &str) -> bool {
    let to = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), NODE_PORT);
    node.ask(TcpAsk { timeout_ms: SHORT_MS, ..TcpAsk::to(to) }).unwrap().one().result.is_ok()
}

#[track_caller]
fn check(flag: &str, expected: [bool; 3]) {
    let world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let port = Port { node_port: Some(NODE_PORT), ..Port::tcp("tcp", PORT, 80) };
    let mut service = dual_stack("sample", &[port]);
    service.kind = "NodePort";
    world.objects.put("sample", &[&manifest(&service, &sample.all())]).unwrap();
    let node = world.node("raspi002");
    let own = node.addresses().v4.addr().to_string();
    let flags = ["--nodeport-addresses", flag];
    let agent = Agent::start(node, Path::new(BERRYLB), world.objects.path(), &flags).unwrap();
    node.sh("ip link add spare7 type bridge && ip link set spare7 up").unwrap();
    node.sh(&format!("ip addr add {SPARE}/32 dev spare7 && ip addr add {SECOND}/24 dev eth0")).unwrap();
    let places = [&*own, SPARE, SECOND];
    for (ip, expected) in places.into_iter().zip(expected) {
        eventually("the address answers or not", || {
            if answers(node, ip) == expected {
                Ok(())
            } else {
                Err(format!(
                    "{flag}: {ip} should be {expected}; {}\n{}",
                    agent.dump_text().unwrap(),
                    agent.log().unwrap()
                ))
            }
        });
    }
    node.sh("ip link del spare7").unwrap();
    eventually("the address is gone", || if answers(node, SPARE) { Err("it answers".to_owned()) } else { Ok(()) });
    assert_eq!(answers(node, &own), expected[0], "the others stay");
    assert_eq!(answers(node, SECOND), expected[2], "the others stay");
}

#[test]
fn node_ports_are_at_the_chosen_addresses() {
    check("primary", [true, false, false]);
    check("10.99.0.0/16", [false, true, false]);
    check("primary,192.168.178.96/28", [true, false, true]);
    check("all", [true, true, true]);
}
