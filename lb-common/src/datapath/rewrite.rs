//! Turns a packet of one tuple into the same packet of another, checksums included.

use zerocopy::{Immutable, IntoBytes};

use super::{
    checksum,
    packet::{Fault, L4Checksum, Packet},
    parse::Parsed,
};
use crate::abi::{Tuple, proto};

/// Gives the packet the addresses and ports of `to`. The protocol and family stay.
///
/// # Errors
/// [`Fault`] if the packet cannot be written; it may then be half changed and must be dropped.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Result<(), Fault> {
    let (from, words) = (parsed.tuple.as_words(), to.as_words());
    let pseudo = if parsed.is_v4() { rewrite_v4(packet, parsed, to)? } else { rewrite_v6(packet, parsed, to)? };
    let change = L4Checksum {
        offset: parsed.l4_checksum(),
        diff: pseudo,
        pseudo: true,
        zero_is_none: parsed.tuple.proto == proto::UDP,
        v6: !parsed.is_v4(),
    };
    packet.update_l4_checksum(change)?;
    let (old, new) = (from[8], words[8]);
    if old != new {
        packet.update_l4_checksum(L4Checksum { diff: checksum::diff([old], [new]), pseudo: false, ..change })?;
    }
    Ok(())
}

/// What stands together at the end of an IPv4 header without options and the start of its payload (RFC 791 3.1).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Ends {
    /// Aligns the rest; not written.
    unused: [u8; 2],
    checksum: [u8; 2],
    src: u32,
    dst: u32,
    ports: u32,
}

/// Gives the difference of the addresses. One write where ports follow the addresses at once, else two.
#[inline(always)]
fn rewrite_v4<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Result<u32, Fault> {
    let (from, to) = (parsed.tuple.as_words(), to.as_words());
    let diff = checksum::diff([from[3], from[7]], [to[3], to[7]]);
    let checksum = checksum::apply(parsed.ip_checksum, diff);
    let ends = Ends { unused: [0; 2], checksum, src: to[3], dst: to[7], ports: to[8] };
    let bytes: &[u8; 16] = zerocopy::transmute_ref!(&ends);
    let at = parsed.l3() + 10;
    if parsed.l4() == parsed.l3() + 20 {
        let [_, _, bytes @ ..] = bytes;
        packet.write(at, bytes)?;
    } else {
        let [_, _, bytes @ .., p0, p1, p2, p3] = bytes;
        packet.write(at, bytes)?;
        packet.write(parsed.l4(), &[*p0, *p1, *p2, *p3])?;
    }
    Ok(diff)
}

/// As [`rewrite_v4`]. A tuple has addresses and ports in the order of the headers (RFC 8200 3).
#[inline(always)]
fn rewrite_v6<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Result<u32, Fault> {
    let [o0, o1, o2, o3, o4, o5, o6, o7, ..] = *parsed.tuple.as_words();
    let [n0, n1, n2, n3, n4, n5, n6, n7, ports, _] = *to.as_words();
    let diff = checksum::diff([o0, o1, o2, o3, o4, o5, o6, o7], [n0, n1, n2, n3, n4, n5, n6, n7]);
    let at = parsed.l3() + 8;
    if parsed.l4() == parsed.l3() + 40 {
        let [bytes @ .., _, _, _, _] = to.as_octets();
        packet.write(at, bytes)?;
    } else {
        let [bytes @ .., _, _, _, _, _, _, _, _] = to.as_octets();
        packet.write(at, bytes)?;
        packet.write(parsed.l4(), &ports.to_ne_bytes())?;
    }
    Ok(diff)
}
