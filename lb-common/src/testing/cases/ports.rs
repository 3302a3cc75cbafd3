//! Connections that meet on the same ports: the same client's to one backend through several frontends, or directly.

use super::{ACK, SYN, local_flow, remote_flow, syn, tcp, to_backend, to_web, udp};
use crate::{
    abi::{Counter, Port, ServiceKey, backend_state, flow_state, frontend, proto, scope, ticks},
    datapath::Verdict,
    testing::{
        Case, FlowSpec, Net, PacketSpec, World,
        flows::{Both as _, pair},
        world::LOCAL,
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = clashes(net);
    cases.extend(direct(net));
    cases
}

/// A second frontend of `web`.
fn other_frontend(world: &mut World, net: Net, proto: u8) {
    let key = ServiceKey { addr: net.other_vip(), port: Port::new(8080), proto, scope: scope::INTERNAL };
    world.services[0].frontends.push((key, frontend::LOAD_BALANCER));
}

fn clashes(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, proto, packet) in [("TCP", proto::TCP, syn(net)), ("UDP", proto::UDP, udp(net))] {
        // The client's port 40000 already leads to the backend by the other frontend.
        let key = net.from_client(proto, net.other_vip(), 8080);
        let other = pair(key, to_backend(net, proto, net.server()));
        let state = if proto == proto::TCP { flow_state::ESTABLISHED } else { flow_state::REPLIED };
        let live = other.established().state(state);
        let left = live.map(|flow| FlowSpec { generation: 9, ..flow });
        let orphan = live.map(|flow| FlowSpec { service: 8, ..flow });
        let own = local_flow(net, proto);
        let mut moved = own;
        moved[0].to.sport = Port::new(0);
        moved[1].key.dport = Port::new(0);
        let world = |flow: &[FlowSpec]| World::web(net, proto).with(|w| other_frontend(w, net, proto)).flows(flow);
        let case = |what: &str, world| Case::ingress(format!("{name} same ports: {what}"), world, packet.clone());
        let moves = |what: &str, flow: [FlowSpec; 2]| {
            case(what, world(&flow)).opens(&moved).verdict(Verdict::Stack).with(|case| {
                case.any_port = true;
                case.counters.push(Counter::PortCollision);
                case.flows = Some([moved, flow].concat());
            })
        };
        let takes = |what: &str, world| case(what, world).opens(&own).verdict(Verdict::Stack);
        cases.extend([
            moves("an unanswered flow by another frontend keeps them", other),
            moves("an answered flow by another frontend keeps them", live),
            moves("a flow whose backend left its service keeps them: it drains", left),
            moves("a flow whose service is gone keeps them: it drains", orphan),
            takes("the reply entry that an evicted flow left is replaced", world(&own.established().state(state)[1..])),
        ]);
        if proto == proto::TCP {
            let closing = other.closing();
            cases.extend([
                moves("a flow that is closing keeps them while it may still speak", closing),
                takes("a flow that closed a while ago loses them", world(&closing.age(120))),
                moves("an established flow keeps them, however long it is silent", live.age(100_000)),
            ]);
        } else {
            cases.extend([
                takes("an unanswered flow that is silent for long loses them", world(&other.age(ticks(30) + 2))),
                takes("an answered flow that is silent for long loses them", world(&live.age(ticks(120) + 2))),
            ]);
        }
    }
    cases
}

/// Connections past the frontend: their replies must not be taken for the service's.
fn direct(net: Net) -> Vec<Case> {
    let case = |what: &str, proto, flow: &[FlowSpec], packet: PacketSpec| {
        Case::ingress(format!("direct: {what}"), World::web(net, proto).flows(flow), packet)
    };
    let tcp_flow = local_flow(net, proto::TCP);
    let udp_flow = local_flow(net, proto::UDP);
    let straight = |packet: PacketSpec| packet.to(net.server(), 80);
    let replaced = |case: Case| case.flows(&[]).counts(Counter::FlowReplaced);
    let mut twice = tcp_flow.established().to_vec();
    twice.push(tcp_flow[1]);
    vec![
        replaced(case("SYN on an unanswered flow's ports", proto::TCP, &tcp_flow, straight(syn(net)))),
        replaced(case("SYN on an established flow's ports", proto::TCP, &tcp_flow.established(), straight(syn(net)))),
        replaced(case(
            "SYN on the ports of a flow that lost its way in",
            proto::TCP,
            &tcp_flow.established()[1..],
            straight(syn(net)),
        )),
        replaced(case("SYN on ports that a race left in both tables", proto::TCP, &twice, straight(syn(net)))),
        replaced(case("UDP on a flow's ports", proto::UDP, &udp_flow, straight(udp(net)))),
        replaced(case("UDP on an answered flow's ports", proto::UDP, &udp_flow.established(), straight(udp(net)))),
        case("SYN on other ports", proto::TCP, &tcp_flow, straight(syn(net)).from(net.client(), 40_001)),
        case("SYN to another port of the backend", proto::TCP, &tcp_flow, syn(net).to(net.server(), 81)),
        case("UDP on a TCP flow's ports", proto::TCP, &tcp_flow, straight(udp(net))),
        case("ACK replaces nothing", proto::TCP, &tcp_flow, straight(tcp(net, ACK))),
        case("SYN with ACK replaces nothing", proto::TCP, &tcp_flow, straight(tcp(net, SYN | ACK))),
        case(
            "SYN on the forward direction's ports",
            proto::TCP,
            &remote_flow(net, proto::TCP),
            PacketSpec::new(to_web(net, proto::TCP).reversed()).flags(SYN),
        ),
        case("a flow whose backend is gone", proto::TCP, &tcp_flow, straight(syn(net)))
            .with(|case| case.world.backend(LOCAL).state = backend_state::GONE)
            .flows(&[])
            .counts(Counter::FlowReplaced),
    ]
}
