//! Who is let in from outside, what the others are told, and what is none of ours.

use super::{ACK, at, data, first_packet, flow, from_client_to, name, world};
use crate::{
    abi::{Addr, Counter, action, backend_state, frontend, proto},
    testing::{
        ARRAY_LEN, Case, Hook, Net, PacketSpec, Told, World,
        cases::{FIN, PSH, RST, SYN, first, later},
        flows::Both as _,
        world::{LOCAL, REMOTE},
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP, proto::SCTP] {
        cases.extend(refusals(net, proto));
        cases.extend(source_ranges(net, proto));
        cases.extend(not_ours(net, proto));
    }
    cases.extend(without_flow(net));
    cases.extend(never_answered(net));
    cases
}

fn refusals(net: Net, proto: u8) -> Vec<Case> {
    let case = |what: &str, change: &dyn Fn(&mut World)| {
        let title = format!("from outside: {} to {what}", name(proto));
        Case::new(title, Hook::Uplink, world(net, proto, LOCAL).with(change), first_packet(net, proto))
    };
    let rejecting = |w: &mut World| {
        w.services[0].action = action::REJECT;
        w.services[0].slots.clear();
    };
    vec![
        case("a service without endpoints", &rejecting).refused(Counter::DropNoEndpoint),
        case("a service without endpoints, while too many are refused", &rejecting)
            .dropped(Counter::DropNoEndpoint)
            .counts(Counter::AnswerLimited)
            .with(|case| case.silenced = true),
        case("a service whose endpoints all have weight 0", &|w| w.services[0].slots.clear())
            .refused(Counter::DropNoEndpoint),
        case("a service whose policy Local leaves none here", &|w| w.services[0].action = action::DROP)
            .dropped(Counter::DropNoLocalEndpoint),
        case("a closed frontend", &|w| {
            w.services[0].frontends.iter_mut().for_each(|(_, bits)| *bits |= frontend::CLOSED);
        })
        .dropped(Counter::DropClosed),
        case("a service index beyond the table", &|w| w.services[0].index = ARRAY_LEN).dropped(Counter::DropInternal),
        case("a backend that never was", &|w| w.services[0].slots = vec![99]).dropped(Counter::DropInternal),
        case("terminating backends as nothing better exists", &|w| {
            w.services[0].action = action::FORWARD | action::TERMINATING;
            w.backend(LOCAL).state = backend_state::TERMINATING;
        })
        .opens(&flow(net, proto, LOCAL)),
    ]
}

fn source_ranges(net: Net, proto: u8) -> Vec<Case> {
    let host_bits = if net.v4 { 32 } else { 128 };
    let lan = if net.v4 { 24 } else { 64 };
    let ranged = |ranges: &[(Addr, u32)]| {
        world(net, proto, REMOTE).with(|w| {
            w.services[0].frontends.iter_mut().for_each(|(_, bits)| *bits |= frontend::RANGES);
            w.services[0].ranges = ranges.to_vec();
        })
    };
    let case = |what: &str, ranges: &[(Addr, u32)]| {
        let title = format!("from outside, source ranges: {}, {what}", name(proto));
        Case::new(title, Hook::Uplink, ranged(ranges), first_packet(net, proto))
    };
    let other = if net.v4 { Net::V6 } else { Net::V4 };
    let remote = flow(net, proto, REMOTE);
    let mut cases = if proto == proto::TCP { ranges_in_mid_stream(net, &ranged(&[])) } else { Vec::new() };
    cases.extend([
        case("the client's own address", &[(net.outside(), host_bits)]).opens(&remote),
        case("the client's network", &[(net.node(), lan)]).opens(&remote),
        case("another address", &[(net.other_node(), host_bits)]).dropped(Counter::DropSourceRange),
        case("only of the other family", &[(other.outside(), 8)]).dropped(Counter::DropSourceRange),
        case("none", &[]).dropped(Counter::DropSourceRange),
    ]);
    cases
}

/// Who is not let in is not told either that a flow is missing.
fn ranges_in_mid_stream(net: Net, ranged: &World) -> Vec<Case> {
    let host_bits = if net.v4 { 32 } else { 128 };
    let case = |what: &str, addr, world: World, flags| {
        let world = world.with(|w| w.services[0].ranges = vec![(addr, host_bits)]);
        let title = format!("from outside, source ranges: TCP without flow, {what}");
        let packet = from_client_to(net, proto::TCP, net.other_vip(), 8080).flags(flags);
        Case::new(title, Hook::Uplink, world, packet)
    };
    let (own, other) = (net.outside(), net.other_node());
    let established = flow(net, proto::TCP, REMOTE).established();
    vec![
        case("another address", other, ranged.clone(), ACK).dropped(Counter::DropSourceRange),
        case("another address, FIN", other, ranged.clone(), FIN | ACK).dropped(Counter::DropSourceRange),
        case("another address, RST", other, ranged.clone(), RST).dropped(Counter::DropSourceRange),
        case("another address in the grace time", other, ranged.clone().with(|w| w.grace = Some(50)), ACK)
            .dropped(Counter::DropSourceRange),
        case("the client's own address", own, ranged.clone(), ACK).refused(Counter::DropNoFlow),
        case("the client's own address in the grace time", own, ranged.clone().with(|w| w.grace = Some(50)), ACK),
        case("another address, and a flow from before", other, ranged.clone().flows(&established), ACK)
            .with(|case| case.packet = data(net, proto::TCP))
            .follows(&established[0]),
        case("another address, to the node: the stack's to refuse", other, ranged.clone(), ACK)
            .with(|case| case.packet = data(net, proto::TCP)),
    ]
}

