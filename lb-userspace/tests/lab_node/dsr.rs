//! Direct server return: a client outside asks one node, the pod is on another, sees the client's own address, and answers
//! it past the first node.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use lb_lab::{
    Host, LabConfig, Network, Pod,
    objects::Port,
    peer::{Big, TcpAsk, UdpAsk},
};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    rules::PATIENT_MS,
    world::{PORT, World, dual_stack, manifest},
};

const NODE_PORT: u16 = 30_080;
const BYTES: usize = 1 << 20;

/// Bytes that a node's uplink has received.
fn received(world: &World, node: &str) -> usize {
    let text = world.node(node).sh("cat /proc/net/dev").unwrap();
    let eth0 = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    eth0.and_then(|numbers| numbers.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap()
}

fn publish(world: &World, pods: &[&Pod]) {
    let ports = [
        Port { node_port: Some(NODE_PORT), ..Port::tcp("tcp", PORT, 80) },
        Port { node_port: Some(NODE_PORT), ..Port::udp("udp", PORT, 80) },
    ];
    let mut service = dual_stack("sample", &ports);
    service.kind = "NodePort";
    world.put("sample", &[&manifest(&service, pods)]);
}

/// Asks the first node in both families and protocols; `direct`: the pod sees the client itself.
fn ask(world: &World, direct: bool) {
    let outside = world.lab.outside();
    let own = outside.addresses();
    for ip in world.node("raspi002").ips() {
        let to = SocketAddr::new(ip, NODE_PORT);
        let client: IpAddr = if ip.is_ipv4() { own.v4.addr().into() } else { own.v6.addr().into() };
        let before = received(world, "raspi002");
        let exchange = outside.ask(Big::new(to, BYTES)).unwrap();
        exchange.result.unwrap_or_else(|failure| panic!("{BYTES} bytes to {ip}: {failure:?}"));
        let came = received(world, "raspi002") - before;
        assert_eq!(came < BYTES + BYTES / 2, direct, "{came} bytes came to {ip}, {BYTES} were sent and echoed");
        let tcp = outside.ask(TcpAsk { count: 20, timeout_ms: PATIENT_MS, ..TcpAsk::to(to) }).unwrap();
        let udp = UdpAsk { count: 20, size: 1000, timeout_ms: PATIENT_MS, ..UdpAsk::to(to) };
        let connected = UdpAsk { connect: true, fresh: false, ..udp.clone() };
        for answers in [tcp, outside.ask(udp).unwrap(), outside.ask(connected).unwrap()] {
            assert_eq!(answers.names(), [("web".to_owned(), 20)].into(), "{to}");
            for seen in answers.all() {
                assert_eq!(seen.client.ip() == client, direct, "{to}: {seen:?}");
            }
        }
    }
}

fn returns_directly(network: Network) {
    let mut world = World::new(LabConfig { network, invalid_drop: true, rp_filter: 1, ..LabConfig::default() });
    let pod = world.node("raspi003").add_pod_at("web", 72).unwrap();
    let _server = pod.serve(&[80]).unwrap();
    // Whoever takes over need not hand over itself.
    world.start("raspi002", &["--forwarding", "dsr"]);
    world.start("raspi003", &[]);
    publish(&world, &[&pod]);
    ask(&world, true);
    assert!(world.counter("raspi002", "dsr_flows") > 0);
    assert_eq!(world.counter("raspi003", "dsr_ignored"), 0);
    assert_eq!(world.node("raspi003").invalid_drops().unwrap(), 0);

    // Set back, new connections take the usual way.
    world.agent_mut("raspi002").terminate().unwrap();
    world.start("raspi002", &["--forwarding", "snat"]);
    ask(&world, false);
}

#[test]
fn by_host_gw() {
    returns_directly(Network::HostGw);
}

#[test]
fn by_vxlan() {
    returns_directly(Network::Vxlan);
}

/// A client in the cluster may be the backend's own node, or the backend itself, which take no packet with their own
/// source: they are served as with `snat`.
#[test]
fn clients_on_the_backends_node() {
    let mut world = World::new(LabConfig { masquerade: false, ..LabConfig::default() });
    let [pod, other] =
        [("web", 72), ("other", 73)].map(|(name, ip)| world.node("raspi003").add_pod_at(name, ip).unwrap());
    let _server = pod.serve(&[80]).unwrap();
    world.start("raspi002", &["--forwarding", "dsr"]);
    world.start("raspi003", &["--forwarding", "dsr"]);
    publish(&world, &[&pod]);
    let node = world.node("raspi003");
    for ip in world.node("raspi002").ips() {
        let to = SocketAddr::new(ip, NODE_PORT);
        let tcp = TcpAsk { count: 3, timeout_ms: PATIENT_MS, ..TcpAsk::to(to) };
        let udp = UdpAsk { count: 3, timeout_ms: PATIENT_MS, ..UdpAsk::to(to) };
        for (who, tcp, udp) in [
            ("the node", node.ask(tcp.clone()), node.ask(udp.clone())),
            ("another pod", other.ask(tcp.clone()), other.ask(udp.clone())),
            ("the backend", pod.ask(tcp), pod.ask(udp)),
        ] {
            assert_eq!(tcp.unwrap().names(), [("web".to_owned(), 3)].into(), "{who} by TCP to {to}");
            assert_eq!(udp.unwrap().names(), [("web".to_owned(), 3)].into(), "{who} by UDP to {to}");
        }
    }
}

/// Datagrams that a client sends in one go (`UDP_SEGMENT`) are one packet up to here, and each of them names the backend.
#[test]
fn datagrams_sent_in_one_go() {
    const EACH: usize = 1000;
    const COUNT: usize = 8;
    let mut world = World::new(LabConfig::default());
    let pod = world.node("raspi003").add_pod_at("web", 72).unwrap();
    let _server = pod.serve(&[80]).unwrap();
    world.start("raspi002", &["--forwarding", "dsr"]);
    world.start("raspi003", &[]);
    publish(&world, &[&pod]);
    for ip in world.node("raspi002").ips() {
        let to = SocketAddr::new(ip, NODE_PORT);
        let answers = world.lab.outside().netns().enter(|| Ok(send_in_one_go(to, EACH, COUNT)?)).unwrap();
        assert_eq!(answers, COUNT, "{to}");
    }
    assert_eq!(world.counter("raspi003", "packet_flows"), 2);
    assert_eq!(world.counter("raspi002", "drop_internal"), 0);
}

/// How many answers come to this many numbers of `each` bytes.
fn send_in_one_go(to: SocketAddr, each: usize, count: usize) -> std::io::Result<usize> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(each).expect("a datagram's size"))?;
    socket.send(format!("{:0each$}", 7).repeat(count).as_bytes())?;
    let mut buffer = vec![0; 1 << 16];
    Ok((0..count).take_while(|_| socket.recv(&mut buffer).is_ok()).count())
}
