//! Direct server return: a packet from outside whose backend is on another node goes on to that node as it came, but for
//! one hop. That node translates it, so the backend sees the client's own address, and its reply goes straight out.
//!
//! Which backend it is to be, the packet says that opens the connection: TCP's SYN, and each datagram, as nothing tells the
//! first node whether an earlier one arrived. It says so in an option of its IP header, which hosts and routers that do
//! not know it skip. The other node believes nothing of it: what it names must be a backend of the frontend that the
//! packet is to, by the node's own tables, and the client must be let in there. Otherwise the node chooses by itself.

use super::{
    checksum,
    link::Link,
    packet::{Fault, HostPacket, Packet, Route},
    parse::Parsed,
    rewrite::rewrite_addresses,
    scratch::Scratch,
    tables::Tables,
};
use crate::abi::{Addr, Flow, Port, ServiceState, Tuple, addr_flag, forwarding, frontend, mark, proto, role};

/// The backend that a packet's option names.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Handed {
    addr: Addr,
    /// Not 0: there was an option.
    there: u32,
    port: Port,
    reserved: [u8; 2],
}

impl Handed {
    #[inline(always)]
    pub(super) const fn is_there(&self) -> bool {
        self.there != 0
    }

    /// Forgets it where nobody hands anything over.
    #[inline(always)]
    pub(super) const fn only_if(&mut self, outside: bool) {
        if !outside {
            self.there = 0;
        }
    }
}

/// IPv4: copied into fragments, for control, number 30 (RFC 791 3.1; for experiments, RFC 4727).
const OPTION_V4: u8 = 0x9e;
/// IPv6: skipped by who does not know it, unchanged on the way (RFC 8200 4.2; for experiments, RFC 4727).
const OPTION_V6: u8 = 0x1e;
/// Bytes of the whole option of IPv4; of the whole header with that of IPv6.
const LEN_V4: usize = 8;
const LEN_V6: usize = 24;
/// Of IPv6, behind its type and length: address, port, two bytes of nothing.
const DATA_V6: u8 = 20;
/// Destination options (RFC 8200 4.6).
const DESTINATION: u8 = 60;
/// 32-bit words of the longest IPv4 header that has room left.
const MOST_WORDS_V4: u8 = 15 - 2;

/// Slots among which the backend is looked for: the verifier walks through each. Beyond that a node chooses by itself.
const SLOTS: u32 = 128;

/// Whether a packet from outside may be sent on as it is: this node is told to, and the option finds room.
#[inline(never)]
pub(super) fn may_hand_over<T: Tables>(tables: &T, s: &Scratch) -> bool {
    let Scratch { parsed, handed, .. } = s;
    let header = parsed.l4().wrapping_sub(parsed.l3());
    let room = if parsed.is_v4() { header <= 4 * MOST_WORDS_V4 as usize } else { header == 40 };
    // Whoever was handed the packet does not hand it on: two nodes that disagree would do so for ever. A client in the
    // cluster may be the backend's own node or the backend itself, which take no packet with their own source.
    tables.forwarding() == forwarding::DSR
        && room
        && !handed.is_there()
        && parsed.tuple.proto != proto::SCTP
        && !takes(tables, &parsed.tuple.src)
}

/// Whether this is an address of another node's, or of its pods: there is an agent that takes what is handed over to it.
#[inline(never)]
pub(super) fn takes<T: Tables>(tables: &T, addr: &Addr) -> bool {
    tables.in_pod_nets(addr) || tables.addr(addr) & addr_flag::PEER != 0
}

/// Bytes that are added to each packet of a flow that is handed over, by the protocol's longest ones.
#[inline(always)]
pub(super) const fn added(to: &Tuple) -> u16 {
    if to.proto == proto::TCP {
        // Its SYN is short.
        0
    } else if to.dst.is_v4() {
        LEN_V4 as u16
    } else {
        LEN_V6 as u16
    }
}

