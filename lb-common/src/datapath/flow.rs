//! The flow table: two entries for each translated connection, one for each direction.
//!
//! Entries without a reply live in `embryos` and move to `flows` with the first reply, so that a flood of openings
//! evicts only its own kind. Both tables are LRU; a packet that finds its entry untouched for a tick touches the
//! other direction's as well (and puts it back if it is gone), so a one-way stream does not lose its way back.

use super::{
    frontend::Choice,
    parse::{Parsed, tcp_flag},
    tables::{FlowTable, Tables},
};
use crate::abi::{Addr, Counter, Flow, Port, Tuple, flow_state, role, ticks};

/// An entry and the table it stands in.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) table: FlowTable,
    pub(super) flow: Flow,
}

/// Idle time after which a UDP flow is over and its next packet chooses anew: Linux conntrack's defaults
/// (`nf_conntrack_udp_timeout`, 30 s, and `…_stream`, 120 s), which kube-proxy's users are used to.
const UDP_IDLE_EMBRYO: u32 = ticks(30);
const UDP_IDLE: u32 = ticks(120);

#[inline(always)]
pub(super) fn find<T: Tables>(tables: &T, key: &Tuple) -> Option<Found> {
    if let Some(flow) = find_in(tables, FlowTable::Flows, key) {
        return Some(Found { table: FlowTable::Flows, flow });
    }
    find_in(tables, FlowTable::Embryos, key).map(|flow| Found { table: FlowTable::Embryos, flow })
}

#[inline(always)]
fn find_in<T: Tables>(tables: &T, table: FlowTable, key: &Tuple) -> Option<Flow> {
    let flow = tables.flow(table, key)?;
    if flow.is_for(*key) {
        return Some(flow);
    }
    tables.count(Counter::Recycled);
    tables.flow(table, key).filter(|flow| flow.is_for(*key))
}

/// Whether a UDP flow still leads to a backend that its service would use: same service, same backend, not idle.
#[inline(always)]
pub(super) fn udp_holds<T: Tables>(tables: &T, found: &Found, now: u32) -> bool {
    let idle = match found.table {
        FlowTable::Flows => UDP_IDLE,
        FlowTable::Embryos => UDP_IDLE_EMBRYO,
    };
    now.wrapping_sub(found.flow.seen) <= idle && holds(tables, &found.flow)
}

/// Whether the flow's service is still the one it was made by, and would still use its backend.
#[inline(always)]
pub(super) fn holds<T: Tables>(tables: &T, flow: &Flow) -> bool {
    let Some(state) = tables.state(flow.service) else { return false };
    let Some(backend) = tables.backend(flow.backend) else { return false };
    state.identity as u32 == flow.identity
        && backend.generation == flow.backend_generation
        && backend.usable(state.word)
}

/// Notes a packet of a known flow: its state, the time, and the first reply.
#[inline(always)]
pub(super) fn hit<T: Tables>(tables: &T, key: &Tuple, found: &Found, parsed: &Parsed, now: u32) {
    let Found { table, flow } = *found;
    let reply = flow.role & role::FORWARD == 0;
    let mut state = flow.state;
    if parsed.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0 {
        state = flow_state::CLOSING;
    } else if reply && state == flow_state::NEW {
        state = flow_state::REPLIED;
    } else if !reply && state == flow_state::REPLIED && parsed.is_tcp() {
        state = flow_state::ESTABLISHED;
    }
    if reply && table as u32 == FlowTable::Embryos as u32 {
        promote(tables, key, &flow, state, now);
    } else if state != flow.state || flow.seen != now {
        tables.touch_flow(table, key, state, now);
        let mate_key = flow.to.reversed();
        if !tables.touch_flow(table, &mate_key, state, now) {
            let mate = mate(key, &flow, state, now);
            tables.insert_flow(table, &mate_key, &mate);
        }
    }
}

/// The other direction's entry, made from this one. Kept under the key `flow.to.reversed()`.
#[inline(always)]
fn mate(key: &Tuple, flow: &Flow, state: u8, now: u32) -> Flow {
    let mut mate = Flow::new(
        flow.to.reversed(),
        key.reversed(),
        flow.service,
        flow.identity,
        flow.backend,
        flow.backend_generation,
        flow.oif,
        flow.role ^ role::FORWARD,
        now,
    );
    mate.state = state;
    mate
}

/// Moves both entries to `flows`. If that takes none, the embryo goes on as it is.
#[inline(always)]
fn promote<T: Tables>(tables: &T, key: &Tuple, flow: &Flow, state: u8, now: u32) {
    let forward_key = flow.to.reversed();
    let forward = mate(key, flow, state, now);
    let mut reply = *flow;
    reply.state = state;
    reply.seen = now;
    if tables.insert_flow(FlowTable::Flows, key, &reply) && tables.insert_flow(FlowTable::Flows, &forward_key, &forward) {
        tables.remove_flow(FlowTable::Embryos, key);
        tables.remove_flow(FlowTable::Embryos, &forward_key);
    } else {
        tables.count(Counter::DropFlowTable);
    }
}

/// How a new flow leaves.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// [`Flow::oif`].
    pub(super) oif: u32,
    /// [`role::HAIRPIN`] or 0.
    pub(super) role: u8,
    /// Source address the backend sees.
    pub(super) source: Addr,
}

/// Source ports that are tried before a flow is given up, the client's own first.
const PORT_TRIES: u32 = 4;

/// Makes the entries of a new flow and gives its forward one; `None` if there is no free port or no room, counted.
#[inline(always)]
pub(super) fn open<T: Tables>(tables: &T, key: &Tuple, choice: &Choice, way: Way, now: u32) -> Result<Flow, Counter> {
    let Choice { service, identity, id, backend } = *choice;
    let mut sport = key.sport;
    let mut i = 0;
    while i < PORT_TRIES {
        let to = Tuple::new(way.source, sport, backend.addr, backend.port, key.proto);
        let reply_key = to.reversed();
        if is_free(tables, &reply_key, key) {
            let forward =
                Flow::new(*key, to, service, identity, id, backend.generation, way.oif, way.role | role::FORWARD, now);
            let reply = mate(key, &forward, flow_state::NEW, now);
            // The reply entry first: whoever finds the forward one may rely on it.
            if !tables.insert_flow(FlowTable::Embryos, &reply_key, &reply)
                || !tables.insert_flow(FlowTable::Embryos, key, &forward)
            {
                return Err(Counter::DropFlowTable);
            }
            return Ok(forward);
        }
        // Above the ports that pods and nodes choose from by default (32768–60999), so a clash stays unlikely.
        sport = Port::new(61_000 + (tables.random() & 0x0fff) as u16);
        i += 1;
    }
    Err(Counter::DropNoPort)
}

/// Whether replies under this key may belong to the flow `key`: nobody else's live flow has them.
#[inline(always)]
fn is_free<T: Tables>(tables: &T, reply_key: &Tuple, key: &Tuple) -> bool {
    match find(tables, reply_key) {
        None => true,
        Some(other) => {
            other.flow.to == key.reversed() || other.flow.state == flow_state::CLOSING || !holds(tables, &other.flow)
        }
    }
}

/// Forgets a flow in both directions, given either entry.
#[inline(always)]
pub(super) fn forget<T: Tables>(tables: &T, key: &Tuple, found: &Found) {
    tables.remove_flow(found.table, key);
    tables.remove_flow(found.table, &found.flow.to.reversed());
}
