//! The packet path on pod links: translation of what no socket hook translated, and of its replies.
//!
//! A flow passes the host's stack in both directions or in neither ([`Flow::oif`]): same-bridge replies are switched
//! by the bridge and never reach the stack, so conntrack would see half a connection and call its packets INVALID.

use super::{
    flow::{self, Found},
    frontend::{self, NoChoice, Traffic},
    packet::Packet,
    parse::{Parsed, parse},
    rewrite::rewrite,
    tables::Tables,
    verdict::Verdict,
};
use crate::abi::{Addr, Counter, Dev, Flow, ServiceRef, Tuple, flow_state, flow_tuple_hash, local_path, role, scope};

/// Length of the link-layer header on a pod link: all are Ethernet, in bytes.
pub const L2_LEN: usize = 14;

/// A packet that a pod sends, on the host side of its link. `ifindex` is that link.
///
/// What every packet of a known flow passes is inlined; the rest has a BPF stack frame of its own.
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(packet: &mut P, tables: &T, ifindex: u32) -> Verdict {
    let mut parsed = Parsed::default();
    if parse(packet, L2_LEN, &mut parsed).is_err() {
        return Verdict::Pass;
    }
    let mut found = Found::empty();
    match known(tables, &parsed, &mut found) {
        Known::Leave(verdict) => return verdict,
        Known::Stay => {}
        Known::Not => {
            if let Some(verdict) = Verdict::unpack(begin(packet, tables, &parsed, ifindex, &mut found)) {
                return verdict;
            }
        }
    }
    rewritten(packet, &parsed, &found.flow)
}

/// A packet towards a pod, on the host side of its link: replies of flows that take the host's stack.
#[inline(always)]
pub fn egress<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let mut parsed = Parsed::default();
    if parse(packet, L2_LEN, &mut parsed).is_err() {
        return Verdict::Pass;
    }
    let mut found = Found::empty();
    if parsed.opens() || !flow::find_fast(tables, &parsed.tuple, &mut found) {
        return Verdict::Pass;
    }
    if found.flow.role & (role::FORWARD | role::HAIRPIN) != 0 || found.flow.oif != 0 {
        return Verdict::Pass;
    }
    if parsed.is_fragment() {
        return Verdict::Drop(Counter::DropFragment);
    }
    flow::hit(tables, &parsed.tuple, &found, &parsed, tables.now());
    rewritten(packet, &parsed, &found.flow)
}

/// What a packet on ingress has to do with the flows.
enum Known {
    /// It goes on in the flow that was found.
    Stay,
    /// It ends here.
    Leave(Verdict),
    /// It has no flow that it may stay in.
    Not,
}

/// Finds the flow of a packet that opens none.
#[inline(always)]
fn known<T: Tables>(tables: &T, parsed: &Parsed, found: &mut Found) -> Known {
    if parsed.opens() || !flow::find_fast(tables, &parsed.tuple, found) {
        return Known::Not;
    }
    let now = tables.now();
    if found.flow.role & role::FORWARD == 0 {
        if way_out(&found.flow) == Verdict::Stack {
            // A reply that goes through the stack is translated where it leaves it: on the client's link.
            return Known::Leave(Verdict::Pass);
        }
    } else if !parsed.is_tcp() && !flow::udp_holds(tables, found, now) {
        // Established TCP keeps its backend until it ends; UDP leaves one that is gone with its next packet.
        flow::forget(tables, &parsed.tuple, &mut found.flow);
        return Known::Not;
    }
    if parsed.is_fragment() {
        return Known::Leave(Verdict::Drop(Counter::DropFragment));
    }
    flow::hit(tables, &parsed.tuple, found, parsed, now);
    Known::Stay
}

#[inline(always)]
fn way_out(flow: &Flow) -> Verdict {
    if flow.role & role::HAIRPIN != 0 {
        Verdict::Bounce
    } else if flow.oif != 0 {
        Verdict::Redirect(flow.oif)
    } else {
        Verdict::Stack
    }
}

/// Translates the packet as its flow says.
#[inline(always)]
fn rewritten<P: Packet>(packet: &mut P, parsed: &Parsed, flow: &Flow) -> Verdict {
    if rewrite(packet, parsed, &flow.to).is_ok() { way_out(flow) } else { Verdict::Drop(Counter::DropInternal) }
}

/// A packet that belongs to no flow it may stay in: the packed verdict, or 0 if it is to be translated by the flow that
/// is now in `found`.
#[inline(never)]
fn begin<P: Packet, T: Tables>(packet: &P, tables: &T, parsed: &Parsed, ifindex: u32, found: &mut Found) -> u64 {
    let key = &parsed.tuple;
    let traffic = Traffic {
        dst: key.dst,
        dport: key.dport,
        proto: key.proto,
        scope: scope::INTERNAL,
        host: false,
        v4: parsed.is_v4(),
    };
    let Some(service) = frontend::find(tables, &traffic, tables.addr(&key.dst)) else {
        direct(tables, parsed, found);
        return Verdict::Pass.pack();
    };
    if parsed.is_fragment() {
        return Verdict::Drop(Counter::DropFragment).pack();
    }
    if parsed.opens() {
        if repeated(tables, parsed, service.index(), found) {
            return 0;
        }
    } else if parsed.is_tcp() {
        let grace = tables.now() < tables.config().grace_until;
        let verdict = if grace { Verdict::Pass } else { Verdict::Drop(Counter::DropNoFlow) };
        return verdict.pack();
    }
    match open(packet, tables, key, service, ifindex, &mut found.flow) {
        Ok(()) => 0,
        Err(reason) => Verdict::Drop(reason).pack(),
    }
}

