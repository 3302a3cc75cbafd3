//! SCTP, whose checksum covers the ports: addresses change, ports never do.

use super::{BACKENDS, LOW_PORT, MASKED, at, first_packet, flow, reply_hook, world};
use crate::{
    abi::{Counter, Port, ServiceKey, frontend, proto, scope},
    testing::{
        Case, DEV_BRIDGE, Hook, Net, PacketSpec, World,
        flows::{Both as _, pair},
        outside_flow,
        world::{LOCAL, SELF},
        worlds::open_frontend,
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, whom) in BACKENDS {
        let case = |what: &str, change: &dyn Fn(&mut World)| {
            let world = world(net, proto::SCTP, backend).with(change);
            Case::new(format!("SCTP to {whom}: {what}"), Hook::Uplink, world, first_packet(net, proto::SCTP))
        };
        cases.push(
            case("another target port", &|w| w.backend(backend).port = Port::new(81)).dropped(Counter::DropSctpPort),
        );
        let (addr, port) = open_frontend(net, proto::SCTP);
        let low = outside_flow(net, proto::SCTP, (addr, port), LOW_PORT, backend);
        let low_case = |what: &str, hook, packet: PacketSpec| {
            Case::new(format!("SCTP to {whom}: {what}"), hook, world(net, proto::SCTP, backend), packet)
        };
        cases.extend([
            low_case("a low port is kept", Hook::Uplink, at(Hook::Uplink, low[0].key)).opens(&low),
            low_case("a reply to a low port", reply_hook(backend), at(reply_hook(backend), low[1].key))
                .with(|case| case.world.flows = low.to_vec())
                .follows(&low[1])
                .flows(&low.answered()),
        ]);
    }
    for (backend, whom) in MASKED {
        let own = flow(net, proto::SCTP, backend);
        let mut other = own;
        (other[0].key.src, other[1].to.dst) = (net.other_node(), net.other_node());
        cases.push(
            Case::new(
                format!("SCTP to {whom}: another client has the port, and no other will do"),
                Hook::Uplink,
                world(net, proto::SCTP, backend).flows(&other),
                first_packet(net, proto::SCTP),
            )
            .counts(Counter::PortCollision)
            .dropped(Counter::DropNoPort),
        );
    }
    cases.extend(of_pods(net));
    cases
}

fn of_pods(net: Net) -> Vec<Case> {
    let web = || {
        World::web(net, proto::SCTP).with(|w| {
            let key = ServiceKey { addr: net.vip(), port: Port::new(80), proto: proto::SCTP, scope: scope::INTERNAL };
            w.services[0].frontends.push((key, frontend::CLUSTER_IP));
        })
    };
    let key = net.from_client(proto::SCTP, net.vip(), 80);
    let local = pair(key, net.from_client(proto::SCTP, net.server(), 80));
    let mut hairpin = pair(key, net.from_client(proto::SCTP, net.client(), 80)).hairpin().backend(SELF);
    (hairpin[0].to.src, hairpin[1].key.dst) = (net.gateway(), net.gateway());
    let case =
        |what: &str, world: World, packet: PacketSpec| Case::ingress(format!("SCTP of pods: {what}"), world, packet);
    let packet = || PacketSpec::new(key);
    vec![
        case("opens", web(), packet()).opens(&local),
        case("opens past the stack", web().redirect(), packet()).opens(&local.oif(DEV_BRIDGE)),
        case("to itself", web().slots(&[SELF]), packet()).opens(&hairpin),
        case("goes on", web().flows(&local.established()), packet()).follows(&local[0]),
        case("another target port", web(), packet().to(net.vip(), 8080)).dropped(Counter::DropSctpPort),
        case("to an unused port", web(), packet().to(net.vip(), 81)).refused(Counter::DropUnclaimed),
        case("without endpoints", web().slots(&[]), packet()).refused(Counter::DropNoEndpoint),
        Case::new(
            "SCTP of pods: a reply",
            Hook::PodEgress,
            web().slots(&[LOCAL]).flows(&local),
            PacketSpec::new(local[1].key),
        )
        .follows(&local[1])
        .flows(&local.answered()),
    ]
}
