//! XDP on an uplink: what it forwards, that the answers are right, and what the agent says where it does not run.

use std::net::{IpAddr, SocketAddr};

use berrylb::{
    loader::{Datapath, DatapathOptions, object},
    net::{LinkKind, LinkRole, XdpPlan},
};
use lb_lab::{
    Agent, Host, Lab, LabConfig,
    objects::Port,
    peer::{Big, TcpAsk, UdpAsk},
};

use crate::{
    rules::PATIENT_MS,
    world::{PORT, Sample, World, counter, dual_stack, json, link_pins, manifest},
};

const TCP: u16 = 30_080;
const UDP: u16 = 30_081;
const BYTES: usize = 1 << 20;

/// A NodePort whose backends are all on the other node, and the agent on this one.
fn world(mode: &str) -> (World, Sample) {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    // What a wire carries has whole checksums, which a veth leaves partial otherwise.
    let machines: [&dyn Fn(&str) -> String; 3] =
        [&|line| world.lab.outside().sh(line).unwrap(), &|line| world.node("raspi002").sh(line).unwrap(), &|line| {
            world.node("raspi003").sh(line).unwrap()
        }];
    for machine in machines {
        machine("ethtool -K eth0 tx off");
    }
    listen_for_frames(&world.lab);
    world.start("raspi002", &["--xdp", mode]);
    let ports = [
        Port { node_port: Some(TCP), ..Port::tcp("tcp", PORT, 80) },
        Port { node_port: Some(UDP), ..Port::udp("udp", PORT, 80) },
    ];
    let mut service = dual_stack("sample", &ports);
    service.kind = "NodePort";
    world.put("sample", &[&manifest(&service, &sample.without("sample-1"))]);
    (world, sample)
}

/// A veth takes frames that XDP sends at its other end only while it has an XDP program of its own; here one that passes
/// everything, as its tables are empty.
fn listen_for_frames(lab: &Lab) {
    let options = DatapathOptions {
        socket_lb: 0,
        // The lab takes away what bears its name.
        ..DatapathOptions::new(format!("/sys/fs/bpf/{}-wire", lab.name()))
    };
    let port = "raspi002";
    let attach = || {
        let role = LinkRole {
            ifindex: nix::net::if_::if_nametoindex(port)?,
            name: port.to_owned(),
            kind: LinkKind::Uplink,
            l2_len: 14,
            reason: "a wire's end".to_owned(),
            xdp: XdpPlan::Driver,
            answers: false,
        };
        Ok(Datapath::load(object::bytes()?, &options)?.settle_xdp(&role)?)
    };
    lab.router().netns().enter(attach).unwrap();
}

/// The line of `berrylb link list` about eth0: mode and reason.
fn shown(agent: &Agent) -> (String, String) {
    let links = json(agent, &["link", "list"]);
    let eth0 = links.as_array().unwrap().iter().find(|link| link["name"] == "eth0");
    let eth0 = eth0.unwrap_or_else(|| panic!("no eth0 in {links:#}"));
    assert_eq!((&eth0["kind"], &eth0["attached"]), (&"uplink".into(), &true.into()), "{eth0:#}");
    let text = |key: &str| eth0["xdp"][key].as_str().unwrap_or_else(|| panic!("no {key} in {eth0:#}")).to_owned();
    (text("mode"), text("reason"))
}

/// Segments and datagrams with a wrong checksum that a machine has received.
fn checksum_errors(machine: &impl Host) -> u64 {
    let text = machine.sh("cat /proc/net/snmp /proc/net/snmp6").unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let four = lines.windows(2).filter(|pair| pair[0][0] == pair[1][0] && pair[0].contains(&"InCsumErrors"));
    let four = four.map(|pair| pair[1][pair[0].iter().position(|name| *name == "InCsumErrors").unwrap()]);
    let six = lines.iter().filter(|line| line[0].ends_with("InCsumErrors")).map(|line| line[1]);
    let numbers: Vec<u64> = four.chain(six).map(|number| number.parse().unwrap()).collect();
    assert!(numbers.len() >= 4, "TCP, UDP, and both of IPv6, in {text}");
    numbers.into_iter().sum()
}

