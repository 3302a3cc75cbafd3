//! What all links share: finding a packet's flow, opening one, and translating it.
//!
//! A flow passes the host's stack in both directions or in neither ([`Flow::oif`]): same-bridge replies are switched
//! by the bridge and never reach the stack, so conntrack would see half a connection and call its packets INVALID.

use super::{
    answer::{self, What},
    dsr::{self, Handed},
    flow::{self, Found},
    frontend::{self, NoChoice, Traffic},
    icmp,
    link::Link,
    packet::{HostPacket, Packet},
    parse::{Parsed, Unparsed},
    rewrite::{rewrite, rewrite_fragment},
    scratch::Scratch,
    tables::Tables,
    traffic::{count, ip_len},
    verdict::{Decision, Verdict},
};
use crate::abi::{
    Counter, Flow, ServiceRef, Tuple, addr_flag, flow_state, flow_tuple_hash, frontend as frontend_type, mark, proto,
    role,
};

/// The end of every way: what was decided, done.
#[inline(always)]
pub(super) fn finish<P: HostPacket, T: Tables>(
    packet: &mut P,
    tables: &T,
    link: Link,
    s: &mut Scratch,
    decision: Decision,
) -> Verdict {
    match decision {
        Decision::End(verdict) => verdict,
        Decision::Answer(what, reason) => {
            if !answer::may_hear(&s.parsed) {
                return Verdict::Drop(reason);
            }
            if !tables.may_answer() {
                tables.count(Counter::AnswerLimited);
                return Verdict::Drop(reason);
            }
            if !answer::build(packet, tables, link, s, what) {
                return Verdict::Drop(reason);
            }
            tables.count(reason);
            tables.count(Counter::Answered);
            Verdict::Bounce
        }
    }
}

/// A packet that [`super::parse`] does not describe as a whole.
#[inline(always)]
pub(super) fn other<P: HostPacket, T: Tables>(
    packet: &mut P,
    tables: &T,
    link: Link,
    s: &mut Scratch,
    why: Unparsed,
) -> Decision {
    let _ = packet;
    if !why.has_addresses() {
        return Decision::End(Verdict::Pass);
    }
    if why == Unparsed::LaterFragment {
        return later_fragment(packet, tables, link, s);
    }
    if s.parsed.is_icmp()
        && let Some(decision) = Decision::unpack(icmp::error(packet, tables, link, s))
    {
        return decision;
    }
    if tables.addr(&s.parsed.tuple.dst) & addr_flag::CLUSTER_IP == 0 {
        Decision::End(Verdict::Pass)
    } else if link.outside && !link.egress {
        Decision::End(Verdict::Drop(Counter::DropClosed))
    } else if link.egress || s.parsed.is_icmp() {
        Decision::End(Verdict::Drop(Counter::DropUnclaimed))
    } else {
        Decision::Answer(What::NoProtocol, Counter::DropUnclaimed)
    }
}

/// A fragment without ports goes where the first one of its datagram went.
#[inline(always)]
fn later_fragment<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, link: Link, s: &mut Scratch) -> Decision {
    let Scratch { parsed, found, spare, .. } = &mut *s;
    if !flow::find_fragment(tables, parsed, spare, found) || !link.handles(&found.flow) {
        let flags = tables.addr(&parsed.tuple.dst);
        let ours = flags & (addr_flag::CLUSTER_IP | addr_flag::FRONTEND) != 0 && flags & addr_flag::NODE == 0;
        let lost = ours && (!link.egress || flags & addr_flag::CLUSTER_IP != 0)
            || flags & addr_flag::PEER != 0 && link.comes_from_outside() && dsr::would_return(packet, tables, link, s);
        return Decision::End(if lost { Verdict::Drop(Counter::DropFragment) } else { Verdict::Pass });
    }
    if let Some(stop) = stopped(packet, s) {
        return stop;
    }
    if let Verdict::HandOver(_) = way_out(&s.found.flow) {
        return handed_over(packet, tables, s);
    }
    let Scratch { parsed, found: Found { flow, .. }, .. } = s;
    if rewrite_fragment(packet, parsed, &flow.to, flow.role & role::ROUTED != 0).is_err() {
        return Decision::End(Verdict::Drop(Counter::DropInternal));
    }
    count(tables, flow, ip_len(packet, parsed));
    Decision::End(way_out(flow))
}

/// What a packet on ingress has to do with the flows.
pub(super) enum Known {
    /// It goes on in the flow that was found.
    Stay,
    /// It ends here.
    Leave(Verdict),
    /// It has no flow that it may stay in.
    Not,
}

