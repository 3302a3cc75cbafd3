//! The socket path: a destination is rewritten once, in the socket call, and costs nothing per packet.

use super::{
    frontend::{self, Choice, NoChoice, Traffic, select},
    tables::Tables,
};
use crate::abi::{
    Addr, AffinityKey, Counter, Port, SkipKey, SockEntry, SockKey, Tuple, addr_flag, flow_tuple_hash, frontend as bits,
    proto, scope, skip_kind, sock_kind, socket_lb,
};

/// A connect or sendmsg call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// `bpf_get_netns_cookie`.
    pub netns: u64,
    /// The socket is in the agent's network namespace, so no pod's.
    pub host: bool,
    /// Destination that the application named.
    pub dst: Addr,
    /// Its port.
    pub dport: Port,
    /// IP protocol number.
    pub proto: u8,
    /// sendmsg: the socket is connected to this very destination.
    pub connected: bool,
}

/// What the hooks are asked to do, and what the kernel lets them do; constant while the programs run.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// [`socket_lb`] bits.
    pub socket_lb: u8,
    /// `bpf_set_retval` exists, so a refusal can be ECONNREFUSED; without it a refusal is EPERM.
    pub has_set_retval: bool,
    /// Bit n: cgroups of level n may be opted out.
    pub skip_cgroups: u32,
    /// Network namespaces may be opted out.
    pub skip_netns: bool,
}

/// What becomes of the call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Untouched.
    Pass,
    /// To this backend instead.
    To(Addr, Port),
    /// Refused at once.
    Refuse,
}

/// `connect`. Connected UDP of pods is left to the packet path, which checks the backend on each packet: a socket that
/// stays connected to a dead backend would never learn of it.
#[inline(always)]
pub fn connect<T: Tables>(tables: &T, call: &Call, policy: Policy) -> Outcome {
    let wanted = match call.proto {
        proto::TCP => policy.socket_lb & socket_lb::TCP != 0,
        proto::UDP => policy.socket_lb & socket_lb::UDP != 0 && call.host,
        _ => false,
    };
    if wanted && opted_out(tables, call, policy) {
        return Outcome::Pass;
    }
    let outcome = if wanted { translate(tables, call, policy) } else { Outcome::Pass };
    match outcome {
        Outcome::To(..) => {
            tables.count(if call.proto == proto::TCP { Counter::SocketTcp } else { Counter::SocketUdp });
        }
        Outcome::Pass if call.proto == proto::UDP && policy.socket_lb & socket_lb::UDP != 0 => forget(tables, call),
        Outcome::Pass | Outcome::Refuse => {}
    }
    outcome
}

/// A UDP socket that the application itself connects to a backend, after it was sent there by a frontend's name, is the
/// backend's from then on: it shows its name, and nobody destroys it when the Service lets the backend go.
#[inline(never)]
fn forget<T: Tables>(tables: &T, call: &Call) {
    tables.remove_sock(&key(call, call.dst, call.dport, sock_kind::REVNAT));
}

/// `sendmsg` on an unconnected UDP socket. It keeps its backend for this destination while that is usable: protocols
/// over UDP (QUIC, DTLS, TFTP) break when their datagrams go to several.
///
/// A connected socket takes answers from its peer only, so what `connect` left alone stays so.
#[inline(always)]
pub fn sendmsg<T: Tables>(tables: &T, call: &Call, policy: Policy) -> Outcome {
    if policy.socket_lb & socket_lb::UDP == 0 || call.proto != proto::UDP || call.connected {
        return Outcome::Pass;
    }
    if opted_out(tables, call, policy) {
        return Outcome::Pass;
    }
    let mut backend = Place::default();
    if stays(tables, call, &mut backend) {
        return Outcome::To(backend.addr, backend.port);
    }
    let outcome = translate(tables, call, policy);
    if matches!(outcome, Outcome::To(..)) {
        tables.count(Counter::SocketUdp);
    }
    outcome
}

