//! A lab with all Services of the matrix, their servers, their clients, and an agent on every node.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use ipnet::IpNet;
use lb_lab::{
    Agent, Folder, Host, Lab, LabConfig, Node, Pair, Peer, Place, Pod,
    objects::{self, Endpoint, Service},
};

use crate::{
    cell::{Backend, Cell, Client, Family, Mode, NodeId, Policy, Port, Ranges, Setup, Target, Variant, variants},
    oracle::{GATEWAY, Source},
};

/// The program under test.
pub(crate) const BERRYLB: &str = env!("CARGO_BIN_EXE_berrylb");
/// The Services' port.
const PORT: u16 = 8080;
/// A port of the virtual addresses that no Service names.
const UNUSED: u16 = 8099;
/// Node port of the first Service; the others follow.
const NODE_PORTS: u16 = 30100;
/// A port of the nodes that nobody listens on.
const UNUSED_NODE_PORT: u16 = 30999;
/// Where all backends listen.
pub(crate) const TARGET_PORT: u16 = 8888;

/// An address in both families.
#[derive(Clone, Copy)]
struct Both(Ipv4Addr, Ipv6Addr);

/// Networks of the Services' addresses. The outside machine routes the last two to [`GATEWAY`].
const CLUSTER: Both = Both(Ipv4Addr::new(10, 96, 1, 0), Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x100));
const EXTERNAL: Both = Both(Ipv4Addr::new(198, 51, 100, 0), Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 0));
const BALANCER: Both = Both(Ipv4Addr::new(203, 0, 113, 0), Ipv6Addr::new(0x2001, 0xdb8, 0x1b, 0, 0, 0, 0, 0));

impl Both {
    /// The address of Service number `index`.
    fn number(self, index: usize, family: Family) -> IpAddr {
        let number = u8::try_from(index + 1).expect("not that many Services");
        match family {
            Family::V4 => Ipv4Addr::from_bits(self.0.to_bits() + u32::from(number)).into(),
            Family::V6 => Ipv6Addr::from_bits(self.1.to_bits() + u128::from(number)).into(),
        }
    }
}

/// The lab. Its parts go before it.
pub(crate) struct World {
    agents: Vec<Agent>,
    _servers: Vec<Peer>,
    pods: Pods,
    variants: Vec<Variant>,
    pub(crate) setup: Setup,
    pub(crate) lab: Lab,
}

struct Pods {
    backend_a: Pod,
    backend_b: Pod,
    client_a: Pod,
    client_b: Pod,
}

