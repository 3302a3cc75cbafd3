//! UDP packets of the client: a flow is left as soon as its backend would no longer be chosen, or it was silent long.

use super::{first, local_flow, remote_flow, to_backend, udp};
use crate::{
    abi::{action, backend_state, proto, ticks},
    datapath::Verdict,
    testing::{
        Case, DEV_BRIDGE, FlowSpec, L4Sum, Net, PacketSpec, World,
        flows::Both as _,
        world::{LOCAL, REMOTE},
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let local = local_flow(net, proto::UDP);
    let remote = remote_flow(net, proto::UDP);
    let (answered, established) = (local.answered(), local.established());
    // New choices fall on the remote backend.
    let world = |flow: &[FlowSpec]| World::udp(net).slots(&[REMOTE]).flows(flow);
    let stays_with = |what: &str, world, packet: PacketSpec, after: &[FlowSpec]| {
        let out = packet.clone().with_tuple(to_backend(net, proto::UDP, net.server()));
        Case::ingress(format!("UDP hit: {what}"), world, packet).verdict(Verdict::Stack).out(out).flows(after)
    };
    let stays = |what: &str, world, after: &[FlowSpec]| stays_with(what, world, udp(net), after);
    let anew = |what: &str, world| {
        Case::ingress(format!("UDP chooses anew: {what}"), world, udp(net)).opens(&remote).verdict(Verdict::Stack)
    };
    let backend = |flow: &[FlowSpec], state| world(flow).with(|w| w.backend(LOCAL).state = state);
    let odd = |p: &mut PacketSpec| p.payload = vec![7];
    let mut cases = vec![
        stays("unanswered", world(&local), &local),
        stays("established", world(&established), &established),
        stays("the client goes on once it was answered", world(&answered), &established),
        stays("answered once and silent nearly as long as may be", world(&answered.age(ticks(30) - 2)), &established),
        stays("later, and both directions are touched", world(&established.age(9)), &established),
        stays("silent nearly as long as an unanswered flow may be", world(&local.age(ticks(30) - 2)), &local),
        stays(
            "silent nearly as long as an established flow may be",
            world(&established.age(ticks(120) - 2)),
            &established,
        ),
        stays("seen a tick ahead by another processor", world(&established.age(2_u32.wrapping_neg())), &established)
            .with(|case| case.flows = None)
            .with(|case| case.flows = Some(established.to_vec())),
        stays("redirected", world(&established.oif(DEV_BRIDGE)), &established.oif(DEV_BRIDGE))
            .verdict(Verdict::Redirect(DEV_BRIDGE)),
        stays("the way back is mended when it was evicted", world(&established.age(2)[..1]), &established),
        stays(
            "terminating, as nothing better exists",
            backend(&established, backend_state::TERMINATING).with(|w| w.services[0].action = action::TERMINATING),
            &established,
        ),
        stays("a new set of backends does not matter while the old one lives", world(&established), &established),
        stays_with("an odd number of bytes", world(&established), udp(net).with(odd), &established),
        stays_with("no payload", world(&established), udp(net).with(|p| p.payload.clear()), &established),
        anew("the backend is gone", backend(&established, backend_state::GONE)),
        anew("the backend is terminating", backend(&established, backend_state::TERMINATING)),
        anew("the backend's id was reused", world(&established).with(|w| w.backend(LOCAL).generation = 2)),
        anew("the service is another", world(&established.map(|flow| FlowSpec { identity: 0x5555, ..flow }))),
        anew("unanswered and silent too long", world(&local.age(ticks(30) + 2))),
        anew("answered once and silent too long", world(&answered.age(ticks(30) + 2))),
        anew("established and silent too long", world(&established.age(ticks(120) + 2))),
        Case::ingress(
            "UDP: the service is gone, and so is its flow",
            world(&established).with(|w| w.services.clear()),
            udp(net),
        )
        .flows(&[]),
        stays_with(
            "a first fragment is remembered",
            world(&established),
            udp(net).with(first),
            &[established[0], established[1], established[0].fragments()],
        ),
        Case::ingress("UDP: a first fragment opens as any", World::udp(net), udp(net).with(first))
            .opens(&local)
            .flows(&[local[0], local[1], local[0].fragments()]),
    ];
    cases.extend(checksums(net, &established));
    cases
}

fn checksums(net: Net, flow: &[FlowSpec; 2]) -> Vec<Case> {
    let world = || World::udp(net).flows(flow);
    let case = |what: &str, packet: PacketSpec| {
        let out = packet.clone().with_tuple(to_backend(net, proto::UDP, net.server()));
        Case::ingress(format!("UDP checksum: {what}"), world(), packet).verdict(Verdict::Stack).out(out)
    };
    vec![
        case("none stays none", udp(net).with(|p| p.l4_sum = L4Sum::Zero)),
        case("partial", udp(net).with(|p| p.l4_sum = L4Sum::Partial)),
        case("a sum that becomes zero is written as 0xffff", becoming_zero(net, true)),
        case("a sum that was zero and is written as 0xffff", becoming_zero(net, false)),
    ]
}

/// A packet whose computed checksum is zero after (or before) the translation.
fn becoming_zero(net: Net, after: bool) -> PacketSpec {
    let plain = udp(net).with(|p| p.payload = vec![0, 0]);
    let sum = |payload: &[u8]| {
        let spec = plain.clone().with(|p| p.payload = payload.to_vec());
        let spec = if after { spec.with_tuple(to_backend(net, proto::UDP, net.server())) } else { spec };
        let bytes = spec.build();
        let at = bytes.len() - payload.len() - 2;
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    };
    // With payload 0 the checksum is the complement of the rest; that payload makes the sum 0xffff.
    let payload = sum(&[0, 0]).to_be_bytes();
    assert_eq!(sum(&payload), 0xffff, "zero is written as 0xffff");
    plain.with(|p| p.payload = payload.to_vec())
}
