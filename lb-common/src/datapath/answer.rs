//! Answers in place of a destination: a TCP reset or an ICMP error goes back to the sender of a packet that is dropped,
//! so that it learns of it at once.
//!
//! The packet itself becomes the answer, without anything of its checksum state; nothing is read from it but headers.

use super::{
    checksum::fold,
    link::Link,
    packet::{ANSWER_WORDS, Fault, HostPacket},
    parse::{Parsed, tcp_flag},
    scratch::Scratch,
    tables::Tables,
};
use crate::abi::{Addr, proto};

/// What the sender is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(super) enum What {
    /// Nobody listens there: a reset for TCP (RFC 9293 3.5.2), else "port unreachable" (RFC 792, RFC 4443 3.1).
    Refused,
    /// No such protocol there (RFC 792); IPv6 has no such code but "port unreachable".
    NoProtocol,
    /// Its hops have run out (RFC 792, RFC 4443 3.3).
    TimeExceeded,
    /// It is larger than the way takes (RFC 1191, RFC 4443 3.2).
    TooBig,
}

impl What {
    #[inline(always)]
    pub(super) const fn from_index(index: u32) -> Self {
        match index {
            0 => Self::Refused,
            1 => Self::NoProtocol,
            2 => Self::TimeExceeded,
            _ => Self::TooBig,
        }
    }
}

/// Room to build an answer in.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Answer {
    words: [u32; ANSWER_WORDS],
    /// Of an ICMP error: who sends it,
    from: Addr,
    /// type and code, in the upper half of the word,
    kind: u32,
    /// and what follows the checksum. Words in memory order.
    rest: u32,
}

impl Default for Answer {
    fn default() -> Self {
        Self { words: [0; ANSWER_WORDS], from: Addr::UNSPECIFIED, kind: 0, rest: 0 }
    }
}

/// Makes the packet an answer to its sender; whether it did. If not, the packet may be half changed.
#[inline(never)]
pub(super) fn build<P: HostPacket, T: Tables>(
    packet: &mut P,
    tables: &T,
    link: Link,
    s: &mut Scratch,
    what: What,
) -> bool {
    let Scratch { parsed, found, answer, .. } = s;
    if parsed.is_tcp() && matches!(what, What::Refused) {
        return reset(packet, link, parsed, answer).is_ok();
    }
    // Who is at the destination answers in its name; who is on the way, in his own.
    answer.from = parsed.tuple.dst;
    answer.rest = 0;
    if matches!(what, What::TimeExceeded | What::TooBig) {
        own_address(tables, link, parsed, &mut answer.from);
    }
    if matches!(what, What::TooBig) {
        answer.rest = u32::from(found.flow.mtu).to_be();
    }
    if parsed.is_v4() {
        let (kind, code): (u32, u32) = match what {
            What::Refused => (3, 3),
            What::NoProtocol => (3, 2),
            What::TimeExceeded => (11, 0),
            What::TooBig => (3, 4),
        };
        answer.kind = (kind << 24 | code << 16).to_be();
        error_v4(packet, link, parsed, answer).is_ok()
    } else {
        let (kind, code): (u32, u32) = match what {
            What::Refused | What::NoProtocol => (1, 4),
            What::TimeExceeded => (3, 0),
            What::TooBig => (2, 0),
        };
        answer.kind = (kind << 24 | code << 16).to_be();
        error_v6(packet, link, parsed, answer).is_ok()
    }
}

/// Whether an answer may be sent at all: never to a reset or a later fragment, nor to what is no single machine (RFC 1122
/// 3.2.2, RFC 4443 2.4).
#[inline(always)]
pub(super) fn may_hear(parsed: &Parsed) -> bool {
    if parsed.is_later_fragment() {
        return false;
    }
    let src = parsed.tuple.src.words();
    let first = src[if parsed.is_v4() { 3 } else { 0 }].to_be() >> 24;
    let single = if parsed.is_v4() { first != 0 && first != 127 && first < 224 } else { first != 0xff };
    single && !parsed.tuple.src.is_unspecified() && !(parsed.is_tcp() && parsed.tcp_flags & tcp_flag::RST != 0)
}

