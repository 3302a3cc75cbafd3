//! From a destination to a frontend, and from a frontend to a backend. The one selection that sockets and packets share.

use super::{flow::idle, tables::Tables};
use crate::abi::{
    Addr, AffinityEntry, AffinityKey, Backend, Counter, Port, ServiceKey, ServiceRef, ServiceState, action, addr_flag,
    frontend, service_flag, ticks,
};

/// What is asked of a frontend: where the traffic goes and comes from.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Destination address.
    pub dst: Addr,
    /// Destination port.
    pub dport: Port,
    /// IP protocol number.
    pub proto: u8,
    /// [`crate::abi::scope`].
    pub scope: u8,
    /// The node's own socket: the only kind that loopback NodePorts serve.
    pub host: bool,
    /// The family of `dst`: IPv4, else IPv6.
    pub v4: bool,
}

/// Finds the frontend that claims this destination: its own address first, then the NodePorts of a node address.
/// `flags` is what `addrs` says of the destination address; nothing is looked up for one that it does not know.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, traffic: &Traffic, flags: u32) -> Option<ServiceRef> {
    let Traffic { dst, dport, proto, scope, host, v4 } = *traffic;
    let mut key = ServiceKey { addr: dst, port: dport, proto, scope };
    if flags & addr_flag::FRONTEND != 0
        && let Some(found) = look_up(tables, &key)
    {
        return Some(found);
    }
    if flags & addr_flag::NODE == 0 || (flags & addr_flag::LOOPBACK != 0 && !host) {
        return None;
    }
    // In place: a BPF stack has no room for two.
    key.addr = ServiceKey::node_port(v4, dport, proto, scope).addr;
    look_up(tables, &key)
}

/// A deleted element of a preallocated hash goes to its next key at once, under the eyes of whoever still reads it.
/// The tag tells; the second look-up then sees the table as it is.
#[inline(always)]
pub(super) fn look_up<T: Tables>(tables: &T, key: &ServiceKey) -> Option<ServiceRef> {
    let found = tables.service(key)?;
    if found.tag() == key.tag() {
        return Some(found);
    }
    tables.count(Counter::Recycled);
    tables.service(key).filter(|found| found.tag() == key.tag())
}

/// A backend for a new connection.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Service index.
    pub service: u32,
    /// Low half of the service's identity.
    pub identity: u32,
    /// Backend id.
    pub id: u32,
    /// The backend's generation.
    pub generation: u32,
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port.
    pub port: Port,
}

/// Why a frontend gives no backend: also the reason that is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoChoice {
    /// Refuse at once.
    Reject,
    /// No usable endpoint here, or closed to this scope, or a source outside the ranges.
    Drop(Counter),
}

impl NoChoice {
    /// As one word, never 0: a BPF subprogram returns no more than a register.
    #[inline(always)]
    pub(super) const fn pack(self) -> u32 {
        match self {
            Self::Reject => 1,
            Self::Drop(reason) => 2 | (reason as u32) << 8,
        }
    }

    /// What [`Self::pack`] packed; `None` for 0.
    #[inline(always)]
    pub(super) fn unpack(word: u32) -> Option<Self> {
        match word & 0xff {
            0 => None,
            1 => Some(Self::Reject),
            _ => Some(Self::Drop(Counter::from_index(word >> 8))),
        }
    }
}

/// Why the frontend is not for this source, whatever it sends and whatever the service's state.
#[inline(always)]
pub(super) fn shut_out<T: Tables>(tables: &T, found: ServiceRef, source: Addr) -> Option<Counter> {
    if found.bits() & frontend::CLOSED != 0 {
        Some(Counter::DropClosed)
    } else if found.bits() & frontend::RANGES != 0 && !in_ranges(tables, found.index(), &source) {
        Some(Counter::DropSourceRange)
    } else {
        None
    }
}

/// Not inlined: its key would lie on the callers' BPF stacks, and the verifier walk what follows once with it and once
/// without.
#[inline(never)]
fn in_ranges<T: Tables>(tables: &T, service: u32, source: &Addr) -> bool {
    tables.in_ranges(service, *source)
}

