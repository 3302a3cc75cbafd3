//! Clients outside and backends on other nodes: our own address stands for the client's, and what is redirected past the
//! stack meets the programs on the device that it leaves by.

use std::net::{IpAddr, SocketAddr};

use lb_lab::{
    Host, LabConfig,
    objects::{Endpoint, Port},
    peer::{TcpAsk, UdpAsk},
};

use crate::world::{PORT, World, dual_stack};

const NODE_PORT: u16 = 30_080;
/// A source port high enough to stay with its client.
const CLASHING: u16 = 50_123;

/// Another node's own processes are the backends: the address that stands for the client is one that this node uses, too.
#[test]
fn another_node_as_backend() {
    let mut world = World::new(LabConfig::default());
    let backend = world.node("raspi003");
    let _server = backend.serve(&[80]).unwrap();
    let [v4, v6] = [0, 1].map(|i| backend.ips()[i]);
    let ports = [
        Port { node_port: Some(NODE_PORT), ..Port::tcp("tcp", PORT, 80) },
        Port { node_port: Some(NODE_PORT), ..Port::udp("udp", PORT, 80) },
    ];
    let mut service = dual_stack("sample", &ports);
    service.kind = "NodePort";
    let slices = [v4, v6].map(|ip| service.slice(&[Endpoint::new(ip, "raspi003")]));
    world.start("raspi002", &[]);
    world.put("sample", &[&format!("{service}---\n{}---\n{}", slices[0], slices[1])]);
    let node = world.node("raspi002").ips();
    for ip in node.clone() {
        let to = SocketAddr::new(ip, NODE_PORT);
        for round in 0..3 {
            let tcp = world.lab.outside().ask(TcpAsk { count: 5, ..TcpAsk::to(to) }).unwrap();
            assert_eq!(tcp.names(), [("raspi003".to_owned(), 5)].into(), "{to}, round {round}");
            let udp = world.lab.outside().ask(UdpAsk { count: 5, ..UdpAsk::to(to) }).unwrap();
            assert_eq!(udp.names(), [("raspi003".to_owned(), 5)].into(), "{to}, round {round}");
        }
    }
    assert_eq!(world.counter("raspi002", "host_remapped"), 0, "nobody else's ports were taken");
    clash(&world, &node);
}

/// The client and the node itself speak with the backend from the same port, in turn: each keeps its own connections.
fn clash(world: &World, node: &[IpAddr]) {
    for (i, ip) in node.iter().enumerate() {
        let backend = world.node("raspi003").ips()[i];
        let outside = world.lab.outside();
        let own = outside.addresses();
        let client: IpAddr = if ip.is_ipv4() { own.v4.addr().into() } else { own.v6.addr().into() };
        let ask = |from: &dyn Fn(TcpAsk) -> TcpAsk, to| from(TcpAsk { abort: true, ..TcpAsk::to(to) });
        for round in 0..3 {
            let from_client = |ask| TcpAsk { from: Some(SocketAddr::new(client, CLASHING)), ..ask };
            let seen = outside.ask(ask(&from_client, SocketAddr::new(*ip, NODE_PORT))).unwrap();
            let view = seen.all()[0].client;
            assert_eq!(view, SocketAddr::new(*ip, CLASHING), "the node's address and the client's port, round {round}");
            let from_node = |ask| TcpAsk { from: Some(SocketAddr::new(*ip, CLASHING)), ..ask };
            let own = world.node("raspi002").ask(ask(&from_node, SocketAddr::new(backend, 80))).unwrap();
            assert_ne!(own.all()[0].client.port(), CLASHING, "{ip}, round {round}");
        }
    }
    assert!(world.counter("raspi002", "host_remapped") >= 2, "once in each family at least");
}