/// Finds the flow of a packet that opens none.
#[inline(always)]
pub(super) fn known<P: HostPacket, T: Tables>(packet: &P, tables: &T, link: Link, s: &mut Scratch) -> Known {
    let Scratch { parsed, found, .. } = &mut *s;
    let Some(hash) = flow::may_have(tables, &parsed.tuple) else { return Known::Not };
    if parsed.opens() || !flow::find_fast(tables, &parsed.tuple, hash, found) {
        return Known::Not;
    }
    let now = tables.now();
    let forward = found.flow.role & role::FORWARD != 0;
    if !link.handles(&found.flow) {
        // A reply that is translated elsewhere; or a stranger with the addresses of somebody's flow, who has to be let in
        // like anybody.
        return if forward { Known::Not } else { Known::Leave(Verdict::Pass) };
    }
    if forward && !parsed.is_tcp() && !flow::udp_holds(tables, found, now) {
        // Established TCP keeps its backend until it ends; UDP leaves one that is gone with its next packet.
        flow::forget(tables, &parsed.tuple, &mut found.flow);
        return Known::Not;
    }
    if found.flow.role & role::ROUTED != 0 && found.flow.seen != now {
        super::uplink::steer(packet, tables, link.ifindex, s);
    }
    let Scratch { parsed, found, spare, .. } = s;
    flow::hit(tables, found, parsed, spare, now);
    Known::Stay
}

/// Where packets of this entry go once they are translated.
#[inline(always)]
pub(super) fn way_out(flow: &Flow) -> Verdict {
    if flow.role & role::HAIRPIN != 0 {
        Verdict::Bounce
    } else if flow.role & (role::DSR | role::FORWARD) == role::DSR | role::FORWARD {
        Verdict::HandOver(flow.oif)
    } else if flow.oif != 0 {
        Verdict::Redirect(flow.oif)
    } else {
        Verdict::Stack
    }
}

/// Translates the packet as the flow in `found` says.
#[inline(always)]
pub(super) fn translate<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, s: &mut Scratch) -> Decision {
    if let Some(stop) = stopped(packet, s) {
        return stop;
    }
    let Scratch { parsed, found: Found { flow, .. }, spare, .. } = s;
    if parsed.is_fragment() && !flow::remember_fragment(tables, flow, parsed, spare) {
        return Decision::End(Verdict::Drop(Counter::DropFragment));
    }
    if let Verdict::HandOver(_) = way_out(flow) {
        return handed_over(packet, tables, s);
    }
    if rewrite(packet, parsed, &flow.to, flow.role & role::ROUTED != 0).is_err() {
        return Decision::End(Verdict::Drop(Counter::DropInternal));
    }
    count(tables, flow, ip_len(packet, parsed));
    Decision::End(way_out(flow))
}

#[inline(always)]
fn handed_over<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, s: &Scratch) -> Decision {
    // What it is to carry besides is not the client's.
    let bytes = ip_len(packet, &s.parsed);
    if !dsr::hand_over(packet, s) {
        return Decision::End(Verdict::Drop(Counter::DropInternal));
    }
    count(tables, &s.found.flow, bytes);
    Decision::End(way_out(&s.found.flow))
}

/// Why a router would not forward the packet by the flow in `found`.
#[inline(always)]
fn stopped<P: Packet>(packet: &P, s: &Scratch) -> Option<Decision> {
    let Scratch { parsed, found: Found { flow, .. }, .. } = s;
    if flow.role & role::ROUTED == 0 {
        return None;
    }
    if parsed.ttl <= 1 {
        return Some(Decision::Answer(What::TimeExceeded, Counter::DropTtl));
    }
    if is_too_big(packet, parsed, flow) {
        return Some(Decision::Answer(What::TooBig, Counter::DropTooBig));
    }
    None
}

/// Whether a router would not forward the packet by this flow, for whatever reason.
#[inline(always)]
pub(super) fn is_stopped<P: Packet>(packet: &P, parsed: &Parsed, flow: &Flow) -> bool {
    parsed.ttl <= 1 || is_too_big(packet, parsed, flow)
}

#[inline(always)]
fn is_too_big<P: Packet>(packet: &P, parsed: &Parsed, flow: &Flow) -> bool {
    flow.mtu != 0 && wire_len(packet, parsed) > u32::from(flow.mtu)
}

/// What both egress hooks do: translates a packet of a known flow behind the stack; `None` if it is of none.
#[inline(always)]
pub(super) fn leave<P: HostPacket, T: Tables>(
    packet: &mut P,
    tables: &T,
    link: Link,
    s: &mut Scratch,
) -> Option<Verdict> {
    let Scratch { parsed, found, spare, .. } = &mut *s;
    let hash = flow::may_have(tables, &parsed.tuple)?;
    if parsed.opens() || !flow::find_fast(tables, &parsed.tuple, hash, found) || !link.handles(&found.flow) {
        return None;
    }
    flow::hit(tables, found, parsed, spare, tables.now());
    Some(unanswered(translate(packet, tables, s)))
}

