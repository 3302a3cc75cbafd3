//! A second, independent reader of packets: slices and from-scratch sums, as plainly as possible. Failures print what
//! it sees.

use core::fmt::Write as _;

use super::{
    packet_spec::pseudo_header,
    sum::{crc32c, internet_sum},
};
use crate::abi::{Addr, Port, Tuple, proto};

/// State of a checksum.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sum {
    /// Right.
    Good,
    /// Zero in a UDP header: none.
    None,
    /// Only the pseudo-header's sum.
    Partial,
    /// Wrong.
    Bad,
}

/// What a TCP, UDP or SCTP packet says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dissected {
    /// Addresses, ports and protocol.
    pub tuple: Tuple,
    /// Offset of the IP header, in bytes.
    pub l3: usize,
    /// Offset of the transport header, in bytes.
    pub l4: usize,
    /// TCP flags; 0 for the others.
    pub tcp_flags: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// A first fragment.
    pub fragment: bool,
    /// The IPv4 header's checksum; [`Sum::None`] for IPv6.
    pub ip_sum: Sum,
    /// The transport checksum; it cannot be told for a fragment, which then shows [`Sum::Bad`].
    pub l4_sum: Sum,
}

/// Reads a packet behind `l2_len` bytes (14, or 0).
///
/// # Errors
/// What is wrong with it, or why it has no ports.
pub fn dissect(bytes: &[u8], l2_len: usize) -> Result<Dissected, String> {
    let ip = bytes.get(l2_len..).ok_or("shorter than its link-layer header")?;
    let first = *ip.first().ok_or("no IP header")?;
    if l2_len == 14 {
        match (&bytes[12..14], first >> 4) {
            ([0x08, 0x00], 4) | ([0x86, 0xdd], 6) => {}
            (ethertype, version) => return Err(format!("ethertype {ethertype:02x?}, IP version {version}")),
        }
    }
    match first >> 4 {
        4 => dissect_v4(ip, l2_len),
        6 => dissect_v6(ip, l2_len),
        version => Err(format!("IP version {version}")),
    }
}

fn dissect_v4(ip: &[u8], l3: usize) -> Result<Dissected, String> {
    if ip.len() < 20 {
        return Err("cut IPv4 header".into());
    }
    let header_len = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if header_len < 20 || total < header_len || total > ip.len() {
        return Err(format!("IPv4 header of {header_len}, packet of {total} in {} bytes", ip.len()));
    }
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    if fragment & 0x1fff != 0 {
        return Err("later fragment".into());
    }
    let ip_sum = if internet_sum(&ip[..header_len]) == 0xffff { Sum::Good } else { Sum::Bad };
    let addr = |at: usize| Addr::v4([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    let ends = (addr(12), addr(16), ip[9], ip[8]);
    transport(ends, &ip[header_len..total], l3, l3 + header_len, fragment & 0x2000 != 0, ip_sum)
}

fn dissect_v6(ip: &[u8], l3: usize) -> Result<Dissected, String> {
    if ip.len() < 40 {
        return Err("cut IPv6 header".into());
    }
    let end = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    if end > ip.len() {
        return Err(format!("IPv6 packet of {end} in {} bytes", ip.len()));
    }
    let (mut at, mut next, mut fragment) = (40, ip[6], false);
    while matches!(next, 0 | 43 | 44 | 60) {
        let header = ip.get(at..at + 8).ok_or("cut extension header")?;
        let len = if next == 44 { 8 } else { 8 + 8 * usize::from(header[1]) };
        if next == 44 {
            let field = u16::from_be_bytes([header[2], header[3]]);
            if field >> 3 != 0 {
                return Err("later fragment".into());
            }
            fragment |= field & 1 != 0;
        }
        next = header[0];
        at += len;
    }
    let addr = |from: usize| Addr::v6(core::array::from_fn(|i| ip[from + i]));
    let body = ip.get(at..end).ok_or("extension headers longer than the packet")?;
    transport((addr(8), addr(24), next, ip[7]), body, l3, l3 + at, fragment, Sum::None)
}

fn transport(
    (src, dst, proto, ttl): (Addr, Addr, u8, u8),
    body: &[u8],
    l3: usize,
    l4: usize,
    fragment: bool,
    ip_sum: Sum,
) -> Result<Dissected, String> {
    let (header_len, field) = match proto {
        proto::TCP => (20, 16),
        proto::UDP => (8, 6),
        proto::SCTP => (12, 8),
        _ => return Err(format!("protocol {proto}")),
    };
    if body.len() < header_len {
        return Err(format!("transport header cut to {} bytes", body.len()));
    }
    let port = |at: usize| Port::from_octets([body[at], body[at + 1]]);
    let tuple = Tuple::new(src, port(0), dst, port(2), proto);
    let tcp_flags = if proto == proto::TCP { body[13] } else { 0 };
    if proto == proto::TCP && body[12] >> 4 < 5 {
        return Err(format!("TCP header of {} words", body[12] >> 4));
    }
    if proto == proto::SCTP {
        let found = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
        let mut whole = body.to_vec();
        whole[8..12].fill(0);
        let l4_sum = if crc32c(&whole) == found { Sum::Good } else { Sum::Bad };
        return Ok(Dissected { tuple, l3, l4, tcp_flags, ttl, fragment, ip_sum, l4_sum });
    }
    let pseudo = pseudo_header(&tuple, body.len());
    let found = u16::from_be_bytes([body[field], body[field + 1]]);
    let whole = internet_sum(&[&pseudo, body].concat());
    let l4_sum = if proto == proto::UDP && found == 0 {
        Sum::None
    } else if whole == 0xffff {
        Sum::Good
    } else if found == internet_sum(&pseudo) {
        Sum::Partial
    } else {
        Sum::Bad
    };
    Ok(Dissected { tuple, l3, l4, tcp_flags, ttl, fragment, ip_sum, l4_sum })
}

/// A packet in words and bytes, for failure messages.
#[must_use]
pub fn describe(bytes: &[u8], l2_len: usize) -> String {
    let mut text = match dissect(bytes, l2_len) {
        Ok(packet) => {
            let t = packet.tuple;
            let name = match t.proto {
                proto::TCP => "TCP",
                proto::UDP => "UDP",
                _ => "SCTP",
            };
            let flags: String = "FSRPAUEC"
                .chars()
                .enumerate()
                .filter(|(i, _)| packet.tcp_flags >> i & 1 == 1)
                .map(|(_, c)| c)
                .collect();
            let fragment = if packet.fragment { " first fragment" } else { "" };
            format!(
                "{name} {:?} port {:?} > {:?} port {:?} [{flags}]{fragment}, TTL {}, IP sum {:?}, transport sum {:?}",
                t.src, t.sport, t.dst, t.dport, packet.ttl, packet.ip_sum, packet.l4_sum
            )
        }
        Err(why) => format!("not TCP, UDP or SCTP: {why}"),
    };
    for (i, line) in bytes.chunks(16).take(12).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        // Writing to a String cannot fail.
        let _infallible = write!(text, "\n    {:04x}  {}", i * 16, hex.join(" "));
    }
    text
}
