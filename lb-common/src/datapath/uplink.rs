//! Packets that enter the node from outside: a ClusterIP is closed to them.

use super::{
    frontend,
    packet::Packet,
    parse::{Parsed, parse},
    tables::Tables,
    verdict::Verdict,
};
use crate::abi::{Counter, ServiceKey, frontend as bits, scope};

/// A packet on an uplink or overlay, `l2_len` bytes of link-layer header before its IP header (14 or 0).
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(packet: &P, tables: &T, l2_len: usize) -> Verdict {
    let mut parsed = Parsed::default();
    if parse(packet, l2_len, &mut parsed).is_err() {
        return Verdict::Pass;
    }
    let key = ServiceKey {
        addr: parsed.tuple.dst,
        port: parsed.tuple.dport,
        proto: parsed.tuple.proto,
        scope: scope::EXTERNAL,
    };
    match frontend::look_up(tables, &key) {
        Some(found) if found.bits() & bits::CLOSED != 0 => Verdict::Drop(Counter::DropClosed),
        Some(_) | None => Verdict::Pass,
    }
}
