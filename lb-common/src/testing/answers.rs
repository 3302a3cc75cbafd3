//! What a packet's sender must be told when the packet is dropped: whole frames, built from the packet's own bytes by the
//! RFCs' layouts and from-scratch sums.

use super::{
    DEV_CLIENT, DEV_OVERLAY, DEV_SERVER, DEV_UPLINK, Hook, Net, PacketSpec, packet_spec::pseudo_header,
    sum::internet_sum,
};
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
        DEV_OVERLAY => net.overlay(),
        other => panic!("no address is known on device {other}"),
    }
}

/// Whether the frame `answer` may answer the frame `sent`, whatever that was: to its sender, whole, with right lengths and
/// checksums, and never in answer to what must not be answered (RFC 1122 3.2.2, RFC 4443 2.4, RFC 9293 3.10.7.1).
///
/// # Errors
/// What is wrong with it.
pub fn check_answer(sent: &[u8], answer: &[u8], l2_len: usize) -> Result<(), String> {
    let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_string()) };
    let (mac, ip) = answer.split_at_checked(l2_len).ok_or("no link-layer header")?;
    let (sent_mac, asked) = sent.split_at_checked(l2_len).ok_or("nothing was sent")?;
    if l2_len != 0 {
        need(mac[..6] == sent_mac[6..12] && mac[6..12] == sent_mac[..6], "link-layer addresses are not swapped")?;
        need(mac[12..] == sent_mac[12..], "another ethertype")?;
    }
    need(ip.first().map(|b| b >> 4) == asked.first().map(|b| b >> 4), "another family")?;
    let v4 = asked[0] >> 4 == 4;
    let (header, src, dst) = if v4 { (20, 12..16, 16..20) } else { (40, 8..24, 24..40) };
    need(ip.len() >= header + 8 && asked.len() >= header, "too short")?;
    let total = if v4 { 2 } else { 4 };
    let said = usize::from(u16::from_be_bytes([ip[total], ip[total + 1]])) + if v4 { 0 } else { 40 };
    need(said == ip.len(), "another length than it says")?;
    need(!v4 || (ip[0] == 0x45 && internet_sum(&ip[..20]) == 0xffff), "IP header")?;
    need(ip[dst.clone()] == asked[src.clone()], "not to the sender")?;
    let body = &ip[header..];
    let next = ip[if v4 { 9 } else { 6 }];
    let mut covered = Vec::new();
    if next != proto::ICMP {
        covered.extend(&ip[src.start..dst.end]);
        covered.extend((body.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, next]);
    }
    covered.extend(body);
    need(internet_sum(&covered) == 0xffff, "transport checksum")?;
    if next == proto::TCP {
        let tcp = transport_of(asked).and_then(|at| asked.get(at..at + 20)).ok_or("no TCP header was sent")?;
        need(body.len() == 20 && body[12] == 0x50 && body[13] & !0x14 == 0 && body[13] & 4 != 0, "no plain reset")?;
        need(tcp[13] & 4 == 0, "a reset was answered")?;
        need((body[13] & 0x10 == 0) == (tcp[13] & 0x10 != 0), "ACK or not (RFC 9293 3.10.7.1)")?;
        need(ip[src] == asked[dst], "not from the destination")?;
        return need(body[..2] == tcp[2..4] && body[2..4] == tcp[..2], "ports are not swapped");
    }
    need(next == if v4 { proto::ICMP } else { proto::ICMPV6 }, "neither TCP nor ICMP")?;
    let kinds: &[(u8, u8)] = if v4 { &[(3, 3), (3, 2), (3, 4), (11, 0)] } else { &[(1, 4), (2, 0), (3, 0)] };
    need(kinds.contains(&(body[0], body[1])), "another kind of ICMP error")?;
    need(asked.starts_with(&body[8..]), "does not quote what was sent")?;
    let of_icmp = asked[if v4 { 9 } else { 6 }] == if v4 { proto::ICMP } else { proto::ICMPV6 };
    need(!of_icmp, "ICMP was answered")?;
    need(!v4 || u16::from_be_bytes([asked[6], asked[7]]) & 0x1fff == 0, "a later fragment was answered")?;
    let sender = &asked[src];
    let single = if v4 { sender[0] != 0 && sender[0] != 127 && sender[0] < 224 } else { sender[0] != 0xff };
    need(single && sender.iter().any(|byte| *byte != 0), "nobody in particular was answered")
}

/// Offset of the transport header in an IP packet, whatever its length fields say.
fn transport_of(ip: &[u8]) -> Option<usize> {
    if ip[0] >> 4 == 4 {
        return Some(usize::from(ip[0] & 15) * 4);
    }
    let (mut at, mut next) = (40, ip[6]);
    while matches!(next, 0 | 43 | 44 | 60) {
        let header = ip.get(at..at + 2)?;
        at += if next == 44 { 8 } else { 8 + 8 * usize::from(header[1]) };
        next = header[0];
    }
    Some(at)
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
