//! The flow table: two entries for each translated connection, one for each direction.
//!
//! Entries live in `embryos` until both sides were heard and the opener again, or datagrams were answered for a while. So
//! a flood evicts only its own kind: of SYNs whose answers reach nobody, and of datagrams to whoever answers. Both tables
//! are LRU; a packet that finds its entry untouched for a tick touches the other direction's as well (and puts it back if
//! it is gone), so a one-way stream does not lose its way back.

use super::{
    packet::HostPacket,
    parse::{Parsed, tcp_flag},
    tables::{FlowTable, Tables},
};
use crate::abi::{Counter, Flow, Port, Tuple, filter_place, flow_state, place_of, proto, role, ticks, tuple_hash};

/// An entry and the table it stands in.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Found {
    pub(super) flow: Flow,
    pub(super) table: FlowTable,
}

/// Room for a second entry and its key while the first is at work.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Spare {
    key: Tuple,
    found: Found,
}

impl Spare {
    /// Room for a tuple.
    #[inline(always)]
    pub(super) fn key_mut(&mut self) -> &mut Tuple {
        &mut self.key
    }
}

/// Idle time after which a UDP flow is over and its next packet chooses anew: Linux conntrack's defaults
/// (`nf_conntrack_udp_timeout`, 30 s until it lasts, and `…_stream`, 120 s), which kube-proxy's users are used to.
const UDP_IDLE_EMBRYO: u32 = ticks(30);
const UDP_IDLE: u32 = ticks(120);
/// Time after which nobody waits for a TCP flow's last packets any more: Linux's TIME_WAIT.
const TCP_CLOSING: u32 = ticks(60);
/// Time for which the later fragments of a datagram are awaited: Linux's `ipfrag_time` and `ip6frag_time` at most.
const FRAGMENT_IDLE: u32 = ticks(60);

/// A key's hash, if there may be a flow of this key: the first half of what [`find`] does, for the one place that each packet
/// passes.
#[inline(always)]
pub(super) fn may_have<T: Tables>(tables: &T, key: &Tuple) -> Option<u64> {
    // Made before the filter is looked up: else the whole tuple would be kept on the stack over that, and the verifier would
    // walk what follows once for each way to it.
    let hash = core::hint::black_box(tuple_hash(key));
    tables.in_filter(place_of(hash)).then_some(hash)
}

/// The second half, with its usual course inlined.
#[inline(always)]
pub(super) fn find_fast<T: Tables>(tables: &T, key: &Tuple, hash: u64, found: &mut Found) -> bool {
    if !tables.flow(FlowTable::Flows, key, &mut found.flow) {
        return find_embryo(tables, key, found);
    }
    found.table = FlowTable::Flows;
    found.flow.is_for_hashed(hash) || find(tables, key, found)
}

#[inline(never)]
fn find_embryo<T: Tables>(tables: &T, key: &Tuple, found: &mut Found) -> bool {
    found.table = FlowTable::Embryos;
    find_in(tables, FlowTable::Embryos, key, &mut found.flow)
}

/// Finds the entry of `key`, among the established flows first. Not inlined, for the BPF stack's sake.
#[inline(never)]
pub(super) fn find<T: Tables>(tables: &T, key: &Tuple, found: &mut Found) -> bool {
    if !tables.in_filter(filter_place(key)) {
        return false;
    }
    found.table = FlowTable::Flows;
    if find_in(tables, FlowTable::Flows, key, &mut found.flow) {
        return true;
    }
    found.table = FlowTable::Embryos;
    find_in(tables, FlowTable::Embryos, key, &mut found.flow)
}

#[inline(always)]
fn find_in<T: Tables>(tables: &T, table: FlowTable, key: &Tuple, flow: &mut Flow) -> bool {
    if !tables.flow(table, key, flow) {
        return false;
    }
    if flow.is_for(key) {
        return true;
    }
    tables.count(Counter::Recycled);
    tables.flow(table, key, flow) && flow.is_for(key)
}

