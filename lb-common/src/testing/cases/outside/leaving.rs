//! What leaves the node: its own connections where a translated flow has their ports, and what has lost its way.

use super::{ACK, ELSEWHERE, REMOTE, SYN, at, flow, name, world};
use crate::{
    abi::{Counter, Port, Tuple, proto, role},
    testing::{
        Case, FlowSpec, Hook, Net, PacketSpec, World,
        cases::{FIN, RST, first, later},
        flows::{Both as _, pair},
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = clashes(net);
    cases.extend(remapped(net));
    cases.extend(lost(net));
    cases
}

/// From the port of the node that stands for a client's, to that client's backend.
fn own(net: Net, proto: u8) -> Tuple {
    flow(net, proto, ELSEWHERE)[0].to
}

/// The node's connection, from another port.
fn moved(net: Net, proto: u8, port: u16) -> [FlowSpec; 2] {
    let mut to = own(net, proto);
    to.sport = Port::new(port);
    pair(own(net, proto), to).both(|flow| {
        (flow.service, flow.identity, flow.backend, flow.generation) = (0, 0, 0, 0);
        flow.role |= role::HOST;
    })
}

fn clashes(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (hook, place) in [(Hook::UplinkOut, "an uplink"), (Hook::UplinkL3Out, "one without link layer")] {
        for proto in [proto::TCP, proto::UDP] {
            for (state, masked) in
                [("new", flow(net, proto, ELSEWHERE)), ("established", flow(net, proto, ELSEWHERE).established())]
            {
                let moved = moved(net, proto, 0);
                let world = world(net, proto, ELSEWHERE).flows(&masked);
                let packet = at(hook, own(net, proto)).flags(SYN);
                let title = format!("the node's own {} by {place} on the ports of a flow that is {state}", name(proto));
                cases.push(
                    Case::new(title, hook, world, packet).counts(Counter::HostRemapped).follows(&moved[0]).with(
                        |case| {
                            case.any_port = true;
                            case.flows = Some([moved, masked].concat());
                        },
                    ),
                );
            }
        }
    }
    let established = flow(net, proto::TCP, ELSEWHERE).established();
    let case = |what: &str, packet: PacketSpec| {
        let world = world(net, proto::TCP, ELSEWHERE).flows(&established);
        Case::new(format!("the node's own: {what}"), Hook::UplinkOut, world, packet)
    };
    let syn = || at(Hook::UplinkOut, own(net, proto::TCP)).flags(SYN);
    cases.extend([
        case("from another port", syn().from(net.node(), 50_001)),
        case("to another port", syn().to(net.other_node(), 81)),
        case("to another machine", syn().to(net.outside(), 80)),
        case("in mid-stream", syn().flags(ACK)),
        case("a reset", syn().flags(RST)),
        case("UDP on the ports of a TCP flow", syn().with(|p| p.tuple.proto = proto::UDP)),
        case("where no flow ever had an address of the node", syn()).with(|case| case.world.marks = 0),
        case("a pod's with the same ports", syn().from(net.client(), 50_000)),
        Case::new(
            "the node's own: SCTP keeps its port",
            Hook::UplinkOut,
            world(net, proto::SCTP, ELSEWHERE).flows(&flow(net, proto::SCTP, ELSEWHERE)),
            at(Hook::UplinkOut, own(net, proto::SCTP)),
        ),
    ]);
    // The gateway's address clashes as well, should the node use it.
    let masked = flow(net, proto::TCP, REMOTE);
    let packet = at(Hook::UplinkOut, masked[0].to).flags(SYN);
    let mut own = moved(net, proto::TCP, 0);
    (own[0].key, own[1].to) = (masked[0].to, masked[0].to.reversed());
    (own[0].to.src, own[0].to.dst) = (net.gateway(), net.remote());
    (own[1].key.src, own[1].key.dst) = (net.remote(), net.gateway());
    cases.push(
        Case::new(
            "the node's own from the gateway's address on the ports of a flow",
            Hook::UplinkOut,
            world(net, proto::TCP, REMOTE).flows(&masked),
            packet,
        )
        .counts(Counter::HostRemapped)
        .follows(&own[0])
        .with(|case| {
            case.any_port = true;
            case.flows = Some([own, masked].concat());
        }),
    );
    cases
}

/// A connection of the node that has another port goes on with it, both ways.
fn remapped(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        let new = moved(net, proto, 61_000);
        let replied = new.answered();
        let established = new.established();
        let masked = flow(net, proto, ELSEWHERE).established();
        let case = |what: &str, hook, before: [FlowSpec; 2], packet: PacketSpec, after: [FlowSpec; 2], entry: usize| {
            let title = format!("the node's own {} from another port: {what}", name(proto));
            let world = world(net, proto, ELSEWHERE).flows(&masked).flows(&before);
            Case::new(title, hook, world, packet).follows(&new[entry]).flows(&[masked, after].concat())
        };
        let out = |flags| at(Hook::UplinkOut, new[0].key).flags(flags);
        let back = |flags| at(Hook::Uplink, new[1].key).flags(flags);
        cases.extend([
            case("goes on", Hook::UplinkOut, established, out(ACK), established, 0),
            case("later", Hook::UplinkOut, established.age(5), out(ACK), established, 0),
            case("the answer", Hook::Uplink, new, back(SYN | ACK), replied, 1),
            case("the answer on", Hook::Uplink, established, back(ACK), established, 1),
        ]);
        if proto == proto::UDP {
            continue;
        }
        let closing = new.closing();
        let again = moved(net, proto, 0);
        cases.extend([
            case("the SYN once more", Hook::UplinkOut, new, out(SYN), new, 0),
            case("FIN", Hook::UplinkOut, established, out(FIN | ACK), closing, 0),
            case("RST of the other end", Hook::Uplink, established, back(RST), closing, 1),
            case("a new connection takes a new port", Hook::UplinkOut, established, out(SYN), again, 0)
                .follows(&again[0])
                .counts(Counter::HostRemapped)
                .with(|case| case.any_port = true),
            Case::new(
                "the node's own from another port: a new connection keeps its own once the flow is gone",
                Hook::UplinkOut,
                world(net, proto, ELSEWHERE).flows(&established),
                out(SYN),
            )
            .flows(&[]),
        ]);
        let fragment = at(Hook::UplinkOut, new[0].key).with(later);
        let remembered = [established[0], established[1], established[0].fragments()];
        cases.push(
            Case::new(
                "the node's own from another port: a later fragment",
                Hook::UplinkOut,
                world(net, proto, ELSEWHERE).flows(&remembered),
                fragment,
            )
            .follows(&established[0]),
        );
    }
    cases
}

