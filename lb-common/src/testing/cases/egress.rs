//! Packets to the client's pod on its link: replies that took the host's stack.

use super::{
    ACK, FIN, PSH, RST, SYN, first, later, local_flow, open::hairpin_flow, remote_flow, reply, seen_by_client, tcp,
    to_web,
};
use crate::{
    abi::{Port, backend_state, flow_state, proto},
    datapath::Verdict,
    testing::{Case, DEV_BRIDGE, FlowSpec, Hook, L4Sum, Net, PacketSpec, World, flows::Both as _, world::LOCAL},
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = translated(net);
    cases.extend(passing(net));
    cases
}

fn translated(net: Net) -> Vec<Case> {
    let case = |what: &str, flow: &[FlowSpec], packet: PacketSpec, after: &[FlowSpec]| {
        let world = World::web(net, packet.tuple.proto).flows(flow);
        let out = seen_by_client(net, &packet);
        Case::new(format!("reply on the client's link: {what}"), Hook::PodEgress, world, packet)
            .verdict(Verdict::Stack)
            .out(out)
            .flows(after)
    };
    let new = local_flow(net, proto::TCP);
    let replied = new.answered();
    let established = new.established();
    let closing = new.closing();
    let new_udp = local_flow(net, proto::UDP);
    let spoken = new_udp.answered();
    let answer = |flags| reply(net, proto::TCP).flags(flags);
    let remote = remote_flow(net, proto::TCP);
    let remote_answer = PacketSpec::new(remote[1].key).flags(SYN | ACK);
    // A flow whose source port was taken: the backend knows the client by another port.
    let mut moved = new;
    moved[0].to.sport = Port::new(61_234);
    moved[1].key.dport = Port::new(61_234);
    let to_moved = answer(ACK).with(|p| p.tuple.dport = Port::new(61_234));
    vec![
        case("SYN with ACK answers", &new, answer(SYN | ACK), &replied),
        case("SYN with ACK once more", &replied, answer(SYN | ACK), &replied),
        case("from a remote backend", &remote, remote_answer.clone(), &remote.answered())
            .out(remote_answer.with_tuple(to_web(net, proto::TCP).reversed())),
        case("RST refuses the connection", &new, answer(RST | ACK), &new.state(flow_state::CLOSING)),
        case("data", &established, answer(ACK | PSH), &established),
        case("later, and both directions are touched", &established.age(2), answer(ACK), &established),
        case("FIN closes", &established, answer(FIN | ACK), &closing),
        case("data while closing", &closing, answer(ACK), &closing),
        case("the way in is mended when it was evicted", &established.age(2)[1..], answer(ACK), &established),
        case("the backend is gone", &established, answer(ACK), &established)
            .with(|case| case.world.backend(LOCAL).state = backend_state::GONE),
        case("the service is gone", &established, answer(ACK), &established).with(|case| case.world.services.clear()),
        case("back to the client's own port", &moved.established(), to_moved, &moved.established()),
        case("partial checksum", &established, answer(ACK).with(|p| p.l4_sum = L4Sum::Partial), &established),
        case("UDP answers", &new_udp, reply(net, proto::UDP), &spoken),
        case("UDP again", &spoken, reply(net, proto::UDP), &spoken),
        case("UDP goes on answering", &spoken.age(1), reply(net, proto::UDP), &new_udp.established()),
        case("SYN with ACK once more, later", &replied.age(1), answer(SYN | ACK), &replied),
        case("UDP without a checksum", &spoken, reply(net, proto::UDP).with(|p| p.l4_sum = L4Sum::Zero), &spoken),
        case(
            "a first fragment is remembered",
            &established,
            answer(ACK).with(first),
            &[established[0], established[1], established[1].fragments()],
        ),
    ]
}

fn passing(net: Net) -> Vec<Case> {
    let case = |what: &str, flow: &[FlowSpec], packet: PacketSpec| {
        Case::new(format!("towards a pod: {what}"), Hook::PodEgress, World::tcp(net).flows(flow), packet)
    };
    let established = local_flow(net, proto::TCP).established();
    let answer = |flags| reply(net, proto::TCP).flags(flags);
    let hairpin = hairpin_flow(net, proto::TCP).established();
    vec![
        case("a packet of no flow", &[], answer(ACK)),
        case("a SYN, even on a flow's ports", &established, answer(SYN)),
        case("the forward direction of a flow", &established, tcp(net, ACK)),
        case("a reply that was redirected and so translated already", &established.oif(DEV_BRIDGE), answer(ACK)),
        case("a hairpin reply", &hairpin, PacketSpec::new(hairpin[1].key)),
        case("another port of the backend", &established, answer(ACK).with(|p| p.tuple.sport = Port::new(81))),
        case("another port of the client", &established, answer(ACK).with(|p| p.tuple.dport = Port::new(40_001))),
        case("another protocol on the same ports", &established, reply(net, proto::UDP)),
        case("a later fragment of an unknown datagram", &established, answer(ACK).with(later)),
    ]
}
