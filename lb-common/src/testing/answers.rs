//! What a packet's sender must be told when the packet is dropped: whole frames, built from the packet's own bytes by the
//! RFCs' layouts and from-scratch sums.

use super::{DEV_CLIENT, DEV_SERVER, DEV_UPLINK, Hook, Net, PacketSpec, packet_spec::pseudo_header, sum::internet_sum};
use crate::abi::{Addr, Port, Tuple, proto};

/// What the sender is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// A TCP reset (RFC 9293 3.10.7.1), or "port unreachable".
    Refused,
    /// "Protocol unreachable"; "port unreachable" over IPv6.
    NoProtocol,
    /// Its hops have run out.
    TimeExceeded,
    /// It is larger than this MTU.
    TooBig(u16),
}

/// The frame that answers `packet` where it is met, with its link-layer addresses swapped.
#[must_use]
pub fn answer(packet: &PacketSpec, told: Told, hook: Hook) -> Vec<u8> {
    let Tuple { src, dst, proto, .. } = packet.tuple;
    let bytes = packet.build();
    let l3 = packet.l3();
    let ip = &bytes[l3..];
    let v4 = src.is_v4();
    let mut frame = PacketSpec { bounced: true, ..packet.clone() }.build();
    frame.truncate(l3);
    let own = own_address(hook, if v4 { Net::V4 } else { Net::V6 });
    let (from, next, body) = if told == Told::Refused && proto == proto::TCP {
        (dst, proto::TCP, reset(packet))
    } else {
        let header = if v4 { 20 } else { 40 };
        let plain = packet.ip_options.is_empty() && packet.extensions.is_empty() && packet.fragment.is_none();
        let plain = plain || (v4 && packet.ip_options.is_empty());
        let quoted = match (v4, plain) {
            (true, true) => header + 8,
            (true, false) => 68,
            (false, true) => header + 8,
            (false, false) => 112,
        };
        let (from, kind, code, rest) = match (told, v4) {
            (Told::Refused, true) => (dst, 3, 3, 0),
            (Told::NoProtocol, true) => (dst, 3, 2, 0),
            (Told::Refused | Told::NoProtocol, false) => (dst, 1, 4, 0),
            (Told::TimeExceeded, true) => (own, 11, 0, 0),
            (Told::TimeExceeded, false) => (own, 3, 0, 0),
            (Told::TooBig(mtu), true) => (own, 3, 4, u32::from(mtu)),
            (Told::TooBig(mtu), false) => (own, 2, 0, u32::from(mtu)),
        };
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest.to_be_bytes());
        body.extend(&ip[..quoted]);
        (from, if v4 { proto::ICMP } else { proto::ICMPV6 }, body)
    };
    frame.extend(finished(from, src, next, body));
    frame
}

/// Who answers in his own name: the pods' gateway on their links, the node on the others.
fn own_address(hook: Hook, net: Net) -> Addr {
    match hook.ifindex() {
        DEV_CLIENT | DEV_SERVER => net.gateway(),
        DEV_UPLINK => net.node(),
        other => panic!("no address is known on device {other}"),
    }
}

fn reset(packet: &PacketSpec) -> Vec<u8> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    let Tuple { sport, dport, .. } = packet.tuple;
    // The numbers that `PacketSpec` puts into each segment.
    let (seq, ack) = (0x1020_3040_u32, 0x5060_7080_u32);
    let flags = packet.tcp_flags;
    let control = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (seq, ack, flags) = if flags & ACK != 0 {
        (ack, 0, 0x04)
    } else {
        (0, seq.wrapping_add(packet.payload.len() as u32).wrapping_add(control), 0x14)
    };
    let mut body = Vec::new();
    body.extend(dport.octets());
    body.extend(sport.octets());
    body.extend(seq.to_be_bytes());
    body.extend(ack.to_be_bytes());
    body.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    body
}

/// An IP packet around a transport header and payload, with both checksums.
fn finished(src: Addr, dst: Addr, next: u8, mut body: Vec<u8>) -> Vec<u8> {
    let mut covered = Vec::new();
    if next != proto::ICMP {
        covered = pseudo_header(&Tuple::new(src, Port::new(0), dst, Port::new(0), next), body.len());
    }
    covered.extend(&body);
    let sum = !internet_sum(&covered);
    let at = if next == proto::TCP { 16 } else { 2 };
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut packet = Vec::new();
    if src.is_v4() {
        let tos = if next == proto::ICMP { 0xc0 } else { 0 };
        packet.extend([0x45, tos]);
        packet.extend((20 + body.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, next, 0, 0]);
        packet.extend(src.v4_octets());
        packet.extend(dst.v4_octets());
        let sum = !internet_sum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(src.octets());
        packet.extend(dst.octets());
    }
    packet.extend(body);
    packet
}
