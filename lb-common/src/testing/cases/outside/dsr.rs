//! Direct server return: what one node hands over to a backend's node, and what that makes of it.

use super::{ACK, PORT, SYN, at, data, first_packet, flow, from_client_to, name, world};
use crate::{
    abi::{Addr, Counter, addr_flag, forwarding, frontend, mark, proto, role},
    datapath::Verdict,
    testing::{
        Case, DEV_UPLINK, FlowSpec, Hook, Net, PacketSpec, Told, World,
        cases::{FIN, PSH, first, later},
        flows::{Both as _, outside_flow, pair},
        world::{ELSEWHERE, FAR, LOCAL, REMOTE},
        worlds::{NODE_PORT, open_frontend},
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, whom) in
        [(REMOTE, "a pod elsewhere"), (FAR, "a pod behind the overlay"), (ELSEWHERE, "another node's own")]
    {
        cases.extend(tcp_over(net, backend, whom));
        cases.extend(udp_over(net, backend, whom));
    }
    cases.extend(kept(net));
    for proto in [proto::TCP, proto::UDP] {
        cases.extend(taken(net, proto));
        cases.extend(ignored(net, proto));
    }
    cases.extend(without_option(net));
    cases
}

/// The node sends on what comes in, and knows the other node.
pub(super) fn dsr(net: Net, proto: u8, backend: u32) -> World {
    world(net, proto, backend).with(|w| {
        w.forwarding = forwarding::DSR;
        w.addrs.push((net.other_node(), addr_flag::PEER));
    })
}

const fn option_len(net: Net) -> u16 {
    if net.v4 { 8 } else { 24 }
}

/// The flow on the node that hands over: to the backend under the client's own name.
pub(super) fn over(net: Net, proto: u8, backend: u32) -> [FlowSpec; 2] {
    let old = outside_flow(net, proto, open_frontend(net, proto), PORT, backend);
    let mut to = old[0].to;
    to.src = net.outside();
    let [mut forward, mut reply] = old;
    (forward.to, reply.key) = (to, to.reversed());
    if proto == proto::UDP {
        forward.mtu -= option_len(net);
        reply.mate_mtu = forward.mtu;
    }
    [forward, reply].both(|flow| flow.role |= role::DSR)
}

fn tcp_over(net: Net, backend: u32, whom: &str) -> Vec<Case> {
    let new = over(net, proto::TCP, backend);
    let established = new.established();
    let closing = new.closing();
    let case = |what: &str, before: &[FlowSpec], packet: PacketSpec| {
        let title = format!("handed over, TCP to {whom}: {what}");
        Case::new(title, Hook::Uplink, dsr(net, proto::TCP, backend).flows(before), packet).handed_over(&new[0])
    };
    let syn = || first_packet(net, proto::TCP);
    let ack = || data(net, proto::TCP);
    let opens = |case: Case| {
        let case = case.counts(Counter::PacketFlows).counts(Counter::DsrFlows).flows(&new);
        case.with(|case| case.connection = Some(backend))
    };
    let mut cases = vec![
        opens(case("SYN", &[], syn())),
        opens(case("SYN on an old connection's ports", &established, syn())),
        case("SYN once more", &new, syn()).flows(&new),
        case("the client's ACK shows an answer", &new, ack()).flows(&established),
        case("data", &established, ack().flags(ACK | PSH)).flows(&established),
        case("FIN", &established, ack().flags(FIN | ACK)).flows(&closing),
        case("its hops at an end", &established, ack().with(|p| p.ttl = 1))
            .with(|case| case.out = None)
            .answered(Counter::DropTtl, Told::TimeExceeded),
        Case::new(
            format!("handed over, TCP to {whom}: what comes from the backend itself passes"),
            Hook::Uplink,
            dsr(net, proto::TCP, backend).flows(&established),
            at(Hook::Uplink, established[1].key).flags(ACK),
        ),
    ];
    if net.v4 {
        let options = |n: usize| move |p: &mut PacketSpec| p.ip_options = vec![1; n];
        cases.push(opens(case("SYN with options of its own", &[], syn().with(options(32))).with(|case| {
            case.packet.ip_options = vec![1; 32];
        })));
        let masked = flow(net, proto::TCP, backend);
        cases.push(
            Case::new(
                format!("handed over, TCP to {whom}: not where the header has no room"),
                Hook::Uplink,
                dsr(net, proto::TCP, backend),
                syn().with(options(36)),
            )
            .opens(&masked),
        );
    }
    cases
}