/// Whether a UDP flow still leads to a backend that its service would use: same service, same backend, not idle.
#[inline(always)]
pub(super) fn udp_holds<T: Tables>(tables: &T, found: &Found, now: u32) -> bool {
    idle(now, found.flow.seen) <= udp_idle_limit(found.table) && holds(tables, &found.flow)
}

#[inline(always)]
const fn udp_idle_limit(table: FlowTable) -> u32 {
    match table {
        FlowTable::Flows => UDP_IDLE,
        FlowTable::Embryos | FlowTable::Frags => UDP_IDLE_EMBRYO,
    }
}

/// Ticks since `seen`; 0 where another processor's clock was a tick ahead.
#[inline(always)]
pub(super) const fn idle(now: u32, seen: u32) -> u32 {
    let ticks = now.wrapping_sub(seen);
    if (ticks as i32) < 0 { 0 } else { ticks }
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

/// Notes a packet of a known flow: its state and the time. Work at most once per tick and state.
///
/// A conversation that lasts is established: its opener speaks again once it was answered, or datagrams come back in
/// another tick than the first (as conntrack's "assured"; a SYN's answer, sent once more, says nothing of the opener).
#[inline(always)]
pub(super) fn hit<T: Tables>(tables: &T, found: &Found, parsed: &Parsed, spare: &mut Spare, now: u32) {
    let flow = &found.flow;
    let reply = flow.role & role::FORWARD == 0;
    // Replies of what was handed over do not come by here: that the client goes on shows that there are some.
    let unseen = flow.role & role::DSR != 0;
    let mut state = flow.state;
    let answered = state == flow_state::REPLIED || (unseen && state == flow_state::NEW);
    if parsed.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0 {
        state = flow_state::CLOSING;
    } else if reply && state == flow_state::NEW {
        state = flow_state::REPLIED;
    } else if answered && if reply { !parsed.is_tcp() && flow.seen != now } else { !parsed.opens() } {
        // A SYN sent once more shows that the reply did not arrive.
        state = flow_state::ESTABLISHED;
    }
    let promote = state == flow_state::ESTABLISHED && matches!(found.table, FlowTable::Embryos);
    if promote || state != flow.state || flow.seen != now {
        spare.found.flow = *flow;
        spare.found.flow.state = state;
        spare.found.flow.seen = now;
        if promote {
            establish(tables, &parsed.tuple, spare);
        } else {
            spare.found.table = found.table;
            note(tables, &parsed.tuple, spare);
        }
    }
}

/// Moves both entries of a flow to `flows`: `spare` holds the one of `key`. Not inlined: rare.
#[inline(never)]
fn establish<T: Tables>(tables: &T, key: &Tuple, spare: &mut Spare) {
    let flow = &mut spare.found.flow;
    spare.key.set_reverse_of(&flow.to);
    let (state, seen) = (flow.state, flow.seen);
    let moved = tables.insert_flow(FlowTable::Flows, key, flow);
    turn(flow, key, &spare.key);
    if moved && tables.insert_flow(FlowTable::Flows, &spare.key, flow) {
        // An entry that was looked up is kept before one that was not: both were, or under pressure the one direction
        // that speaks next would outlive the other.
        tables.touch_flow(FlowTable::Flows, key, state, seen);
        tables.touch_flow(FlowTable::Flows, &spare.key, state, seen);
        tables.remove_flow(FlowTable::Embryos, key);
        tables.remove_flow(FlowTable::Embryos, &spare.key);
    } else {
        // The embryos go on as they are.
        tables.count(Counter::DropFlowTable);
    }
}

/// Writes down a flow's progress in both directions; `spare` holds the entry of `key` as it is to be, and its table.
#[inline(never)]
fn note<T: Tables>(tables: &T, key: &Tuple, spare: &mut Spare) {
    let Found { flow, table } = &mut spare.found;
    spare.key.set_reverse_of(&flow.to);
    let (state, seen) = (flow.state, flow.seen);
    tables.touch_flow(*table, key, state, seen);
    if !tables.touch_flow(*table, &spare.key, state, seen) {
        turn(flow, key, &spare.key);
        if !tables.insert_flow(*table, &spare.key, flow) {
            tables.count(Counter::DropFlowTable);
        }
    }
}

/// Makes the entry of `key` that of the other direction, whose key is `mate_key` (`flow.to.reversed()`).
#[inline(always)]
fn turn(flow: &mut Flow, key: &Tuple, mate_key: &Tuple) {
    flow.to.set_reverse_of(key);
    flow.role ^= role::FORWARD;
    flow.swap_ways();
    flow.reseal(mate_key);
}

/// Source ports that are tried before a flow is given up, the client's own first.
const PORT_TRIES: u32 = 8;

/// The ports that stand in for a client's own: 32768 to 65535. Replies to a source address of ours are told from other
/// packets to it by that, but for SCTP, whose checksum covers the ports.
pub(super) const PORT_BASE: u16 = 0x8000;

/// Gives a new flow a source port and enters it in both directions, in place of one that has its tuple. `flow` is its
/// forward entry but for the port, the time and the seal.
///
/// # Errors
/// The counter to drop under, if there is no free port or no room.
#[inline(never)]
pub(super) fn open<P: HostPacket, T: Tables>(
    packet: &P,
    tables: &T,
    key: &Tuple,
    flow: &mut Flow,
    spare: &mut Spare,
) -> Result<(), Counter> {
    supersede(tables, key, spare);
    let mut i = 0;
    while i < PORT_TRIES {
        if take_ports(packet, tables, key, flow, spare) {
            flow.seen = tables.now();
            return if insert_both(tables, key, flow, spare) { Ok(()) } else { Err(Counter::DropFlowTable) };
        }
        tables.count(Counter::PortCollision);
        if key.proto == proto::SCTP {
            // Its checksum covers the ports.
            break;
        }
        flow.to.sport = other_port(tables);
        i += 1;
    }
    Err(Counter::DropNoPort)
}

/// Forgets the flow of a tuple: an answered one would be found before a new one.
#[inline(never)]
fn supersede<T: Tables>(tables: &T, key: &Tuple, spare: &mut Spare) -> bool {
    find(tables, key, &mut spare.found) && forget(tables, key, &mut spare.found.flow)
}

/// A port to stand in for a client's own.
#[inline(always)]
pub(super) fn other_port<T: Tables>(tables: &T) -> Port {
    Port::new(PORT_BASE | tables.random() as u16)
}

/// The reply entry first: whoever finds the forward one may rely on it. False if a table takes no entry.
#[inline(never)]
fn insert_both<T: Tables>(tables: &T, key: &Tuple, flow: &mut Flow, spare: &mut Spare) -> bool {
    flow.role |= role::FORWARD;
    insert_in(tables, FlowTable::Embryos, key, flow, spare)
}

#[inline(always)]
fn insert_in<T: Tables>(tables: &T, table: FlowTable, key: &Tuple, flow: &mut Flow, spare: &mut Spare) -> bool {
    flow.reseal(key);
    spare.key.set_reverse_of(&flow.to);
    spare.found.flow = *flow;
    turn(&mut spare.found.flow, key, &spare.key);
    tables.insert_flow(table, &spare.key, &spare.found.flow) && tables.insert_flow(table, key, flow)
}

/// Writes both entries of a flow anew after its ways have changed; `found` holds the one of `key`. False if the table takes
/// no entry.
#[inline(never)]
pub(super) fn rewrite_both<T: Tables>(tables: &T, key: &Tuple, found: &mut Found, spare: &mut Spare) -> bool {
    insert_in(tables, found.table, key, &mut found.flow, spare)
}

/// Whether replies of the new flow `flow` may belong to it: nobody else's live flow has them, nor a socket of the node where
/// an address of the node stands in for the client's, or it is the node's own connection.
#[inline(never)]
fn take_ports<P: HostPacket, T: Tables>(packet: &P, tables: &T, key: &Tuple, flow: &Flow, spare: &mut Spare) -> bool {
    let shared = flow.to.src != key.src || flow.role & role::HOST != 0;
    are_free(tables, key, flow, spare) && !(shared && packet.has_socket(&flow.to))
}

/// Whether nobody else's live flow has the replies of the new flow `flow`. What is left of a dead one goes, as it would be
/// found before the new one.
#[inline(never)]
fn are_free<T: Tables>(tables: &T, key: &Tuple, flow: &Flow, spare: &mut Spare) -> bool {
    spare.key.set_reverse_of(&flow.to);
    let Spare { key: reply_key, found: other } = spare;
    if !find(tables, reply_key, other) {
        return true;
    }
    if !other.flow.to.is_reverse_of(key) && !is_over(&other.flow, other.table, tables.now()) {
        return false;
    }
    forget(tables, reply_key, &mut other.flow)
}

/// Finds the flow whose replies would have this packet's ports: the entry of its answer.
#[inline(always)]
pub(super) fn find_reply<T: Tables>(tables: &T, tuple: &Tuple, spare: &mut Spare, found: &mut Found) -> bool {
    spare.key.set_reverse_of(tuple);
    find(tables, &spare.key, found)
}

/// Forgets the flow that [`find_reply`] found.
#[inline(always)]
pub(super) fn forget_reply<T: Tables>(tables: &T, spare: &Spare, found: &mut Found) {
    forget(tables, &spare.key, &mut found.flow);
}

/// Whether nothing more is to come at `now` (in ticks) from a flow that stands in `table`: TCP that closed a while ago
/// (Linux's TIME_WAIT), UDP that was silent for long. Other TCP has no such time. Whether its service would still use its
/// backend says nothing: a connection drains, and answers are under way.
#[inline(always)]
#[must_use]
pub const fn is_over(flow: &Flow, table: FlowTable, now: u32) -> bool {
    let limit = if flow.state == flow_state::CLOSING {
        TCP_CLOSING
    } else if flow.to.proto == proto::TCP {
        return false;
    } else {
        udp_idle_limit(table)
    };
    idle(now, flow.seen) > limit
}

/// Remembers how the later fragments of the packet are to be translated: as this flow does it. Whether the table took it.
#[inline(never)]
pub(super) fn remember_fragment<T: Tables>(tables: &T, flow: &Flow, parsed: &Parsed, spare: &mut Spare) -> bool {
    let Spare { key, found: Found { flow: entry, .. } } = spare;
    *key = parsed.tuple;
    key.set_fragment(parsed.fragment_id);
    *entry = *flow;
    entry.seen = tables.now();
    entry.reseal(key);
    tables.insert_flow(FlowTable::Frags, key, entry)
}

/// Finds what [`remember_fragment`] kept for a later fragment, for as long as a receiver waits for it.
#[inline(never)]
pub(super) fn find_fragment<T: Tables>(tables: &T, parsed: &Parsed, spare: &mut Spare, found: &mut Found) -> bool {
    spare.key = parsed.tuple;
    spare.key.set_fragment(parsed.fragment_id);
    found.table = FlowTable::Frags;
    find_in(tables, FlowTable::Frags, &spare.key, &mut found.flow)
        && idle(tables.now(), found.flow.seen) <= FRAGMENT_IDLE
}

/// Forgets a flow in both directions, given either entry; in both tables, as two processors that meet at its first
/// reply may leave entries in both. `flow` is used up: its stack becomes the other direction's key. Always true.
#[inline(never)]
pub(super) fn forget<T: Tables>(tables: &T, key: &Tuple, flow: &mut Flow) -> bool {
    flow.to.reverse();
    tables.remove_flow(FlowTable::Flows, key);
    tables.remove_flow(FlowTable::Flows, &flow.to);
    tables.remove_flow(FlowTable::Embryos, key);
    tables.remove_flow(FlowTable::Embryos, &flow.to);
    true
}
