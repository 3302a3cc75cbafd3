//! Connections with the node's address whose source port is a node port's number: netfilter takes any port for what it
//! masquerades, and their answers must not be taken for packets to the Service.

use super::{ACK, LOCAL, PORT, SYN, at, flow, world};
use crate::{
    abi::{Counter, Port, Tuple, addr_flag, proto, role},
    testing::{
        Case, FlowSpec, Hook, Net, PacketSpec, World,
        cases::{RST, later},
        flows::{Both as _, pair},
        worlds::NODE_PORT,
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = datagrams(net);
    cases.extend(streams(net));
    cases.extend(redirected(net));
    cases
}

/// A pod's question to a machine outside, as it leaves the node; or the node's own.
fn question(net: Net, proto: u8, port: u16) -> Tuple {
    Tuple::new(net.node(), Port::new(port), net.outside(), Port::new(53), proto)
}

/// Its flow, from another port.
fn moved(net: Net, port: u16) -> [FlowSpec; 2] {
    let key = question(net, proto::UDP, NODE_PORT);
    let mut to = key;
    to.sport = Port::new(port);
    pair(key, to).both(|flow| {
        (flow.service, flow.identity, flow.backend, flow.generation) = (0, 0, 0, 0);
        flow.role |= role::HOST;
    })
}

/// A datagram opens a flow, so an answer to a node port would be one to the Service.
fn datagrams(net: Net) -> Vec<Case> {
    let udp = || world(net, proto::UDP, LOCAL);
    let mut cases = Vec::new();
    for (hook, place) in [(Hook::UplinkOut, "an uplink"), (Hook::UplinkL3Out, "one without link layer")] {
        for (marks, flows) in [(0, "no flow of the node's own"), (u32::MAX, "some")] {
            let title = format!("masqueraded UDP on a node port, by {place}, with {flows} before: another port");
            let mut world = udp();
            world.marks = marks;
            let new = moved(net, 0);
            cases.push(
                Case::new(title, hook, world, at(hook, question(net, proto::UDP, NODE_PORT)))
                    .counts(Counter::HostRemapped)
                    .follows(&new[0])
                    .flows(&new)
                    .with(|case| case.any_port = true),
            );
        }
    }
    let case = |what: &str, hook, world, packet| Case::new(format!("masqueraded UDP: {what}"), hook, world, packet);
    let plain = |tuple| at(Hook::UplinkOut, tuple);
    let (new, established) = (moved(net, 61_000), moved(net, 61_000).established());
    cases.extend([
        case(
            "on the number next to a node port",
            Hook::UplinkOut,
            udp(),
            plain(question(net, proto::UDP, NODE_PORT + 1)),
        ),
        case(
            "on a number that is a node port of TCP only",
            Hook::UplinkOut,
            world(net, proto::TCP, LOCAL),
            plain(question(net, proto::UDP, NODE_PORT)),
        ),
        case(
            "a pod's own address with a node port's number",
            Hook::UplinkOut,
            udp(),
            plain(question(net, proto::UDP, NODE_PORT)).from(net.client(), NODE_PORT),
        ),
        case(
            "the address serves no node ports",
            Hook::UplinkOut,
            udp().with(|w| {
                w.addrs.iter_mut().filter(|(a, _)| *a == net.node()).for_each(|(_, f)| *f = addr_flag::SOURCE)
            }),
            plain(question(net, proto::UDP, NODE_PORT)),
        ),
        case(
            "a later fragment, whose first one was not seen",
            Hook::UplinkOut,
            udp(),
            plain(question(net, proto::UDP, NODE_PORT)).with(later),
        ),
        case("goes on", Hook::UplinkOut, udp().flows(&established), plain(established[0].key)).follows(&new[0]),
        case("the answer", Hook::Uplink, udp().flows(&new), at(Hook::Uplink, new[1].key))
            .follows(&new[1])
            .flows(&new.answered()),
        case("the answer on", Hook::Uplink, udp().flows(&established), at(Hook::Uplink, new[1].key)).follows(&new[1]),
    ]);
    cases
}

/// TCP that no flow knows is left to the node's stack at the node's addresses, so its answers need no other port.
fn streams(net: Net) -> Vec<Case> {
    let case = |what: &str, hook, packet: PacketSpec| {
        Case::new(format!("masqueraded TCP on a node port: {what}"), hook, world(net, proto::TCP, LOCAL), packet)
    };
    let there = |flags| at(Hook::UplinkOut, question(net, proto::TCP, NODE_PORT)).flags(flags);
    let back = |flags| at(Hook::Uplink, question(net, proto::TCP, NODE_PORT).reversed()).flags(flags);
    let mut cases = vec![
        case("leaves as it is", Hook::UplinkOut, there(SYN)),
        case("goes on", Hook::UplinkOut, there(ACK)),
        case("is accepted", Hook::Uplink, back(SYN | ACK)),
        case("is refused", Hook::Uplink, back(RST | ACK)),
        case("gets an answer", Hook::Uplink, back(ACK)),
    ];
    let balancer = world(net, proto::TCP, LOCAL).with(|w| {
        w.addrs
            .iter_mut()
            .filter(|(addr, _)| *addr == net.other_vip())
            .for_each(|(_, flags)| *flags |= addr_flag::NODE);
    });
    let answer = at(Hook::Uplink, flow(net, proto::TCP, LOCAL)[0].key).flags(ACK);
    cases.push(Case::new(
        "in mid-stream at a node's address that is a LoadBalancer's as well",
        Hook::Uplink,
        balancer,
        answer,
    ));
    cases
}

/// What our programs sent on is as it is to be.
fn redirected(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        for (what, tuple) in [
            ("a reply from a node port", question(net, proto, NODE_PORT)),
            ("to a clusterIP", Tuple::new(net.node(), Port::new(PORT), net.vip(), Port::new(8080), proto)),
        ] {
            let packet = at(Hook::UplinkOut, tuple).flags(SYN).with(|p| p.redirected = true);
            let world: World = world(net, proto, LOCAL);
            cases.push(Case::new(format!("redirected: {what}, protocol {proto}"), Hook::UplinkOut, world, packet));
        }
        let known = flow(net, proto, super::REMOTE);
        let packet = at(Hook::PodEgress, known[1].key).flags(ACK).with(|p| p.redirected = true);
        let world = world(net, proto, super::REMOTE).flows(&known);
        cases.push(Case::new(format!("redirected: to a pod, protocol {proto}"), Hook::PodEgress, world, packet));
    }
    cases
}
