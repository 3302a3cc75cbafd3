//! netfilter masquerades a pod's connection with a source port that is a node port's number: flannel's `fully-random`
//! takes any. The answers are the pod's, and the node port goes on serving.

use std::net::{IpAddr, SocketAddr};

use lb_lab::{
    Host, LabConfig,
    peer::{Open, Ping, Seen},
};

use crate::{
    cell::{Backend, Call, Cell, Client, Family, Mode, NodeId, Policy, Port, Ranges, Target, Variant},
    world::{TARGET_PORT, World},
};

/// How often the pod and the Service's client ask in turn.
const TURNS: usize = 5;
/// Source port of the pod.
const POD_PORT: u16 = 41_000;

#[test]
fn takes_a_node_ports_number() {
    let world = World::new(LabConfig::default(), Mode::Sockets);
    for family in Family::ALL {
        for call in [Call::Tcp, Call::Connected] {
            let service = Variant { backends: &[Backend::PodA], policy: Policy::Cluster, ranges: Ranges::None };
            let target = Target::NodePort(NodeId::A);
            let cell = Cell { client: Client::Outside, target, port: Port::Service, call, family, service };
            if let Err(fault) = check(&world, &cell) {
                panic!("beside {cell}: {fault}");
            }
        }
    }
}

fn check(world: &World, cell: &Cell) -> Result<(), String> {
    let node_port = world.destination(cell);
    let pod = world.place(Client::PodA);
    let (ip, protocol) =
        (if cell.family == Family::V4 { "ip" } else { "ip6" }, if cell.call == Call::Tcp { "tcp" } else { "udp" });
    // Before flannel's own rules, for this one connection.
    let rule = format!(
        "table {ip} node-port {{
            chain postrouting {{
                type nat hook postrouting priority srcnat - 1;
                {ip} saddr {} {protocol} sport {POD_PORT} masquerade to :{}
            }}
        }}\n",
        pod_address(world, cell.family),
        node_port.port()
    );
    let node = world.node(NodeId::A);
    node.command("nft").args(["-f", "-"]).input(rule).ok().unwrap();
    let talked = talk(world, cell, pod, node_port);
    node.command("nft").args(["delete", "table", ip, "node-port"]).ok().unwrap();
    talked
}

fn talk(world: &World, cell: &Cell, pod: &lb_lab::Place, node_port: SocketAddr) -> Result<(), String> {
    let open = |to, from| match cell.call {
        Call::Tcp => Open { from, ..Open::tcp(to) },
        Call::Bulk | Call::Connected | Call::Unconnected => Open { from, connect: true, ..Open::udp(to) },
    };
    let elsewhere = SocketAddr::new(world.backend_address(Backend::HostB, cell.family), TARGET_PORT);
    let any: IpAddr = match cell.family {
        Family::V4 => [0, 0, 0, 0].into(),
        Family::V6 => [0; 16].into(),
    };
    let mut pods = pod.peer().unwrap();
    let opened = pods.ask(open(elsewhere, Some(SocketAddr::new(any, POD_PORT)))).unwrap();
    let id = opened.id.map_err(|failure| format!("the pod's connection: {failure}"))?;
    let mut clients = world.place(cell.client).peer().unwrap();
    let mut first: Option<Seen> = None;
    for _ in 0..TURNS {
        let exchange = pods.ask(Ping::new(id)).unwrap();
        let seen = exchange.result.map_err(|failure| format!("the pod's connection: {failure}"))?;
        let kept = first.get_or_insert_with(|| seen.clone());
        if seen.name != Backend::HostB.name() || seen.client != kept.client {
            return Err(format!("the pod's connection: {kept:?} became {seen:?}"));
        }
        if seen.client.ip() != node_port.ip() {
            return Err(format!("nothing was masqueraded: {seen:?}"));
        }
        // TCP keeps the port that netfilter took; a datagram's answer could not be told from a question to the Service.
        if (seen.client.port() == node_port.port()) != (cell.call == Call::Tcp) {
            return Err(format!("the node port is {node_port}, and the pod was seen as {}", seen.client));
        }
        let id = clients.ask(open(node_port, None)).unwrap().id.map_err(|failure| format!("the Service: {failure}"))?;
        let seen = clients.ask(Ping::new(id)).unwrap().result.map_err(|failure| format!("the Service: {failure}"))?;
        if seen.name != Backend::PodA.name() {
            return Err(format!("the Service was answered by {seen:?}"));
        }
    }
    Ok(())
}

fn pod_address(world: &World, family: Family) -> IpAddr {
    world.source(crate::oracle::Source::Own, Client::PodA, family)
}
