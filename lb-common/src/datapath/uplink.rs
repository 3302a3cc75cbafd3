//! The packet path on devices that leave the node: what comes in from outside for a Service, what comes back from other
//! nodes' backends, and what of that leaves through the host's stack.
//!
//! A local pod gets the client's own address as source; a backend elsewhere gets one of ours, so that its replies come
//! back here. Both are redirected past the host's stack; a backend that is this node itself takes it.

use super::{
    clash, dsr,
    flow::{self, PORT_BASE},
    link::Link,
    packet::{HostPacket, Route},
    parse::parse,
    path::{self, Known, begin, claimed, direct, finish, known, leave, translate, unanswered},
    scratch::Scratch,
    tables::Tables,
    verdict::{Decision, Verdict},
};
use crate::abi::{Addr, Counter, Flow, Tuple, addr_flag, dev_kind, mark, proto, role};

/// A packet that comes in by an uplink or overlay.
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
    s.flags = tables.addr(&s.parsed.tuple.dst);
    // No flag: to a pod, or somebody else's. The usual case, so nothing more is looked up but where a connection begins.
    if s.flags == 0 || !concerns(tables, link, s) {
        direct(tables, s);
        return Decision::End(Verdict::Pass);
    }
    match known(packet, tables, link, s) {
        Known::Leave(verdict) => return Decision::End(verdict),
        Known::Stay => {}
        Known::Not => {
            if let Some(decision) = Decision::unpack(begin(packet, tables, link, s)) {
                return decision;
            }
        }
    }
    translate(packet, tables, s)
}

/// Whether a packet to an address that `addrs` knows may be for a frontend or one of our flows. Of those to an address that
/// has no frontends but NodePorts most are the node's own, and are not looked for among the flows.
#[inline(never)]
fn concerns<T: Tables>(tables: &T, link: Link, s: &mut Scratch) -> bool {
    let Tuple { dport, proto, .. } = s.parsed.tuple;
    // Our own replies come to higher ports, but for SCTP, which keeps the client's.
    if s.flags & (addr_flag::FRONTEND | addr_flag::PEER) != 0 || dport.get() >= PORT_BASE || proto == proto::SCTP {
        return true;
    }
    // TCP to a node port goes on when that is deleted; what begins on such a flow's ports ends it.
    (proto == proto::TCP && tables.marks() & mark::node_port(dport.get()) != 0) || claimed(tables, link, s)
}

/// A packet that leaves the host's stack by an uplink or overlay: replies of backends that are this node itself, and
/// connections with the node's address whose replies would be taken for somebody else's. What goes to a clusterIP has lost
/// its way.
#[inline(always)]
pub fn egress<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, link: Link, s: &mut Scratch) -> Verdict {
    if packet.is_redirected() {
        return Verdict::Pass;
    }
    if let Err(why) = parse(packet, link.l2_len(), &mut s.parsed) {
        return unanswered(path::other(packet, tables, link, s, why));
    }
    if s.parsed.begins() && tables.addr(&s.parsed.tuple.dst) & addr_flag::CLUSTER_IP != 0 {
        return Verdict::Drop(Counter::DropUnclaimed);
    }
    let flows = tables.marks() & mark::LEAVING != 0;
    if !flows && !clash::may_have_node_port(&s.parsed) {
        return Verdict::Pass;
    }
    let flags = tables.addr(&s.parsed.tuple.src);
    if flags & addr_flag::LINKS == 0 {
        return Verdict::Pass;
    }
    if flows && let Some(verdict) = leave(packet, tables, link, s) {
        return verdict;
    }
    clash::resolve(packet, tables, s, flags)
}

/// How the flow leaves, and what its source becomes; or the counter to drop under.
#[inline(never)]
pub(super) fn find_way<P: HostPacket, T: Tables>(
    packet: &P,
    tables: &T,
    link: Link,
    flow: &mut Flow,
) -> Option<Counter> {
    let dsr = flow.role & role::DSR != 0;
    flow.role &= !role::DSR;
    if tables.addr(&flow.to.dst) & addr_flag::LINKS != 0 {
        // This node is the backend: its own stack takes it from here.
        tables.set_marks(mark::HOST_BACKEND);
        return None;
    }
    let way = packet.route(&flow.to.src, &flow.to.dst, link.ifindex);
    if way.oif == 0 {
        return Some(Counter::DropNoRoute);
    }
    flow.role |= role::ROUTED;
    flow.oif = way.oif;
    flow.mate_oif = link.ifindex;
    flow.mtu = way_mtu(tables, way);
    flow.mate_mtu = dev_mtu(tables, link.ifindex);
    if dsr && leaves(tables, flow.oif) && dsr::takes(tables, &flow.to.dst) {
        flow.role |= role::DSR;
        flow.mtu = flow.mtu.saturating_sub(dsr::added(&flow.to));
        tables.count(Counter::DsrFlows);
        return None;
    }
    if !masks(tables, flow) {
        return None;
    }
    if flow.to.src.is_unspecified() {
        return Some(Counter::DropNoSource);
    }
    if flow.to.sport.get() < PORT_BASE && flow.to.proto != proto::SCTP {
        flow.to.sport = flow::other_port(tables);
    }
    None
}