/// Puts the address that this node has towards the sender in place, if it has one.
#[inline(never)]
fn own_address<T: Tables>(tables: &T, link: Link, parsed: &Parsed, from: &mut Addr) -> bool {
    let Some(dev) = tables.dev(link.ifindex) else { return false };
    let own = dev.source(parsed.is_v4());
    if own.is_unspecified() {
        return false;
    }
    *from = own;
    true
}

const TTL: u32 = 64;

/// First three words of an IPv4 header of 20 bytes without its checksum (RFC 791 3.1), don't fragment.
#[inline(always)]
const fn ipv4(len: u32, tos: u32, proto: u8) -> [u32; 3] {
    [(0x4500_0000 | tos << 16 | len).to_be(), 0x4000u32.to_be(), (TTL << 24 | (proto as u32) << 16).to_be()]
}

/// First two words of an IPv6 header (RFC 8200 3).
#[inline(always)]
const fn ipv6(payload: u32, proto: u8) -> [u32; 2] {
    [0x6000_0000u32.to_be(), (payload << 16 | (proto as u32) << 8 | TTL).to_be()]
}

/// A checksum field made of the sum of everything it covers, in the upper half of a word in memory order where `second`.
#[inline(always)]
const fn field(sum: u64, second: bool) -> u32 {
    let [a, b] = (!fold(sum)).to_ne_bytes();
    if second { u32::from_ne_bytes([0, 0, a, b]) } else { u32::from_ne_bytes([a, b, 0, 0]) }
}

/// A reset in answer to a TCP segment (RFC 9293 3.10.7.1).
#[inline(never)]
fn reset<P: HostPacket>(packet: &mut P, link: Link, parsed: &Parsed, answer: &mut Answer) -> Result<(), Fault> {
    let [_, seq, ack] = packet.read::<[u32; 3]>(parsed.l4())?;
    let (seq, ack) = if parsed.tcp_flags & tcp_flag::ACK != 0 {
        (ack, 0)
    } else {
        let flags = parsed.tcp_flags;
        let control = u32::from(flags & tcp_flag::SYN != 0) + u32::from(flags & tcp_flag::FIN != 0);
        (0, u32::from_be(seq).wrapping_add(data_len(packet, parsed)?).wrapping_add(control).to_be())
    };
    let acks = parsed.tcp_flags & tcp_flag::ACK == 0;
    let flags = tcp_flag::RST | if acks { tcp_flag::ACK } else { 0 };
    let offset_flags = (0x5000_0000 | (flags as u32) << 16).to_be();
    let [s0, s1, s2, s3, d0, d1, d2, d3, ports, _] = *parsed.tuple.as_words();
    let ports = ports.rotate_left(16);
    let words = &mut answer.words;
    let length = u32::from(proto::TCP) + 20;
    let fixed = [ports, seq, ack, offset_flags];
    let mut sum = u64::from(length.to_be());
    for word in fixed {
        sum += u64::from(word);
    }
    if parsed.is_v4() {
        let [w0, w1, w2] = ipv4(40, 0, proto::TCP);
        let header = u64::from(w0) + u64::from(w1) + u64::from(w2) + u64::from(s3) + u64::from(d3);
        sum += u64::from(s3) + u64::from(d3);
        (words[0], words[1], words[2]) = (w0, w1, w2 | field(header, true));
        (words[3], words[4]) = (d3, s3);
        (words[5], words[6], words[7], words[8]) = (ports, seq, ack, offset_flags);
        words[9] = field(sum, false);
        packet.replace::<10>(link.l2_len(), parsed.l4(), words)
    } else {
        let [w0, w1] = ipv6(20, proto::TCP);
        for word in [s0, s1, s2, s3, d0, d1, d2, d3] {
            sum += u64::from(word);
        }
        (words[0], words[1]) = (w0, w1);
        (words[2], words[3], words[4], words[5]) = (d0, d1, d2, d3);
        (words[6], words[7], words[8], words[9]) = (s0, s1, s2, s3);
        (words[10], words[11], words[12], words[13]) = (ports, seq, ack, offset_flags);
        words[14] = field(sum, false);
        packet.replace::<15>(link.l2_len(), parsed.l4(), words)
    }
}

