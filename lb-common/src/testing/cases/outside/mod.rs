//! Packets of clients outside the node, of the backends that answer them, and of the node itself where it leaves.

mod admit;
mod dsr;
mod fragments;
mod icmp;
mod known;
mod leaving;
mod masqueraded;
mod open;
mod ports;
mod replies;
mod router;
mod sctp;
mod steered;
mod strangers;

use super::{ACK, SYN};
use crate::{
    abi::{Addr, Port, Tuple, proto},
    testing::{
        Case, DEV_SERVER, FlowSpec, Hook, Net, PacketSpec, World, outside_flow,
        world::{ELSEWHERE, FAR, HOST, LOCAL, REMOTE},
        worlds::open_frontend,
    },
};

/// Port of the client; one that stays where our own address stands in for his.
const PORT: u16 = 50_000;
/// One that does not.
const LOW_PORT: u16 = 20_000;

/// Every backend that can be reached from outside.
const BACKENDS: [(u32, &str); 5] = [
    (LOCAL, "a local pod"),
    (REMOTE, "another node's pod"),
    (FAR, "a pod behind the overlay"),
    (ELSEWHERE, "another node"),
    (HOST, "this node"),
];

/// Those of other nodes: one of our own addresses stands in for the client's.
const MASKED: [(u32, &str); 3] = [BACKENDS[1], BACKENDS[2], BACKENDS[3]];

pub(super) fn cases(net: Net) -> Vec<Case> {
    let mut cases = open::cases(net);
    cases.extend(admit::cases(net));
    cases.extend(dsr::cases(net));
    cases.extend(known::cases(net));
    cases.extend(replies::cases(net));
    cases.extend(ports::cases(net));
    cases.extend(strangers::cases(net));
    cases.extend(router::cases(net));
    cases.extend(fragments::cases(net));
    cases.extend(icmp::cases(net));
    cases.extend(leaving::cases(net));
    cases.extend(masqueraded::cases(net));
    cases.extend(sctp::cases(net));
    cases.extend(steered::cases(net));
    cases
}

/// The flow of the client to `web`'s open frontend and on to this backend, new.
fn flow(net: Net, proto: u8, backend: u32) -> [FlowSpec; 2] {
    outside_flow(net, proto, open_frontend(net, proto), PORT, backend)
}

/// A packet of that key, or whatever else, as it is met at this hook.
fn at(hook: Hook, tuple: Tuple) -> PacketSpec {
    PacketSpec::new(tuple).with(|p| {
        p.ethernet = hook.l2_len() != 0;
        // A test run takes the first bytes for a destination's link-layer address: an odd one is nobody else's.
        p.class = if p.ethernet { 0 } else { 0x10 };
    })
}

/// The client's first packet to `web`'s open frontend, by the uplink.
fn first_packet(net: Net, proto: u8) -> PacketSpec {
    at(Hook::Uplink, flow(net, proto, LOCAL)[0].key).flags(SYN)
}

/// A packet of the client in mid-stream.
fn data(net: Net, proto: u8) -> PacketSpec {
    at(Hook::Uplink, flow(net, proto, LOCAL)[0].key).flags(ACK)
}

/// Where replies of this backend are met.
const fn reply_hook(backend: u32) -> Hook {
    match backend {
        LOCAL => Hook::PodIngress(DEV_SERVER),
        FAR => Hook::Overlay,
        HOST => Hook::UplinkOut,
        _ => Hook::Uplink,
    }
}

/// `web`, open to the outside, with only this backend.
fn world(net: Net, proto: u8, backend: u32) -> World {
    World::outside(net, proto).slots(&[backend])
}

/// From the client to some other destination.
fn from_client_to(net: Net, proto: u8, addr: Addr, port: u16) -> PacketSpec {
    at(Hook::Uplink, Tuple::new(net.outside(), Port::new(PORT), addr, Port::new(port), proto)).flags(SYN)
}

const fn name(proto: u8) -> &'static str {
    match proto {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        _ => "SCTP",
    }
}