impl World {
    /// Sets it up; returns once all Services are in all datapaths.
    pub(crate) fn new(config: LabConfig, mode: Mode) -> Self {
        let setup = Setup { network: config.network, masquerade: config.masquerade, mode };
        let lab = Lab::new(LabConfig { service_gateway: GATEWAY as usize, ..config }).unwrap();
        let pod = |node: NodeId, name: &str, host| lab.nodes()[node as usize].add_pod_at(name, host).unwrap();
        let pods = Pods {
            backend_a: pod(NodeId::A, Backend::PodA.name(), 72),
            backend_b: pod(NodeId::B, Backend::PodB.name(), 72),
            client_a: pod(NodeId::A, "client-a", 73),
            client_b: pod(NodeId::B, "client-b", 73),
        };
        for node in lab.nodes() {
            // Their own stacks answer as often as they are asked.
            node.netns().set(&[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")]).unwrap();
        }
        // An unused port of an external IP is left to the node's routes. They lead to the router, and a node would tell
        // the machine outside to send everything for that address there.
        for setting in
            ["ipv4/conf/all/accept_redirects", "ipv4/conf/eth0/accept_redirects", "ipv6/conf/eth0/accept_redirects"]
        {
            lab.outside().netns().set(&[(setting, "0")]).unwrap();
        }
        let mut world = Self { agents: Vec::new(), _servers: Vec::new(), pods, variants: variants(), setup, lab };
        for network in [EXTERNAL, BALANCER] {
            let via = world.node(GATEWAY).addresses();
            let outside = world.lab.outside();
            outside.route(IpNet::new_assert(network.0.into(), 24), via.v4.addr().into()).unwrap();
            outside.route(IpNet::new_assert(network.1.into(), 64), via.v6.addr().into()).unwrap();
        }
        world._servers = Backend::ALL.map(|backend| world.serve(backend)).into();
        let objects = Folder::create(&world.lab.dir().join("objects")).unwrap();
        objects.put("nodes", &[&objects::nodes(&world.lab)]).unwrap();
        for index in 0..world.variants.len() {
            objects.put(&format!("service-{index}"), &[&world.manifest(index)]).unwrap();
        }
        world.agents = world.lab.nodes().iter().map(|node| start(node, objects.path(), mode)).collect();
        world
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.lab.nodes()[id as usize]
    }

    pub(crate) fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// Where a client runs.
    pub(crate) fn place(&self, client: Client) -> &Place {
        match client {
            Client::BackendA => self.pods.backend_a.place(),
            Client::PodA => self.pods.client_a.place(),
            Client::PodB => self.pods.client_b.place(),
            Client::HostA => self.node(NodeId::A).place(),
            Client::HostB => self.node(NodeId::B).place(),
            Client::Outside => self.lab.outside().place(),
        }
    }

    /// Where a cell's question goes.
    pub(crate) fn destination(&self, cell: &Cell) -> SocketAddr {
        let index = self.variants.iter().position(|variant| *variant == cell.service);
        let index = index.unwrap_or_else(|| panic!("{cell}: no such Service"));
        let virtual_port = if cell.port == Port::Service { PORT } else { UNUSED };
        let node_port = if cell.port == Port::Service { node_port(index) } else { UNUSED_NODE_PORT };
        let at = |network: Both| SocketAddr::new(network.number(index, cell.family), virtual_port);
        match cell.target {
            Target::ClusterIp => at(CLUSTER),
            Target::ExternalIp => at(EXTERNAL),
            Target::LoadBalancer => at(BALANCER),
            Target::NodePort(node) => SocketAddr::new(of(self.node(node).addresses(), cell.family), node_port),
            Target::Loopback => {
                let ip = match cell.family {
                    Family::V4 => Ipv4Addr::LOCALHOST.into(),
                    Family::V6 => Ipv6Addr::LOCALHOST.into(),
                };
                SocketAddr::new(ip, node_port)
            }
        }
    }

    /// The address that stands for a source.
    pub(crate) fn source(&self, source: Source, client: Client, family: Family) -> IpAddr {
        let own = match client {
            Client::BackendA => self.pods.backend_a.addresses(),
            Client::PodA => self.pods.client_a.addresses(),
            Client::PodB => self.pods.client_b.addresses(),
            Client::HostA => self.node(NodeId::A).addresses(),
            Client::HostB => self.node(NodeId::B).addresses(),
            Client::Outside => self.lab.outside().addresses(),
        };
        match source {
            Source::Own => of(own, family),
            Source::Lan(node) => of(self.node(node).addresses(), family),
            Source::Gateway(node) => of(self.node(node).gateway(), family),
            // flannel gives its device the first address of the node's pod subnet.
            Source::Overlay(node) => {
                let gateway = self.node(node).gateway();
                of(Pair { v4: gateway.v4.trunc(), v6: gateway.v6.trunc() }, family)
            }
        }
    }

    /// Where a backend is.
    pub(crate) fn backend_address(&self, backend: Backend, family: Family) -> IpAddr {
        of(self.backend_addresses(backend), family)
    }

    fn backend_addresses(&self, backend: Backend) -> Pair {
        match backend {
            Backend::PodA => self.pods.backend_a.addresses(),
            Backend::PodB => self.pods.backend_b.addresses(),
            Backend::HostA | Backend::HostB => self.node(backend.node()).addresses(),
        }
    }

    fn serve(&self, backend: Backend) -> Peer {
        let addresses = self.backend_addresses(backend);
        let at = Family::ALL.map(|family| SocketAddr::new(of(addresses, family), TARGET_PORT));
        match backend {
            Backend::PodA => self.pods.backend_a.serve_at(backend.name(), &at),
            Backend::PodB => self.pods.backend_b.serve_at(backend.name(), &at),
            Backend::HostA | Backend::HostB => self.node(backend.node()).serve_at(backend.name(), &at),
        }
        .unwrap()
    }

    /// The objects of Service number `index`.
    fn manifest(&self, index: usize) -> String {
        let Variant { backends, policy, ranges } = self.variants[index];
        let node_port = Some(node_port(index));
        let ports = [
            objects::Port { node_port, ..objects::Port::tcp("tcp", PORT, TARGET_PORT) },
            objects::Port { node_port, ..objects::Port::udp("udp", PORT, TARGET_PORT) },
        ];
        let (internal_policy, external_policy) = match policy {
            Policy::Cluster => ("Cluster", "externalTrafficPolicy: Cluster"),
            Policy::Local => ("Local", "externalTrafficPolicy: Local"),
        };
        let mut spec = vec![external_policy.to_owned()];
        let ranges = self.ranges(ranges);
        if !ranges.is_empty() {
            spec.push("loadBalancerSourceRanges:".into());
            spec.extend(ranges.iter().map(|range| format!("- {range}")));
        }
        let both = |network: Both| Family::ALL.map(|family| network.number(index, family));
        let service = Service {
            kind: "LoadBalancer",
            external_ips: both(EXTERNAL).into(),
            load_balancer_ips: both(BALANCER).into(),
            internal_policy,
            spec,
            ..Service::new(&format!("service-{index}"), &both(CLUSTER), &ports)
        };
        let mut text = service.to_string();
        if backends.is_empty() {
            return text;
        }
        for family in Family::ALL {
            let endpoint = |backend: &Backend| {
                Endpoint::new(of(self.backend_addresses(*backend), family), self.node(backend.node()).name())
            };
            let slice = service.slice(&backends.iter().map(endpoint).collect::<Vec<_>>());
            text.push_str(&format!("---\n{slice}"));
        }
        text
    }

    fn ranges(&self, ranges: Ranges) -> Vec<IpNet> {
        let pods = &self.pods;
        let members: Vec<Pair> = match ranges {
            Ranges::None => Vec::new(),
            Ranges::Nodes => self.lab.nodes().iter().map(Node::addresses).collect(),
            Ranges::PodsAndOutside => {
                let pods = [&pods.backend_a, &pods.backend_b, &pods.client_a, &pods.client_b].map(Pod::addresses);
                pods.into_iter().chain([self.lab.outside().addresses()]).collect()
            }
        };
        let each = |pair: Pair| Family::ALL.map(|family| IpNet::from(of(pair, family)));
        members.into_iter().flat_map(each).collect()
    }
}

fn start(node: &Node, objects: &Path, mode: Mode) -> Agent {
    let flags: &[&str] = match mode {
        Mode::Sockets => &[],
        Mode::Packets => &["--socket-lb", "off"],
    };
    Agent::start(node, Path::new(BERRYLB), objects, flags).unwrap()
}

/// A counter of a datapath.
pub(crate) fn counter(agent: &Agent, name: &str) -> u64 {
    let text = agent.command(&["counters", "-o", "json"]).ok().unwrap();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no counter {name} in {text}"))["value"].as_u64().unwrap()
}

fn node_port(index: usize) -> u16 {
    NODE_PORTS + u16::try_from(index).expect("not that many Services")
}

fn of(pair: Pair, family: Family) -> IpAddr {
    match family {
        Family::V4 => pair.v4.addr().into(),
        Family::V6 => pair.v6.addr().into(),
    }
}
