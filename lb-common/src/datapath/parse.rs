//! From bytes to one packet description. No later stage reads a header again.

use super::{
    headers::{Extension, FragmentHeader, Ipv4, Ipv6, Sctp, Tcp, Udp},
    packet::{Fault, Packet},
};
use crate::abi::{Tuple, proto};

/// TCP flags (RFC 9293 3.1).
pub mod tcp_flag {
    /// No more data from sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgment field significant.
    pub const ACK: u8 = 0x10;
}

/// A TCP, UDP or SCTP packet; of others, and of later fragments, everything but the ports, which are 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Parsed {
    /// Addresses, ports and protocol.
    pub tuple: Tuple,
    /// A fragment's identification in memory order; IPv4 has 16 bits of it.
    pub fragment_id: u32,
    l3: u16,
    l4: u16,
    /// The IPv4 header's checksum as it stands.
    pub ip_checksum: [u8; 2],
    /// 4 or 6.
    pub version: u8,
    /// [`tcp_flag`] bits; 0 for UDP.
    pub tcp_flags: u8,
    fragment: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Bytes of transport header.
    pub l4_len: u8,
    reserved: u8,
}

impl Parsed {
    /// A TCP packet that opens a connection: SYN without ACK.
    #[inline(always)]
    #[must_use]
    pub const fn opens(&self) -> bool {
        self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// Opens a connection, or may: all datagrams may.
    #[inline(always)]
    #[must_use]
    pub const fn begins(&self) -> bool {
        !self.is_tcp() || self.opens()
    }

    /// Whether this is ICMP or ICMPv6.
    #[inline(always)]
    #[must_use]
    pub const fn is_icmp(&self) -> bool {
        matches!(self.tuple.proto, proto::ICMP | proto::ICMPV6)
    }

    /// Whether this is TCP.
    #[inline(always)]
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.tuple.proto == proto::TCP
    }

    /// Offset of the IP header, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn l3(&self) -> usize {
        // What comes out of memory has to be bounded anew for the verifier.
        (self.l3 as u32 & L4_MASK) as usize
    }

    /// Offset of the TCP or UDP header, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn l4(&self) -> usize {
        (self.l4 as u32 & L4_MASK) as usize
    }

    /// A first fragment: what follows it carries no ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment == FIRST_FRAGMENT
    }

    /// A fragment that carries no transport header.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment == LATER_FRAGMENT
    }

    /// IPv4, else IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.version == 4
    }

    /// Offset of the transport checksum, in bytes.
    #[inline(always)]
    pub(super) const fn l4_checksum(&self) -> usize {
        self.l4() + if self.is_tcp() { 16 } else { 6 }
    }
}

/// Why there is no whole description.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unparsed {
    /// Neither IPv4 nor IPv6 directly behind the link-layer header.
    NotIp,
    /// Neither TCP nor UDP nor SCTP; everything but the ports is described.
    OtherProtocol,
    /// A fragment other than the first; everything but the ports is described.
    LaterFragment,
    /// Shorter than its headers, or headers that contradict themselves.
    Malformed,
    /// A genuine IPv6 packet from or to `::ffff:0:0/96`, which would be taken for IPv4 (RFC 4038 4.2).
    MappedAddress,
}

impl Unparsed {
    /// Whether addresses and protocol are known nevertheless.
    #[inline(always)]
    #[must_use]
    pub const fn has_addresses(self) -> bool {
        matches!(self, Self::OtherProtocol | Self::LaterFragment)
    }
}

impl From<Fault> for Unparsed {
    #[inline(always)]
    fn from(Fault: Fault) -> Self {
        Self::Malformed
    }
}

const ETHERTYPE_IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
const ETHERTYPE_IPV6: [u8; 2] = 0x86ddu16.to_be_bytes();

/// Extension headers that are looked through, at most. RFC 8200 allows each kind once (destination options twice),
/// and routers and hosts that filter stop at fewer.
const MAX_EXTENSIONS: usize = 4;

/// Third word of a v4-mapped address in memory order.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Where a packet ends that gives its length as 0: longer than the field can say (RFC 2675, and Linux's "BIG TCP").
const JUMBO: u32 = u32::MAX;

mod next {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
}

