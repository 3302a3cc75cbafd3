//! Headers as they lie in a packet, as far as they are read.

use zerocopy::{FromBytes, Immutable, KnownLayout};

// Addresses and ports of all headers are words in memory order: see `Tuple::as_words`.

/// Fixed part of an IPv4 header (RFC 791 3.1).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub(super) struct Ipv4 {
    pub(super) version_ihl: u8,
    pub(super) tos: u8,
    pub(super) total_len: [u8; 2],
    pub(super) id: [u8; 2],
    pub(super) fragment: [u8; 2],
    pub(super) ttl: u8,
    pub(super) proto: u8,
    pub(super) checksum: [u8; 2],
    pub(super) src: u32,
    pub(super) dst: u32,
}

/// Fixed IPv6 header (RFC 8200 3).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub(super) struct Ipv6 {
    pub(super) version_class_flow: [u8; 4],
    pub(super) payload_len: [u8; 2],
    pub(super) next: u8,
    pub(super) hop_limit: u8,
    pub(super) src: [u32; 4],
    pub(super) dst: [u32; 4],
}

/// First bytes of an extension header (RFC 8200 4.3).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub(super) struct Extension {
    pub(super) next: u8,
    pub(super) len: u8,
    pub(super) rest: [u8; 2],
}

/// A fragment header (RFC 8200 4.5).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub(super) struct FragmentHeader {
    pub(super) next: u8,
    pub(super) reserved: u8,
    pub(super) offset_more: [u8; 2],
    pub(super) id: u32,
}

/// A TCP header up to its flags (RFC 9293 3.1).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub(super) struct Tcp {
    pub(super) ports: u32,
    pub(super) seq_ack: [u8; 8],
    pub(super) data_offset: u8,
    pub(super) flags: u8,
    pub(super) window_checksum_urgent: [u8; 6],
}

/// A UDP header (RFC 768).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub(super) struct Udp {
    pub(super) ports: u32,
    pub(super) len_checksum: [u8; 4],
}

/// An SCTP common header (RFC 9260 3.1).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub(super) struct Sctp {
    pub(super) ports: u32,
    pub(super) tag_checksum: [u8; 8],
}