/// Bytes behind the TCP header, by what the IP header says: Ethernet pads short frames.
#[inline(always)]
fn data_len<P: HostPacket>(packet: &P, parsed: &Parsed) -> Result<u32, Fault> {
    let (at, start) = if parsed.is_v4() { (2, 0) } else { (4, 40) };
    let len = u32::from(u16::from_be_bytes(packet.read(parsed.l3() + at)?));
    let end = if len == 0 { packet.len() } else { parsed.l3() as u32 + start + len };
    Ok(end.saturating_sub(parsed.l4() as u32 + u32::from(parsed.l4_len)))
}

type Words = [u32; ANSWER_WORDS];

/// An ICMP error over the packet's IP header and the eight bytes behind it.
#[inline(never)]
fn error_v4<P: HostPacket>(packet: &mut P, link: Link, parsed: &Parsed, answer: &mut Answer) -> Result<(), Fault> {
    let Answer { words, from, kind: head, rest } = answer;
    let (head, rest) = (*head, *rest);
    let mut sum = u64::from(head) + u64::from(rest);
    let plain = parsed.l4() == parsed.l3() + 20;
    let total = if plain {
        sum += quote::<P, 7>(packet, parsed.l3(), words, 7)?;
        20 + 8 + 28
    } else {
        sum += quote::<P, 17>(packet, parsed.l3(), words, 7)?;
        20 + 8 + 68
    };
    // Precedence "internetwork control", as routers mark their errors (RFC 1812 4.3.2.5).
    let [w0, w1, w2] = ipv4(total, 0xc0, proto::ICMP);
    let (src, dst) = (from.words()[3], parsed.tuple.src.words()[3]);
    let header = u64::from(w0) + u64::from(w1) + u64::from(w2) + u64::from(src) + u64::from(dst);
    (words[0], words[1], words[2]) = (w0, w1, w2 | field(header, true));
    (words[3], words[4]) = (src, dst);
    (words[5], words[6]) = (head | field(sum, true), rest);
    if plain {
        packet.replace::<14>(link.l2_len(), parsed.l4(), words)
    } else {
        packet.replace::<24>(link.l2_len(), parsed.l4(), words)
    }
}

/// As [`error_v4`]; behind extension headers it quotes 112 bytes, or does not answer a packet that is shorter.
#[inline(never)]
fn error_v6<P: HostPacket>(packet: &mut P, link: Link, parsed: &Parsed, answer: &mut Answer) -> Result<(), Fault> {
    let Answer { words, from, kind: head, rest } = answer;
    let (head, rest) = (*head, *rest);
    let plain = parsed.l4() == parsed.l3() + 40;
    let mut sum = u64::from(head) + u64::from(rest);
    let payload = if plain {
        sum += quote::<P, 12>(packet, parsed.l3(), words, 12)?;
        8 + 48
    } else {
        sum += quote::<P, 28>(packet, parsed.l3(), words, 12)?;
        8 + 112
    };
    let [f0, f1, f2, f3] = from.words();
    let [t0, t1, t2, t3] = parsed.tuple.src.words();
    sum += u64::from((payload + u32::from(proto::ICMPV6)).to_be());
    for word in [f0, f1, f2, f3, t0, t1, t2, t3] {
        sum += u64::from(word);
    }
    let [w0, w1] = ipv6(payload, proto::ICMPV6);
    (words[0], words[1]) = (w0, w1);
    (words[2], words[3], words[4], words[5]) = (f0, f1, f2, f3);
    (words[6], words[7], words[8], words[9]) = (t0, t1, t2, t3);
    (words[10], words[11]) = (head | field(sum, true), rest);
    if plain {
        packet.replace::<24>(link.l2_len(), parsed.l4(), words)
    } else {
        packet.replace::<40>(link.l2_len(), parsed.l4(), words)
    }
}

/// Copies `N` words of the packet behind the first `at` words of the answer; their sum.
#[inline(always)]
fn quote<P: HostPacket, const N: usize>(packet: &P, l3: usize, words: &mut Words, at: usize) -> Result<u64, Fault> {
    let quoted: [u32; N] = packet.read(l3)?;
    let mut sum = 0;
    let mut i = 0;
    while i < N {
        words[at + i] = quoted[i];
        sum += u64::from(quoted[i]);
        i += 1;
    }
    Ok(sum)
}
