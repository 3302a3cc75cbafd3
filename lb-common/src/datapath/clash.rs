//! Connections that leave with an address of the node as source, its own and those that it masquerades for others, where
//! their replies would be taken for somebody else's: for a translated flow's that bears the same address and port
//! towards the same backend, or for packets to a node port.
//!
//! Such a connection gets another source port as it leaves, and its replies are turned back. The other way round, a flow
//! takes no port that a socket of the node has; what is masqueraded has no socket, and an old one is not found.
//! TCP on a node port's number needs no other port: what no flow knows of it is left to the node's stack.

use super::{
    flow::{self, PORT_BASE},
    frontend::{self, Traffic},
    packet::HostPacket,
    parse::Parsed,
    path::{translate, unanswered},
    scratch::Scratch,
    tables::Tables,
    verdict::Verdict,
};
use crate::abi::{Counter, Flow, Tuple, addr_flag, flow_state, mark, proto, role, scope};

/// A packet without a flow on its way out of the host's stack, from an address of which `addrs` says `flags`.
#[inline(always)]
pub(super) fn resolve<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, s: &mut Scratch, flags: u32) -> Verdict {
    let shared = tables.marks() & mark::SHARED_SOURCE != 0;
    let may_clash = s.parsed.begins() && flags & addr_flag::LINKS != 0 && (shared || may_have_node_port(&s.parsed));
    if may_clash && remapped(packet, tables, s, flags) {
        return unanswered(translate(packet, tables, s));
    }
    Verdict::Pass
}

/// Whether the source port may be a node port whose replies would open flows: only datagrams do, and Kubernetes keeps
/// node ports apart from the ports that the node's own sockets get.
#[inline(always)]
pub(super) const fn may_have_node_port(parsed: &Parsed) -> bool {
    parsed.tuple.proto == proto::UDP && parsed.tuple.sport.get() < PORT_BASE
}

/// Whether replies to the packet would be to a frontend.
#[inline(always)]
fn has_node_port<T: Tables>(tables: &T, parsed: &Parsed, flags: u32) -> bool {
    let Tuple { src: dst, sport: dport, proto, .. } = parsed.tuple;
    let replies = Traffic { dst, dport, proto, scope: scope::EXTERNAL, host: false, v4: parsed.is_v4() };
    may_have_node_port(parsed) && frontend::find(tables, &replies, flags).is_some()
}

/// A connection begins on ports whose replies belong to somebody else: it gets another source port. Whether that was so,
/// and the flow is now in `found`.
#[inline(never)]
fn remapped<P: HostPacket, T: Tables>(packet: &P, tables: &T, s: &mut Scratch, flags: u32) -> bool {
    let Scratch { parsed, found, spare, .. } = s;
    if parsed.opens() && flow::find(tables, &parsed.tuple, found) && found.flow.role & role::HOST != 0 {
        if found.flow.state == flow_state::NEW {
            // The SYN once more.
            flow::hit(tables, found, parsed, spare, tables.now());
            return true;
        }
        flow::forget(tables, &parsed.tuple, &mut found.flow);
    }
    let clash = has_node_port(tables, parsed, flags)
        || (flow::find_reply(tables, &parsed.tuple, spare, found)
            && found.flow.role & (role::FORWARD | role::HOST) == 0
            && (found.flow.oif != 0 || found.flow.role & role::HAIRPIN != 0));
    if !clash {
        return false;
    }
    if parsed.tuple.proto == proto::SCTP {
        // Its checksum covers the ports.
        return false;
    }
    let flow = &mut found.flow;
    *flow = Flow::default();
    flow.to = parsed.tuple;
    flow.role = role::HOST;
    flow.to.sport = flow::other_port(tables);
    if flow::open(packet, tables, &parsed.tuple, flow, spare).is_err() {
        return false;
    }
    tables.set_marks(mark::REMAPPED);
    tables.count(Counter::HostRemapped);
    true
}