/// The verdict where nobody is answered: only routed flows are, and none of those takes the stack.
#[inline(always)]
pub(super) const fn unanswered(decision: Decision) -> Verdict {
    match decision {
        Decision::End(verdict) => verdict,
        Decision::Answer(_, reason) => Verdict::Drop(reason),
    }
}

/// Length of the longest packet on the wire that this one stands for, without link-layer header.
#[inline(always)]
fn wire_len<P: Packet>(packet: &P, parsed: &Parsed) -> u32 {
    let headers = parsed.l4() as u32 - parsed.l3() as u32 + u32::from(parsed.l4_len);
    match packet.gso_size() {
        0 => ip_len(packet, parsed),
        segment => headers + segment,
    }
}

/// A packet that belongs to no flow it may stay in: the packed decision, or 0 if it is to be translated by the flow that
/// is now in `found`.
#[inline(never)]
pub(super) fn begin<P: HostPacket, T: Tables>(packet: &P, tables: &T, link: Link, s: &mut Scratch) -> u64 {
    if !claimed(tables, link, s) {
        return unclaimed(tables, link, s).pack();
    }
    let service = s.claim;
    if link.outside && !dsr::is_for_here(packet, tables, s) {
        return unclaimed(tables, link, s).pack();
    }
    if s.parsed.opens() {
        if repeated(tables, link, s, service.index()) {
            return 0;
        }
    } else if s.parsed.is_tcp() {
        // At an address of the node this may be the answer to a connection that it masquerades for a pod: netfilter takes
        // any port for those, a node port's as well. The node's stack knows, and resets what it does not know.
        let decision = if s.flags & addr_flag::LINKS != 0 {
            Decision::End(Verdict::Pass)
        } else if let Some(reason) = frontend::shut_out(tables, service, s.parsed.tuple.src) {
            Decision::End(Verdict::Drop(reason))
        } else if tables.now() < tables.grace_until() {
            Decision::End(Verdict::Pass)
        } else {
            Decision::Answer(What::Refused, Counter::DropNoFlow)
        };
        return decision.pack();
    }
    match open(packet, tables, service, link, s) {
        Ok(()) => 0,
        Err(NoChoice::Reject) => Decision::Answer(What::Refused, Counter::DropNoEndpoint).pack(),
        Err(NoChoice::Drop(reason)) => Decision::End(Verdict::Drop(reason)).pack(),
    }
}

/// Whether a frontend claims the packet's destination: which one is in `claim` then.
///
/// Not inlined, and with its result in memory: there are many ways through it, and the verifier would walk all that follows
/// once for each.
#[inline(never)]
pub(super) fn claimed<T: Tables>(tables: &T, link: Link, s: &mut Scratch) -> bool {
    let Scratch { parsed, flags, claim, .. } = s;
    let Tuple { dst, dport, proto, .. } = parsed.tuple;
    // Who hands a packet over is another node, to whose address it came.
    let peer = if link.outside && *flags & addr_flag::PEER != 0 { addr_flag::NODE } else { 0 };
    let traffic = Traffic { dst, dport, proto, scope: link.scope(), host: false, v4: parsed.is_v4() };
    let Some(found) = frontend::find(tables, &traffic, *flags | peer) else { return false };
    *claim = found;
    true
}

/// A packet to no frontend. All of a clusterIP is ours; anything else passes, and if it starts a connection on the ports
/// of a translated one to the same backend, the translated one is over: its replies could not be told apart.
#[inline(always)]
fn unclaimed<T: Tables>(tables: &T, link: Link, s: &mut Scratch) -> Decision {
    if s.flags & addr_flag::CLUSTER_IP != 0 {
        return if link.outside {
            Decision::End(Verdict::Drop(Counter::DropClosed))
        } else {
            Decision::Answer(What::Refused, Counter::DropUnclaimed)
        };
    }
    if s.parsed.opens() {
        superseded(tables, link, s);
    }
    direct(tables, s);
    Decision::End(Verdict::Pass)
}

/// A connection begins past us on the ports of one that a frontend, which is gone by now, had taken: the old one is over, or
/// the new one's packets would go on in it. Whether it was so.
#[inline(never)]
fn superseded<T: Tables>(tables: &T, link: Link, s: &mut Scratch) -> bool {
    let Scratch { parsed, found, .. } = s;
    flow::find(tables, &parsed.tuple, found)
        && link.handles(&found.flow)
        && found.flow.role & role::FORWARD != 0
        && flow::forget(tables, &parsed.tuple, &mut found.flow)
}

