//! Turns a packet of one tuple into the same packet of another, checksums included.

use zerocopy::{Immutable, IntoBytes};

use super::{
    checksum,
    packet::{Fault, L4Checksum, Packet},
    parse::Parsed,
};
use crate::abi::{Tuple, proto};

/// Gives the packet the addresses and ports of `to`, and one hop less to live if it is `routed`. The protocol and family
/// stay.
///
/// # Errors
/// [`Fault`] if the packet cannot be written; it may then be half changed and must be dropped.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple, routed: bool) -> Result<(), Fault> {
    let (from, words) = (parsed.tuple.as_words(), to.as_words());
    let ttl = parsed.ttl.wrapping_sub(routed as u8);
    let pseudo =
        if parsed.is_v4() { rewrite_v4(packet, parsed, to, ttl)? } else { rewrite_v6(packet, parsed, to, ttl)? };
    if parsed.tuple.proto == proto::SCTP {
        // Its checksum covers neither addresses nor ports that stay (RFC 9260 6.8).
        return Ok(());
    }
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

/// Gives a later fragment the addresses of `to`, and one hop less to live if it is `routed`.
///
/// # Errors
/// As [`rewrite`].
#[inline(always)]
pub fn rewrite_fragment<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple, routed: bool) -> Result<(), Fault> {
    let diff = rewrite_addresses(packet, parsed, to, routed)?;
    if !parsed.is_v4() {
        packet.note_change(diff);
    }
    Ok(())
}

/// Gives an IP header the addresses of `to`, and one hop less to live if it is `routed`. Gives the difference of the
/// addresses, which an IPv4 header's own checksum makes up for.
///
/// # Errors
/// As [`rewrite`].
#[inline(never)]
pub(super) fn rewrite_addresses<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    to: &Tuple,
    routed: bool,
) -> Result<u32, Fault> {
    let ttl = parsed.ttl.wrapping_sub(u8::from(routed));
    if parsed.is_v4() {
        let (diff, ends) = ends_v4(parsed, to, ttl);
        let [bytes @ .., _, _, _, _]: &[u8; 16] = zerocopy::transmute_ref!(&ends);
        packet.write(parsed.l3() + 8, bytes)?;
        return Ok(diff);
    }
    if routed {
        packet.write(parsed.l3() + 7, &[ttl])?;
    }
    let [bytes @ .., _, _, _, _, _, _, _, _] = to.as_octets();
    packet.write(parsed.l3() + 8, bytes)?;
    Ok(diff_v6(parsed, to))
}

/// What stands together at the end of an IPv4 header without options and the start of its payload (RFC 791 3.1).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Ends {
    ttl: u8,
    proto: u8,
    checksum: [u8; 2],
    src: u32,
    dst: u32,
    ports: u32,
}

/// Gives the difference of the addresses. One write where ports follow the addresses at once, else two.
#[inline(always)]
fn rewrite_v4<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple, ttl: u8) -> Result<u32, Fault> {
    let (diff, ends) = ends_v4(parsed, to, ttl);
    let bytes: &[u8; 16] = zerocopy::transmute_ref!(&ends);
    let at = parsed.l3() + 8;
    if parsed.l4() == parsed.l3() + 20 {
        packet.write(at, bytes)?;
    } else {
        let [bytes @ .., p0, p1, p2, p3] = bytes;
        packet.write(at, bytes)?;
        packet.write(parsed.l4(), &[*p0, *p1, *p2, *p3])?;
    }
    Ok(diff)
}

/// The difference of the addresses, and the bytes to be written.
#[inline(always)]
fn ends_v4(parsed: &Parsed, to: &Tuple, ttl: u8) -> (u32, Ends) {
    let (from, to) = (parsed.tuple.as_words(), to.as_words());
    let proto = parsed.tuple.proto;
    let diff = checksum::diff([from[3], from[7]], [to[3], to[7]]);
    let hop = |ttl| u32::from_ne_bytes([ttl, proto, 0, 0]);
    let whole = checksum::diff([from[3], from[7], hop(parsed.ttl)], [to[3], to[7], hop(ttl)]);
    let checksum = checksum::apply(parsed.ip_checksum, whole);
    (diff, Ends { ttl, proto, checksum, src: to[3], dst: to[7], ports: to[8] })
}

/// As [`rewrite_v4`]. A tuple has addresses and ports in the order of the headers (RFC 8200 3).
#[inline(always)]
fn rewrite_v6<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple, ttl: u8) -> Result<u32, Fault> {
    if ttl != parsed.ttl {
        packet.write(parsed.l3() + 7, &[ttl])?;
    }
    let ports = to.as_words()[8];
    let diff = diff_v6(parsed, to);
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

/// The difference of the addresses.
#[inline(always)]
fn diff_v6(parsed: &Parsed, to: &Tuple) -> u32 {
    let [o0, o1, o2, o3, o4, o5, o6, o7, ..] = *parsed.tuple.as_words();
    let [n0, n1, n2, n3, n4, n5, n6, n7, ..] = *to.as_words();
    checksum::diff([o0, o1, o2, o3, o4, o5, o6, o7], [n0, n1, n2, n3, n4, n5, n6, n7])
}