/// Questions to the NodePort in both families and protocols, some of many packets.
fn ask(world: &World, sample: &Sample) {
    let outside = world.lab.outside();
    let own = outside.addresses();
    let own: [IpAddr; 2] = [own.v4.addr().into(), own.v6.addr().into()];
    for ip in world.node("raspi002").ips() {
        let to = |port| SocketAddr::new(ip, port);
        let exchange = outside.ask(Big::new(to(TCP), BYTES)).unwrap();
        exchange.result.unwrap_or_else(|failure| panic!("{BYTES} bytes to {ip}: {failure:?}"));
        let tcp = outside.ask(TcpAsk { count: 20, timeout_ms: PATIENT_MS, ..TcpAsk::to(to(TCP)) }).unwrap();
        let udp = UdpAsk { count: 50, connect: true, fresh: false, size: 1000, ..UdpAsk::to(to(UDP)) };
        let udp = outside.ask(UdpAsk { timeout_ms: PATIENT_MS, ..udp }).unwrap();
        for answers in [tcp, udp] {
            let expected = sample.without("sample-1");
            for seen in answers.all() {
                assert!(expected.iter().any(|pod| pod.name() == seen.name), "{seen:?}");
                assert!(!own.contains(&seen.client.ip()), "the reply would not come back through the node: {seen:?}");
            }
        }
    }
}

#[track_caller]
fn forwards(mode: &str) {
    let (mut world, sample) = world(mode);
    let (shown_mode, reason) = shown(world.agent("raspi002"));
    assert_eq!(shown_mode, mode, "{reason}");
    let before = world.counter("raspi002", "xdp_forwarded");
    ask(&world, &sample);
    let forwarded = world.counter("raspi002", "xdp_forwarded") - before;
    // Two families, both ways, in segments of at most 1,460 bytes.
    let segments = 2 * 2 * u64::try_from(BYTES).unwrap() / 1460;
    assert!(forwarded > segments, "{forwarded} packets, but {segments} segments were sent");
    assert_eq!(checksum_errors(world.lab.outside()), 0);
    for pod in &sample.pods {
        assert_eq!(checksum_errors(pod), 0, "{}", pod.name());
    }

    // It goes on serving without its agent, is taken over, and goes with everything else.
    let pins = link_pins(world.node("raspi002"));
    world.agent_mut("raspi002").kill9().unwrap();
    let before = world.counter("raspi002", "xdp_forwarded");
    ask(&world, &sample);
    assert!(world.counter("raspi002", "xdp_forwarded") > before + segments);
    world.agent_mut("raspi002").start_again().unwrap();
    world.settle();
    assert_eq!(shown(world.agent("raspi002")).0, mode);
    ask(&world, &sample);
    assert_eq!(link_pins(world.node("raspi002")), pins);
    world.agent_mut("raspi002").terminate().unwrap();
    world.agent("raspi002").cleanup().unwrap();
    let link = world.node("raspi002").sh("ip link show eth0").unwrap();
    assert!(!link.contains("xdp"), "{link}");
}

#[test]
fn native_forwards_what_goes_to_other_nodes() {
    forwards("native");
}

#[test]
fn generic_forwards_what_goes_to_other_nodes() {
    forwards("generic");
}

#[test]
fn a_virtual_device_is_left_to_tc_by_default() {
    let (world, sample) = world("auto");
    let agent = world.agent("raspi002");
    let (mode, reason) = shown(agent);
    assert_eq!(mode, "off");
    assert!(reason.contains("a virtual device (veth)") && reason.contains("partial"), "{reason}");
    let log = agent.log().unwrap();
    assert_eq!(log.matches("eth0: no XDP, tc serves it").count(), 1, "{log}");
    ask(&world, &sample);
    assert_eq!(world.counter("raspi002", "xdp_forwarded"), 0);
    let table = agent.command(&["link", "list", "-o", "wide"]).ok().unwrap();
    assert!(table.lines().any(|line| line.starts_with("eth0 ") && line.contains("named by --uplinks")), "{table}");
}

#[test]
fn what_cannot_be_had_is_said_and_tc_serves() {
    let mut world = World::of_one_node();
    world.node("raspi002").sh("ethtool -K eth0 gro on").unwrap();
    world.start("raspi002", &["--xdp", "generic"]);
    let agent = world.agent("raspi002");
    let (mode, reason) = shown(agent);
    assert_eq!(mode, "off");
    assert!(reason.contains("device eth0") && reason.contains("GRO"), "{reason}");
    let log = agent.log().unwrap();
    assert_eq!(log.matches("eth0: no XDP, tc serves it: device eth0").count(), 1, "{log}");
    assert_eq!(counter(agent, "xdp_forwarded"), 0);
}