/// The frontend that this socket named when it was sent to `addr`:`port`, for recvmsg and getpeername.
#[inline(always)]
pub fn reverse<T: Tables>(tables: &T, cookie: u64, addr: Addr, port: Port, proto: u8) -> Option<(Addr, Port)> {
    let key = SockKey::new(cookie, addr, port, proto, sock_kind::REVNAT);
    let mut entry = SockEntry::default();
    find(tables, &key, &mut entry).then_some((entry.addr, entry.port))
}

/// Finds an entry; a recycled element is looked up once more, as its key may have got another one.
#[inline(always)]
fn find<T: Tables>(tables: &T, key: &SockKey, entry: &mut SockEntry) -> bool {
    if !tables.sock(key, entry) {
        return false;
    }
    if entry.is_for(key) {
        return true;
    }
    tables.count(Counter::Recycled);
    tables.sock(key, entry) && entry.is_for(key)
}

/// Whether the operator left the caller's pod to the packet path. Never the node's own sockets, which have no other.
#[inline(always)]
fn opted_out<T: Tables>(tables: &T, call: &Call, policy: Policy) -> bool {
    if call.host {
        return false;
    }
    (policy.skip_netns && tables.is_skipped(&SkipKey::new(skip_kind::NETNS, call.netns)))
        || (policy.skip_cgroups != 0 && in_skipped_cgroup(tables, policy.skip_cgroups))
}

/// Looks at the levels of `levels` only, which is known when the program is verified. Not inlined, for the BPF stack's
/// sake.
#[inline(never)]
fn in_skipped_cgroup<T: Tables>(tables: &T, levels: u32) -> bool {
    let mut level = 0;
    while level < u32::BITS {
        if levels >> level & 1 != 0 {
            let id = tables.ancestor_cgroup(level);
            if id != 0 && tables.is_skipped(&SkipKey::new(skip_kind::CGROUP, id)) {
                return true;
            }
        }
        level += 1;
    }
    false
}

/// An address and port to be filled in.
#[derive(Clone, Copy, Default)]
struct Place {
    addr: Addr,
    port: Port,
}

/// What [`attempt`] found. A BPF subprogram returns no more than a register.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u32)]
enum Attempt {
    NotOurs,
    Refused,
    Translated,
}

#[inline(always)]
fn translate<T: Tables>(tables: &T, call: &Call, policy: Policy) -> Outcome {
    let mut backend = Place::default();
    match attempt(tables, call, policy.has_set_retval, &mut backend) {
        Attempt::NotOurs => Outcome::Pass,
        Attempt::Refused => Outcome::Refuse,
        Attempt::Translated => Outcome::To(backend.addr, backend.port),
    }
}

