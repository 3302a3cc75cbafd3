//! Source ports of clients for whom our own address stands: low ones, taken ones, and those of connections past us.

use super::{ACK, HOST, LOW_PORT, MASKED, PORT, SYN, at, first_packet, flow, from_client_to, name, world};
use crate::{
    abi::{Counter, Port, Tuple, flow_state, proto, ticks},
    testing::{
        Case, FlowSpec, Hook, Net, World,
        flows::Both as _,
        outside_flow,
        world::{LOCAL, REMOTE},
        worlds::open_frontend,
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = low(net);
    cases.extend(taken(net));
    cases.extend(direct(net));
    cases
}

/// With any port in place of the client's.
fn any_port([mut forward, mut reply]: [FlowSpec; 2]) -> [FlowSpec; 2] {
    (forward.to.sport, reply.key.dport) = (Port::new(0), Port::new(0));
    [forward, reply]
}

fn low(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        let flow = |backend, port| outside_flow(net, proto, open_frontend(net, proto), port, backend);
        let case = |what: String, backend, flow: &[FlowSpec; 2]| {
            let packet = at(Hook::Uplink, flow[0].key).flags(SYN);
            let title = format!("from outside, ports: {} {what}", name(proto));
            Case::new(title, Hook::Uplink, world(net, proto, backend), packet).opens(flow)
        };
        for (backend, whom) in MASKED {
            let moved = any_port(flow(backend, LOW_PORT));
            cases.push(case(format!("from a low port to {whom}"), backend, &moved).with(|case| case.any_port = true));
            let kept = flow(backend, 32_768);
            cases.push(case(format!("from port 32768 to {whom}"), backend, &kept));
        }
        cases.push(case("from a low port to a local pod".into(), LOCAL, &flow(LOCAL, LOW_PORT)));
        cases.push(case("from a low port to this node".into(), HOST, &flow(HOST, LOW_PORT)));
    }
    cases
}

/// Another client's flow has the port already.
fn taken(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        for (backend, whom) in MASKED {
            let own = flow(net, proto, backend);
            let mut other = own;
            (other[0].key.src, other[1].to.dst) = (net.other_vip(), net.other_vip());
            let state = if proto == proto::TCP { flow_state::ESTABLISHED } else { flow_state::REPLIED };
            let live = other.established().state(state);
            let case = |what: &str, flow: &[FlowSpec]| {
                let title = format!("from outside, ports: {} taken by another client of {whom}, {what}", name(proto));
                Case::new(title, Hook::Uplink, world(net, proto, backend).flows(flow), first_packet(net, proto))
            };
            let moved = any_port(own);
            let moves = |what: &str, other: [FlowSpec; 2]| {
                case(what, &other).opens(&moved).counts(Counter::PortCollision).with(|case| {
                    case.any_port = true;
                    case.flows = Some([moved, other].concat());
                })
            };
            cases.push(moves("unanswered", other));
            cases.push(moves("answered", live));
            let over = if proto == proto::TCP { other.closing().age(120) } else { live.age(ticks(120) + 2) };
            cases.push(case("whose flow is over", &over).opens(&own));
            cases.push(case("whose flow lost its way in and is over", &over[1..]).opens(&own));
        }
    }
    cases
}

/// Connections past the frontends that come by the uplink: their answers must not be taken for the service's.
fn direct(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, addr, whom) in [(LOCAL, net.server(), "a local pod"), (HOST, net.node(), "this node")] {
        let case = |what: &str, proto: u8, world: World, dst_port: u16, flags: u8| {
            let packet = from_client_to(net, proto, addr, dst_port).flags(flags);
            let title = format!("from outside, direct to {whom}: {} {what}", name(proto));
            Case::new(title, Hook::Uplink, world, packet)
        };
        for proto in [proto::TCP, proto::UDP] {
            let new = flow(net, proto, backend);
            let world = |flow: &[FlowSpec]| world(net, proto, backend).flows(flow);
            let replaced = |what: &str, flow: &[FlowSpec]| {
                case(what, proto, world(flow), 80, SYN).flows(&[]).counts(Counter::FlowReplaced)
            };
            cases.extend([
                replaced("on an unanswered flow's ports", &new),
                replaced("on an answered flow's ports", &new.established()),
                replaced("on the ports of a flow that lost its way in", &new.established()[1..]),
                case("to another port", proto, world(&new), 81, SYN),
            ]);
        }
        let established = flow(net, proto::TCP, backend).established();
        cases.push(case("in mid-stream", proto::TCP, world(net, proto::TCP, backend).flows(&established), 80, ACK));
    }
    // Another node's pod cannot be taken for a masked flow's client.
    let masked = flow(net, proto::TCP, REMOTE).established();
    let packet = at(Hook::Uplink, Tuple::new(net.outside(), Port::new(PORT), net.remote(), Port::new(80), proto::TCP));
    cases.push(Case::new(
        "from outside, direct: to the backend of a flow for which our address stands",
        Hook::Uplink,
        world(net, proto::TCP, REMOTE).flows(&masked),
        packet.flags(SYN),
    ));
    cases
}
