//! The short cut on uplinks whose driver runs XDP: packets of known flows between a client and another node's backend that
//! leave by the device they came in by. Everything is decided before the first byte is written; whatever is not such a
//! packet, or cannot be sent at once, goes on untouched to the tc program, which does the whole job.

use super::{
    flow,
    link::Link,
    packet::Frame,
    parse::parse,
    path::is_stopped,
    rewrite::rewrite,
    scratch::Scratch,
    tables::Tables,
    traffic::{count, ip_len},
};
use crate::abi::{Counter, role};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// To the host's stack, untouched.
    Pass,
    /// Translated: back out of its own device.
    Transmit,
    /// It could not be written as a whole, and is counted.
    Drop(Counter),
}

/// A frame that comes in by an uplink with an Ethernet header.
#[inline(always)]
pub fn ingress<P: Frame, T: Tables>(packet: &mut P, tables: &T, link: Link, s: &mut Scratch) -> Verdict {
    if parse(packet, link.l2_len(), &mut s.parsed).is_err() || s.parsed.opens() || s.parsed.is_fragment() {
        return Verdict::Pass;
    }
    let Scratch { parsed, found, spare, .. } = &mut *s;
    if tables.addr(&parsed.tuple.dst) == 0 {
        return Verdict::Pass;
    }
    let Some(hash) = flow::may_have(tables, &parsed.tuple) else { return Verdict::Pass };
    if !flow::find_fast(tables, &parsed.tuple, hash, found) {
        return Verdict::Pass;
    }
    let flow = &found.flow;
    let now = tables.now();
    let routed = flow.role & (role::ROUTED | role::DSR) == role::ROUTED;
    let here = flow.oif == link.ifindex && routed && link.handles(flow);
    // A flow's first packet of each tick is tc's, which looks whether its ways are still the right ones.
    if !here || flow.seen != now || is_stopped(packet, parsed, flow) {
        return Verdict::Pass;
    }
    if flow.role & role::FORWARD != 0 && !parsed.is_tcp() && !flow::udp_holds(tables, found, now) {
        return Verdict::Pass;
    }
    let Some(ends) = packet.neighbour(&flow.to.src, &flow.to.dst, link.ifindex) else { return Verdict::Pass };
    // A device that listens to everything shows other machines' frames as well.
    if !packet.read::<[u8; 6]>(0).is_ok_and(|to| same(&to, &ends)) {
        return Verdict::Pass;
    }
    flow::hit(tables, found, parsed, spare, now);
    if rewrite(packet, parsed, &found.flow.to, true).is_err() || packet.write(0, &ends).is_err() {
        return Verdict::Drop(Counter::DropInternal);
    }
    count(tables, &found.flow, ip_len(packet, parsed));
    tables.count(Counter::XdpForwarded);
    Verdict::Transmit
}

/// Whether this destination is the source address of `ends`.
#[inline(always)]
fn same([a, b, c, d, e, f]: &[u8; 6], [_, _, _, _, _, _, ends @ ..]: &[u8; 12]) -> bool {
    let [g, h, i, j, k, l] = ends;
    (a ^ g) | (b ^ h) | (c ^ i) | (d ^ j) | (e ^ k) | (f ^ l) == 0
}
