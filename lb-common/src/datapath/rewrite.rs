//! Turns a packet of one tuple into the same packet of another, checksums included.

use super::{
    checksum,
    packet::{Fault, L4Checksum, Packet},
    parse::Parsed,
};
use crate::abi::{Addr, Tuple, proto};

/// Gives the packet the addresses and ports of `to`. The protocol and family stay.
///
/// # Errors
/// [`Fault`] if the packet cannot be written; it may then be half changed and must be dropped.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Result<(), Fault> {
    let from = &parsed.tuple;
    let pseudo = if parsed.v4 { rewrite_v4(packet, parsed, to)? } else { rewrite_v6(packet, parsed, to)? };
    let change = L4Checksum {
        offset: parsed.l4_checksum(),
        diff: pseudo,
        pseudo: true,
        zero_is_none: from.proto == proto::UDP,
        v6: !parsed.v4,
    };
    packet.update_l4_checksum(change)?;
    let (old, new) = (ports(from), ports(to));
    if old != new {
        packet.write(parsed.l4, &new.to_ne_bytes())?;
        packet.update_l4_checksum(L4Checksum { diff: checksum::diff([old], [new]), pseudo: false, ..change })?;
    }
    Ok(())
}

/// Header checksum, source and destination are neighbours in an IPv4 header (RFC 791 3.1): one write.
#[inline(always)]
fn rewrite_v4<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Result<u32, Fault> {
    let from = &parsed.tuple;
    let diff = checksum::diff([from.src.words()[3], from.dst.words()[3]], [to.src.words()[3], to.dst.words()[3]]);
    let [c0, c1] = checksum::apply(parsed.ip_checksum, diff);
    let [s0, s1, s2, s3] = to.src.v4_octets();
    let [d0, d1, d2, d3] = to.dst.v4_octets();
    packet.write(parsed.l3 + 10, &[c0, c1, s0, s1, s2, s3, d0, d1, d2, d3])?;
    Ok(diff)
}

#[inline(always)]
fn rewrite_v6<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Result<u32, Fault> {
    let from = &parsed.tuple;
    let diff = checksum::diff(pair(from.src, from.dst), pair(to.src, to.dst));
    if from.src != to.src {
        packet.write(parsed.l3 + 8, to.src.as_octets())?;
    }
    if from.dst != to.dst {
        packet.write(parsed.l3 + 24, to.dst.as_octets())?;
    }
    Ok(diff)
}

#[inline(always)]
const fn pair(a: Addr, b: Addr) -> [u32; 8] {
    let (a, b) = (a.words(), b.words());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

#[inline(always)]
const fn ports(t: &Tuple) -> u32 {
    let ([a, b], [c, d]) = (t.sport.octets(), t.dport.octets());
    u32::from_ne_bytes([a, b, c, d])
}
