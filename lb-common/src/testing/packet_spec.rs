//! Packets built from scratch, lengths and checksums included: what a sender's stack would put on the wire.

use super::{
    Sums, VecPacket,
    fixture::route,
    sum::{crc32c, internet_sum},
};
use crate::abi::{Addr, Port, Tuple, proto};

/// Link-layer destination of all built frames.
pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// Link-layer source of all built frames.
const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];

/// Identification of all fragments; IPv4 has its lower half.
pub(super) const FRAGMENT_ID: u32 = 0x1234;

/// An IPv6 extension header (RFC 8200 4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extension {
    /// Hop-by-hop options with padding, of 8 + 8·n bytes.
    HopByHop(u8),
    /// Routing header of 8 + 8·n bytes, with no segments left.
    Routing(u8),
    /// Destination options with padding, of 8 + 8·n bytes.
    Destination(u8),
    /// Destination options of 24 bytes with the backend that another node chose.
    Backend(Addr, u16),
}

impl Extension {
    const fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Destination(_) | Self::Backend(..) => 60,
        }
    }

    const fn units(self) -> u8 {
        match self {
            Self::HopByHop(n) | Self::Routing(n) | Self::Destination(n) => n,
            Self::Backend(..) => 2,
        }
    }
}

/// The packet is a fragment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// Offset in units of 8 bytes.
    pub offset: u16,
    /// Others follow.
    pub more: bool,
}

/// The transport checksum field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum L4Sum {
    /// Right.
    Good,
    /// Zero: for UDP over IPv4, "none".
    Zero,
    /// The pseudo-header's sum only.
    Partial,
}

/// What a packet is to be; [`Self::build`] makes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PacketSpec {
    /// Addresses, ports and protocol. For protocols without ports, the ports do not appear.
    pub tuple: Tuple,
    /// Without a link-layer header if false.
    pub ethernet: bool,
    /// One of our programs sent it here, which a test run in the kernel cannot show.
    pub redirected: bool,
    /// Link-layer source and destination swapped.
    pub bounced: bool,
    /// TCP flags as a byte.
    pub tcp_flags: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// IPv6 traffic class.
    pub class: u8,
    /// ICMP type, code and the word behind the checksum; `None`: an echo request.
    pub icmp: Option<(u8, u8, u32)>,
    /// Bytes behind the transport header; all that a later fragment carries.
    pub payload: Vec<u8>,
    /// IPv4 options; a multiple of 4 bytes, at most 40.
    pub ip_options: Vec<u8>,
    /// TCP options; a multiple of 4 bytes, at most 40.
    pub tcp_options: Vec<u8>,
    /// IPv6 extension headers in order, before a fragment header.
    pub extensions: Vec<Extension>,
    /// Fragment fields (IPv4) or header (IPv6).
    pub fragment: Option<Fragment>,
    /// The transport checksum.
    pub l4_sum: L4Sum,
    /// Bytes overwritten at the end, without mending any checksum.
    pub edits: Vec<(usize, Vec<u8>)>,
    /// Cut to this many bytes at last.
    pub truncate: Option<usize>,
    /// Zero bytes added behind the IP packet, as Ethernet pads short frames.
    pub padding: usize,
}

impl PacketSpec {
    /// A packet with a payload of 4 bytes; TCP with ACK only.
    #[must_use]
    pub fn new(tuple: Tuple) -> Self {
        Self {
            tuple,
            ethernet: true,
            redirected: false,
            bounced: false,
            tcp_flags: 0x10,
            ttl: 64,
            class: 0,
            icmp: None,
            payload: vec![0xde, 0xad, 0xbe, 0xef],
            ip_options: Vec::new(),
            tcp_options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            l4_sum: L4Sum::Good,
            edits: Vec::new(),
            truncate: None,
            padding: 0,
        }
    }

    /// With these TCP flags.
    #[must_use]
    pub const fn flags(mut self, flags: u8) -> Self {
        self.tcp_flags = flags;
        self
    }