/// What the IP headers say of what follows them. The fields come back from [`core::hint::black_box`]: then the verifier
/// knows nothing of how the parser got to them, and verifies the rest of the program once instead of once for each way.
/// It forgets a value that is stored away from a boundary of eight bytes, and a zero never: hence order and encoding.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Payload {
    unused: u8,
    /// 4 or 6.
    version: u8,
    proto: u8,
    /// [`WHOLE`], [`FIRST_FRAGMENT`] or [`LATER_FRAGMENT`].
    fragment: u8,
    /// Offset of the transport header, in bytes.
    l4: u32,
    /// Offset behind the packet's last byte.
    end: u32,
}

const WHOLE: u8 = 1;
const FIRST_FRAGMENT: u8 = 2;
const LATER_FRAGMENT: u8 = 3;

/// Covers the longest way to a transport header: link layer, IPv6 header and [`MAX_EXTENSIONS`] of 2048 bytes.
const L4_MASK: u32 = 0x3fff;
const _: () = assert!(14 + 40 + MAX_EXTENSIONS * 2048 <= L4_MASK as usize);

/// Describes the packet whose IP header starts behind `l2_len` bytes (14, or 0 for a device without link layer).
/// Fills in a place of the caller's, as a BPF stack has room for few; on an error it is left in part.
///
/// # Errors
/// Why it is not a TCP or UDP packet that can be described.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, l2_len: usize, into: &mut Parsed) -> Result<(), Unparsed> {
    let v4 = if l2_len == 0 {
        // Two bytes: "at least one byte" compiles to a comparison from which the verifier learns nothing.
        match packet.read::<[u8; 2]>(0)?[0] >> 4 {
            4 => true,
            6 => false,
            _ => return Err(Unparsed::NotIp),
        }
    } else {
        match packet.read::<[u8; 2]>(l2_len - 2)? {
            ETHERTYPE_IPV4 => true,
            ETHERTYPE_IPV6 => false,
            _ => return Err(Unparsed::NotIp),
        }
    };
    into.l3 = l2_len as u16;
    let payload =
        core::hint::black_box(if v4 { parse_v4(packet, l2_len, into)? } else { parse_v6(packet, l2_len, into)? });
    into.version = payload.version;
    into.fragment = payload.fragment;
    let l4 = payload.l4 & L4_MASK;
    into.l4 = l4 as u16;
    if payload.version == 6 && (into.tuple.src.is_v4() || into.tuple.dst.is_v4()) {
        return Err(Unparsed::MappedAddress);
    }
    parse_l4(packet, into, l4, payload)
}

/// Describes the packet that an ICMP error quotes from `l3` on: addresses, ports and protocol; of its transport header eight
/// bytes are there for sure.
///
/// # Errors
/// Why it is of no TCP, UDP or SCTP connection.
#[inline(never)]
pub(super) fn parse_quoted<P: Packet>(packet: &P, l3: usize, v4: bool, into: &mut Parsed) -> Result<(), Unparsed> {
    let l3 = l3 & L4_MASK as usize;
    into.l3 = l3 as u16;
    let payload = core::hint::black_box(if v4 { parse_v4(packet, l3, into)? } else { parse_v6(packet, l3, into)? });
    into.version = payload.version;
    into.fragment = payload.fragment;
    let l4 = payload.l4 & L4_MASK;
    into.l4 = l4 as u16;
    if !v4 && (into.tuple.src.is_v4() || into.tuple.dst.is_v4()) {
        return Err(Unparsed::MappedAddress);
    }
    if payload.fragment == LATER_FRAGMENT {
        return Err(Unparsed::LaterFragment);
    }
    if !matches!(payload.proto, proto::TCP | proto::UDP | proto::SCTP) {
        return Err(Unparsed::OtherProtocol);
    }
    let [ports, _] = packet.read::<[u32; 2]>(l4 as usize)?;
    let words = into.tuple.as_words_mut();
    words[8] = ports;
    words[9] = u32::from_ne_bytes([payload.proto, 0, 0, 0]);
    Ok(())
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, l3: usize, into: &mut Parsed) -> Result<Payload, Unparsed> {
    let ip: Ipv4 = packet.read(l3)?;
    let header_len = u32::from(ip.version_ihl & 0x0f) * 4;
    if ip.version_ihl >> 4 != 4 || header_len < 20 {
        return Err(Unparsed::Malformed);
    }
    let field = u16::from_be_bytes(ip.fragment);
    into.ip_checksum = ip.checksum;
    into.ttl = ip.ttl;
    let [a, b] = ip.id;
    into.fragment_id = u32::from_ne_bytes([a, b, 0, 0]);
    let words = into.tuple.as_words_mut();
    (words[0], words[1], words[2], words[3]) = (0, 0, MAPPED, ip.src);
    (words[4], words[5], words[6], words[7]) = (0, 0, MAPPED, ip.dst);
    let fragment = if field & 0x1fff != 0 {
        LATER_FRAGMENT
    } else if field & 0x2000 != 0 {
        FIRST_FRAGMENT
    } else {
        WHOLE
    };
    let l3 = l3 as u32;
    Ok(Payload { unused: 0, version: 4, proto: ip.proto, fragment, l4: l3 + header_len, end: end(l3, ip.total_len) })
}

