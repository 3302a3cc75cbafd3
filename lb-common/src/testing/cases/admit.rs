//! Frontends that let nobody in, or not everybody, and tables that contradict themselves.

use super::{ACK, local_flow, syn, tcp, to_backend, udp};
use crate::{
    abi::{Addr, Counter, action, frontend, proto},
    datapath::Verdict,
    testing::{ARRAY_LEN, Case, Net, PacketSpec, World, flows::Both as _, world::LOCAL},
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, proto, packet) in [("TCP", proto::TCP, syn(net)), ("UDP", proto::UDP, udp(net))] {
        let with = |change: &dyn Fn(&mut World)| World::web(net, proto).with(change);
        let case = |what: &str, world| Case::ingress(format!("{name} {what}"), world, packet.clone());
        cases.extend([
            case(
                "to a service without endpoints",
                with(&|w| {
                    w.services[0].action = action::REJECT;
                    w.services[0].slots.clear();
                }),
            )
            .refused(Counter::DropNoEndpoint),
            case("to a service without endpoints here", with(&|w| w.services[0].action = action::DROP))
                .dropped(Counter::DropNoLocalEndpoint),
            case("to a service with an action that is none", with(&|w| w.services[0].action = 3))
                .dropped(Counter::DropInternal),
            case("to a closed frontend", with(&|w| w.services[0].frontends[0].1 |= frontend::CLOSED))
                .dropped(Counter::DropClosed),
            case("to a service whose endpoints all have weight 0", with(&|w| w.services[0].slots.clear()))
                .refused(Counter::DropNoEndpoint),
            case("to a service index beyond the table", with(&|w| w.services[0].index = ARRAY_LEN))
                .dropped(Counter::DropInternal),
            case("to a slot with a backend beyond the table", with(&|w| w.services[0].slots = vec![ARRAY_LEN]))
                .dropped(Counter::DropInternal),
            case("to a slot with a backend that never was", with(&|w| w.services[0].slots = vec![99]))
                .dropped(Counter::DropInternal),
            case(
                "to terminating backends as nothing better exists",
                with(&|w| {
                    w.services[0].action = action::FORWARD | action::TERMINATING;
                    w.backend(LOCAL).state = crate::abi::backend_state::TERMINATING;
                }),
            )
            .opens(&local_flow(net, proto))
            .verdict(Verdict::Stack),
        ]);
        cases.extend(source_ranges(net, name, proto, &packet));
        if proto == proto::TCP {
            let ranged = |addr| {
                with(&|w| {
                    w.services[0].frontends[0].1 = frontend::LOAD_BALANCER | frontend::RANGES;
                    w.services[0].ranges = vec![(addr, if net.v4 { 32 } else { 128 })];
                })
            };
            let case = |what: &str, world| {
                Case::ingress(format!("source ranges: TCP in mid-stream without flow, {what}"), world, tcp(net, ACK))
            };
            cases.extend([
                case("another pod's address", ranged(net.server())).dropped(Counter::DropSourceRange),
                case("the client's own address", ranged(net.client())).refused(Counter::DropNoFlow),
            ]);
        }
    }
    cases.extend(reject_and_flows(net));
    cases
}

fn source_ranges(net: Net, name: &str, proto: u8, packet: &PacketSpec) -> Vec<Case> {
    let host_bits = if net.v4 { 32 } else { 128 };
    let pods = if net.v4 { 24 } else { 64 };
    let other_family = if net.v4 { Net::V6 } else { Net::V4 };
    let ranged = |ranges: &[(Addr, u32)]| {
        World::web(net, proto).with(|w| {
            w.services[0].frontends[0].1 = frontend::LOAD_BALANCER | frontend::RANGES;
            w.services[0].ranges = ranges.to_vec();
        })
    };
    let case = |what: &str, world| Case::ingress(format!("{name} source ranges: {what}"), world, packet.clone());
    let admitted = |case: Case| case.opens(&local_flow(net, proto)).verdict(Verdict::Stack);
    vec![
        admitted(case("the client's own address", ranged(&[(net.client(), host_bits)]))),
        admitted(case("the client's network", ranged(&[(net.gateway(), pods)]))),
        admitted(case("everybody of the family", ranged(&[(net.outside(), 0)]))),
        admitted(case("one of several", ranged(&[(net.outside(), host_bits), (net.client(), host_bits)]))),
        case("another pod's address", ranged(&[(net.server(), host_bits)])).dropped(Counter::DropSourceRange),
        case("another network", ranged(&[(net.remote(), pods)])).dropped(Counter::DropSourceRange),
        case("only of the other family", ranged(&[(other_family.client(), 8)])).dropped(Counter::DropSourceRange),
        case("none", ranged(&[])).dropped(Counter::DropSourceRange),
        case(
            "another service's range",
            ranged(&[]).with(|w| {
                let mut other = w.services[0].clone();
                other.index = 9;
                other.frontends.clear();
                other.ranges = vec![(net.client(), host_bits)];
                w.services.push(other);
            }),
        )
        .dropped(Counter::DropSourceRange),
        admitted(case(
            "they bind only the frontends that are marked",
            ranged(&[(net.server(), host_bits)]).with(|w| {
                w.services[0].frontends[0].1 = frontend::LOAD_BALANCER;
            }),
        )),
    ]
}

/// A service that stops forwarding does not cut its established connections; UDP ends with its backend.
fn reject_and_flows(net: Net) -> Vec<Case> {
    let empty = |proto| {
        World::web(net, proto).with(|w| {
            w.services[0].action = action::REJECT;
            w.services[0].slots.clear();
            w.backend(LOCAL).state = crate::abi::backend_state::GONE;
        })
    };
    let established = local_flow(net, proto::TCP).established();
    let spoken = local_flow(net, proto::UDP).answered();
    let ack = tcp(net, ACK);
    vec![
        Case::ingress(
            "TCP goes on though the service has no endpoints left",
            empty(proto::TCP).flows(&established),
            ack.clone(),
        )
        .out(ack.with_tuple(to_backend(net, proto::TCP, net.server())))
        .verdict(Verdict::Stack),
        Case::ingress(
            "UDP is refused once the service has no endpoints left",
            empty(proto::UDP).flows(&spoken),
            udp(net),
        )
        .flows(&[])
        .refused(Counter::DropNoEndpoint),
    ]
}
