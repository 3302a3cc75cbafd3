//! The kinds of packets that are measured, what the tables hold for them, and what the programs must do with each.
//! It runs nothing.

use lb_common::{
    abi::{
        Addr, AddrInfo, Backend, Counter, Port, ServiceKey, ServiceRef, ServiceState, StateWord, Tuple, action,
        addr_flag, flow_state, frontend, mark, proto, scope,
    },
    datapath::FlowTable,
    testing::{
        Contents, DEV_CLIENT, DEV_SERVER, FlowSpec, HOST, Hook, LOCAL, MAC, Net, PacketSpec, REMOTE, World,
        outside_flow, pair,
    },
};

/// Services in the table.
pub(crate) const SERVICES: u32 = 10_000;

/// Hops of every packet: those of routed flows lose one in each run.
pub(crate) const HOPS: u8 = 255;

/// The program that meets the packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    /// On a tc hook.
    Tc(Hook),
    /// XDP on the uplink.
    Xdp,
}

/// What the program must do.
pub(crate) enum Does {
    /// It leaves the packet alone. That shows nothing by itself, so it must not leave this one alone, which has the same
    /// frame.
    Pass(PacketSpec),
    /// It drops the packet, counted here.
    Drop(Counter),
    /// It gives the packet this tuple and lets it go on.
    Translate(Tuple),
    /// The same, past the host's stack, with one hop less.
    Route(Tuple),
}

/// One kind of packet.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) packet: PacketSpec,
    pub(crate) does: Does,
    /// What `marks` says has happened.
    pub(crate) marks: u32,
}

impl Kind {
    fn new(name: &'static str, program: Program, packet: PacketSpec, does: Does) -> Self {
        Self { name, program, packet: packet.with(|p| p.ttl = HOPS), does, marks: 0 }
    }

    /// What the packet is after so many runs.
    pub(crate) fn after(&self, runs: u32) -> Vec<u8> {
        let (to, routed) = match &self.does {
            Does::Pass(_) | Does::Drop(_) => return self.packet.build(),
            Does::Translate(to) => (to, 0),
            Does::Route(to) => (to, 1),
        };
        let mut packet = self.packet.clone();
        if !runs.is_multiple_of(2) {
            packet.tuple = *to;
        }
        packet.ttl = u8::try_from(u32::from(HOPS) - routed * runs).expect("hops for all runs");
        if let Program::Xdp = self.program {
            packet.edits.push((6, MAC.to_vec()));
        }
        packet.build()
    }

    /// The program's return value.
    pub(crate) const fn retval(&self) -> i32 {
        match (self.program, &self.does) {
            (Program::Tc(_), Does::Pass(_) | Does::Translate(_)) => -1,
            (Program::Tc(_), Does::Drop(_)) => 2,
            (Program::Tc(_), Does::Route(_)) => 7,
            (Program::Xdp, Does::Pass(_)) => 2,
            (Program::Xdp, Does::Drop(_)) => 1,
            (Program::Xdp, Does::Translate(_) | Does::Route(_)) => 3,
        }
    }

    /// The counters that one run moves.
    pub(crate) fn counts(&self) -> Vec<Counter> {
        match (self.program, &self.does) {
            (_, Does::Drop(reason)) => vec![*reason],
            (Program::Xdp, Does::Route(_)) => vec![Counter::XdpForwarded],
            _ => Vec::new(),
        }
    }
}

/// What every map holds: the services, and a flow of each kind.
pub(crate) fn contents(now: u32) -> Contents {
    let mut contents = World::outside(Net::V4, proto::TCP).contents(now);
    contents.addrs.extend(World::outside(Net::V6, proto::TCP).contents(now).addrs);
    for index in 0..SERVICES {
        let [_, b, c, d] = (100 + index).to_be_bytes();
        service(&mut contents, 100 + index, Addr::v4([172, b, c, d]));
    }
    for net in Net::BOTH {
        for proto in [proto::TCP, proto::UDP] {
            for flow in [inside(net, proto), local(net, proto), remote(net, proto), host(net, proto)] {
                flow.iter().for_each(|entry| to_and_fro(&mut contents, entry, now));
            }
        }
        // Both ends of a flow are destinations here, and uplinks look for flows of known destinations only.
        let ends = [net.server(), net.remote(), net.outside()];
        contents.addrs.extend(ends.map(|addr| (addr, AddrInfo { flags: addr_flag::FRONTEND })));
    }
    contents
}

fn service(contents: &mut Contents, index: u32, addr: Addr) {
    let key = ServiceKey { addr, port: Port::new(80), proto: proto::TCP, scope: scope::INTERNAL };
    contents.services.push((key, ServiceRef::new(key, index, frontend::CLUSTER_IP)));
    let word = StateWord::new(index, 1, action::FORWARD, 1);
    contents.states.push((index, ServiceState::new(word, u64::from(index), 0, 0, 0)));
    contents.slots.push((index, index));
    contents.backends.push((index, Backend::new(Net::V4.remote(), Port::new(80), proto::TCP, u64::from(index))));
}