/// Finds the frontend, chooses a backend and remembers both. Not inlined, for the BPF stack's sake.
#[inline(never)]
fn attempt<T: Tables>(tables: &T, call: &Call, can_refuse: bool, place: &mut Place) -> Attempt {
    let traffic = Traffic {
        dst: call.dst,
        dport: call.dport,
        proto: call.proto,
        scope: scope::INTERNAL,
        host: call.host,
        v4: call.dst.is_v4(),
    };
    // As behind kube-proxy, whose rule asks only whether the address is local, as all of 127.0.0.0/8 is.
    let loopback = call.host && call.dst.is_v4_loopback();
    let flags = tables.addr(if loopback { &Addr::LOCALHOST_V4 } else { &call.dst });
    let Some(found) = frontend::find(tables, &traffic, flags) else {
        if flags & addr_flag::CLUSTER_IP == 0 || (!can_refuse && !call.host && call.proto == proto::TCP) {
            return Attempt::NotOurs;
        }
        // Every port of a clusterIP is ours, also those that no Service names.
        tables.count(Counter::SocketRefused);
        return Attempt::Refused;
    };
    if !call.host && found.bits() & bits::RANGES != 0 {
        // A pod's source address is not known here: the packet path holds it to the ranges.
        return Attempt::NotOurs;
    }
    // The node itself is let in if one of its addresses is: the agent keeps that answer under `0.0.0.0` and `::`.
    let itself = if call.dst.is_v4() { Addr::v4([0; 4]) } else { Addr::UNSPECIFIED };
    let state = match frontend::admit(tables, found, itself) {
        Ok(state) => state,
        // Where a refusal can only be EPERM, a pod's TCP is better refused by the packet path.
        Err(_) if !can_refuse && !call.host && call.proto == proto::TCP => return Attempt::NotOurs,
        Err(NoChoice::Reject) => {
            tables.count(Counter::SocketRefused);
            return Attempt::Refused;
        }
        Err(NoChoice::Drop(_)) => {
            tables.count(Counter::SocketDropped);
            return Attempt::Refused;
        }
    };
    let client = AffinityKey::netns(call.netns);
    let hash =
        flow_tuple_hash(&Tuple::new(client, Port::new(0), call.dst, call.dport, call.proto)) ^ spread(call.cookie);
    let Some(choice) = select(tables, found.index(), &state, &client, hash) else {
        tables.count(if state.word.count() == 0 { Counter::SocketRefused } else { Counter::SocketDropped });
        return Attempt::Refused;
    };
    *place = Place { addr: choice.addr, port: choice.port };
    remember(tables, call, &choice, sock_kind::REVNAT);
    if call.proto == proto::UDP {
        remember(tables, call, &choice, sock_kind::STICKY);
    }
    tables.count_connection(choice.id, choice.generation);
    Attempt::Translated
}

/// A socket has no source port yet when it connects, so its cookie makes the flow hash differ between sockets.
#[inline(always)]
const fn spread(cookie: u64) -> u64 {
    cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline(always)]
const fn key(call: &Call, addr: Addr, port: Port, kind: u8) -> SockKey {
    SockKey::new(call.cookie, addr, port, call.proto, kind)
}

/// Remembers a choice in one direction; false, and counted, if the table takes no entry.
#[inline(never)]
fn remember<T: Tables>(tables: &T, call: &Call, choice: &Choice, kind: u8) -> bool {
    let Choice { service, identity, id, generation, addr, port } = *choice;
    let (key, (addr, port)) = if kind == sock_kind::REVNAT {
        (key(call, addr, port, kind), (call.dst, call.dport))
    } else {
        (key(call, call.dst, call.dport, kind), (addr, port))
    };
    let entry = SockEntry::new(&key, addr, port, service, identity, id, generation);
    let kept = tables.insert_sock(&key, &entry);
    if !kept {
        tables.count(Counter::SocketTable);
    }
    kept
}

/// Whether this socket has a backend for this destination that it may keep.
#[inline(never)]
fn stays<T: Tables>(tables: &T, call: &Call, place: &mut Place) -> bool {
    let mut key = key(call, call.dst, call.dport, sock_kind::STICKY);
    let mut entry = SockEntry::default();
    if !find(tables, &key, &mut entry) || !holds(tables, &entry) {
        return false;
    }
    let SockEntry { addr, port, service, identity, backend, backend_generation, .. } = entry;
    *place = Place { addr, port };
    (key.addr, key.port, key.kind) = (addr, port, sock_kind::REVNAT);
    // Looking also keeps the way back from being evicted while only this direction is used. It may lead to another
    // frontend of the same backend: an answer then belongs to the frontend that was asked last.
    if !find(tables, &key, &mut entry) || entry.addr != call.dst || entry.port != call.dport {
        entry = SockEntry::new(&key, call.dst, call.dport, service, identity, backend, backend_generation);
        if !tables.insert_sock(&key, &entry) {
            tables.count(Counter::SocketTable);
        }
    }
    true
}

#[inline(always)]
fn holds<T: Tables>(tables: &T, entry: &SockEntry) -> bool {
    let Some(state) = tables.state(entry.service) else { return false };
    let Some(backend) = tables.backend(entry.backend) else { return false };
    state.identity as u32 == entry.identity
        && backend.generation == entry.backend_generation
        && backend.usable(state.word)
}