/// The checks that come before selection: closed, source ranges, action. Gives the state to select from.
#[inline(always)]
pub(super) fn admit<T: Tables>(tables: &T, found: ServiceRef, source: Addr) -> Result<ServiceState, NoChoice> {
    if let Some(reason) = shut_out(tables, found, source) {
        return Err(NoChoice::Drop(reason));
    }
    let Some(state) = tables.state(found.index()) else {
        return Err(NoChoice::Drop(Counter::DropInternal));
    };
    match state.word.action() & action::MASK {
        action::FORWARD => Ok(state),
        action::REJECT => Err(NoChoice::Reject),
        action::DROP => Err(NoChoice::Drop(Counter::DropNoLocalEndpoint)),
        _ => Err(NoChoice::Drop(Counter::DropInternal)),
    }
}

/// Chooses a backend: the client's earlier one while affinity holds and it is usable, else by flow hash (Maglev) or at
/// random. `hash` is the flow's, `client` as [`AffinityKey::client`].
#[inline(always)]
pub fn select<T: Tables>(tables: &T, service: u32, state: &ServiceState, client: &Addr, hash: u64) -> Option<Choice> {
    let mut choice = Choice {
        service,
        identity: state.identity as u32,
        id: 0,
        generation: 0,
        addr: Addr::UNSPECIFIED,
        port: Port::new(0),
    };
    choose(tables, state, client, hash, &mut choice).then_some(choice)
}

/// Fills in the backend; false if there is none. Not inlined, for the BPF stack's sake.
#[inline(never)]
fn choose<T: Tables>(tables: &T, state: &ServiceState, client: &Addr, hash: u64, choice: &mut Choice) -> bool {
    let key = AffinityKey { service: choice.service, identity: choice.identity, client: *client };
    let sticky = state.affinity_seconds != 0;
    if sticky && remembered(tables, &key, state, choice) {
        return true;
    }
    if state.word.count() == 0 {
        return false;
    }
    let x = if state.flags & service_flag::MAGLEV != 0 { (hash >> 32) as u32 } else { tables.random() };
    // Scales x to the run without a division (Lemire, "Fast random integer generation in an interval", 2019).
    let offset = ((x as u64 * state.word.count() as u64) >> 32) as u32;
    let Some(id) = tables.slot(state.word.offset().wrapping_add(offset)) else { return false };
    let Some(backend) = tables.backend(id) else { return false };
    if backend.generation == 0 {
        return false;
    }
    take(&backend, id, choice);
    if sticky {
        tables.insert_affinity(&key, &AffinityEntry::new(&key, id, choice.generation, tables.now()));
    }
    true
}

#[inline(always)]
const fn take(backend: &Backend, id: u32, choice: &mut Choice) {
    choice.id = id;
    choice.generation = backend.generation;
    choice.addr = backend.addr;
    choice.port = backend.port;
}

/// A recycled element is looked up once more, as its key may have got another one.
#[inline(always)]
fn find_affinity<T: Tables>(tables: &T, key: &AffinityKey) -> Option<AffinityEntry> {
    let entry = tables.affinity(key)?;
    if entry.is_for(key) {
        return Some(entry);
    }
    tables.count(Counter::Recycled);
    tables.affinity(key).filter(|entry| entry.is_for(key))
}

#[inline(always)]
fn remembered<T: Tables>(tables: &T, key: &AffinityKey, state: &ServiceState, choice: &mut Choice) -> bool {
    let Some(entry) = find_affinity(tables, key) else { return false };
    let now = tables.now();
    if idle(now, entry.seen) > ticks(state.affinity_seconds) {
        return false;
    }
    let Some(backend) = tables.backend(entry.backend) else { return false };
    // Of weight 0 it takes no new connection.
    if backend.generation != entry.backend_generation || !backend.usable(state.word) || backend.weight == 0 {
        return false;
    }
    if now != entry.seen {
        tables.insert_affinity(key, &AffinityEntry::new(key, entry.backend, entry.backend_generation, now));
    }
    take(&backend, entry.backend, choice);
    true
}