/// Packets to a clusterIP that nothing translated would leave by the default route.
fn lost(net: Net) -> Vec<Case> {
    let icmp = if net.v4 { proto::ICMP } else { proto::ICMPV6 };
    let mut cases = Vec::new();
    for (hook, place) in [
        (Hook::UplinkOut, "an uplink"),
        (Hook::UplinkL3Out, "an uplink without link layer"),
        (Hook::OverlayOut, "the overlay"),
    ] {
        let case = |what: &str, packet: PacketSpec| {
            Case::new(format!("leaving by {place}: {what}"), hook, World::outside(net, proto::TCP), packet)
        };
        let to = |proto, addr, port| {
            at(hook, Tuple::new(net.node(), Port::new(45_000), addr, Port::new(port), proto)).flags(SYN)
        };
        let drop = |case: Case| case.dropped(Counter::DropUnclaimed);
        cases.extend([
            drop(case("TCP to a clusterIP", to(proto::TCP, net.vip(), 8080))),
            drop(case("UDP to a clusterIP", to(proto::UDP, net.vip(), 8080))),
            drop(case("SCTP to a clusterIP", to(proto::SCTP, net.vip(), 8080))),
            drop(case("ICMP to a clusterIP", to(icmp, net.vip(), 0))),
            drop(case("another protocol to a clusterIP", to(47, net.vip(), 0))),
            drop(case("a first fragment to a clusterIP", to(proto::UDP, net.vip(), 9).with(first))),
            drop(case("a pod's packet to a clusterIP", to(proto::UDP, net.vip(), 9).from(net.client(), 9))),
            case("a later fragment to a clusterIP", to(proto::UDP, net.vip(), 9).with(later))
                .dropped(Counter::DropFragment),
            case("to a LoadBalancer's address", to(proto::TCP, net.other_vip(), 8080)),
            case("to another machine", to(proto::TCP, net.outside(), 443)),
            case("ICMP to another machine", to(icmp, net.outside(), 0)),
            case("a later fragment to another machine", to(proto::UDP, net.outside(), 9).with(later)),
            case("a pod's packet to another machine", to(proto::UDP, net.outside(), 9).from(net.client(), 9)),
        ]);
    }
    cases
}
