//! First packets: which way a new flow takes, and whose address the backend sees.

use super::{BACKENDS, MASKED, PORT, at, first_packet, flow, name, world};
use crate::{
    abi::{Addr, Counter, Dev, dev_kind, frontend, proto},
    testing::{
        Case, DEV_OVERLAY, DEV_UPLINK, Extension, FlowSpec, Hook, L4Sum, Net, PacketSpec, World,
        flows::Both as _,
        outside_flow,
        world::{ELSEWHERE, FAR, LOCAL, LOST, REMOTE},
        worlds::{NODE_PORT, open_frontend},
    },
};

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = every_backend(net);
    cases.extend(ways(net));
    cases.extend(headers(net));
    cases
}

/// Protocol by protocol, device by device, frontend by frontend, backend by backend.
fn every_backend(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (hook, device) in [(Hook::Uplink, "an uplink"), (Hook::UplinkL3, "an uplink without link layer")] {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            let node_port = (net.node(), NODE_PORT);
            let balancer = (net.other_vip(), if proto == proto::SCTP { 80 } else { 8080 });
            let frontends = [(node_port, "a node port"), (balancer, "a LoadBalancer's address")];
            for (frontend, what) in frontends.into_iter().skip(usize::from(proto == proto::SCTP)) {
                for (backend, whom) in BACKENDS {
                    let flow = outside_flow(net, proto, frontend, PORT, backend);
                    let packet = at(hook, flow[0].key).flags(super::SYN);
                    let title = format!("from outside by {device}: {} to {what} goes to {whom}", name(proto));
                    cases.push(Case::new(title, hook, world(net, proto, backend), packet).opens(&flow));
                }
            }
        }
    }
    cases
}

/// Backends, devices and addresses out of the ordinary.
fn ways(net: Net) -> Vec<Case> {
    let open = |what: &str, world: World| {
        Case::new(format!("from outside, opens: {what}"), Hook::Uplink, world, first_packet(net, proto::TCP))
    };
    let to = |backend| world(net, proto::TCP, backend);
    let source = |backend, addr: Addr| {
        let [mut forward, mut reply] = flow(net, proto::TCP, backend);
        (forward.to.src, reply.key.dst) = (addr, addr);
        [forward, reply]
    };
    let no_gateway = |w: &mut World| w.pod_source = false;
    let no_address = |w: &mut World| {
        w.pod_source = false;
        let bare = |kind| Dev::new(kind, 14, 1500, 0, Addr::UNSPECIFIED, Addr::UNSPECIFIED);
        w.devs.retain(|(ifindex, _)| ![DEV_UPLINK, DEV_OVERLAY].contains(ifindex));
        w.devs.extend([(DEV_UPLINK, bare(dev_kind::UPLINK)), (DEV_OVERLAY, bare(dev_kind::OVERLAY))]);
    };
    let by_overlay = |flow: [FlowSpec; 2]| {
        let [mut forward, mut reply] = flow;
        (forward.mate_oif, forward.mate_mtu) = (DEV_OVERLAY, 1450);
        (reply.oif, reply.mtu) = (DEV_OVERLAY, 1450);
        [forward, reply]
    };
    let overlay = |backend| {
        Case::new(
            format!("from outside, opens: by the overlay to backend {backend}"),
            Hook::Overlay,
            to(backend),
            first_packet(net, proto::TCP),
        )
        .opens(&by_overlay(flow(net, proto::TCP, backend)))
    };
    let unknown_device = flow(net, proto::TCP, ELSEWHERE).both(|entry| (entry.mtu, entry.mate_mtu) = (1500, 0));
    let unknown_device = {
        let [mut forward, mut reply] = unknown_device;
        (forward.to.src, reply.key.dst) = (net.outside(), net.outside());
        (reply.mtu, reply.mate_mtu) = (0, 1500);
        [forward, reply]
    };
    let external = |w: &mut World| {
        let frontends = &mut w.services[0].frontends;
        frontends.iter_mut().filter(|(key, _)| key.addr == net.other_vip()).for_each(|(_, bits)| {
            *bits = frontend::EXTERNAL_IP;
        });
    };
    let at_balancer = outside_flow(net, proto::TCP, (net.other_vip(), 8080), PORT, REMOTE);
    vec![
        open("no gateway for other nodes' pods, so the device's own address", to(REMOTE).with(no_gateway))
            .opens(&source(REMOTE, net.node())),
        open("no gateway, and an overlay's own address", to(FAR).with(no_gateway)).opens(&source(FAR, net.overlay())),
        open("another node needs no gateway", to(ELSEWHERE).with(no_gateway)).opens(&flow(net, proto::TCP, ELSEWHERE)),
        open("no address towards another node", to(ELSEWHERE).with(no_address)).dropped(Counter::DropNoSource),
        open("no address towards a pod behind the overlay", to(FAR).with(no_address)).dropped(Counter::DropNoSource),
        open("a pod's network that nobody told us of", to(REMOTE).with(|w| w.pod_nets.clear()))
            .opens(&source(REMOTE, net.node())),
        open("no route", to(LOST)).dropped(Counter::DropNoRoute),
        open("a backend behind a device that is not ours keeps the client's address", {
            to(ELSEWHERE).with(|w| w.devs.retain(|(ifindex, _)| *ifindex != DEV_UPLINK))
        })
        .opens(&unknown_device),
        overlay(LOCAL),
        overlay(REMOTE),
        overlay(FAR),
        Case::new(
            "from outside, opens: an external address",
            Hook::Uplink,
            to(REMOTE).with(external),
            at(Hook::Uplink, at_balancer[0].key).flags(super::SYN),
        )
        .opens(&at_balancer),
        Case::new(
            "from outside, opens: a node port above 32767",
            Hook::Uplink,
            to(LOCAL).with(|w| {
                let high =
                    |key: crate::abi::ServiceKey| crate::abi::ServiceKey { port: crate::abi::Port::new(40_000), ..key };
                let ports: Vec<_> =
                    w.services[0].frontends.iter().filter(|(_, bits)| *bits == frontend::NODE_PORT).copied().collect();
                w.services[0].frontends.extend(ports.into_iter().map(|(key, bits)| (high(key), bits)));
            }),
            first_packet(net, proto::TCP).to(net.node(), 40_000),
        )
        .opens(&outside_flow(net, proto::TCP, (net.node(), 40_000), PORT, LOCAL)),
    ]
}