    /// To another destination.
    #[must_use]
    pub const fn to(mut self, addr: Addr, port: u16) -> Self {
        self.tuple.dst = addr;
        self.tuple.dport = Port::new(port);
        self
    }

    /// From another source.
    #[must_use]
    pub const fn from(mut self, addr: Addr, port: u16) -> Self {
        self.tuple.src = addr;
        self.tuple.sport = Port::new(port);
        self
    }

    /// With another tuple.
    #[must_use]
    pub const fn with_tuple(mut self, tuple: Tuple) -> Self {
        self.tuple = tuple;
        self
    }

    /// Changed by hand.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Offset of the IP header, in bytes.
    #[must_use]
    pub const fn l3(&self) -> usize {
        if self.ethernet { 14 } else { 0 }
    }

    fn v4(&self) -> bool {
        self.tuple.src.is_v4() && self.tuple.dst.is_v4()
    }

    /// The packet's bytes.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        if self.ethernet {
            let (dst, src) = if self.bounced { (SOURCE_MAC, MAC) } else { (MAC, SOURCE_MAC) };
            frame.extend(dst);
            frame.extend(src);
            frame.extend_from_slice(if self.v4() { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        }
        let transport = self.transport();
        if self.v4() {
            self.ipv4(&mut frame, &transport)
        } else {
            self.ipv6(&mut frame, &transport)
        }
        frame.extend(core::iter::repeat_n(0, self.padding));
        for (offset, bytes) in &self.edits {
            frame[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        if let Some(len) = self.truncate {
            frame.truncate(len);
        }
        frame
    }

    /// Names a backend as a node does that hands the packet over, before all other options.
    pub fn name_backend(&mut self, addr: Addr, port: u16) {
        if self.tuple.dst.is_v4() {
            let [a, b] = port.to_be_bytes();
            self.ip_options.splice(0..0, [0x9e, 8, a, b].into_iter().chain(addr.v4_octets()));
        } else {
            self.extensions.insert(0, Extension::Backend(addr, port));
        }
    }

    /// As the core sees it on the host.
    #[must_use]
    pub fn packet(&self) -> VecPacket {
        let mut packet = VecPacket::new(self.build(), route);
        packet.redirected = self.redirected;
        packet.sums = if self.l4_sum == L4Sum::Partial { Sums::Partial } else { Sums::Full };
        packet
    }

    fn ipv4(&self, frame: &mut Vec<u8>, transport: &[u8]) {
        assert!(self.ip_options.len().is_multiple_of(4) && self.ip_options.len() <= 40, "IPv4 options");
        let header_len = 20 + self.ip_options.len();
        let fragment = self.fragment.map_or(0x4000, |f| f.offset | u16::from(f.more) << 13);
        let mut header = vec![0x40 | (header_len / 4) as u8, 0];
        header.extend(((header_len + transport.len()) as u16).to_be_bytes());
        header.extend((FRAGMENT_ID as u16).to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, self.tuple.proto, 0, 0]);
        header.extend(self.tuple.src.v4_octets());
        header.extend(self.tuple.dst.v4_octets());
        header.extend(&self.ip_options);
        let sum = !internet_sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
        frame.extend(transport);
    }

    fn ipv6(&self, frame: &mut Vec<u8>, transport: &[u8]) {
        let mut numbers: Vec<u8> = self.extensions.iter().map(|extension| extension.number()).collect();
        numbers.extend(self.fragment.map(|_| 44));
        numbers.push(self.tuple.proto);
        let mut body = Vec::new();
        for (i, extension) in self.extensions.iter().enumerate() {
            body.extend([numbers[i + 1], extension.units()]);
            let rest = 6 + 8 * usize::from(extension.units());
            match extension {
                // Padding options (RFC 8200 4.2) of at most 255 + 2 bytes each.
                Extension::HopByHop(_) | Extension::Destination(_) => body.extend(padding(rest)),
                Extension::Backend(addr, port) => {
                    body.extend([0x1e, 20]);
                    body.extend(addr.octets());
                    body.extend(port.to_be_bytes());
                    body.extend([0, 0]);
                }
                // Type 4 with no segments left.
                Extension::Routing(_) => body.extend([4, 0].into_iter().chain(core::iter::repeat_n(0, rest - 2))),
            }
        }
        if let Some(fragment) = self.fragment {
            let field = fragment.offset << 3 | u16::from(fragment.more);
            body.extend([self.tuple.proto, 0]);
            body.extend(field.to_be_bytes());
            body.extend(FRAGMENT_ID.to_be_bytes());
        }
        body.extend(transport);
        frame.extend([0x60 | self.class >> 4, self.class << 4, 0, 0]);
        frame.extend((body.len() as u16).to_be_bytes());
        frame.extend([numbers[0], self.ttl]);
        frame.extend(self.tuple.src.octets());
        frame.extend(self.tuple.dst.octets());
        frame.extend(body);
    }

    /// Transport header and payload.
    fn transport(&self) -> Vec<u8> {
        if self.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return self.payload.clone();
        }
        let mut bytes = Vec::new();
        let field = match self.tuple.proto {
            proto::TCP => {
                assert!(self.tcp_options.len().is_multiple_of(4) && self.tcp_options.len() <= 40, "TCP options");
                bytes.extend(self.tuple.sport.octets());
                bytes.extend(self.tuple.dport.octets());
                bytes.extend([0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80]);
                bytes.extend([(((20 + self.tcp_options.len()) / 4) << 4) as u8, self.tcp_flags]);
                bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(&self.tcp_options);
                16
            }
            proto::UDP => {
                bytes.extend(self.tuple.sport.octets());
                bytes.extend(self.tuple.dport.octets());
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
            // A DATA chunk's place is taken by the payload as it is.
            proto::SCTP => {
                bytes.extend(self.tuple.sport.octets());
                bytes.extend(self.tuple.dport.octets());
                bytes.extend([0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0]);
                bytes.extend(&self.payload);
                let sum = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                return bytes;
            }
            proto::ICMP | proto::ICMPV6 => {
                let echo = if self.tuple.proto == proto::ICMP { 8 } else { 128 };
                let (kind, code, rest) = self.icmp.unwrap_or((echo, 0, 0x0001_0001));
                bytes.extend([kind, code, 0, 0]);
                bytes.extend(rest.to_be_bytes());
                2
            }
            _ => {
                bytes.extend(&self.payload);
                return bytes;
            }
        };
        bytes.extend(&self.payload);
        let sum = self.checksum(&bytes);
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn checksum(&self, transport: &[u8]) -> u16 {
        let mut covered = Vec::new();
        if self.tuple.proto != proto::ICMP {
            covered = pseudo_header(&self.tuple, transport.len());
        }
        match self.l4_sum {
            L4Sum::Zero => return 0,
            L4Sum::Partial => return internet_sum(&covered),
            L4Sum::Good => covered.extend(transport),
        }
        match !internet_sum(&covered) {
            0 if self.tuple.proto == proto::UDP => 0xffff,
            sum => sum,
        }
    }
}

/// The pseudo-header of a transport checksum (RFC 9293 3.1, RFC 8200 8.1).
pub(super) fn pseudo_header(tuple: &Tuple, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if tuple.src.is_v4() && tuple.dst.is_v4() {
        bytes.extend(tuple.src.v4_octets());
        bytes.extend(tuple.dst.v4_octets());
    } else {
        bytes.extend(tuple.src.octets());
        bytes.extend(tuple.dst.octets());
    }
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend([0, 0, 0, tuple.proto]);
    bytes
}

fn padding(mut len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while len >= 2 {
        let data = (len - 2).min(255);
        bytes.extend([1, data as u8]);
        bytes.extend(core::iter::repeat_n(0, data));
        len -= data + 2;
    }
    bytes.extend(core::iter::repeat_n(0, len));
    bytes
}