/// Offset behind the last byte of a packet that has `len` bytes from `start` on.
#[inline(always)]
const fn end(start: u32, len: [u8; 2]) -> u32 {
    match u16::from_be_bytes(len) {
        0 => JUMBO,
        len => start + len as u32,
    }
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, l3: usize, into: &mut Parsed) -> Result<Payload, Unparsed> {
    let ip: Ipv6 = packet.read(l3)?;
    if ip.version_class_flow[0] >> 4 != 6 {
        return Err(Unparsed::Malformed);
    }
    into.ip_checksum = [0; 2];
    into.ttl = ip.hop_limit;
    into.fragment_id = 0;
    let words = into.tuple.as_words_mut();
    (words[0], words[1], words[2], words[3]) = (ip.src[0], ip.src[1], ip.src[2], ip.src[3]);
    (words[4], words[5], words[6], words[7]) = (ip.dst[0], ip.dst[1], ip.dst[2], ip.dst[3]);
    let mut fragment = WHOLE;
    let mut l4 = l3 as u32 + 40;
    let mut proto = ip.next;
    if proto != proto::TCP && proto != proto::UDP {
        let mut i = 0;
        while i < MAX_EXTENSIONS {
            let len = match proto {
                next::HOP_BY_HOP | next::ROUTING | next::DESTINATION => {
                    let extension: Extension = packet.read(l4 as usize)?;
                    proto = extension.next;
                    8 + u32::from(extension.len) * 8
                }
                next::FRAGMENT => {
                    let extension: FragmentHeader = packet.read(l4 as usize)?;
                    let field = u16::from_be_bytes(extension.offset_more);
                    proto = extension.next;
                    into.fragment_id = extension.id;
                    if field >> 3 != 0 {
                        // What follows is no header.
                        fragment = LATER_FRAGMENT;
                        l4 += 8;
                        break;
                    }
                    // An atomic fragment (RFC 6946) has neither offset nor followers.
                    if field & 1 != 0 {
                        fragment = FIRST_FRAGMENT;
                    }
                    8
                }
                _ => break,
            };
            l4 += len;
            i += 1;
        }
    }
    let end = end(l3 as u32 + 40, ip.payload_len);
    Ok(Payload { unused: 0, version: 6, proto, fragment, l4, end })
}

#[inline(always)]
fn parse_l4<P: Packet>(packet: &P, into: &mut Parsed, l4: u32, payload: Payload) -> Result<(), Unparsed> {
    let Payload { proto, fragment, end, .. } = payload;
    let (l4, end) = (l4 as usize, end as usize);
    let words = into.tuple.as_words_mut();
    words[8] = 0;
    words[9] = u32::from_ne_bytes([proto, 0, 0, 0]);
    if fragment == LATER_FRAGMENT {
        return Err(Unparsed::LaterFragment);
    }
    let ports = match proto {
        proto::TCP => {
            if l4 + size_of::<Tcp>() > end {
                return Err(Unparsed::Malformed);
            }
            let tcp: Tcp = packet.read(l4)?;
            if tcp.data_offset >> 4 < 5 {
                return Err(Unparsed::Malformed);
            }
            into.tcp_flags = tcp.flags;
            into.l4_len = tcp.data_offset >> 4 << 2;
            tcp.ports
        }
        proto::SCTP => {
            if l4 + size_of::<Sctp>() > end {
                return Err(Unparsed::Malformed);
            }
            into.tcp_flags = 0;
            into.l4_len = size_of::<Sctp>() as u8;
            packet.read::<Sctp>(l4)?.ports
        }
        proto::UDP => {
            if l4 + size_of::<Udp>() > end {
                return Err(Unparsed::Malformed);
            }
            into.tcp_flags = 0;
            into.l4_len = 8;
            packet.read::<Udp>(l4)?.ports
        }
        _ => return Err(Unparsed::OtherProtocol),
    };
    into.tuple.as_words_mut()[8] = ports;
    Ok(())
}