fn udp_over(net: Net, backend: u32, whom: &str) -> Vec<Case> {
    let new = over(net, proto::UDP, backend);
    let spoken = new.established();
    let case = |what: &str, before: &[FlowSpec], packet: PacketSpec| {
        let title = format!("handed over, UDP to {whom}: {what}");
        Case::new(title, Hook::Uplink, dsr(net, proto::UDP, backend).flows(before), packet).handed_over(&new[0])
    };
    let datagram = || data(net, proto::UDP);
    let headers = if net.v4 { 28 } else { 48 };
    let fits = usize::from(new[0].mtu) - headers;
    let opened = |case: Case| {
        let case = case.counts(Counter::PacketFlows).counts(Counter::DsrFlows);
        case.with(|case| case.connection = Some(backend))
    };
    let mut cases = vec![
        opened(case("the first", &[], datagram())).flows(&new),
        case("the next names the backend too", &new, datagram()).flows(&spoken),
        case("one of many", &spoken, datagram()).flows(&spoken),
        case("as large as may be", &spoken, datagram().with(|p| p.payload = vec![7; fits])).flows(&spoken),
        case("no room for the option", &spoken, datagram().with(|p| p.payload = vec![7; fits + 1]))
            .with(|case| case.out = None)
            .flows(&spoken)
            .answered(Counter::DropTooBig, Told::TooBig(new[0].mtu)),
    ];
    if net.v4 {
        let fragments = [spoken[0], spoken[1], spoken[0].fragments()];
        cases.push(case("a first fragment", &spoken, datagram().with(first)).flows(&fragments));
        cases.push(case("a later fragment", &fragments, datagram().with(later)).flows(&fragments).with(|case| {
            case.out.as_mut().expect("it goes on").ip_options.clear();
        }));
    }
    cases
}

/// What is not handed over though the node would.
fn kept(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP, proto::SCTP] {
        let case = |what: &str, backend, world: World| {
            let title = format!("not handed over: {} {what}", name(proto));
            Case::new(title, Hook::Uplink, world, first_packet(net, proto)).opens(&flow(net, proto, backend))
        };
        cases.push(case("to a pod here", LOCAL, dsr(net, proto, LOCAL)));
        cases.push(case("to a machine that is no node", ELSEWHERE, {
            dsr(net, proto, ELSEWHERE).with(|w| w.addrs.retain(|(_, flags)| *flags != addr_flag::PEER))
        }));
        for (client, who) in [(net.other_node(), "another node"), (net.far(), "another node's pod")] {
            let from = flow(net, proto, REMOTE);
            let mut flow = from;
            (flow[0].key.src, flow[1].to.dst) = (client, client);
            let world = dsr(net, proto, REMOTE);
            let packet = at(Hook::Uplink, flow[0].key).flags(SYN);
            let title = format!("not handed over: {} from {who}, which may be the backend's", name(proto));
            cases.push(Case::new(title, Hook::Uplink, world, packet).opens(&flow));
        }
        cases.push(case("with snat", REMOTE, dsr(net, proto, REMOTE).with(|w| w.forwarding = forwarding::SNAT)));
    }
    cases.push(
        Case::new("not handed over: SCTP", Hook::Uplink, dsr(net, proto::SCTP, REMOTE), first_packet(net, proto::SCTP))
            .opens(&flow(net, proto::SCTP, REMOTE)),
    );
    cases
}

/// A packet that another node has handed over: to that one's address, with a backend's name.
fn handed(net: Net, proto: u8, hook: Hook, (addr, port): (Addr, u16)) -> PacketSpec {
    let mut packet = at(hook, from_client_to(net, proto, net.other_node(), NODE_PORT).tuple).flags(SYN);
    packet.name_backend(addr, port);
    packet
}

/// The flow on the node that takes over.
fn taken_flow(net: Net, proto: u8, backend: u32) -> [FlowSpec; 2] {
    outside_flow(net, proto, (net.other_node(), NODE_PORT), PORT, backend)
}

/// Taken over whatever the node's own way of forwarding is.
fn taken(net: Net, proto: u8) -> Vec<Case> {
    let world =
        |forwarding| dsr(net, proto, LOCAL).slots(&[REMOTE, ELSEWHERE, LOCAL]).with(|w| w.forwarding = forwarding);
    let new = taken_flow(net, proto, LOCAL);
    let packet = |hook| handed(net, proto, hook, (net.server(), 80));
    let case = |what: &str, hook, world: World, packet: PacketSpec| {
        Case::new(format!("taken over, {}: {what}", name(proto)), hook, world, packet)
    };
    let mut by_overlay = new;
    by_overlay[0].mate_oif = DEV_UPLINK;
    let next = packet(Hook::Uplink).flags(ACK);
    let established = new.established();
    let reply = at(Hook::PodIngress(crate::testing::DEV_SERVER), established[1].key).flags(ACK);
    vec![
        case("by a node that does so itself", Hook::Uplink, world(forwarding::DSR), packet(Hook::Uplink)).opens(&new),
        case("by one that does not", Hook::Uplink, world(forwarding::SNAT), packet(Hook::Uplink)).opens(&new),
        case("by the overlay", Hook::Overlay, world(forwarding::DSR), packet(Hook::Overlay)).opens(&by_overlay),
        case("what follows", Hook::Uplink, world(forwarding::DSR).flows(&established), next)
            .with(|case| {
                if proto == proto::TCP {
                    case.packet.ip_options.clear();
                    case.packet.extensions.clear();
                }
            })
            .follows(&new[0]),
        case("the reply goes straight out", reply_hook(), world(forwarding::DSR).flows(&established), reply)
            .follows(&established[1]),
        case(
            "to a LoadBalancer's address",
            Hook::Uplink,
            world(forwarding::DSR),
            packet(Hook::Uplink).to(net.other_vip(), 8080),
        )
        .opens(&outside_flow(net, proto, (net.other_vip(), 8080), PORT, LOCAL)),
        case("its hops at an end", Hook::Uplink, world(forwarding::DSR).flows(&established), packet(Hook::Uplink))
            .with(|case| {
                case.packet = at(Hook::Uplink, new[0].key).flags(ACK).with(|p| p.ttl = 1);
            })
            .answered(Counter::DropTtl, Told::TimeExceeded),
    ]
}

