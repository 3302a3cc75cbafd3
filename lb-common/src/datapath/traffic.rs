//! What is counted of a packet for its backend. It decides nothing.

use super::{packet::Packet, parse::Parsed, tables::Tables};
use crate::abi::{Flow, role};

/// Counts a packet of so many bytes that was translated by this flow.
#[inline(always)]
pub(super) fn count<T: Tables>(tables: &T, flow: &Flow, bytes: u32) {
    // The node's own connections are to no Service's backend.
    if flow.role & role::HOST == 0 {
        tables.count_packet(flow.backend, flow.backend_generation, flow.role & role::FORWARD != 0, bytes);
    }
}

/// Bytes from the IP header to the packet's end, where Ethernet may have padded a short frame.
#[inline(always)]
pub(super) fn ip_len<P: Packet>(packet: &P, parsed: &Parsed) -> u32 {
    packet.len().wrapping_sub(parsed.l3() as u32)
}
