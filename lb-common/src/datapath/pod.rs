//! The packet path on pod links: translation of what no socket hook translated, and of its replies.

use super::{
    clash,
    link::Link,
    packet::HostPacket,
    parse::parse,
    path::{self, Known, begin, finish, known, leave, translate, unanswered},
    scratch::Scratch,
    tables::Tables,
    verdict::{Decision, Verdict},
};
use crate::abi::{Addr, Counter, Flow, local_path, mark, role};

/// A packet that a pod sends, on the host side of its link.
///
/// What every packet of a known flow passes is inlined; the rest has a BPF stack frame of its own.
#[inline(always)]
pub fn ingress<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, link: Link, s: &mut Scratch) -> Verdict {
    let decision = decide(packet, tables, link, s);
    finish(packet, tables, link, s, decision)
}

#[inline(always)]
fn decide<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, link: Link, s: &mut Scratch) -> Decision {
    if let Err(why) = parse(packet, link.l2_len(), &mut s.parsed) {
        return path::other(packet, tables, link, s, why);
    }
    match known(packet, tables, link, s) {
        Known::Leave(verdict) => return Decision::End(verdict),
        Known::Stay => {}
        Known::Not => {
            s.flags = tables.addr(&s.parsed.tuple.dst);
            if let Some(decision) = Decision::unpack(begin(packet, tables, link, s)) {
                return decision;
            }
        }
    }
    translate(packet, tables, s)
}

/// A packet towards a pod, on the host side of its link or where it enters their bridge: replies of flows that take the
/// host's stack, and the node's own connections to a pod that asked itself from the same port.
#[inline(always)]
pub fn egress<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, link: Link, s: &mut Scratch) -> Verdict {
    if packet.is_redirected() {
        return Verdict::Pass;
    }
    match parse(packet, link.l2_len(), &mut s.parsed) {
        Ok(()) => match leave(packet, tables, link, s) {
            Some(verdict) => verdict,
            None if s.parsed.begins() && tables.marks() & mark::SHARED_SOURCE != 0 => {
                let flags = tables.addr(&s.parsed.tuple.src);
                clash::resolve(packet, tables, s, flags)
            }
            None => Verdict::Pass,
        },
        Err(why) => unanswered(path::other(packet, tables, link, s, why)),
    }
}

/// How the flow leaves: back to its own pod, straight to a neighbour on the same bridge, or through the host's stack.
/// The counter to drop under, if a pod's own answer would have no address to come from.
#[inline(never)]
pub(super) fn find_way<P: HostPacket, T: Tables>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    flow: &mut Flow,
) -> Option<Counter> {
    let hairpin = flow.to.src == flow.to.dst;
    let Some(dev) = tables.dev(ifindex) else { return hairpin.then_some(Counter::DropNoSource) };
    if hairpin {
        // A pod never answers a packet that bears its own address as source: the gateway stands in, as behind
        // kube-proxy's hairpin masquerade.
        flow.role |= role::HAIRPIN;
        tables.set_marks(mark::SHARED_SOURCE);
        flow.to.src = dev.source(flow.to.dst.is_v4());
        return flow.to.src.is_unspecified().then_some(Counter::DropNoSource);
    }
    if dev.bridge == 0 || tables.local_path() != local_path::REDIRECT {
        return None;
    }
    let way = on_bridge(packet, &flow.to.src, &flow.to.dst, dev.bridge);
    if way == NOT_THERE {
        return None;
    }
    flow.oif = dev.bridge;
    flow.mate_oif = dev.bridge;
    // A sender may be behind the pod that its packets come from: then the replies' next hop is another.
    if way == NEIGHBOUR && on_bridge(packet, &flow.to.dst, &flow.to.src, dev.bridge) == NEIGHBOUR {
        flow.role |= role::ON_LINK;
    }
    None
}

/// Values of [`on_bridge`].
const NOT_THERE: u32 = 0;
const BEHIND_A_ROUTER: u32 = 1;
const NEIGHBOUR: u32 = 2;

/// Where the host's routes see `dst` from a bridge of pods. A number, and not inlined: for the BPF stack's sake.
#[inline(never)]
fn on_bridge<P: HostPacket>(packet: &P, src: &Addr, dst: &Addr, bridge: u32) -> u32 {
    match packet.route(src, dst, bridge) {
        way if way.oif != bridge => NOT_THERE,
        way if way.on_link => NEIGHBOUR,
        _ => BEHIND_A_ROUTER,
    }
}