/// What is special about a packet, its protocol, and how it is made so.
type Shape = (&'static str, u8, fn(&mut PacketSpec));

/// Shapes of packets, translated on a way where the addresses of both ends change.
fn headers(net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [Shape; 9] = [
        ("no payload", proto::TCP, |p| p.payload.clear()),
        ("an odd number of bytes", proto::TCP, |p| p.payload = vec![7; 33]),
        ("TCP options", proto::TCP, |p| p.tcp_options = vec![1; 40]),
        ("padding behind a short packet", proto::TCP, |p| p.padding = 6),
        ("UDP with an odd number of bytes", proto::UDP, |p| p.payload = vec![7; 5]),
        ("UDP without a payload", proto::UDP, |p| p.payload.clear()),
        ("UDP without a checksum", proto::UDP, |p| p.l4_sum = L4Sum::Zero),
        ("a checksum left to the device", proto::TCP, |p| p.l4_sum = L4Sum::Partial),
        ("UDP with a checksum left to the device", proto::UDP, |p| p.l4_sum = L4Sum::Partial),
    ];
    let of_family: [Shape; 3] = if net.v4 {
        [
            ("options", proto::TCP, |p| p.ip_options = vec![1; 8]),
            ("all option words", proto::UDP, |p| p.ip_options = vec![1; 40]),
            ("don't-fragment off", proto::TCP, |p| {
                p.fragment = Some(crate::testing::Fragment { offset: 0, more: false })
            }),
        ]
    } else {
        [
            ("hop-by-hop options", proto::TCP, |p| p.extensions = vec![Extension::HopByHop(1)]),
            ("four extension headers", proto::UDP, |p| p.extensions = vec![Extension::Destination(0); 4]),
            ("an atomic fragment", proto::TCP, |p| {
                p.fragment = Some(crate::testing::Fragment { offset: 0, more: false })
            }),
        ]
    };
    for (what, proto, change) in shapes.into_iter().chain(of_family) {
        for (backend, whom) in [(LOCAL, "local"), MASKED[0]] {
            let packet = first_packet(net, proto).with(change);
            let title = format!("from outside, headers: {what}, to {whom}");
            let flow = outside_flow(net, proto, open_frontend(net, proto), PORT, backend);
            cases.push(Case::new(title, Hook::Uplink, world(net, proto, backend), packet).opens(&flow));
        }
    }
    cases
}
