//! The packet path on pod links: translation of what no socket hook translated, and of its replies.
//!
//! A flow passes the host's stack in both directions or in neither ([`Flow::oif`]): same-bridge replies are switched
//! by the bridge and never reach the stack, so conntrack would see half a connection and call its packets INVALID.

use super::{
    flow::{self, Found, Way},
    frontend::{self, Choice, NoChoice, Traffic},
    packet::Packet,
    parse::{Parsed, parse},
    rewrite::rewrite,
    tables::Tables,
    verdict::Verdict,
};
use crate::abi::{
    Addr, Counter, Dev, Flow, ServiceRef, Tuple, flow_state, flow_tuple_hash, local_path, role, scope,
};

/// Length of the link-layer header on a pod link: all are Ethernet, in bytes.
pub const L2_LEN: usize = 14;

/// A packet that a pod sends, on the host side of its link. `ifindex` is that link.
#[inline(always)]
pub fn ingress<P: Packet, T: Tables>(packet: &mut P, tables: &T, ifindex: u32) -> Verdict {
    let Ok(parsed) = parse(packet, L2_LEN) else { return Verdict::Pass };
    let key = parsed.tuple;
    if !parsed.opens()
        && let Some(found) = flow::find(tables, &key)
    {
        let now = tables.now();
        let forward = found.flow.role & role::FORWARD != 0;
        // Established TCP keeps its backend until it ends; UDP leaves one that is gone with its next packet.
        if !forward || parsed.is_tcp() || flow::udp_holds(tables, &found, now) {
            return translate(packet, tables, &parsed, &found, now);
        }
        flow::forget(tables, &key, &found);
    }
    let traffic =
        Traffic { dst: key.dst, dport: key.dport, proto: key.proto, scope: scope::INTERNAL, host: false };
    match frontend::find(tables, &traffic) {
        Some(found) => open(packet, tables, &parsed, found, ifindex),
        None => direct(tables, &parsed),
    }
}

/// A packet towards a pod, on the host side of its link: replies of flows that take the host's stack.
#[inline(always)]
pub fn egress<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let Ok(parsed) = parse(packet, L2_LEN) else { return Verdict::Pass };
    if parsed.opens() {
        return Verdict::Pass;
    }
    let Some(found) = flow::find(tables, &parsed.tuple) else { return Verdict::Pass };
    if found.flow.role & (role::FORWARD | role::HAIRPIN) != 0 || found.flow.oif != 0 {
        return Verdict::Pass;
    }
    if parsed.fragment {
        return Verdict::Drop(Counter::DropFragment);
    }
    flow::hit(tables, &parsed.tuple, &found, &parsed, tables.now());
    rewritten(packet, &parsed, &found.flow.to, Verdict::Stack)
}

/// A packet of a known flow, on ingress.
#[inline(always)]
fn translate<P: Packet, T: Tables>(packet: &mut P, tables: &T, parsed: &Parsed, found: &Found, now: u32) -> Verdict {
    let flow = &found.flow;
    let verdict = way_out(flow);
    if flow.role & role::FORWARD == 0 && verdict == Verdict::Stack {
        // A reply that goes through the stack is translated where it leaves it: on the client's link.
        return Verdict::Pass;
    }
    if parsed.fragment {
        return Verdict::Drop(Counter::DropFragment);
    }
    flow::hit(tables, &parsed.tuple, found, parsed, now);
    rewritten(packet, parsed, &flow.to, verdict)
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

#[inline(always)]
fn rewritten<P: Packet>(packet: &mut P, parsed: &Parsed, to: &Tuple, verdict: Verdict) -> Verdict {
    match rewrite(packet, parsed, to) {
        Ok(()) => verdict,
        Err(_) => Verdict::Drop(Counter::DropInternal),
    }
}

/// A packet to a frontend that belongs to no flow it may stay in.
#[inline(always)]
fn open<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
    found: ServiceRef,
    ifindex: u32,
) -> Verdict {
    let key = parsed.tuple;
    if parsed.fragment {
        return Verdict::Drop(Counter::DropFragment);
    }
    let now = tables.now();
    if parsed.is_tcp() && !parsed.opens() {
        return if now < tables.config().grace_until { Verdict::Pass } else { Verdict::Drop(Counter::DropNoFlow) };
    }
    let state = match frontend::admit(tables, found, key.src) {
        Ok(state) => state,
        Err(NoChoice::Reject) => return Verdict::Drop(Counter::DropNoEndpoint),
        Err(NoChoice::Drop(reason)) => return Verdict::Drop(reason),
    };
    if let Some(old) = flow::find(tables, &key) {
        // The opening packet once more: the backend that may have answered it already stays.
        if old.flow.role & role::FORWARD != 0
            && old.flow.state < flow_state::ESTABLISHED
            && old.flow.service == found.index()
            && flow::holds(tables, &old.flow)
        {
            return translate(packet, tables, parsed, &old, now);
        }
        flow::forget(tables, &key, &old);
    }
    let Some(choice) = frontend::select(tables, found.index(), &state, key.src, flow_tuple_hash(key)) else {
        return Verdict::Drop(Counter::DropInternal);
    };
    let way = match way(packet, tables, &key, &choice, ifindex) {
        Ok(way) => way,
        Err(reason) => return Verdict::Drop(reason),
    };
    let flow = match flow::open(tables, &key, &choice, way, now) {
        Ok(flow) => flow,
        Err(reason) => return Verdict::Drop(reason),
    };
    tables.count(Counter::PacketFlows);
    tables.count_connection(choice.id);
    rewritten(packet, parsed, &flow.to, way_out(&flow))
}

/// How the flow leaves: back to its own pod, straight to a neighbour on the same bridge, or through the host's stack.
#[inline(always)]
fn way<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    key: &Tuple,
    choice: &Choice,
    ifindex: u32,
) -> Result<Way, Counter> {
    let dev = tables.dev(ifindex);
    if choice.backend.addr == key.src {
        // A pod never answers a packet that bears its own address as source: the gateway stands in, as behind
        // kube-proxy's hairpin masquerade.
        let source = dev.map_or(Addr::UNSPECIFIED, |dev| gateway(&dev, key.src.is_v4()));
        if source.is_unspecified() {
            return Err(Counter::DropNoPort);
        }
        return Ok(Way { oif: 0, role: role::HAIRPIN, source });
    }
    let mut oif = 0;
    if let Some(dev) = dev
        && dev.bridge != 0
        && tables.config().local_path == local_path::REDIRECT
    {
        let to = Tuple::new(key.src, key.sport, choice.backend.addr, choice.backend.port, key.proto);
        if packet.route(&to, dev.bridge) == Some(dev.bridge) {
            oif = dev.bridge;
        }
    }
    Ok(Way { oif, role: 0, source: key.src })
}

#[inline(always)]
const fn gateway(dev: &Dev, v4: bool) -> Addr {
    if v4 { dev.source_v4 } else { dev.source_v6 }
}

/// A packet to no frontend. If it starts a connection on the ports of a translated one to the same backend, the
/// translated one is over: its replies could not be told apart.
#[inline(always)]
fn direct<T: Tables>(tables: &T, parsed: &Parsed) -> Verdict {
    if parsed.is_tcp() && !parsed.opens() {
        return Verdict::Pass;
    }
    let reply_key = parsed.tuple.reversed();
    if let Some(found) = flow::find(tables, &reply_key)
        && found.flow.role & (role::FORWARD | role::HAIRPIN) == 0
    {
        flow::forget(tables, &reply_key, &found);
        tables.count(Counter::FlowReplaced);
    }
    Verdict::Pass
}
