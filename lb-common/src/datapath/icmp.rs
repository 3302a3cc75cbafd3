//! ICMP errors about translated packets: who gets one must find his own packet quoted in it, so addresses are translated
//! outside and inside, both ways. Path MTU discovery and traceroute then work through a Service (RFC 5508 4.2, RFC 7915
//! 4.2 by analogy).

use super::{
    checksum,
    flow::{self, Found},
    link::Link,
    packet::{Fault, L4Checksum, Packet},
    parse::{Parsed, parse_quoted},
    path::way_out,
    rewrite::rewrite_addresses,
    scratch::Scratch,
    tables::Tables,
    verdict::{Decision, Verdict},
};
use crate::abi::{Addr, Counter, Flow, Tuple, proto, role};

/// Bytes of ICMP header before the quoted packet.
const HEADER: usize = 8;

/// An ICMP packet: the packed decision if it is an error about a packet of a flow that is translated here, else 0.
#[inline(never)]
pub(super) fn error<P: Packet, T: Tables>(packet: &mut P, tables: &T, link: Link, s: &mut Scratch) -> u64 {
    if s.parsed.is_fragment() || !is_error(packet, &s.parsed) {
        return 0;
    }
    let Scratch { parsed, quoted, found, spare, .. } = &mut *s;
    if parse_quoted(packet, parsed.l4() + HEADER, parsed.is_v4(), quoted).is_err() {
        return 0;
    }
    if !flow::find_reply(tables, &quoted.tuple, spare, found) || !link.handles(&found.flow) {
        return 0;
    }
    let Found { flow, .. } = found;
    let routed = flow.role & role::ROUTED != 0;
    let verdict = if routed && parsed.ttl <= 1 {
        Verdict::Drop(Counter::DropTtl)
    } else if translate(packet, s, routed).is_err() {
        Verdict::Drop(Counter::DropInternal)
    } else {
        tables.count(Counter::IcmpErrors);
        let way = way_out(&s.found.flow);
        // Of what is handed over, the backend itself is told.
        if let Verdict::HandOver(oif) = way { Verdict::Redirect(oif) } else { way }
    };
    Decision::End(verdict).pack()
}

/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 792, RFC 4443 2.1).
#[inline(always)]
fn is_error<P: Packet>(packet: &P, parsed: &Parsed) -> bool {
    let Ok([kind, _]) = packet.read::<[u8; 2]>(parsed.l4()) else { return false };
    if parsed.is_v4() {
        parsed.tuple.proto == proto::ICMP && matches!(kind, 3 | 11 | 12)
    } else {
        parsed.tuple.proto == proto::ICMPV6 && (1..=4).contains(&kind)
    }
}

/// Translates the error as a packet of the flow in `found` would be, and what it quotes as one of the other direction.
#[inline(never)]
fn translate<P: Packet>(packet: &mut P, s: &mut Scratch, routed: bool) -> Result<(), Fault> {
    let Scratch { parsed, quoted, found: Found { flow, .. }, spare, .. } = s;
    let from = sender(parsed, quoted, flow);
    let to = spare.key_mut();
    to.set_reverse_of(&flow.to);
    let inner = rewrite_quoted(packet, quoted, to)?;
    *to = Tuple::new(from, flow.to.sport, flow.to.dst, flow.to.dport, parsed.tuple.proto);
    let outer = rewrite_addresses(packet, parsed, to, routed)?;
    let change =
        L4Checksum { offset: parsed.l4() + 2, diff: inner, pseudo: false, zero_is_none: false, v6: !parsed.is_v4() };
    packet.update_l4_checksum(change)?;
    if parsed.is_v4() {
        return Ok(());
    }
    packet.update_l4_checksum(L4Checksum { diff: outer, pseudo: true, ..change })
}

/// Who the error comes from. The end of the connection speaks under the name by which the receiver knows it. Anybody else
/// on the way keeps his own, unless the receiver could not tell a backend's client from him: then it is our own.
#[inline(always)]
fn sender(parsed: &Parsed, quoted: &Parsed, flow: &Flow) -> Addr {
    let masked = flow.role & role::FORWARD != 0 && flow.to.src != quoted.tuple.dst;
    if parsed.tuple.src == quoted.tuple.dst || masked { flow.to.src } else { parsed.tuple.src }
}

/// Gives the quoted packet its addresses and ports, and its checksums as far as they are quoted; how the sum of all its
/// bytes changes by that.
#[inline(always)]
fn rewrite_quoted<P: Packet>(packet: &mut P, quoted: &Parsed, to: &Tuple) -> Result<u32, Fault> {
    let addresses = rewrite_addresses(packet, quoted, to, false)?;
    let (old, new) = (quoted.tuple.as_words()[8], to.as_words()[8]);
    packet.write(quoted.l4(), &new.to_ne_bytes())?;
    let ports = checksum::diff([old], [new]);
    // An IPv4 header's own checksum makes up for its addresses; an IPv6 header has none.
    let mut sum = u64::from(ports) + if quoted.is_v4() { 0 } else { u64::from(addresses) };
    let at = quoted.l4()
        + match quoted.tuple.proto {
            proto::TCP => 16,
            proto::UDP => 6,
            _ => return Ok(checksum::fold(sum).into()),
        };
    let Ok(field) = packet.read::<[u8; 2]>(at) else {
        // Eight bytes of the transport header are quoted at least, often no more.
        return Ok(checksum::fold(sum).into());
    };
    if quoted.tuple.proto == proto::UDP && field == [0, 0] {
        return Ok(checksum::fold(sum).into());
    }
    let mended = checksum::apply(field, checksum::fold(u64::from(addresses) + u64::from(ports)).into());
    packet.write(at, &mended)?;
    let word = |[a, b]: [u8; 2]| u32::from_ne_bytes([a, b, 0, 0]);
    sum += u64::from(checksum::diff([word(field)], [word(mended)]));
    Ok(checksum::fold(sum).into())
}
