//! What the core needs of a packet, whether it lies in an skb, an XDP frame or a test's vector.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::abi::{Addr, Tuple};

/// The packet could not be read or written there. Reads beyond its end are faults, never panics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault;

/// One change of a transport checksum.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct L4Checksum {
    /// Offset of the 16-bit checksum field in the packet, in bytes.
    pub offset: usize,
    /// What to add, from [`super::checksum::diff`].
    pub diff: u32,
    /// The change is in the pseudo-header (addresses). A locally made packet whose checksum is still partial carries
    /// just the pseudo-header's sum, so there only these changes count.
    pub pseudo: bool,
    /// UDP: a field of zero means "no checksum" and stays; a result of zero is written as 0xffff (RFC 768).
    pub zero_is_none: bool,
    /// An IPv6 packet: no header checksum balances the addresses in a checksum over the whole packet.
    pub v6: bool,
}

/// Room for the longest answer: an ICMPv6 error over 112 bytes of what it is about.
pub const ANSWER_WORDS: usize = (40 + 8 + 112) / 4;

/// What the host's routes say of a destination.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Route {
    /// Outgoing device, an interface index; 0 where the host would not forward (local delivery, no route, forwarding
    /// off).
    pub oif: u32,
    /// Largest packet in bytes, without link-layer header; 0: not known (before Linux 5.12).
    pub mtu: u32,
    /// Whether the destination is a neighbour there: its own next hop.
    pub on_link: bool,
}

/// A packet. Offsets are bytes from its first byte, which is the link-layer header where the device has one.
#[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
pub trait Packet {
    /// Copies a header out.
    ///
    /// # Errors
    /// [`Fault`] if it does not lie wholly inside the packet.
    fn read<T: FromBytes + KnownLayout + Immutable + Copy>(&self, offset: usize) -> Result<T, Fault>;

    /// Overwrites bytes. Does not keep any checksum.
    ///
    /// # Errors
    /// [`Fault`] if they do not lie wholly inside the packet, or it cannot be made writable.
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Fault>;

    /// Applies a change to a transport checksum.
    ///
    /// # Errors
    /// [`Fault`] as for [`Self::write`].
    fn update_l4_checksum(&mut self, change: L4Checksum) -> Result<(), Fault>;

    /// Takes note of a change of bytes that no checksum in this packet makes up for: of an IPv6 fragment's addresses, whose
    /// transport checksum lies in another fragment. `diff` from [`super::checksum::diff`].
    fn note_change(&mut self, diff: u32);

    /// Length in bytes from the link-layer header on.
    fn len(&self) -> u32;

    /// Bytes of payload in each packet that this one stands for; 0 if it stands for itself only.
    fn gso_size(&self) -> u32;
}

/// A packet that the host's stack has, or is about to get.
pub trait HostPacket: Packet {
    /// Makes it a packet of the first `WORDS` of these words (in memory order) behind the link-layer header of `l2_len`
    /// bytes, with whole checksums whatever it was before. `l4` is the offset of its transport header now.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be made so; it may then be half changed and must be dropped.
    fn replace<const WORDS: usize>(
        &mut self,
        l2_len: usize,
        l4: usize,
        words: &[u32; ANSWER_WORDS],
    ) -> Result<(), Fault>;

    /// Puts these bytes at `at`, right behind the fixed part of the IP header, which moves to make room for them. Keeps no
    /// length and no checksum.
    ///
    /// # Errors
    /// [`Fault`] if there is no room; the packet must be dropped.
    fn insert<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Result<(), Fault>;

    /// Whether one of our programs sent it here, past the stack: it is as it is to be.
    fn is_redirected(&self) -> bool;

    /// Whether a socket of the host sends such packets, or would be given the answer to one.
    fn has_socket(&self, tuple: &Tuple) -> bool;

    /// The way by which the host would forward a packet, had it come in by `iif`, an interface index.
    fn route(&self, src: &Addr, dst: &Addr, iif: u32) -> Route;
}

/// A packet that the stack has not seen: a frame as the device received it.
pub trait Frame: Packet {
    /// Link-layer destination and source for a packet to `dst` that leaves by the device `ifindex`; `None` where the host
    /// would not send it there, or the neighbour is not known yet.
    fn neighbour(&self, src: &Addr, dst: &Addr, ifindex: u32) -> Option<[u8; 12]>;
}