const fn reply_hook() -> Hook {
    Hook::PodIngress(crate::testing::DEV_SERVER)
}

/// What is named is believed only as far as the node's own tables say the same.
fn ignored(net: Net, proto: u8) -> Vec<Case> {
    let case = |what: &str, world: World, named| {
        let title = format!("handed over in vain, {}: {what}", name(proto));
        Case::new(title, Hook::Uplink, world, handed(net, proto, Hook::Uplink, named))
    };
    let here = || dsr(net, proto, LOCAL);
    let local = taken_flow(net, proto, LOCAL);
    let anew = |case: Case| case.counts(Counter::DsrIgnored);
    let ranged = here().with(|w| {
        w.services[0].frontends.iter_mut().for_each(|(_, bits)| *bits |= frontend::RANGES);
        w.services[0].ranges = vec![(net.other_node(), if net.v4 { 32 } else { 128 })];
    });
    vec![
        anew(case("another port", here(), (net.server(), 81))).opens(&local),
        anew(case("no backend of the Service", here(), (net.client(), 80))).opens(&local),
        // Not handed on, but with an address of this node.
        anew(case("its own choice is elsewhere", dsr(net, proto, REMOTE), (net.server(), 80)))
            .opens(&taken_flow(net, proto, REMOTE)),
        case("a backend that has moved on", dsr(net, proto, REMOTE), (net.remote(), 80))
            .opens(&taken_flow(net, proto, REMOTE)),
        case("a source outside the ranges", ranged, (net.server(), 80)).dropped(Counter::DropSourceRange),
        case("a port of no Service", here(), (net.server(), 80)).with(|case| {
            case.packet.tuple.dport = crate::abi::Port::new(NODE_PORT + 1);
        }),
        case("an address of nobody known", here(), (net.server(), 80)).with(|case| {
            case.packet.tuple.dst = net.unreachable();
        }),
    ]
}

/// To another node's address, but not by its agent.
fn without_option(net: Net) -> Vec<Case> {
    let world = |proto| dsr(net, proto, LOCAL);
    let packet = |proto| from_client_to(net, proto, net.other_node(), NODE_PORT);
    let mut cases: Vec<Case> = [proto::TCP, proto::UDP]
        .map(|proto| {
            let title = format!("to another node, {}: passes", name(proto));
            Case::new(title, Hook::Uplink, world(proto), packet(proto))
        })
        .into();
    let stray = |what: &str, marks| {
        let world = world(proto::TCP).with(|w| w.marks |= marks);
        Case::new(format!("to another node, TCP: {what}"), Hook::Uplink, world, packet(proto::TCP).flags(ACK))
    };
    let fragment = |what: &str, hook, marks| {
        let world = world(proto::UDP).with(|w| w.marks |= marks);
        let packet = at(hook, packet(proto::UDP).tuple).with(later);
        Case::new(format!("to another node, a later fragment: {what}"), hook, world, packet)
    };
    cases.push(
        fragment("its first one was not taken over", Hook::Uplink, mark::TAKEN_OVER).dropped(Counter::DropFragment),
    );
    cases.push(fragment("on its way through here", Hook::Overlay, mark::TAKEN_OVER));
    cases.push(fragment("nothing was ever taken over", Hook::Uplink, 0));
    cases.push(stray("its flow is gone", mark::TAKEN_OVER).refused(Counter::DropNoFlow));
    cases.push(stray("no flow was ever taken over", 0));
    let both = world(proto::TCP).with(|w| w.addrs.push((net.other_vip(), addr_flag::PEER)));
    cases.push(Case::new("to another node that is a LoadBalancer's address too, TCP: passes", Hook::Uplink, both, {
        packet(proto::TCP).to(net.other_vip(), NODE_PORT)
    }));
    let pods = pair(
        net.from_client(proto::TCP, net.other_node(), NODE_PORT),
        net.from_client(proto::TCP, net.other_node(), NODE_PORT),
    );
    cases.push(
        Case::ingress(
            "to another node, TCP of a pod: passes",
            world(proto::TCP),
            PacketSpec::new(pods[0].key).flags(SYN),
        )
        .verdict(Verdict::Pass),
    );
    cases
}
