//! The table of packet cases, by subject. Each is in both families where the family makes no difference.

mod admit;
mod affinity;
mod egress;
mod headers;
mod open;
mod outside;
mod ports;
mod replies;
mod tcp;
mod udp;
mod uplink;

use super::{
    Case, FlowSpec, Fragment, Net, PacketSpec, pair,
    world::{LOCAL, REMOTE},
};
use crate::abi::{Addr, Tuple, proto};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE_CWR: u8 = 0xc0;

/// Every packet case.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for net in Net::BOTH {
        let mut family = Vec::new();
        family.extend(open::cases(net));
        family.extend(admit::cases(net));
        family.extend(affinity::cases(net));
        family.extend(tcp::cases(net));
        family.extend(udp::cases(net));
        family.extend(replies::cases(net));
        family.extend(egress::cases(net));
        family.extend(ports::cases(net));
        family.extend(uplink::cases(net));
        family.extend(outside::cases(net));
        for mut case in family {
            case.name = format!("{} [{}]", case.name, net.name());
            cases.push(case);
        }
    }
    cases.extend(headers::cases());
    cases
}

/// Makes a packet the first fragment of its datagram.
fn first(packet: &mut PacketSpec) {
    packet.fragment = Some(Fragment { offset: 0, more: true });
}

/// Makes a packet a later one.
fn later(packet: &mut PacketSpec) {
    packet.fragment = Some(Fragment { offset: 3, more: false });
}

/// From the client to `web`'s clusterIP.
fn to_web(net: Net, proto: u8) -> Tuple {
    net.from_client(proto, net.vip(), 8080)
}

/// From the client to a backend of `web`.
fn to_backend(net: Net, proto: u8, addr: Addr) -> Tuple {
    net.from_client(proto, addr, 80)
}

/// The client's SYN to `web`.
fn syn(net: Net) -> PacketSpec {
    tcp(net, SYN).with(|p| p.payload.clear())
}

/// A TCP packet of the client to `web`.
fn tcp(net: Net, flags: u8) -> PacketSpec {
    PacketSpec::new(to_web(net, proto::TCP)).flags(flags)
}

/// A UDP packet of the client to `web`.
fn udp(net: Net) -> PacketSpec {
    PacketSpec::new(to_web(net, proto::UDP))
}

/// The flow of the client to the local backend.
fn local_flow(net: Net, proto: u8) -> [FlowSpec; 2] {
    pair(to_web(net, proto), to_backend(net, proto, net.server()))
}

/// The flow of the client to the remote backend.
fn remote_flow(net: Net, proto: u8) -> [FlowSpec; 2] {
    let mut flow = pair(to_web(net, proto), to_backend(net, proto, net.remote()));
    flow.iter_mut().for_each(|entry| entry.backend = REMOTE);
    flow
}

/// A packet of the local backend in answer to the client.
fn reply(net: Net, proto: u8) -> PacketSpec {
    PacketSpec::new(to_backend(net, proto, net.server()).reversed())
}

/// The same packet as the client must see it.
fn seen_by_client(net: Net, packet: &PacketSpec) -> PacketSpec {
    packet.clone().with_tuple(to_web(net, packet.tuple.proto).reversed())
}

const _: () = assert!(LOCAL != REMOTE);
