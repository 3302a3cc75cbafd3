//! From bytes to one packet description. No later stage reads a header again.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::packet::{Fault, Packet};
use crate::abi::{Addr, Port, Tuple, proto};

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

/// A TCP or UDP packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Parsed {
    /// Addresses, ports and protocol.
    pub tuple: Tuple,
    /// Offset of the IP header, in bytes.
    pub l3: usize,
    /// Offset of the TCP or UDP header, in bytes.
    pub l4: usize,
    /// IPv4, else IPv6.
    pub v4: bool,
    /// The IPv4 header's checksum as it stands.
    pub ip_checksum: [u8; 2],
    /// [`tcp_flag`] bits; 0 for UDP.
    pub tcp_flags: u8,
    /// A first fragment: what follows it carries no ports.
    pub fragment: bool,
}

impl Parsed {
    /// A TCP packet that opens a connection: SYN without ACK.
    #[inline(always)]
    #[must_use]
    pub const fn opens(&self) -> bool {
        self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// Whether this is TCP.
    #[inline(always)]
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.tuple.proto == proto::TCP
    }

    /// Offset of the transport checksum, in bytes.
    #[inline(always)]
    pub(super) const fn l4_checksum(&self) -> usize {
        self.l4 + if self.is_tcp() { 16 } else { 6 }
    }
}

/// Why there is no description. Such packets pass untouched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unparsed {
    /// Neither IPv4 nor IPv6 directly behind the link-layer header.
    NotIp,
    /// Neither TCP nor UDP.
    OtherProtocol,
    /// A fragment other than the first.
    LaterFragment,
    /// Shorter than its headers, or headers that contradict themselves.
    Malformed,
    /// A genuine IPv6 packet from or to `::ffff:0:0/96`, which would be taken for IPv4 (RFC 4038 4.2).
    MappedAddress,
}

impl From<Fault> for Unparsed {
    #[inline(always)]
    fn from(Fault: Fault) -> Self {
        Self::Malformed
    }
}

const ETHERTYPE_IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
const ETHERTYPE_IPV6: [u8; 2] = 0x86ddu16.to_be_bytes();

/// Fixed part of an IPv4 header (RFC 791 3.1).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_len: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    proto: u8,
    checksum: [u8; 2],
    src: [u8; 4],
    dst: [u8; 4],
}

/// Fixed IPv6 header (RFC 8200 3).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
struct Ipv6 {
    version_class_flow: [u8; 4],
    payload_len: [u8; 2],
    next: u8,
    hop_limit: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

/// First bytes of an extension header (RFC 8200 4.3, 4.5).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
struct Extension {
    next: u8,
    len: u8,
    fragment: [u8; 2],
}

/// A TCP header up to its flags (RFC 9293 3.1).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
struct Tcp {
    ports: [u8; 4],
    seq_ack: [u8; 8],
    data_offset: u8,
    flags: u8,
    window_checksum_urgent: [u8; 6],
}

/// A UDP header (RFC 768).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
struct Udp {
    ports: [u8; 4],
    len_checksum: [u8; 4],
}

/// Extension headers that are looked through, at most. RFC 8200 allows each kind once (destination options twice),
/// and routers and hosts that filter stop at fewer.
const MAX_EXTENSIONS: usize = 4;

/// Where a packet ends that gives its length as 0: longer than the field can say (RFC 2675, and Linux's "BIG TCP").
const JUMBO: usize = usize::MAX;

mod next {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
}

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
    into.l3 = l2_len;
    into.v4 = v4;
    if v4 { parse_v4(packet, into) } else { parse_v6(packet, into) }
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, into: &mut Parsed) -> Result<(), Unparsed> {
    let ip: Ipv4 = packet.read(into.l3)?;
    let header_len = ((ip.version_ihl & 0x0f) as usize) * 4;
    if ip.version_ihl >> 4 != 4 || header_len < 20 {
        return Err(Unparsed::Malformed);
    }
    let fragment = u16::from_be_bytes(ip.fragment);
    if fragment & 0x1fff != 0 {
        return Err(Unparsed::LaterFragment);
    }
    into.fragment = fragment & 0x2000 != 0;
    into.ip_checksum = ip.checksum;
    into.tuple.src = Addr::v4(ip.src);
    into.tuple.dst = Addr::v4(ip.dst);
    into.tuple.proto = ip.proto;
    into.l4 = into.l3 + header_len;
    parse_l4(packet, into, end(into.l3, ip.total_len))
}

/// Offset behind the last byte of a packet that has `len` bytes from `start` on.
#[inline(always)]
const fn end(start: usize, len: [u8; 2]) -> usize {
    match u16::from_be_bytes(len) {
        0 => JUMBO,
        len => start + len as usize,
    }
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, into: &mut Parsed) -> Result<(), Unparsed> {
    let ip: Ipv6 = packet.read(into.l3)?;
    if ip.version_class_flow[0] >> 4 != 6 {
        return Err(Unparsed::Malformed);
    }
    into.tuple.src = Addr::v6(ip.src);
    into.tuple.dst = Addr::v6(ip.dst);
    into.fragment = false;
    into.ip_checksum = [0; 2];
    let mut l4 = into.l3 + 40;
    let mut proto = ip.next;
    if proto != proto::TCP && proto != proto::UDP {
        let mut i = 0;
        while i < MAX_EXTENSIONS {
            let len = match proto {
                next::HOP_BY_HOP | next::ROUTING | next::DESTINATION => {
                    let extension: Extension = packet.read(l4)?;
                    proto = extension.next;
                    8 + (extension.len as usize) * 8
                }
                next::FRAGMENT => {
                    let extension: Extension = packet.read(l4)?;
                    let field = u16::from_be_bytes(extension.fragment);
                    if field >> 3 != 0 {
                        return Err(Unparsed::LaterFragment);
                    }
                    // An atomic fragment (RFC 6946) has neither offset nor followers.
                    into.fragment |= field & 1 != 0;
                    proto = extension.next;
                    8
                }
                _ => break,
            };
            l4 += len;
            i += 1;
        }
    }
    into.tuple.proto = proto;
    into.l4 = l4;
    parse_l4(packet, into, end(into.l3 + 40, ip.payload_len))?;
    if into.tuple.src.is_v4() || into.tuple.dst.is_v4() {
        return Err(Unparsed::MappedAddress);
    }
    Ok(())
}

#[inline(always)]
fn parse_l4<P: Packet>(packet: &P, into: &mut Parsed, end: usize) -> Result<(), Unparsed> {
    let header_len = if into.is_tcp() { size_of::<Tcp>() } else { size_of::<Udp>() };
    if into.l4 + header_len > end {
        return Err(Unparsed::Malformed);
    }
    let ports = match into.tuple.proto {
        proto::TCP => {
            let tcp: Tcp = packet.read(into.l4)?;
            if tcp.data_offset >> 4 < 5 {
                return Err(Unparsed::Malformed);
            }
            into.tcp_flags = tcp.flags;
            tcp.ports
        }
        proto::UDP => {
            into.tcp_flags = 0;
            packet.read::<Udp>(into.l4)?.ports
        }
        _ => return Err(Unparsed::OtherProtocol),
    };
    let [a, b, c, d] = ports;
    into.tuple.sport = Port::from_octets([a, b]);
    into.tuple.dport = Port::from_octets([c, d]);
    Ok(())
}