/// What no frontend claims goes on to the node.
fn not_ours(net: Net, proto: u8) -> Vec<Case> {
    let case = |what: &str, packet: PacketSpec| {
        let title = format!("from outside, not ours: {} {what}", name(proto));
        Case::new(title, Hook::Uplink, world(net, proto, LOCAL), packet)
    };
    let to = |addr, port| from_client_to(net, proto, addr, port);
    vec![
        case("to a port of the node", to(net.node(), 22)),
        case("to a port of the node in mid-stream", to(net.node(), 22).flags(ACK)),
        case("to a port of the node from which we speak as well", to(net.node(), 60_000)),
        case("to that in mid-stream", to(net.node(), 60_000).flags(ACK)),
        case("to a port of the gateway's address", to(net.gateway(), 22)),
        case("to another port of a LoadBalancer's address", to(net.other_vip(), 22)),
        case("to the node port at the loopback address", to(net.loopback(), 30_080)),
        case("to the node port at another node", to(net.other_node(), 30_080)),
        case("to a pod", to(net.server(), 80)),
        case("to a pod of another node", to(net.remote(), 80)),
        case("to the node's port in a later fragment", to(net.node(), 22).with(later)),
        case("to a pod in a first fragment", to(net.server(), 80).with(first)),
        case("to a pod in a later fragment", to(net.server(), 80).with(later)),
        case("with a VLAN tag", first_packet(net, proto).with(|p| p.edits.push((12, vec![0x81, 0])))),
    ]
}

/// TCP in mid-stream that belongs to no flow.
fn without_flow(net: Net) -> Vec<Case> {
    let case = |what: &str, flags| {
        let world = world(net, proto::TCP, LOCAL);
        let packet = from_client_to(net, proto::TCP, net.other_vip(), 8080).flags(flags);
        Case::new(format!("from outside without flow: {what}"), Hook::Uplink, world, packet)
    };
    let icmp = if net.v4 { proto::ICMP } else { proto::ICMPV6 };
    let to_node = |proto| from_client_to(net, proto, net.node(), 0);
    let other = |what: &str, packet: PacketSpec| {
        Case::new(format!("from outside: {what}"), Hook::Uplink, world(net, proto::TCP, LOCAL), packet)
    };
    vec![
        case("ACK", ACK).refused(Counter::DropNoFlow),
        case("data", ACK | PSH).refused(Counter::DropNoFlow),
        case("FIN", FIN | ACK).refused(Counter::DropNoFlow),
        case("SYN with ACK", SYN | ACK).refused(Counter::DropNoFlow),
        case("no flags at all", 0).refused(Counter::DropNoFlow),
        case("RST", RST).dropped(Counter::DropNoFlow),
        case("RST with ACK", RST | ACK).dropped(Counter::DropNoFlow),
        case("ACK, while too many are refused", ACK)
            .dropped(Counter::DropNoFlow)
            .counts(Counter::AnswerLimited)
            .with(|case| case.silenced = true),
        case("ACK in the grace time", ACK).with(|case| case.world.grace = Some(50)),
        case("ACK after the grace time", ACK).with(|case| case.world.grace = Some(-2)).refused(Counter::DropNoFlow),
        other("ICMP to the node", to_node(icmp)),
        other("another protocol to the node", to_node(47)),
        other("ICMP to a LoadBalancer's address", from_client_to(net, icmp, net.other_vip(), 0)),
        other("another protocol to a LoadBalancer's address", from_client_to(net, 47, net.other_vip(), 0)),
    ]
}

