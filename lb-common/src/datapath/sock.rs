//! The socket path: a destination is rewritten once, in the socket call, and costs nothing per packet.

use super::{
    frontend::{self, NoChoice, Traffic, select},
    tables::Tables,
};
use crate::abi::{
    Addr, AffinityKey, Counter, Port, SockEntry, SockKey, Tuple, flow_tuple_hash, frontend as bits, proto, scope,
    sock_kind, socket_lb,
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
}

/// What the hooks are asked to do, and what the kernel lets them do; constant while the programs run.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// [`socket_lb`] bits.
    pub socket_lb: u8,
    /// `bpf_set_retval` exists, so a refusal can be ECONNREFUSED; without it a refusal is EPERM.
    pub has_set_retval: bool,
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
    if !wanted {
        return Outcome::Pass;
    }
    match translate(tables, call, policy) {
        Translation::None => Outcome::Pass,
        Translation::Refused => Outcome::Refuse,
        Translation::To(addr, port, _) => {
            tables.count(if call.proto == proto::TCP { Counter::SocketTcp } else { Counter::SocketUdp });
            Outcome::To(addr, port)
        }
    }
}

/// `sendmsg` on an unconnected UDP socket. It keeps its backend for this destination while that is usable: protocols
/// over UDP (QUIC, DTLS, TFTP) break when their datagrams go to several.
#[inline(always)]
pub fn sendmsg<T: Tables>(tables: &T, call: &Call, policy: Policy) -> Outcome {
    if policy.socket_lb & socket_lb::UDP == 0 || call.proto != proto::UDP {
        return Outcome::Pass;
    }
    let key = SockKey::new(call.cookie, call.dst, call.dport, call.proto, sock_kind::STICKY);
    if let Some(entry) = tables.sock(&key)
        && entry.is_for(key)
        && holds(tables, &entry)
    {
        // Also keeps the way back from being evicted while only this direction is used.
        if tables.sock(&way_back(call, entry.addr, entry.port)).is_none() {
            remember_way_back(tables, call, &entry);
        }
        return Outcome::To(entry.addr, entry.port);
    }
    match translate(tables, call, policy) {
        Translation::None => Outcome::Pass,
        Translation::Refused => Outcome::Refuse,
        Translation::To(addr, port, entry) => {
            let entry = SockEntry::new(
                key,
                addr,
                port,
                entry.service,
                entry.identity,
                entry.backend,
                entry.backend_generation,
            );
            if !tables.insert_sock(&key, &entry) {
                tables.count(Counter::SocketTable);
            }
            tables.count(Counter::SocketUdp);
            Outcome::To(addr, port)
        }
    }
}

/// The frontend that this socket named when it was sent to `addr`:`port`, for recvmsg and getpeername.
#[inline(always)]
pub fn reverse<T: Tables>(tables: &T, cookie: u64, addr: Addr, port: Port, proto: u8) -> Option<(Addr, Port)> {
    let key = SockKey::new(cookie, addr, port, proto, sock_kind::REVNAT);
    let entry = tables.sock(&key).filter(|entry| entry.is_for(key))?;
    Some((entry.addr, entry.port))
}

#[derive(Clone, Copy)]
enum Translation {
    None,
    Refused,
    /// The backend, and the entry that remembers the frontend.
    To(Addr, Port, SockEntry),
}

#[inline(always)]
fn translate<T: Tables>(tables: &T, call: &Call, policy: Policy) -> Translation {
    let traffic = Traffic {
        dst: call.dst,
        dport: call.dport,
        proto: call.proto,
        scope: scope::INTERNAL,
        host: call.host,
    };
    let Some(found) = frontend::find(tables, &traffic) else { return Translation::None };
    if !call.host && found.bits() & bits::RANGES != 0 {
        // A pod's source address is not known here: the packet path holds it to the ranges.
        return Translation::None;
    }
    // The node itself is let in if one of its addresses is: the agent keeps that answer under the address `::`.
    let state = match frontend::admit(tables, found, Addr::UNSPECIFIED) {
        Ok(state) => state,
        Err(_) if !policy.has_set_retval && !call.host && call.proto == proto::TCP => return Translation::None,
        Err(NoChoice::Reject) => {
            tables.count(Counter::SocketRefused);
            return Translation::Refused;
        }
        Err(NoChoice::Drop(_)) => {
            tables.count(Counter::SocketDropped);
            return Translation::Refused;
        }
    };
    let client = AffinityKey::netns(call.netns);
    let hash = flow_tuple_hash(Tuple::new(client, Port::new(0), call.dst, call.dport, call.proto)) ^ spread(call.cookie);
    let Some(choice) = select(tables, found.index(), &state, client, hash) else {
        tables.count(Counter::SocketDropped);
        return Translation::Refused;
    };
    let (addr, port) = (choice.backend.addr, choice.backend.port);
    let key = way_back(call, addr, port);
    let entry = SockEntry::new(
        key,
        call.dst,
        call.dport,
        choice.service,
        choice.identity,
        choice.id,
        choice.backend.generation,
    );
    if !tables.insert_sock(&key, &entry) {
        tables.count(Counter::SocketTable);
    }
    tables.count_connection(choice.id);
    Translation::To(addr, port, entry)
}

/// A socket has no source port yet when it connects, so its cookie makes the flow hash differ between sockets.
#[inline(always)]
const fn spread(cookie: u64) -> u64 {
    cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline(always)]
const fn way_back(call: &Call, addr: Addr, port: Port) -> SockKey {
    SockKey::new(call.cookie, addr, port, call.proto, sock_kind::REVNAT)
}

#[inline(always)]
fn remember_way_back<T: Tables>(tables: &T, call: &Call, sticky: &SockEntry) {
    let key = way_back(call, sticky.addr, sticky.port);
    let entry = SockEntry::new(
        key,
        call.dst,
        call.dport,
        sticky.service,
        sticky.identity,
        sticky.backend,
        sticky.backend_generation,
    );
    if !tables.insert_sock(&key, &entry) {
        tables.count(Counter::SocketTable);
    }
}

#[inline(always)]
fn holds<T: Tables>(tables: &T, entry: &SockEntry) -> bool {
    let Some(state) = tables.state(entry.service) else { return false };
    let Some(backend) = tables.backend(entry.backend) else { return false };
    state.identity as u32 == entry.identity
        && backend.generation == entry.backend_generation
        && backend.usable(state.word)
}
