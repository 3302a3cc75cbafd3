//! Packets with the addresses and ports of a flow that was opened somewhere else: from outside with a pod's, from a pod
//! with an outside client's. They do not go on in it, and it is theirs only once they are let in.

use super::{ACK, SYN, at, flow, world};
use crate::{
    abi::{Counter, action, frontend, proto, role},
    testing::{
        Case, DEV_BRIDGE, DEV_UPLINK, FlowSpec, Hook, Net, PacketSpec, World,
        cases::local_flow,
        flows::{Both as _, pair},
        world::{LOCAL, REMOTE},
        worlds::open_frontend,
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = from_outside(net);
    cases.extend(from_a_pod(net));
    cases
}

/// The flow of the client pod to `web`'s open frontend.
fn pods(net: Net, proto: u8) -> [FlowSpec; 2] {
    let (addr, port) = open_frontend(net, proto);
    pair(net.from_client(proto, addr, port), net.from_client(proto, net.server(), 80))
}

/// The same as one that a packet from outside opens.
fn taken_over(net: Net, proto: u8) -> [FlowSpec; 2] {
    let [mut forward, mut reply] = pods(net, proto).both(|flow| flow.role |= role::OUTSIDE | role::ROUTED);
    (forward.oif, forward.mate_oif, forward.mtu, forward.mate_mtu) = (DEV_BRIDGE, DEV_UPLINK, 1500, 1500);
    (reply.oif, reply.mate_oif, reply.mtu, reply.mate_mtu) = (DEV_UPLINK, DEV_BRIDGE, 1500, 1500);
    [forward, reply]
}

fn from_outside(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    let case = |what: &str, world: World, packet: PacketSpec| {
        Case::new(format!("from outside with a pod's ports: {what}"), Hook::Uplink, world, packet)
    };
    let tcp = |flags| at(Hook::Uplink, pods(net, proto::TCP)[0].key).flags(flags);
    let udp = || at(Hook::Uplink, pods(net, proto::UDP)[0].key);
    for (state, flow) in [
        ("new", pods(net, proto::TCP)),
        ("answered", pods(net, proto::TCP).answered()),
        ("established", pods(net, proto::TCP).established()),
    ] {
        let world = |flow: &[FlowSpec]| world(net, proto::TCP, LOCAL).flows(flow);
        cases.extend([
            case(&format!("SYN, flow {state}"), world(&flow), tcp(SYN)).opens(&taken_over(net, proto::TCP)),
            case(&format!("ACK, flow {state}: the stack's to refuse"), world(&flow), tcp(ACK)),
            case(&format!("SYN that is not let in, flow {state}"), world(&flow), tcp(SYN))
                .with(|case| {
                    case.world.services[0].frontends.iter_mut().for_each(|(_, bits)| *bits |= frontend::RANGES);
                })
                .dropped(Counter::DropSourceRange),
            case(&format!("SYN to a service without endpoints, flow {state}"), world(&flow), tcp(SYN))
                .with(|case| case.world.services[0].action = action::REJECT)
                .refused(Counter::DropNoEndpoint),
        ]);
        let closed = local_flow(net, proto::TCP).state(flow[0].state).both(|entry| entry.table = flow[0].table);
        cases.push(
            case(&format!("SYN to a clusterIP, flow {state}"), world(&closed), {
                at(Hook::Uplink, closed[0].key).flags(SYN)
            })
            .dropped(Counter::DropClosed),
        );
    }
    let spoken = pods(net, proto::UDP).answered();
    for (state, flow) in [("unanswered", pods(net, proto::UDP)), ("answered", spoken)] {
        let title = format!("UDP, flow {state}");
        cases.push(case(&title, world(net, proto::UDP, LOCAL).flows(&flow), udp()).opens(&taken_over(net, proto::UDP)));
    }
    // A reply's ports: to a pod, so none of ours; the pod's own reply is met elsewhere.
    let established = pods(net, proto::TCP).established();
    let reply = at(Hook::Uplink, established[1].key).flags(ACK);
    cases.push(case("a reply's", world(net, proto::TCP, LOCAL).flows(&established), reply));
    cases
}

fn from_a_pod(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in [LOCAL, REMOTE] {
        for (proto, flags, what) in [(proto::TCP, SYN, "SYN"), (proto::UDP, 0, "UDP")] {
            let outside = flow(net, proto, backend).answered();
            let packet = at(Hook::PodEgress, outside[0].key).flags(flags);
            let mut to = outside[0].key;
            (to.dst, to.dport) = (net.server(), crate::abi::Port::new(80));
            let world = world(net, proto, LOCAL).flows(&outside);
            let title = format!("from a pod with an outside client's ports: {what}, flow to backend {backend}");
            cases.push(Case::ingress(title, world, packet).opens(&pair(outside[0].key, to)));
        }
    }
    let established = flow(net, proto::TCP, REMOTE).established();
    let ack = at(Hook::PodEgress, established[0].key).flags(ACK);
    let world = world(net, proto::TCP, REMOTE).flows(&established);
    cases.push(Case::ingress("from a pod with an outside client's ports: ACK, the stack's to refuse", world, ack));
    cases
}