/// Asks for the way of a flow between two networks anew, in both directions, and writes down what has changed: a device may
/// have been made anew, with another index, and the routes lead elsewhere. Otherwise a client that goes on would never
/// get out of a flow that ends in the void. To the backend the routes decide; the client gets his replies where he came
/// in, and by the routes where that device is gone. Whether anything has changed.
#[inline(never)]
pub(super) fn steer<P: HostPacket, T: Tables>(packet: &P, tables: &T, iif: u32, s: &mut Scratch) -> bool {
    let Scratch { parsed, found, spare, .. } = s;
    let forward = found.flow.role & role::FORWARD != 0;
    if !forward {
        found.flow.swap_ways();
    }
    let Flow { to, oif, mate_oif, mtu, mate_mtu, role, .. } = &mut found.flow;
    let from = &parsed.tuple;
    let (client, asked, backend, seen_as) =
        if forward { (&from.src, &from.dst, &to.dst, &to.src) } else { (&to.dst, &to.src, &from.src, &from.dst) };
    let mut changed = false;
    if tables.dev(*mate_oif).is_none() {
        let back = ask(packet, asked, client, iif);
        if back.oif != 0 && back.oif != *mate_oif {
            (*mate_oif, *mate_mtu, changed) = (back.oif, dev_mtu(tables, back.oif), true);
        }
    }
    let goes_out = *role & role::DSR != 0 || client != seen_as;
    // As what comes from the client is routed, also where this is a reply.
    let there = ask(packet, client, backend, if forward { iif } else { *mate_oif });
    if there.oif != 0 && there.oif != *oif && leaves(tables, there.oif) == goes_out {
        (*oif, *mtu, changed) = (there.oif, way_mtu(tables, there), true);
        if *role & role::DSR != 0 {
            *mtu = mtu.saturating_sub(dsr::added(to));
        }
    }
    if !forward {
        found.flow.swap_ways();
    }
    changed && flow::rewrite_both(tables, &parsed.tuple, found, spare)
}

/// As [`HostPacket::route`], but for who the next hop is.
#[inline(always)]
fn ask<P: HostPacket>(packet: &P, src: &Addr, dst: &Addr, iif: u32) -> Route {
    let word = ask_packed(packet, src, dst, iif);
    Route { oif: word as u32, mtu: (word >> 32) as u32, on_link: false }
}

/// Not inlined: for the BPF stack's sake, and as it is long. A BPF subprogram returns no more than a register.
#[inline(never)]
fn ask_packed<P: HostPacket>(packet: &P, src: &Addr, dst: &Addr, iif: u32) -> u64 {
    let Route { oif, mtu, on_link: _ } = packet.route(src, dst, iif);
    u64::from(oif) | u64::from(mtu) << 32
}

/// The MTU of a way as a flow holds it; 0 if it is not known.
#[inline(always)]
fn way_mtu<T: Tables>(tables: &T, way: Route) -> u16 {
    if way.mtu == 0 { dev_mtu(tables, way.oif) } else { as_mtu(way.mtu) }
}

/// The MTU of a device as a flow holds it; 0 if it is not known. Not inlined, for the BPF stack's sake.
#[inline(never)]
pub(super) fn dev_mtu<T: Tables>(tables: &T, ifindex: u32) -> u16 {
    tables.dev(ifindex).map_or(0, |dev| as_mtu(dev.mtu))
}

/// Whether packets leave the node by this device.
#[inline(never)]
fn leaves<T: Tables>(tables: &T, oif: u32) -> bool {
    tables.dev(oif).is_some_and(|dev| dev.kind == dev_kind::UPLINK || dev.kind == dev_kind::OVERLAY)
}

/// Whether the flow leaves the node, and so gets a source of ours.
#[inline(never)]
fn masks<T: Tables>(tables: &T, flow: &mut Flow) -> bool {
    let Some(dev) = tables.dev(flow.oif) else { return false };
    if dev.kind != dev_kind::UPLINK && dev.kind != dev_kind::OVERLAY {
        return false;
    }
    let v4 = flow.to.dst.is_v4();
    let pods = dev.kind == dev_kind::OVERLAY || tables.in_pod_nets(&flow.to.dst);
    flow.to.src = dev.source(v4);
    if !(pods && gateway(tables, v4, &mut flow.to.src)) {
        tables.set_marks(mark::SHARED_SOURCE);
    }
    true
}

/// The address that stands for the client. Towards other nodes' pods it is this node's pod gateway: it is routed back
/// over any encapsulation and past any masquerading, and the node itself never uses it there. Elsewhere it is the
/// device's own, which the node uses as well.
///
/// Whether there is a gateway, whose address then is in `source`.
#[inline(never)]
fn gateway<T: Tables>(tables: &T, v4: bool, source: &mut Addr) -> bool {
    let gateway = tables.pod_source(v4);
    if gateway.is_unspecified() {
        return false;
    }
    *source = gateway;
    true
}

/// An MTU as a flow holds it; 0 for one that no packet exceeds.
#[inline(always)]
const fn as_mtu(mtu: u32) -> u16 {
    if mtu > 0xffff { 0 } else { mtu as u16 }
}