/// Opens a flow to the frontend `service` in the place `flow`.
///
/// # Errors
/// The counter to drop the packet under.
#[inline(always)]
fn open<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    key: &Tuple,
    service: ServiceRef,
    ifindex: u32,
    flow: &mut Flow,
) -> Result<(), Counter> {
    *flow = Flow::default();
    if let Some(reason) = choose(tables, key, service, flow) {
        return Err(reason);
    }
    if !find_way(packet, tables, ifindex, flow) {
        return Err(Counter::DropNoPort);
    }
    flow::open(tables, key, flow)?;
    tables.count(Counter::PacketFlows);
    tables.count_connection(flow.backend);
    Ok(())
}

/// Chooses a backend and fills in its part of the flow; the counter to drop under, if there is none. Not inlined, for
/// the BPF stack's sake.
#[inline(never)]
fn choose<T: Tables>(tables: &T, key: &Tuple, found: ServiceRef, flow: &mut Flow) -> Option<Counter> {
    let state = match frontend::admit(tables, found, key.src) {
        Ok(state) => state,
        Err(NoChoice::Reject) => return Some(Counter::DropNoEndpoint),
        Err(NoChoice::Drop(reason)) => return Some(reason),
    };
    let Some(choice) = frontend::select(tables, found.index(), &state, &key.src, flow_tuple_hash(key)) else {
        // All endpoints have weight 0, or the tables contradict themselves.
        return Some(if state.word.count() == 0 { Counter::DropNoEndpoint } else { Counter::DropInternal });
    };
    flow.to = Tuple::new(key.src, key.sport, choice.addr, choice.port, key.proto);
    flow.service = choice.service;
    flow.identity = choice.identity;
    flow.backend = choice.id;
    flow.backend_generation = choice.generation;
    None
}

/// An opening packet on a tuple that has a flow. Sent once more, it stays with the backend that may have answered
/// already; otherwise the flow is over. Whether it stays.
#[inline(always)]
fn repeated<T: Tables>(tables: &T, parsed: &Parsed, service: u32, old: &mut Found) -> bool {
    if !flow::find(tables, &parsed.tuple, old) {
        return false;
    }
    if old.flow.role & role::FORWARD != 0
        && old.flow.state < flow_state::ESTABLISHED
        && old.flow.service == service
        && flow::holds(tables, &old.flow)
    {
        flow::hit(tables, &parsed.tuple, old, parsed, tables.now());
        return true;
    }
    flow::forget(tables, &parsed.tuple, &mut old.flow);
    false
}

/// How the flow leaves: back to its own pod, straight to a neighbour on the same bridge, or through the host's stack.
/// False if a pod's own answer would have no address to come from.
#[inline(never)]
fn find_way<P: Packet, T: Tables>(packet: &P, tables: &T, ifindex: u32, flow: &mut Flow) -> bool {
    let hairpin = flow.to.src == flow.to.dst;
    let Some(dev) = tables.dev(ifindex) else { return !hairpin };
    if hairpin {
        // A pod never answers a packet that bears its own address as source: the gateway stands in, as behind
        // kube-proxy's hairpin masquerade.
        flow.role = role::HAIRPIN;
        flow.to.src = gateway(&dev, flow.to.dst.is_v4());
        return !flow.to.src.is_unspecified();
    }
    if dev.bridge != 0
        && tables.config().local_path == local_path::REDIRECT
        && packet.route(&flow.to.src, &flow.to.dst, dev.bridge) == dev.bridge
    {
        flow.oif = dev.bridge;
    }
    true
}

#[inline(always)]
const fn gateway(dev: &Dev, v4: bool) -> Addr {
    if v4 { dev.source_v4 } else { dev.source_v6 }
}

/// A packet to no frontend. If it starts a connection on the ports of a translated one to the same backend, the
/// translated one is over: its replies could not be told apart. Whether that was so.
#[inline(never)]
fn direct<T: Tables>(tables: &T, parsed: &Parsed, found: &mut Found) -> bool {
    if parsed.is_tcp() && !parsed.opens() {
        return false;
    }
    let reply_key = parsed.tuple.reversed();
    if !flow::find(tables, &reply_key, found) || found.flow.role & (role::FORWARD | role::HAIRPIN) != 0 {
        return false;
    }
    flow::forget(tables, &reply_key, &mut found.flow);
    tables.count(Counter::FlowReplaced);
    true
}
