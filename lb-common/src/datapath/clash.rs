//! The node's own connections where a translated flow bears an address of the node as source: both may want the same
//! port towards the same backend, and its answers can belong to one of them only.
//!
//! A flow takes no port that a socket of the node has. The other way round, a connection of the node that begins on ports
//! of a flow gets another source port as it leaves, and its replies are turned back. What the node masquerades for
//! others has no socket, and is not looked for.

use super::{
    flow,
    packet::HostPacket,
    path::{translate, unanswered},
    scratch::Scratch,
    tables::Tables,
    verdict::Verdict,
};
use crate::abi::{Counter, Flow, addr_flag, flow_state, mark, proto, role};

/// A packet without a flow on its way out of the host's stack.
#[inline(always)]
pub(super) fn resolve<P: HostPacket, T: Tables>(packet: &mut P, tables: &T, s: &mut Scratch) -> Verdict {
    let may_clash = packet.is_own()
        && s.parsed.begins()
        && tables.marks() & mark::SHARED_SOURCE != 0
        && tables.addr(&s.parsed.tuple.src) & addr_flag::LINKS != 0;
    if may_clash && remapped(packet, tables, s) {
        return unanswered(translate(packet, tables, s));
    }
    Verdict::Pass
}

/// A connection of the node itself begins on ports whose replies belong to a translated flow: it gets another source
/// port. Whether that was so, and the flow is now in `found`.
#[inline(never)]
fn remapped<P: HostPacket, T: Tables>(packet: &P, tables: &T, s: &mut Scratch) -> bool {
    let Scratch { parsed, found, spare, .. } = s;
    if parsed.opens() && flow::find(tables, &parsed.tuple, found) && found.flow.role & role::HOST != 0 {
        if found.flow.state == flow_state::NEW {
            // The SYN once more.
            flow::hit(tables, found, parsed, spare, tables.now());
            return true;
        }
        flow::forget(tables, &parsed.tuple, &mut found.flow);
    }
    if !flow::find_reply(tables, &parsed.tuple, spare, found)
        || found.flow.role & (role::FORWARD | role::HOST) != 0
        || (found.flow.oif == 0 && found.flow.role & role::HAIRPIN == 0)
    {
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
    tables.count(Counter::HostRemapped);
    true
}
