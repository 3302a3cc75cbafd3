//! What the core needs of a packet, whether it lies in an skb, an XDP frame or a test's vector.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::abi::Addr;

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

/// A packet. Offsets are bytes from its first byte, which is the link-layer header where the device has one.
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

    /// The device by which the host would forward a packet, had it come in by `iif`; 0 where it would not forward it
    /// (local delivery, no route, forwarding off). Interface indexes.
    fn route(&self, src: &Addr, dst: &Addr, iif: u32) -> u32;
}
