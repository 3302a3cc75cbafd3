//! Packets of clients outside that have a flow, and their openings sent once more.

use super::{ACK, BACKENDS, SYN, data, first_packet, flow, name, world};
use crate::{
    abi::{Counter, action, backend_state, frontend, mark, proto, ticks},
    testing::{
        Case, FlowSpec, Hook, Net, PacketSpec, World,
        cases::{FIN, PSH, RST},
        flows::Both as _,
        world::{LOCAL, REMOTE},
        worlds::NODE_PORT,
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, whom) in BACKENDS {
        cases.extend(tcp(net, backend, whom));
        cases.extend(datagrams(net, proto::UDP, backend, whom));
        cases.extend(datagrams(net, proto::SCTP, backend, whom));
    }
    cases.extend(leaving_udp(net));
    cases.extend(deleted_node_port(net));
    cases
}

fn tcp(net: Net, backend: u32, whom: &str) -> Vec<Case> {
    let new = flow(net, proto::TCP, backend);
    let replied = new.answered();
    let established = new.established();
    let closing = new.closing();
    let world = || world(net, proto::TCP, backend);
    let case = |what: &str, world: World, packet: PacketSpec, after: &[FlowSpec]| {
        Case::new(format!("from outside, TCP hit to {whom}: {what}"), Hook::Uplink, world, packet)
            .follows(&new[0])
            .flows(after)
    };
    let ack = || data(net, proto::TCP);
    vec![
        case("the client's ACK establishes", world().flows(&replied), ack(), &established),
        case("data", world().flows(&established), ack().flags(ACK | PSH), &established),
        case("later, and both directions are touched", world().flows(&established.age(7)), ack(), &established),
        case("FIN closes", world().flows(&established), ack().flags(FIN | ACK), &closing),
        case("RST closes", world().flows(&established), ack().flags(RST), &closing),
        case(
            "the way back is mended when it was evicted",
            world().flows(&established.age(3)[..1]),
            ack(),
            &established,
        ),
        case("the backend is gone", world().flows(&established), ack(), &established)
            .with(|case| case.world.backend(backend).state = backend_state::GONE),
        case("the service has no endpoints left", world().flows(&established), ack(), &established)
            .with(|case| case.world.services[0].action = action::REJECT),
        case("SYN once more stays with its backend", world().flows(&new), first_packet(net, proto::TCP), &new),
        case("SYN once more after the reply", world().flows(&replied), first_packet(net, proto::TCP), &replied),
        case("SYN on an old connection's ports", world().flows(&established), first_packet(net, proto::TCP), &new)
            .opens(&new),
    ]
}

fn datagrams(net: Net, proto: u8, backend: u32, whom: &str) -> Vec<Case> {
    let new = flow(net, proto, backend);
    let (replied, established) = (new.answered(), new.established());
    let case = |what: &str, before: &[FlowSpec], after: &[FlowSpec]| {
        let title = format!("from outside, {} hit to {whom}: {what}", name(proto));
        let world = world(net, proto, backend).flows(before);
        Case::new(title, Hook::Uplink, world, data(net, proto)).follows(&new[0]).flows(after)
    };
    vec![
        case("unanswered", &new, &new),
        case("the client goes on once it was answered", &replied, &established),
        case("established", &established, &established),
        case("later, and both directions are touched", &established.age(9), &established),
        case("the way back is mended when it was evicted", &established.age(2)[..1], &established),
        case("the way back is mended where it is established", &replied.age(2)[..1], &established),
    ]
}