/// A test run repeats on the bytes that the run before it left. So what is to be measured again and again must lead
/// back to itself: what a packet becomes has an entry that makes it what it was.
fn to_and_fro(contents: &mut Contents, entry: &FlowSpec, now: u32) {
    let entry = FlowSpec { table: FlowTable::Flows, state: flow_state::ESTABLISHED, ..*entry };
    let back = FlowSpec { key: entry.to, to: entry.key, ..entry };
    contents.flows.extend([entry, back].map(|entry| (entry.table, entry.key, entry.flow(now))));
}

/// The flow of a pod to a pod of its node, by the host's stack.
fn inside(net: Net, proto: u8) -> [FlowSpec; 2] {
    pair(net.from_client(proto, net.vip(), 8080), net.from_client(proto, net.server(), 80))
}

/// The flow of a client outside to a pod of this node.
fn local(net: Net, proto: u8) -> [FlowSpec; 2] {
    outside_flow(net, proto, (net.other_vip(), 8080), 50_000, LOCAL)
}

/// The flow of a client outside to a pod of another node.
fn remote(net: Net, proto: u8) -> [FlowSpec; 2] {
    outside_flow(net, proto, (net.other_vip(), 8080), 50_001, REMOTE)
}

/// The flow of a client outside to this node itself, at a port where flows are looked for.
fn host(net: Net, proto: u8) -> [FlowSpec; 2] {
    let [mut forward, mut reply] = outside_flow(net, proto, (net.node(), 30_080), 50_002, HOST);
    (forward.to.dport, reply.key.sport) = (Port::new(40_080), Port::new(40_080));
    [forward, reply]
}

/// All kinds, in the order of the table.
pub(crate) fn all() -> Vec<Kind> {
    let mut kinds = of_pods();
    kinds.extend(on_uplinks());
    kinds.extend(leaving());
    kinds.extend(by_xdp());
    kinds
}

/// A packet of this entry, translated.
fn hit(name: &'static str, hook: Hook, [entry, _]: [FlowSpec; 2]) -> Kind {
    Kind::new(name, Program::Tc(hook), PacketSpec::new(entry.key), Does::Translate(entry.to))
}

/// A packet of this entry, routed.
fn routed(name: &'static str, program: Program, [entry, _]: [FlowSpec; 2]) -> Kind {
    Kind::new(name, program, PacketSpec::new(entry.key), Does::Route(entry.to))
}

/// The same for the other direction.
fn turned([forward, reply]: [FlowSpec; 2]) -> [FlowSpec; 2] {
    [reply, forward]
}

fn of_pods() -> Vec<Kind> {
    let (v4, v6) = (Net::V4, Net::V6);
    let (tcp, udp) = (proto::TCP, proto::UDP);
    let (ingress, egress) = (Hook::PodIngress(DEV_CLIENT), Hook::PodEgress);
    let to_flow = |net, proto| PacketSpec::new(inside(net, proto)[0].key);
    let nowhere = |net: Net, proto| PacketSpec::new(net.from_client(proto, net.far(), 9));
    let passes = |name, net, proto, change: &dyn Fn(&mut PacketSpec)| {
        let pass = Does::Pass(to_flow(net, proto));
        Kind::new(name, Program::Tc(ingress), nowhere(net, proto).with(change), pass)
    };
    let plain = |_: &mut PacketSpec| {};
    let reset = PacketSpec::new(v4.from_client(tcp, v4.vip(), 8080)).from(v4.client(), 40_001).flags(4);
    vec![
        passes("pod ingress: ARP, passes", v4, tcp, &|p| p.edits.push((12, vec![8, 6]))),
        passes("pod ingress: TCP v4 to no service, passes", v4, tcp, &plain),
        passes("pod ingress: TCP v6 to no service, passes", v6, tcp, &plain),
        passes("pod ingress: UDP v4 to no service, passes", v4, udp, &plain),
        passes("pod ingress: SYN v4 to no service, passes", v4, tcp, &|p| p.tcp_flags = 2),
        hit("pod ingress: TCP v4 flow hit, translated", ingress, inside(v4, tcp)),
        hit("pod ingress: TCP v6 flow hit, translated", ingress, inside(v6, tcp)),
        hit("pod ingress: UDP v4 flow hit, translated", ingress, inside(v4, udp)),
        hit("pod ingress: UDP v6 flow hit, translated", ingress, inside(v6, udp)),
        routed(
            "pod ingress: TCP v4 reply to outside, routed",
            Program::Tc(Hook::PodIngress(DEV_SERVER)),
            turned(local(v4, tcp)),
        ),
        Kind::new(
            "pod ingress: RST v4 without flow, dropped",
            Program::Tc(ingress),
            // A reset: other packets are answered, and what is left of them is another packet.
            reset,
            Does::Drop(Counter::DropNoFlow),
        ),
        Kind::new(
            "pod egress: TCP v4 to no flow, passes",
            Program::Tc(egress),
            nowhere(v4, tcp),
            Does::Pass(PacketSpec::new(inside(v4, tcp)[1].key)),
        ),
        hit("pod egress: TCP v4 reply, translated", egress, turned(inside(v4, tcp))),
        hit("pod egress: TCP v6 reply, translated", egress, turned(inside(v6, tcp))),
        hit("pod egress: UDP v4 reply, translated", egress, turned(inside(v4, udp))),
    ]
}