/// Sends the packet of the flow in `found` on to its backend's node: one hop less to live, and the option where it opens.
/// False if it could not be written.
#[inline(never)]
pub(super) fn hand_over<P: HostPacket>(packet: &mut P, s: &Scratch) -> bool {
    let Scratch { parsed, found, .. } = s;
    if rewrite_addresses(packet, parsed, &parsed.tuple, true).is_err() {
        return false;
    }
    if parsed.is_later_fragment() || !parsed.begins() {
        return true;
    }
    let to = &found.flow.to;
    if parsed.is_v4() { name_v4(packet, parsed, to) } else { name_v6(packet, parsed, to) }.is_ok()
}

#[inline(never)]
fn name_v4<P: HostPacket>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Result<(), Fault> {
    let l3 = parsed.l3();
    let old: u32 = packet.read(l3)?;
    let sum: [u8; 2] = packet.read(l3 + 10)?;
    let [version_ihl, tos, a, b] = old.to_ne_bytes();
    if version_ihl & 0x0f > MOST_WORDS_V4 {
        return Err(Fault);
    }
    let [a, b] = u16::from_be_bytes([a, b]).wrapping_add(LEN_V4 as u16).to_be_bytes();
    let new = u32::from_ne_bytes([version_ihl + 2, tos, a, b]);
    let [p, q] = to.dport.octets();
    let option = [u32::from_ne_bytes([OPTION_V4, LEN_V4 as u8, p, q]), to.as_words()[7]];
    let sum = checksum::apply(sum, checksum::diff([old, 0, 0], [new, option[0], option[1]]));
    packet.write(l3, &new.to_ne_bytes())?;
    packet.write(l3 + 10, &sum)?;
    let option: [u8; LEN_V4] = zerocopy::transmute!(option);
    packet.insert(l3 + 20, &option)
}

#[inline(never)]
fn name_v6<P: HostPacket>(packet: &mut P, parsed: &Parsed, to: &Tuple) -> Result<(), Fault> {
    let l3 = parsed.l3();
    let old: u32 = packet.read(l3 + 4)?;
    let [a, b, next, hops] = old.to_ne_bytes();
    let [a, b] = u16::from_be_bytes([a, b]).wrapping_add(LEN_V6 as u16).to_be_bytes();
    let new = u32::from_ne_bytes([a, b, DESTINATION, hops]);
    let [_, _, _, _, d0, d1, d2, d3, ..] = *to.as_words();
    let [p, q] = to.dport.octets();
    let head = u32::from_ne_bytes([next, (LEN_V6 / 8 - 1) as u8, OPTION_V6, DATA_V6]);
    let header = [head, d0, d1, d2, d3, u32::from_ne_bytes([p, q, 0, 0])];
    let [h0, h1, h2, h3, h4, h5] = header;
    packet.note_change(checksum::diff([old, 0, 0, 0, 0, 0, 0], [new, h0, h1, h2, h3, h4, h5]));
    packet.write(l3 + 4, &new.to_ne_bytes())?;
    let header: [u8; LEN_V6] = zerocopy::transmute!(header);
    packet.insert(l3 + 40, &header)
}

/// Whether a packet from outside that a frontend claims is for this node: one to a node port of another node is only if that
/// node has handed it over. Otherwise it is underway to there. In mid-stream it may have lost its flow here, if ever there
/// was one: passed on, it would come back.
#[inline(never)]
pub(super) fn is_for_here<P: Packet, T: Tables>(packet: &P, tables: &T, s: &mut Scratch) -> bool {
    let begins = s.parsed.begins();
    let handed = read_option(packet, s) && begins && s.parsed.tuple.proto != proto::SCTP;
    s.handed.there = handed.into();
    let elsewhere = s.flags & addr_flag::NODE == 0 && s.claim.bits() & frontend::TYPE_MASK == frontend::NODE_PORT;
    handed || !elsewhere || (!begins && tables.marks() & mark::TAKEN_OVER != 0)
}

