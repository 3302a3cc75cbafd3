//! The filter in front of the flow tables: which keys cannot be in them.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Tuple, tuple_hash};

/// Places of a filter, as a power of two.
const BITS: u32 = 15;

/// Places of a filter, of one byte each.
pub const FILTER_LEN: usize = 1 << BITS;

/// Values of [`FlowFilter::reading`]: bit 0 says that a filter is asked, bit 1 which. So programs need no branch for it, and the
/// verifier no second way through what follows.
pub mod reading {
    /// No filter is asked: every key is looked up. What a new map holds, as the flows may be older than it.
    pub const NONE: u32 = 0;
    /// The first one.
    pub const FIRST: u32 = 1;
    /// The second one.
    pub const SECOND: u32 = 3;
}

/// Value of `flow_filter`: two filters, each with a byte for every place that is not 0 if a key of `flows` or `embryos` may
/// have this place.
///
/// Programs set bytes, always in both filters and before they insert; they clear none. One filter is asked, and the agent makes
/// the other one anew meanwhile. So whatever the map is left as, the filter that is asked lacks no flow.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C, align(8))]
pub struct FlowFilter {
    /// Which filter is asked, one of [`reading`].
    pub reading: u32,
    reserved: [u8; 4],
    /// The two filters.
    pub places: [[u8; FILTER_LEN]; 2],
}

impl FlowFilter {
    /// Byte of the map's value for a place of the filter `reading`. Within the value for any words, as the verifier wants to
    /// see, also for [`reading::NONE`].
    #[inline(always)]
    #[must_use]
    pub const fn byte(reading: u32, place: u32) -> usize {
        let filter = (reading & 2) << (BITS - 1);
        offset_of!(Self, places) + (filter + (place & (FILTER_LEN as u32 - 1))) as usize
    }

    /// Whether a key is to be looked up, by its place's byte of the filter `reading`.
    #[inline(always)]
    #[must_use]
    pub const fn lets_pass(reading: u32, byte: u8) -> bool {
        byte as u32 | (!reading & 1) != 0
    }

    /// One of [`Self::places`], of a filter that can be asked.
    #[must_use]
    pub const fn places_mut(&mut self, filter: u32) -> &mut [u8; FILTER_LEN] {
        let [first, second] = &mut self.places;
        if filter == reading::FIRST { first } else { second }
    }

    /// The filter that is not asked, as a value of [`reading`].
    #[inline(always)]
    #[must_use]
    pub const fn spare(reading: u32) -> u32 {
        if reading == reading::FIRST { reading::SECOND } else { reading::FIRST }
    }
}

/// Place of a flow's key in a filter.
#[inline(always)]
#[must_use]
pub const fn filter_place(key: &Tuple) -> u32 {
    place_of(tuple_hash(key))
}

/// The same by the key's hash.
#[inline(always)]
pub(crate) const fn place_of(hash: u64) -> u32 {
    (hash.wrapping_mul(0xd6e8_feb8_6659_fd93) >> (64 - BITS)) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::abi::{Addr, Port, proto};

    #[test]
    fn every_place_has_a_byte_of_its_own() {
        let mut seen = BTreeSet::new();
        for reading in [reading::FIRST, reading::SECOND] {
            for place in 0..FILTER_LEN as u32 {
                let byte = FlowFilter::byte(reading, place);
                assert!(byte < size_of::<FlowFilter>() && seen.insert(byte), "{reading}, {place}");
            }
        }
        assert_eq!(*seen.first().unwrap(), offset_of!(FlowFilter, places));
        assert_eq!(*seen.last().unwrap(), size_of::<FlowFilter>() - 1);
        assert!(FlowFilter::byte(u32::MAX, u32::MAX) < size_of::<FlowFilter>());
        for asked in [reading::NONE, reading::FIRST, reading::SECOND] {
            let spare = FlowFilter::spare(asked);
            assert!(spare != asked && spare != reading::NONE, "{asked}");
            assert!(FlowFilter::lets_pass(asked, 1));
            assert_eq!(FlowFilter::lets_pass(asked, 0), asked == reading::NONE, "{asked}");
        }
    }

    /// Keys that differ in little are spread like random ones: of n places that m keys fall on at random, about
    /// n(1 - e^(-m/n)) are hit.
    #[test]
    fn keys_are_spread() {
        let v4 = |last: u32| Addr::v4([10, 244, (last >> 8) as u8, last as u8]);
        let v6 = |last: u32| {
            let [.., a, b] = last.to_be_bytes();
            Addr::v6([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b])
        };
        let port = |n: u32| Port::new(n as u16);
        let ports: Vec<Tuple> =
            (0..8192).map(|n| Tuple::new(v4(1), port(n), v4(2), Port::new(80), proto::TCP)).collect();
        let clients =
            (0..8192).map(|n| Tuple::new(v4(n), Port::new(53), v4(40_000), Port::new(53), proto::UDP)).collect();
        let clients6 = (0..8192).map(|n| Tuple::new(v6(n), port(n), v6(40_000), Port::new(53), proto::UDP)).collect();
        let replies = ports.iter().map(Tuple::reversed).collect();
        let mixed = (0..8192)
            .map(|n| Tuple::new(v4(n % 50), port(32_768 + n / 50), v4(n % 7), Port::new(443), proto::TCP))
            .collect();
        let random = FILTER_LEN as f64 * (1.0 - (-8192.0 / FILTER_LEN as f64).exp());
        for keys in [ports, clients, clients6, replies, mixed] {
            let hit = keys.iter().map(filter_place).collect::<BTreeSet<u32>>().len() as f64;
            assert!(hit > 0.9 * random, "{hit} places, at random {random}: {:?}", keys[0]);
        }
    }
}
