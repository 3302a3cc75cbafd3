//! A packet in a vector, with the kernel's rules for transport checksums. Reads beyond its end are faults.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::{
    abi::{Addr, Tuple},
    datapath::{ANSWER_WORDS, Fault, Frame, HostPacket, L4Checksum, Packet, Route},
};

/// How far the transport checksum of a packet is computed: `ip_summed` of an skb.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sums {
    /// Whole (`CHECKSUM_NONE`, `CHECKSUM_UNNECESSARY`).
    Full,
    /// The pseudo-header's sum only; the device or a later hop adds the rest (`CHECKSUM_PARTIAL`).
    Partial,
}

/// A packet in memory.
#[derive(Clone, Debug)]
pub struct VecPacket {
    /// Its bytes, from the link-layer header on where there is one.
    pub bytes: Vec<u8>,
    /// State of its transport checksum.
    pub sums: Sums,
    /// Writes fail, as where an skb cannot be made writable.
    pub read_only: bool,
    /// Bytes of payload in each packet that it stands for; 0: just itself.
    pub gso_size: u32,
    /// Link-layer destination and source towards everybody; `None`: no neighbour is known.
    pub ends: Option<[u8; 12]>,
    /// One of our programs sent it here.
    pub redirected: bool,
    /// What sockets of the host send.
    pub sockets: Vec<Tuple>,
    route: fn(&Addr, u32) -> Route,
}

impl VecPacket {
    /// A packet with a whole checksum; `route` answers [`HostPacket::route`] by destination and incoming device.
    #[must_use]
    pub fn new(bytes: Vec<u8>, route: fn(&Addr, u32) -> Route) -> Self {
        Self {
            bytes,
            sums: Sums::Full,
            read_only: false,
            gso_size: 0,
            ends: None,
            redirected: false,
            sockets: Vec::new(),
            route,
        }
    }

    /// One that nothing is routed for.
    #[must_use]
    pub fn unrouted(bytes: Vec<u8>) -> Self {
        Self::new(bytes, |_, _| Route::default())
    }

    fn range(&self, offset: usize, len: usize) -> Result<core::ops::Range<usize>, Fault> {
        let end = offset.checked_add(len).ok_or(Fault)?;
        if end > self.bytes.len() { Err(Fault) } else { Ok(offset..end) }
    }
}

impl Packet for VecPacket {
    fn read<T: FromBytes + KnownLayout + Immutable + Copy>(&self, offset: usize) -> Result<T, Fault> {
        let range = self.range(offset, size_of::<T>())?;
        T::read_from_bytes(&self.bytes[range]).map_err(|_| Fault)
    }

    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Fault> {
        let range = self.range(offset, N)?;
        if self.read_only {
            return Err(Fault);
        }
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    /// As `bpf_l4_csum_replace` with a difference: refuses odd offsets, leaves a marked zero alone, and on a partial
    /// checksum counts pseudo-header changes only (`inet_proto_csum_replace_by_diff` in net/core/utils.c).
    fn update_l4_checksum(&mut self, change: L4Checksum) -> Result<(), Fault> {
        let range = self.range(change.offset, 2)?;
        if self.read_only || !change.offset.is_multiple_of(2) || change.offset > 0xffff {
            return Err(Fault);
        }
        let field = u16::from_ne_bytes([self.bytes[range.start], self.bytes[range.start + 1]]);
        if change.zero_is_none && field == 0 {
            return Ok(());
        }
        let mut new = match self.sums {
            Sums::Full => !fold(add(change.diff, !u32::from(field))),
            Sums::Partial if change.pseudo => fold(add(change.diff, u32::from(field))),
            Sums::Partial => field,
        };
        if change.zero_is_none && new == 0 {
            new = 0xffff;
        }
        self.bytes[range].copy_from_slice(&new.to_ne_bytes());
        Ok(())
    }

    fn note_change(&mut self, _diff: u32) {}

    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }
}

impl HostPacket for VecPacket {
    fn replace<const WORDS: usize>(
        &mut self,
        l2_len: usize,
        _l4: usize,
        words: &[u32; ANSWER_WORDS],
    ) -> Result<(), Fault> {
        self.range(0, l2_len)?;
        if self.read_only {
            return Err(Fault);
        }
        self.bytes.truncate(l2_len);
        self.bytes.extend(words[..WORDS].iter().flat_map(|word| word.to_ne_bytes()));
        self.sums = Sums::Full;
        self.gso_size = 0;
        Ok(())
    }

    fn insert<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Result<(), Fault> {
        self.range(at, 0)?;
        if self.read_only {
            return Err(Fault);
        }
        self.bytes.splice(at..at, bytes.iter().copied());
        Ok(())
    }

    fn is_redirected(&self) -> bool {
        self.redirected
    }

    fn has_socket(&self, tuple: &Tuple) -> bool {
        self.sockets.contains(tuple)
    }

    fn route(&self, src: &Addr, dst: &Addr, iif: u32) -> Route {
        // The kernel finds no way for what comes from an IPv6 group's address.
        if src.as_octets()[0] == 0xff { Route::default() } else { (self.route)(dst, iif) }
    }
}

impl Frame for VecPacket {
    fn neighbour(&self, _src: &Addr, dst: &Addr, ifindex: u32) -> Option<[u8; 12]> {
        ((self.route)(dst, ifindex).oif == ifindex).then_some(self.ends).flatten()
    }
}

/// 32-bit addition with end-around carry (`csum_add`).
const fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u32
}

/// 32 bits folded to 16 with end-around carry (`csum_fold` without its complement).
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_beyond_the_end_are_faults() {
        let packet = VecPacket::unrouted(vec![1, 2, 3, 4]);
        assert_eq!(packet.read::<[u8; 4]>(0), Ok([1, 2, 3, 4]));
        assert_eq!(packet.read::<[u8; 4]>(1), Err(Fault));
        assert_eq!(packet.read::<[u8; 1]>(usize::MAX), Err(Fault));
        assert_eq!(packet.read::<[u8; 0]>(4), Ok([]));
    }

    #[test]
    fn a_read_only_packet_stays() {
        let mut packet = VecPacket::unrouted(vec![0; 8]);
        packet.read_only = true;
        assert_eq!(packet.write(0, &[1]), Err(Fault));
        let change = L4Checksum { offset: 2, diff: 1, pseudo: true, zero_is_none: false, v6: false };
        assert_eq!(packet.update_l4_checksum(change), Err(Fault));
        assert_eq!(packet.bytes, [0; 8]);
    }
}