fn on_uplinks() -> Vec<Kind> {
    let (v4, v6) = (Net::V4, Net::V6);
    let (tcp, udp) = (proto::TCP, proto::UDP);
    let uplink = Program::Tc(Hook::Uplink);
    let passes = |name, net, dst| Kind::new(name, uplink, to(net, dst), Does::Pass(in_flow(net)));
    vec![
        passes("uplink: TCP v4 to a pod, passes", v4, (v4.far(), 80)),
        passes("uplink: TCP v6 to a pod, passes", v6, (v6.far(), 80)),
        passes("uplink: TCP v4 to the node's SSH, passes", v4, (v4.node(), 22)),
        passes("uplink: TCP v6 to the node's SSH, passes", v6, (v6.node(), 22)),
        Kind::new(
            "uplink: TCP v4 to a clusterIP, dropped",
            uplink,
            to(v4, (v4.vip(), 8080)),
            Does::Drop(Counter::DropClosed),
        ),
        routed("uplink: TCP v4 flow hit, to a local pod", uplink, local(v4, tcp)),
        routed("uplink: TCP v6 flow hit, to a local pod", uplink, local(v6, tcp)),
        routed("uplink: UDP v4 flow hit, to a local pod", uplink, local(v4, udp)),
        routed("uplink: TCP v4 flow hit, masked, to another node's pod", uplink, remote(v4, tcp)),
        routed("uplink: TCP v6 flow hit, masked, to another node's pod", uplink, remote(v6, tcp)),
        routed("uplink: TCP v4 reply of another node's pod", uplink, turned(remote(v4, tcp))),
        routed("uplink: TCP v6 reply of another node's pod", uplink, turned(remote(v6, tcp))),
        hit("uplink: TCP v4 flow hit, to this node itself", Hook::Uplink, host(v4, tcp)),
    ]
}

fn leaving() -> Vec<Kind> {
    let net = Net::V4;
    let out = Program::Tc(Hook::UplinkOut);
    let marks = mark::HOST_BACKEND | mark::SHARED_SOURCE;
    let reply = turned(host(net, proto::TCP));
    let from = |addr| PacketSpec::new(Tuple::new(addr, Port::new(22), net.outside(), Port::new(50_003), proto::TCP));
    let to_vip = to(net, (net.vip(), 8080)).flags(2);
    let known = PacketSpec::new(reply[0].key);
    let marked = |kind: Kind| Kind { marks, ..kind };
    vec![
        Kind::new("uplink egress: TCP v4, no such flows yet, passes", out, from(net.node()), Does::Pass(to_vip)),
        marked(Kind::new("uplink egress: TCP v4 of a pod, passes", out, from(net.server()), Does::Pass(known.clone()))),
        marked(Kind::new("uplink egress: TCP v4 of the node, passes", out, from(net.node()), Does::Pass(known))),
        marked(hit("uplink egress: TCP v4 reply of the node, translated", Hook::UplinkOut, reply)),
    ]
}

fn by_xdp() -> Vec<Kind> {
    let (v4, v6) = (Net::V4, Net::V6);
    let passes = |name, net, dst| Kind::new(name, Program::Xdp, to(net, dst), Does::Pass(in_flow(net)));
    vec![
        passes("uplink XDP: TCP v4 to a pod, passes", v4, (v4.far(), 80)),
        passes("uplink XDP: TCP v4 to the node's SSH, passes", v4, (v4.node(), 22)),
        routed("uplink XDP: TCP v4 flow hit, sent to another node's pod", Program::Xdp, remote(v4, proto::TCP)),
        routed("uplink XDP: TCP v6 flow hit, sent to another node's pod", Program::Xdp, remote(v6, proto::TCP)),
    ]
}

/// TCP of a client outside to anywhere.
fn to(net: Net, (addr, port): (Addr, u16)) -> PacketSpec {
    PacketSpec::new(Tuple::new(net.outside(), Port::new(50_003), addr, Port::new(port), proto::TCP))
}

/// Of a client outside, and known to tc and XDP.
fn in_flow(net: Net) -> PacketSpec {
    PacketSpec::new(remote(net, proto::TCP)[0].key)
}