/// Whether a later fragment to another node's address, whose first one was not taken over here, is one that this other node
/// has handed over: passed on, it would go back there by the device that it came by, and come again until its hops end.
#[inline(never)]
pub(super) fn would_return<P: HostPacket, T: Tables>(packet: &P, tables: &T, link: Link, s: &Scratch) -> bool {
    let Tuple { src, dst, .. } = &s.parsed.tuple;
    tables.marks() & mark::TAKEN_OVER != 0 && packet.route(src, dst, link.ifindex).oif == link.ifindex
}

/// Reads the option of a packet that came in from outside, if it is the first of its header, into `handed`.
#[inline(always)]
fn read_option<P: Packet>(packet: &P, s: &mut Scratch) -> bool {
    let Scratch { parsed, handed, .. } = s;
    handed.there = 0;
    let (l3, header) = (parsed.l3(), parsed.l4().wrapping_sub(parsed.l3()));
    let port = if parsed.is_v4() {
        if header < 20 + LEN_V4 {
            return false;
        }
        let Ok([head, addr]) = packet.read::<[u32; 2]>(l3 + 20) else { return false };
        let [kind, len, p, q] = head.to_ne_bytes();
        if kind != OPTION_V4 || len != LEN_V4 as u8 {
            return false;
        }
        handed.addr = Addr::v4(addr.to_ne_bytes());
        [p, q]
    } else {
        if header < 40 + LEN_V6 {
            return false;
        }
        let Ok([next, _]) = packet.read::<[u8; 2]>(l3 + 6) else { return false };
        let Ok([head, a, b, c, d, tail]) = packet.read::<[u32; 6]>(l3 + 40) else { return false };
        let [_, _, kind, len] = head.to_ne_bytes();
        if next != DESTINATION || kind != OPTION_V6 || len != DATA_V6 {
            return false;
        }
        handed.addr = Addr::from_words([a, b, c, d]);
        let [p, q, ..] = tail.to_ne_bytes();
        [p, q]
    };
    handed.port = Port::from_octets(port);
    handed.there = 1;
    true
}

/// Fills in the backend that was named, if it is one of the service's. Whether it is.
#[inline(never)]
pub(super) fn take<T: Tables>(tables: &T, state: &ServiceState, handed: &Handed, flow: &mut Flow) -> bool {
    let (offset, count) = (state.word.offset(), u32::from(state.word.count()));
    let mut i = 0;
    while i < SLOTS {
        if i >= count {
            return false;
        }
        if is_named(tables, offset.wrapping_add(i), handed, flow) {
            return true;
        }
        i += 1;
    }
    false
}

/// Whether the backend in this slot is the named one; it is filled in then.
#[inline(never)]
fn is_named<T: Tables>(tables: &T, slot: u32, handed: &Handed, flow: &mut Flow) -> bool {
    let Some(id) = tables.slot(slot) else { return false };
    let Some(backend) = tables.backend(id) else { return false };
    if backend.generation == 0 || backend.addr != handed.addr || backend.port != handed.port {
        return false;
    }
    flow.backend = id;
    flow.backend_generation = backend.generation;
    flow.to.dst = backend.addr;
    flow.to.dport = backend.port;
    true
}

/// The reply of a flow that was handed over does not go back by where its packets come from, but as the node's routes say.
#[inline(never)]
pub(super) fn turn_back<P: HostPacket, T: Tables>(packet: &P, tables: &T, link: u32, s: &mut Scratch) -> bool {
    let Scratch { parsed, found, .. } = s;
    let flow = &mut found.flow;
    if flow.role & role::ROUTED == 0 || flow.to.src != parsed.tuple.src {
        return false;
    }
    let Route { oif, .. } = packet.route(&parsed.tuple.dst, &parsed.tuple.src, link);
    if oif == 0 {
        return false;
    }
    flow.mate_oif = oif;
    flow.mate_mtu = super::uplink::dev_mtu(tables, oif);
    true
}
