//! What backends answer to clients outside, where it is met: on a pod's link, on the uplink, on the overlay, or as it
//! leaves the node's own stack.

use super::{ACK, BACKENDS, SYN, at, flow, name, reply_hook, world};
use crate::{
    abi::{backend_state, flow_state, proto},
    testing::{
        Case, DEV_CLIENT, FlowSpec, Hook, L4Sum, Net, PacketSpec,
        cases::{FIN, RST},
        flows::Both as _,
        world::{HOST, LOCAL},
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, whom) in BACKENDS {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            cases.extend(translated(net, proto, backend, whom));
        }
        cases.extend(tcp(net, backend, whom));
    }
    cases.extend(elsewhere(net));
    cases
}

fn reply(net: Net, proto: u8, backend: u32) -> PacketSpec {
    at(reply_hook(backend), flow(net, proto, backend)[1].key)
}

fn case(net: Net, proto: u8, backend: u32, title: String, before: &[FlowSpec], after: &[FlowSpec]) -> Case {
    let world = world(net, proto, backend).flows(before);
    Case::new(title, reply_hook(backend), world, reply(net, proto, backend))
        .follows(&flow(net, proto, backend)[1])
        .flows(after)
}

fn translated(net: Net, proto: u8, backend: u32, whom: &str) -> Vec<Case> {
    let new = flow(net, proto, backend);
    let replied = new.answered();
    let case = |what: &str, before: &[FlowSpec], after: &[FlowSpec]| {
        let title = format!("reply to the outside from {whom}: {} {what}", name(proto));
        case(net, proto, backend, title, before, after)
    };
    let mut cases = vec![
        case("answers", &new, &replied),
        case("again", &replied, &replied),
        case("once more later", &replied.age(4), &if proto == proto::TCP { replied } else { new.established() }),
        case("later, and both directions are touched", &new.established().age(4), &new.established()),
        case("after the backend went", &replied, &replied)
            .with(|case| case.world.backend(backend).state = backend_state::GONE),
    ];
    if proto == proto::UDP {
        let zero = |case: Case| {
            let mut case = case;
            case.packet.l4_sum = L4Sum::Zero;
            case.follows(&new[1])
        };
        cases.push(zero(case("without a checksum", &replied, &replied)));
    }
    cases
}

fn tcp(net: Net, backend: u32, whom: &str) -> Vec<Case> {
    let new = flow(net, proto::TCP, backend);
    let (replied, established) = (new.answered(), new.established());
    let closing = new.closing();
    let case = |what: &str, flags: u8, before: &[FlowSpec], after: &[FlowSpec]| {
        let title = format!("reply to the outside from {whom}: {what}");
        case(net, proto::TCP, backend, title, before, after).with(|case| {
            case.packet.tcp_flags = flags;
            *case = case.clone().follows(&new[1]);
        })
    };
    let mut moved = new.established();
    (moved[0].to.sport, moved[1].key.dport) = (crate::abi::Port::new(61_234), crate::abi::Port::new(61_234));
    let mut back = case("back to the client's own port", ACK, &moved, &moved);
    back.packet.tuple = moved[1].key;
    vec![
        case("SYN with ACK", SYN | ACK, &new, &replied),
        case("RST refuses the connection", RST | ACK, &new, &new.state(flow_state::CLOSING)),
        case("data", ACK, &established, &established),
        case("FIN closes", FIN | ACK, &established, &closing),
        case("the way in is mended when it was evicted", ACK, &established.age(2)[1..], &established),
        back.follows(&moved[1]),
        case("a checksum left to the device", ACK, &established, &established).with(|case| {
            case.packet.l4_sum = L4Sum::Partial;
            *case = case.clone().follows(&new[1]);
        }),
    ]
}

/// The same packets at other places, and others at these.
fn elsewhere(net: Net) -> Vec<Case> {
    let local = flow(net, proto::TCP, LOCAL).established();
    let host = flow(net, proto::TCP, HOST).established();
    let case = |what: &str, hook: Hook, flow: &[FlowSpec], packet: PacketSpec| {
        let world = world(net, proto::TCP, LOCAL).flows(flow);
        Case::new(format!("reply to the outside: {what}"), hook, world, packet)
    };
    let of = |flow: &FlowSpec, hook| at(hook, flow.key).flags(ACK);
    vec![
        case("that left by the stack was translated before", Hook::UplinkOut, &local, of(&local[1], Hook::UplinkOut)),
        case(
            "of this node is not met on a pod's link",
            Hook::PodIngress(DEV_CLIENT),
            &host,
            of(&host[1], Hook::Uplink),
        ),
        case("of this node by a link without link layer", Hook::UplinkL3Out, &host, of(&host[1], Hook::UplinkL3Out))
            .follows(&host[1]),
        case("of this node to a client behind the overlay", Hook::OverlayOut, &host, of(&host[1], Hook::OverlayOut))
            .follows(&host[1]),
        case("of this node to a pod", Hook::PodEgress, &host, of(&host[1], Hook::PodEgress)).follows(&host[1]),
        case("of this node, where no flow ever was to it", Hook::UplinkOut, &host, of(&host[1], Hook::UplinkOut))
            .with(|case| case.world.marks = 0),
        case("of a port of the node that has no flow", Hook::UplinkOut, &host, {
            of(&host[1], Hook::UplinkOut).from(net.node(), 22)
        }),
        case("a SYN on its ports is none", Hook::UplinkOut, &host, of(&host[1], Hook::UplinkOut).flags(SYN)),
        case("to the node's own port is the node's", Hook::Uplink, &[], {
            at(Hook::Uplink, flow(net, proto::TCP, super::REMOTE)[1].key).flags(ACK)
        }),
    ]
}
