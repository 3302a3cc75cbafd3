//! Datagrams in fragments: the first opens or finds a flow and is remembered, the later ones follow it.

use super::{ACK, BACKENDS, HOST, at, data, flow, name, reply_hook, world};
use crate::{
    abi::{Counter, proto, ticks},
    testing::{
        Case, DEV_BRIDGE, FlowSpec, Hook, Net, PacketSpec, World,
        cases::{first, later, local_flow, udp},
        flows::Both as _,
        world::LOCAL,
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, whom) in BACKENDS {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            cases.extend(both_ways(net, proto, backend, whom));
        }
    }
    cases.extend(of_pods(net));
    cases.extend(unknown(net));
    cases.extend(ends(net));
    cases
}

fn both_ways(net: Net, proto: u8, backend: u32, whom: &str) -> Vec<Case> {
    let new = flow(net, proto, backend);
    let established = new.established();
    let case = |what: &str, hook: Hook, before: &[FlowSpec], packet: PacketSpec, entry: &FlowSpec| {
        let title = format!("fragments: {} to {whom}, {what}", name(proto));
        Case::new(title, hook, world(net, proto, backend).flows(before), packet).follows(entry)
    };
    let there = || data(net, proto);
    let back = || at(reply_hook(backend), established[1].key);
    let with = |entry: &FlowSpec| [established[0], established[1], entry.fragments()];
    let (forth, reply) = (with(&established[0]), with(&established[1]));
    let mut cases = vec![
        case("the first is remembered", Hook::Uplink, &established, there().with(first), &new[0]).flows(&forth),
        case("a later one follows", Hook::Uplink, &forth, there().with(later), &new[0]),
        case("a reply's first", reply_hook(backend), &established, back().with(first), &new[1]).flows(&reply),
        case("a reply's later one", reply_hook(backend), &reply, back().with(later), &new[1]),
        // Nothing but what the first one left is asked.
        case("a later one, its flow gone", Hook::Uplink, &forth[2..], there().with(later), &new[0]),
    ];
    if proto == proto::UDP {
        let opened = [new[0], new[1], new[0].fragments()];
        cases.push(
            case("the first opens a flow", Hook::Uplink, &[], there().with(first), &new[0]).opens(&new).flows(&opened),
        );
    }
    cases
}

/// Pods' datagrams, by the stack and past it.
fn of_pods(net: Net) -> Vec<Case> {
    let stack = local_flow(net, proto::UDP).established();
    let redirected = stack.oif(DEV_BRIDGE);
    let world = |flow: &[FlowSpec]| World::udp(net).flows(flow);
    let later_of = |flow: &FlowSpec| at(Hook::PodEgress, flow.key).with(later);
    let at_server = Hook::PodIngress(crate::testing::DEV_SERVER);
    let case = |what: &str, hook, flow: &[FlowSpec; 2], entry: usize| {
        let remembered = flow[entry].fragments();
        let world = world(&[flow[0], flow[1], remembered]);
        Case::new(format!("fragments of pods: {what}"), hook, world, later_of(&flow[entry]))
    };
    let client = Hook::PodIngress(crate::testing::DEV_CLIENT);
    vec![
        case("a later one by the stack", client, &stack, 0).follows(&stack[0]),
        case("a later one past the stack", client, &redirected, 0).follows(&redirected[0]),
        case("a reply's later one on the client's link", Hook::PodEgress, &stack, 1).follows(&stack[1]),
        case("a reply's later one by the stack, on the backend's link", at_server, &stack, 1),
        case("a reply's later one past the stack", at_server, &redirected, 1).follows(&redirected[1]),
        case("a reply's later one past the stack, on the client's link", Hook::PodEgress, &redirected, 1),
    ]
}

/// Later fragments whose first one was never seen.
fn unknown(net: Net) -> Vec<Case> {
    let case = |what: &str, hook, world: World, packet: PacketSpec| {
        Case::new(format!("fragments of an unknown datagram: {what}"), hook, world, packet.with(later))
    };
    let open = || world(net, proto::UDP, LOCAL);
    let lost = |case: Case| case.dropped(Counter::DropFragment);
    let packet = || data(net, proto::UDP);
    let balancer = || packet().to(net.other_vip(), 8080);
    let entry = flow(net, proto::UDP, LOCAL)[0];
    let remembered = |change: &dyn Fn(&mut FlowSpec)| {
        let mut entry = entry;
        change(&mut entry);
        open().flows(&[entry.fragments()])
    };
    let old = |age| {
        let mut entry = entry.fragments();
        entry.age = age;
        open().flows(&[entry])
    };
    let pods = local_flow(net, proto::UDP)[0];
    vec![
        case("to a node port goes on to the node", Hook::Uplink, open(), packet()),
        lost(case("to a LoadBalancer's address", Hook::Uplink, open(), balancer())),
        lost(case("to a clusterIP from a pod", Hook::PodIngress(10), World::udp(net), udp(net))),
        lost(case("to a clusterIP that leaves the node", Hook::UplinkOut, World::udp(net), udp(net))),
        case("to a LoadBalancer's address that leaves the node", Hook::UplinkOut, open(), balancer()),
        case("towards a pod", Hook::PodEgress, World::udp(net), udp(net).to(net.client(), 9)),
        case("of another client", Hook::Uplink, remembered(&|flow| flow.key.src = net.other_node()), packet()),
        case("of another protocol", Hook::Uplink, remembered(&|flow| flow.key.proto = proto::TCP), packet()),
        case("as old as it may be", Hook::Uplink, old(ticks(60) - 2), packet()).follows(&entry),
        case("too old", Hook::Uplink, old(ticks(60) + 2), packet()),
        case("a pod's, from outside", Hook::Uplink, World::udp(net).flows(&[pods.fragments()]), {
            at(Hook::Uplink, pods.key)
        })
        .dropped(Counter::DropFragment),
        case("an outside client's, from a pod", Hook::PodIngress(10), open().flows(&[entry.fragments()]), packet()),
    ]
}

/// Hops and sizes; nobody is told of a later fragment (RFC 1122 3.2.2).
fn ends(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        for (backend, whom) in BACKENDS.into_iter().filter(|(backend, _)| *backend != HOST) {
            let entry = flow(net, proto, backend)[0];
            let case = |what: &str, change: &dyn Fn(&mut PacketSpec)| {
                let packet = data(net, proto).flags(ACK).with(later).with(change);
                let title = format!("fragments: a later {} one to {whom}, {what}", name(proto));
                Case::new(title, Hook::Uplink, world(net, proto, backend).flows(&[entry.fragments()]), packet)
            };
            cases.extend([
                case("with one hop left", &|p| p.ttl = 1).dropped(Counter::DropTtl),
                case("larger than the way takes", &|p| p.payload = vec![8; 1500]).dropped(Counter::DropTooBig),
                case("of an odd number of bytes", &|p| p.payload = vec![8; 31]).follows(&entry),
            ]);
        }
    }
    cases
}
