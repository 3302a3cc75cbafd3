//! What a router does for packets that are redirected past the host's stack: hops and sizes.

use super::{ACK, BACKENDS, HOST, SYN, at, data, first_packet, flow, name, reply_hook, world};
use crate::{
    abi::{Counter, proto},
    testing::{
        Case, DEV_SERVER, FlowSpec, Hook, Net, PacketSpec, Told,
        cases::first,
        flows::Both as _,
        world::{ELSEWHERE, FAR, LOCAL, REMOTE},
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = hops(net);
    cases.extend(sizes(net));
    cases
}

fn hops(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    let exceeded = |case: Case| case.answered(Counter::DropTtl, Told::TimeExceeded);
    let hop = |packet: PacketSpec, ttl| packet.with(|p| p.ttl = ttl);
    for (backend, whom) in BACKENDS.into_iter().filter(|(backend, _)| *backend != HOST) {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            let established = flow(net, proto, backend).established();
            let case = |what: &str, hook, packet| {
                let title = format!("hops: {} to {whom}, {what}", name(proto));
                Case::new(title, hook, world(net, proto, backend).flows(&established), packet)
            };
            let reply = || at(reply_hook(backend), established[1].key);
            cases.extend([
                case("two left", Hook::Uplink, hop(data(net, proto), 2)).follows(&established[0]),
                exceeded(case("one left", Hook::Uplink, hop(data(net, proto), 1))),
                exceeded(case("none left", Hook::Uplink, hop(data(net, proto), 0))),
                exceeded(case("a reply with one left", reply_hook(backend), hop(reply(), 1))),
                case("a reply with all", reply_hook(backend), hop(reply(), 255)).follows(&established[1]),
            ]);
        }
        // Traceroute by SYN or UDP: the flow is there for the packets that get further.
        let new = flow(net, proto::TCP, backend);
        let opening = Case::new(
            format!("hops: an opening packet to {whom} with one left"),
            Hook::Uplink,
            world(net, proto::TCP, backend),
            hop(first_packet(net, proto::TCP), 1),
        );
        cases.push(exceeded(opening.opens(&new)));
    }
    let to_host = flow(net, proto::UDP, HOST);
    let packet = hop(data(net, proto::UDP), 1);
    let world = || world(net, proto::UDP, HOST);
    cases.extend([
        Case::new("hops: this node is no router for itself", Hook::Uplink, world(), packet).opens(&to_host),
        Case::new(
            "hops: one left, while too many are told",
            Hook::Uplink,
            world().slots(&[LOCAL]).flows(&flow(net, proto::UDP, LOCAL)),
            hop(data(net, proto::UDP), 1),
        )
        .dropped(Counter::DropTtl)
        .counts(Counter::AnswerLimited)
        .with(|case| case.silenced = true),
    ]);
    cases
}

/// A packet of this many bytes on the wire.
fn sized(packet: &PacketSpec, bytes: usize) -> PacketSpec {
    let headers = packet.build().len() - packet.l3() - packet.payload.len();
    packet.clone().with(|p| p.payload = vec![5; bytes - headers])
}

fn sizes(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    let too_big = |case: Case, mtu| case.answered(Counter::DropTooBig, Told::TooBig(mtu));
    for (backend, mtu, whom) in [(FAR, 1450, "a pod behind the overlay"), (REMOTE, 1500, "another node's pod")] {
        for proto in [proto::TCP, proto::UDP] {
            let established = flow(net, proto, backend).established();
            let case = |what: &str, packet: &PacketSpec, bytes| {
                let title = format!("sizes: {} to {whom}, {what}", name(proto));
                let world = world(net, proto, backend).flows(&established);
                Case::new(title, Hook::Uplink, world, sized(packet, bytes))
            };
            let packet = data(net, proto);
            let options = packet.clone().with(|p| p.tcp_options = vec![1; 12]);
            cases.extend([
                case("just what fits", &packet, mtu.into()).follows(&established[0]),
                too_big(case("one byte more", &packet, usize::from(mtu) + 1), mtu),
                case("just what fits with options", &options, mtu.into()).follows(&established[0]),
                too_big(case("an opening packet", &packet.clone().flags(SYN), 2000), mtu)
                    .with(|case| {
                        case.world.flows.clear();
                        *case = case.clone().opens(&flow(net, proto, backend));
                    })
                    .with(|case| case.verdict = crate::datapath::Verdict::Bounce),
            ]);
            let headers = sized(&packet, 1000).build().len() - 14 - sized(&packet, 1000).payload.len();
            let segment = u32::from(mtu) - headers as u32;
            let segments = |what: &str, size| case(what, &packet, 3900).with(|case| case.gso_size = size);
            cases.extend([
                segments("segments that just fit", segment).with(|case| *case = case.clone().follows(&established[0])),
                too_big(segments("segments of one byte more", segment + 1), mtu),
            ]);
            let with_options = |what: &str, size| case(what, &options, 3900).with(|case| case.gso_size = size);
            if proto == proto::TCP {
                cases.push(too_big(with_options("segments that fit but for their options", segment), mtu));
            }
        }
    }
    cases.extend(narrow_replies(net));
    let unlimited = flow(net, proto::UDP, ELSEWHERE).established().both(|entry| (entry.mtu, entry.mate_mtu) = (0, 0));
    let case = Case::new(
        "sizes: a way whose MTU nobody knows",
        Hook::Uplink,
        world(net, proto::UDP, ELSEWHERE).flows(&unlimited),
        sized(&data(net, proto::UDP), 3000),
    );
    cases.push(case.follows(&unlimited[0]));
    cases
}

/// Replies to a client behind an uplink that takes less than the pods' bridge.
fn narrow_replies(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for proto in [proto::TCP, proto::UDP] {
        let [mut forward, mut reply] = flow(net, proto, LOCAL).established();
        (forward.mate_mtu, reply.mtu) = (1280, 1280);
        let entries: [FlowSpec; 2] = [forward, reply];
        let at_server = Hook::PodIngress(DEV_SERVER);
        let case = |what: &str, bytes| {
            let packet = sized(&at(at_server, reply.key).flags(ACK), bytes);
            let title = format!("sizes: a {} reply, {what}", name(proto));
            Case::new(title, at_server, world(net, proto, LOCAL).flows(&entries), packet)
        };
        let too_big = |case: Case| case.answered(Counter::DropTooBig, Told::TooBig(1280));
        cases.extend([
            case("just what fits", 1280).follows(&reply),
            too_big(case("one byte more", 1281)),
            too_big(case("in a first fragment", 1400).with(|case| case.packet = case.packet.clone().with(first))),
        ]);
    }
    cases
}