/// UDP leaves a flow whose backend it would not be given now.
fn leaving_udp(net: Net) -> Vec<Case> {
    let (local, remote) = (flow(net, proto::UDP, LOCAL), flow(net, proto::UDP, REMOTE));
    let replied = local.answered();
    let anew = |what: &str, flow: &[FlowSpec], change: &dyn Fn(&mut World)| {
        let world = world(net, proto::UDP, REMOTE).flows(flow).with(change);
        let title = format!("from outside, UDP chooses anew: {what}");
        Case::new(title, Hook::Uplink, world, data(net, proto::UDP)).opens(&remote)
    };
    let empty = world(net, proto::UDP, LOCAL).flows(&replied).with(|w| {
        w.services[0].action = action::REJECT;
        w.services[0].slots.clear();
        w.backend(LOCAL).state = backend_state::GONE;
    });
    vec![
        anew("the backend is gone", &replied, &|w| w.backend(LOCAL).state = backend_state::GONE),
        anew("the backend is terminating", &replied, &|w| w.backend(LOCAL).state = backend_state::TERMINATING),
        anew("the backend's id was reused", &replied, &|w| w.backend(LOCAL).generation = 2),
        anew("the service is another", &replied.map(|flow| FlowSpec { identity: 0x5555, ..flow }), &|_| {}),
        anew("unanswered and silent too long", &local.age(ticks(30) + 2), &|_| {}),
        anew("answered once and silent too long", &replied.age(ticks(30) + 2), &|_| {}),
        anew("established and silent too long", &local.established().age(ticks(120) + 2), &|_| {}),
        Case::new("from outside: UDP has no backend any more", Hook::Uplink, empty, data(net, proto::UDP))
            .flows(&[])
            .refused(Counter::DropNoEndpoint),
        Case::new(
            "from outside: a SYN leaves an unanswered flow to a backend that is gone",
            Hook::Uplink,
            world(net, proto::TCP, REMOTE)
                .flows(&flow(net, proto::TCP, LOCAL))
                .with(|w| w.backend(LOCAL).state = backend_state::GONE),
            first_packet(net, proto::TCP).flags(SYN),
        )
        .opens(&flow(net, proto::TCP, REMOTE)),
    ]
}

/// Open connections to a node port outlive it, whether its Service goes on or went with it. What a deleted one leaves behind
/// takes nothing from whoever listens on the node's port afterwards.
fn deleted_node_port(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, whom) in BACKENDS {
        let new = flow(net, proto::TCP, backend);
        let established = new.established();
        let closing = new.closing();
        let world = |flow: &[FlowSpec]| {
            world(net, proto::TCP, backend).flows(flow).with(|w| {
                w.services[0].frontends.retain(|(_, bits)| bits & frontend::TYPE_MASK != frontend::NODE_PORT);
                w.marks |= mark::node_port(NODE_PORT);
            })
        };
        let case = |what: &str, world: World, packet: PacketSpec| {
            Case::new(format!("a deleted node port, TCP to {whom}: {what}"), Hook::Uplink, world, packet)
        };
        let ack = || data(net, proto::TCP);
        let goes_on = |what: &str, world: World, flags, after: &[FlowSpec]| {
            case(what, world, ack().flags(flags)).follows(&new[0]).flows(after)
        };
        let gone = |w: &mut World| {
            w.services.clear();
            w.backend(backend).state = backend_state::GONE;
        };
        cases.extend([
            goes_on("data", world(&established), ACK | PSH, &established),
            goes_on("FIN", world(&established), FIN | ACK, &closing),
            goes_on("data, the whole Service is gone", world(&established).with(gone), ACK | PSH, &established),
            case("SYN, somebody else's connection", world(&established), ack().flags(SYN)).flows(&[]),
            case("SYN once more, before an answer", world(&new), ack().flags(SYN)).flows(&[]),
            case("in mid-stream without a flow", world(&[]), ack()),
            case("another client's", world(&established), ack().from(net.outside(), 50_001)).flows(&established),
        ]);
    }
    // UDP leaves what nobody would choose for it now.
    let spoken = flow(net, proto::UDP, LOCAL).answered();
    let world = world(net, proto::UDP, LOCAL).flows(&spoken).with(|w| {
        w.services.clear();
        w.marks |= mark::node_port(NODE_PORT);
    });
    cases.push(Case::new("a deleted node port: UDP passes", Hook::Uplink, world, data(net, proto::UDP)).flows(&spoken));
    cases
}
