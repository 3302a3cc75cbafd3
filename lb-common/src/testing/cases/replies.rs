//! Packets of the backend's pod on its link: redirected flows are translated here, others on the client's link.

use super::{ACK, FIN, PSH, RST, SYN, first, local_flow, open::hairpin_flow, reply, seen_by_client, tcp, to_web, udp};
use crate::{
    abi::{backend_state, flow_state, proto},
    datapath::Verdict,
    testing::{
        Case, DEV_BRIDGE, DEV_CLIENT, DEV_SERVER, FlowSpec, Hook, Net, PacketSpec, World, flows::Both as _,
        world::LOCAL,
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = redirected(net);
    cases.extend(through_the_stack(net));
    cases.extend(hairpin(net));
    cases
}

fn redirected(net: Net) -> Vec<Case> {
    let at_server = Hook::PodIngress(DEV_SERVER);
    let case = |what: &str, flow: &[FlowSpec], packet: PacketSpec, after: &[FlowSpec]| {
        let world = World::web(net, packet.tuple.proto).redirect().flows(flow);
        let out = seen_by_client(net, &packet);
        Case::new(format!("reply redirected: {what}"), at_server, world, packet)
            .verdict(Verdict::Redirect(DEV_BRIDGE))
            .out(out)
            .flows(after)
    };
    let new = local_flow(net, proto::TCP).oif(DEV_BRIDGE);
    let replied = new.answered();
    let established = new.established();
    let closing = new.closing();
    let new_udp = local_flow(net, proto::UDP).oif(DEV_BRIDGE);
    let udp_replied = new_udp.answered();
    let answer = |flags| reply(net, proto::TCP).flags(flags);
    vec![
        case("SYN with ACK answers", &new, answer(SYN | ACK), &replied),
        case("RST refuses the connection", &new, answer(RST | ACK), &new.state(flow_state::CLOSING)),
        case("data", &established, answer(ACK | PSH), &established),
        case("data before the client went on", &replied, answer(ACK | PSH), &replied),
        case("later, and both directions are touched", &established.age(4), answer(ACK), &established),
        case("FIN closes", &established, answer(FIN | ACK), &closing),
        case("the way in is mended when it was evicted", &established.age(4)[1..], answer(ACK), &established),
        case("the first mends the way in where it was evicted", &new[1..], answer(SYN | ACK), &replied),
        case("UDP answers", &new_udp, reply(net, proto::UDP), &udp_replied),
        case("UDP again", &udp_replied, reply(net, proto::UDP), &udp_replied),
        case(
            "UDP after long silence is still the service's",
            &udp_replied.age(500),
            reply(net, proto::UDP),
            &new_udp.established(),
        ),
        case("the backend is terminating", &established, answer(ACK), &established)
            .with(|case| case.world.backend(LOCAL).state = backend_state::TERMINATING),
        case("the backend is gone", &established, answer(ACK), &established)
            .with(|case| case.world.backend(LOCAL).state = backend_state::GONE),
        case(
            "a first fragment is remembered",
            &established,
            answer(ACK).with(first),
            &[established[0], established[1], established[1].fragments()],
        ),
    ]
}

fn through_the_stack(net: Net) -> Vec<Case> {
    let at_server = Hook::PodIngress(DEV_SERVER);
    let case = |what: &str, world: World, packet: PacketSpec| {
        Case::new(format!("reply through the stack, on the backend's link: {what}"), at_server, world, packet)
    };
    let answer = |flags| reply(net, proto::TCP).flags(flags);
    let world = |proto, flow: &[FlowSpec]| World::web(net, proto).flows(flow);
    let new = local_flow(net, proto::TCP);
    let spoken = local_flow(net, proto::UDP).answered();
    vec![
        case("SYN with ACK", world(proto::TCP, &new), answer(SYN | ACK)),
        case("data of an old flow", world(proto::TCP, &new.established().age(9)), answer(ACK)),
        case("UDP", world(proto::UDP, &spoken), reply(net, proto::UDP)),
        case("a fragment", world(proto::TCP, &new.established()), answer(ACK).with(first)),
        case("no flow", world(proto::TCP, &[]), answer(ACK)),
        case("UDP without flow", world(proto::UDP, &[]), reply(net, proto::UDP)),
    ]
}

fn hairpin(net: Net) -> Vec<Case> {
    let new = hairpin_flow(net, proto::TCP);
    let replied = new.answered();
    let established = new.established();
    let from_client = |packet: PacketSpec| packet.clone().with_tuple(new[0].to);
    let answer = |flags| PacketSpec::new(new[1].key).flags(flags);
    let case = |what: &str, world: World, packet: PacketSpec, out: PacketSpec, after: &[FlowSpec]| {
        Case::new(format!("hairpin: {what}"), Hook::PodIngress(DEV_CLIENT), world, packet)
            .verdict(Verdict::Bounce)
            .out(out)
            .flows(after)
    };
    let seen = |packet: &PacketSpec| packet.clone().with_tuple(to_web(net, packet.tuple.proto).reversed());
    let world = |flow: &[FlowSpec]| World::tcp(net).flows(flow);
    let (syn_ack, data) = (answer(SYN | ACK), answer(ACK | PSH));
    let spoken = hairpin_flow(net, proto::UDP).answered();
    let udp_answer = PacketSpec::new(spoken[1].key);
    vec![
        case("the pod answers itself", world(&new), syn_ack.clone(), seen(&syn_ack), &replied),
        case("the pod goes on", world(&replied), tcp(net, ACK), from_client(tcp(net, ACK)), &established),
        case("the pod answers on", world(&established), data.clone(), seen(&data), &established),
        case(
            "UDP",
            World::udp(net).slots(&[7]).flows(&spoken),
            udp(net),
            udp(net).with_tuple(spoken[0].to),
            &spoken.established(),
        ),
        case("UDP answer", World::udp(net).flows(&spoken), udp_answer.clone(), seen(&udp_answer), &spoken),
    ]
}