/// Packets that are dropped and whose sender must not be told, or cannot be.
fn never_answered(net: Net) -> Vec<Case> {
    let rejecting = |proto| {
        world(net, proto, LOCAL).with(|w| {
            w.services[0].action = action::REJECT;
            w.services[0].slots.clear();
        })
    };
    let case = |what: &str, proto, packet: PacketSpec| {
        Case::new(format!("from outside, refused: {} {what}", name(proto)), Hook::Uplink, rejecting(proto), packet)
    };
    let silent: &[(&str, Addr)] = if net.v4 {
        &[
            ("from a multicast address", Addr::v4([224, 0, 0, 1])),
            ("from the broadcast address", Addr::v4([255, 255, 255, 255])),
            ("from no address", Addr::v4([0, 0, 0, 0])),
            ("from a loopback address", Addr::v4([127, 0, 0, 1])),
            ("from a reserved address", Addr::v4([240, 0, 0, 1])),
        ]
    } else {
        &[
            ("from a multicast address", Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
            ("from no address", Addr::UNSPECIFIED),
        ]
    };
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        for (what, src) in silent {
            let packet = first_packet(net, proto).from(*src, 50_000);
            cases.push(case(&format!("{what} is not answered"), proto, packet).dropped(Counter::DropNoEndpoint));
        }
        let told = |what: &str, packet: PacketSpec| case(what, proto, packet).refused(Counter::DropNoEndpoint);
        let unheard = |what: &str, packet: PacketSpec| case(what, proto, packet).dropped(Counter::DropNoEndpoint);
        let packet = || first_packet(net, proto);
        let quoted = if net.v4 { 68 } else { 112 };
        let long = |p: &mut PacketSpec| p.payload = vec![9; quoted];
        cases.extend([
            told("with data", packet().with(|p| p.payload = vec![1; 100])),
            told("with an odd number of bytes", packet().with(|p| p.payload = vec![1; 7])),
            told("without payload, padded", packet().with(|p| (p.payload, p.padding) = (Vec::new(), 6))),
            told("of the largest size", packet().with(|p| p.payload = vec![3; 1400])),
            told("with its hops at an end", packet().with(|p| p.ttl = 1)),
        ]);
        if net.v4 {
            let options = |p: &mut PacketSpec| p.ip_options = vec![1; 12];
            cases.push(told("with IPv4 options and enough to quote", packet().with(options).with(long)));
            cases.push(told("in a first fragment", packet().with(first)));
            let short = packet().with(options);
            let title = "with IPv4 options and little to quote";
            // A reset quotes nothing.
            cases.push(if proto == proto::TCP { told(title, short) } else { unheard(title, short) });
        } else {
            let options = |p: &mut PacketSpec| p.extensions = vec![crate::testing::Extension::HopByHop(1)];
            cases.push(told("behind extension headers and enough to quote", packet().with(options).with(long)));
            cases.push(told("in a first fragment with enough to quote", packet().with(first).with(long)));
            let short = packet().with(options);
            let title = "behind extension headers and little to quote";
            cases.push(if proto == proto::TCP { told(title, short) } else { unheard(title, short) });
        }
    }
    let closed = |what: &str, packet: PacketSpec| {
        let established = flow(net, proto::TCP, LOCAL).established();
        let world = world(net, proto::TCP, LOCAL).flows(&established);
        Case::new(format!("from outside, damaged: {what}"), Hook::Uplink, world, packet)
    };
    let l4 = 14 + if net.v4 { 20 } else { 40 };
    let cut = |len| data(net, proto::TCP).with(|p| p.truncate = Some(len));
    cases.extend([
        closed("cut in the IP header", cut(l4 - 1)),
        closed("cut in the TCP header", cut(l4 + 19)),
        closed("a TCP header of 16 bytes", data(net, proto::TCP).with(|p| p.edits.push((l4 + 12, vec![0x40])))),
    ]);
    // Only a clusterIP is ours as a whole; from outside nobody is told so.
    for (proto, what) in [(proto::SCTP, "SCTP"), (proto::TCP, "TCP")] {
        let packet = from_client_to(net, proto, net.vip(), 9).flags(SYN);
        let title = format!("from outside: {what} to an unused port of a clusterIP");
        cases.push(Case::new(title, Hook::Uplink, world(net, proto::UDP, LOCAL), packet).dropped(Counter::DropClosed));
    }
    let inside = |proto, what: &str| {
        let packet = at(Hook::PodEgress, net.from_client(proto, net.vip(), 9)).flags(SYN);
        Case::ingress(format!("from a pod: {what} to an unused port of a clusterIP"), World::udp(net), packet)
    };
    let icmp = if net.v4 { proto::ICMP } else { proto::ICMPV6 };
    let refused = |case: Case| case.refused(Counter::DropUnclaimed);
    cases.extend([
        refused(inside(proto::TCP, "TCP")),
        refused(inside(proto::UDP, "UDP")),
        refused(inside(proto::SCTP, "SCTP")),
        inside(47, "another protocol")
            .with(|case| case.packet.payload = vec![1; 8])
            .answered(Counter::DropUnclaimed, Told::NoProtocol),
        inside(47, "another protocol with too little to quote").dropped(Counter::DropUnclaimed),
        inside(icmp, "ICMP").dropped(Counter::DropUnclaimed),
        inside(proto::TCP, "TCP, while too many are refused,")
            .dropped(Counter::DropUnclaimed)
            .counts(Counter::AnswerLimited)
            .with(|case| case.silenced = true),
    ]);
    cases
}
