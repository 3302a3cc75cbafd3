//! `--nodeport-addresses`: which addresses answer, as they come and go on the node's links.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use lb_lab::{Agent, Host, LabConfig, objects::Port, peer::TcpAsk};

use crate::{
    process,
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

/// NodePorts at the pod bridge's address, too, make no uplink of the bridge: its pods would not be served any more.
#[test]
fn all_addresses_leave_the_links_what_they_are() {
    let world = World::of_one_node();
    let node = world.node("raspi002");
    let pod = node.add_pod("web").unwrap();
    let port = Port { node_port: Some(NODE_PORT), ..Port::tcp("tcp", PORT, 80) };
    let mut service = dual_stack("sample", &[port]);
    service.kind = "NodePort";
    world.objects.put("sample", &[&manifest(&service, &[&pod])]).unwrap();
    // The Node object names the addresses, and nothing says which link is which.
    let flags = ["--node-name", "raspi002", "--nodeport-addresses", "all", "--metrics", "off"];
    let mut agent = process::agent(node).arg("--from").arg(world.objects.path()).args(flags).spawn("all").unwrap();
    agent.wait_line(|line| line == "ready", Duration::from_secs(20)).unwrap();
    let json = |command: [&str; 2]| -> serde_json::Value {
        serde_json::from_str(&node.command(BERRYLB).args(command).args(["-o", "json"]).ok().unwrap()).unwrap()
    };
    let links = || -> BTreeSet<String> {
        let text =
            |link: &serde_json::Value| format!("{} {}", link["kind"].as_str().unwrap(), link["name"].as_str().unwrap());
        json(["link", "list"]).as_array().unwrap().iter().map(text).collect()
    };
    let before = links();
    assert!(before.contains("uplink eth0") && before.contains(&format!("pod {}", pod.link())), "{before:?}");
    node.sh(&format!("ip addr add {SECOND}/24 dev eth0")).unwrap();
    eventually("the second address is listed", || {
        let dump = node.command(BERRYLB).args(["dump", "-o", "json"]).ok().unwrap();
        if dump.contains(SECOND) { Ok(()) } else { Err(dump) }
    });
    assert_eq!(links(), before);
    assert!(agent.terminate(Duration::from_secs(5)).unwrap().success());
}