/// A packet that goes past us to a place where it could be taken for part of a translated flow. Whether it was so.
#[inline(never)]
pub(super) fn direct<T: Tables>(tables: &T, s: &mut Scratch) -> bool {
    let Scratch { parsed, found, spare, .. } = s;
    if parsed.is_tcp() && !parsed.opens() {
        return false;
    }
    if !flow::find_reply(tables, &parsed.tuple, spare, found)
        || found.flow.role & (role::FORWARD | role::HAIRPIN | role::HOST) != 0
    {
        return false;
    }
    flow::forget_reply(tables, spare, found);
    tables.count(Counter::FlowReplaced);
    true
}

/// Opens a flow to the frontend `service` in the place `found`.
///
/// # Errors
/// What becomes of the packet instead.
#[inline(always)]
fn open<P: HostPacket, T: Tables>(
    packet: &P,
    tables: &T,
    service: ServiceRef,
    link: Link,
    s: &mut Scratch,
) -> Result<(), NoChoice> {
    let dsr = link.outside && dsr::may_hand_over(tables, s);
    let Scratch { parsed, found: Found { flow, .. }, handed, .. } = &mut *s;
    *flow = Flow::default();
    flow.role = if link.outside { role::OUTSIDE } else { 0 } | if dsr { role::DSR } else { 0 };
    handed.only_if(link.outside);
    match NoChoice::unpack(choose(tables, &parsed.tuple, service, handed, flow)) {
        None => {}
        Some(no) => return Err(no),
    }
    let found_way = if link.outside {
        super::uplink::find_way(packet, tables, link, &mut s.found.flow)
    } else {
        super::pod::find_way(packet, tables, link.ifindex, &mut s.found.flow)
    };
    if let Some(reason) = found_way {
        return Err(NoChoice::Drop(reason));
    }
    if link.outside && s.handed.is_there() {
        dsr::turn_back(packet, tables, link.ifindex, s);
    }
    let Scratch { parsed, found: Found { flow, table }, spare, .. } = s;
    *table = super::FlowTable::Embryos;
    flow::open(packet, tables, &parsed.tuple, flow, spare).map_err(NoChoice::Drop)?;
    if link.outside && service.bits() & frontend_type::TYPE_MASK == frontend_type::NODE_PORT {
        tables.set_marks(mark::node_port(parsed.tuple.dport.get()));
    }
    tables.count(Counter::PacketFlows);
    tables.count_connection(flow.backend, flow.backend_generation);
    Ok(())
}

/// Chooses a backend and fills in its part of the flow; 0, or the packed refusal. Not inlined, for the BPF stack's sake.
#[inline(never)]
fn choose<T: Tables>(tables: &T, key: &Tuple, found: ServiceRef, handed: &Handed, flow: &mut Flow) -> u32 {
    let state = match frontend::admit(tables, found, key.src) {
        Ok(state) => state,
        Err(no) => return no.pack(),
    };
    if handed.is_there() {
        flow.to = *key;
        flow.service = found.index();
        flow.identity = state.identity as u32;
        if dsr::take(tables, &state, handed, flow) {
            tables.set_marks(mark::TAKEN_OVER);
            return 0;
        }
        tables.count(Counter::DsrIgnored);
    }
    let Some(choice) = frontend::select(tables, found.index(), &state, &key.src, flow_tuple_hash(key)) else {
        // All endpoints have weight 0, or the tables contradict themselves.
        let none = state.word.count() == 0;
        return if none { NoChoice::Reject } else { NoChoice::Drop(Counter::DropInternal) }.pack();
    };
    if key.proto == proto::SCTP && choice.port != key.dport {
        return NoChoice::Drop(Counter::DropSctpPort).pack();
    }
    flow.to = Tuple::new(key.src, key.sport, choice.addr, choice.port, key.proto);
    flow.service = choice.service;
    flow.identity = choice.identity;
    flow.backend = choice.id;
    flow.backend_generation = choice.generation;
    0
}

/// An opening packet on a tuple that has a flow. Sent once more, it stays with the backend that may have answered
/// already; otherwise the flow is over, unless it is another place's: then this is a stranger, who is to be let in first.
/// Whether it stays.
#[inline(always)]
fn repeated<T: Tables>(tables: &T, link: Link, s: &mut Scratch, service: u32) -> bool {
    let Scratch { parsed, found: old, spare, .. } = s;
    if !flow::find(tables, &parsed.tuple, old) || !link.handles(&old.flow) {
        return false;
    }
    if old.flow.role & role::FORWARD != 0
        && old.flow.state < flow_state::ESTABLISHED
        && old.flow.service == service
        && flow::holds(tables, &old.flow)
    {
        flow::hit(tables, old, parsed, spare, tables.now());
        return true;
    }
    flow::forget(tables, &parsed.tuple, &mut old.flow);
    false
}
