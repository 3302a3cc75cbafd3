//! Elements that are recycled under their readers: what a look-up in a preallocated kernel hash may return.

use core::hash::Hash;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{bytes::mixture, lru::LruMap};
use crate::abi::{AffinityEntry, AffinityKey, Flow, ServiceKey, ServiceRef, SockEntry, SockKey, Tuple};

/// A wrong answer for some look-ups: another key's value in whole, or a mixture of two. The kernel gives these for a
/// moment only, so the second look-up of the same packet is right unless `twice` is set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recycling {
    /// One look-up in this many meets a recycled element.
    pub one_in: u32,
    /// A look-up right after a wrong answer may be wrong as well.
    pub twice: bool,
    /// The wrong answer comes sealed for the key that was asked for, as if the core did not check: a test of its checks
    /// that finds nothing then finds nothing at all.
    pub sealed: bool,
    /// Seed of the choice.
    pub seed: u64,
}

/// splitmix64: small, seeded, and the same everywhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// The state of [`Recycling`] in a set of tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recycler {
    rule: Recycling,
    pub(super) random: Random,
    just_lied: bool,
    /// Wrong answers so far.
    pub(super) lies: u64,
}

impl Recycler {
    pub(super) fn new(rule: Recycling) -> Self {
        Self { rule, random: Random(rule.seed), just_lied: false, lies: 0 }
    }

    /// Whether wrong answers come sealed.
    const fn seals(&self) -> bool {
        self.rule.sealed
    }

    /// Whether this look-up meets a recycled element.
    fn strikes(&mut self) -> bool {
        if self.just_lied && !self.rule.twice {
            self.just_lied = false;
            return false;
        }
        self.just_lied = self.random.below(self.rule.one_in as usize) == 0;
        self.lies += u64::from(self.just_lied);
        self.just_lied
    }
}

/// A value that knows the key that it belongs to.
pub(super) trait Sealed<K>: Sized {
    fn sealed(self, key: &K) -> Self;

    /// With the parts that the check leaves out taken from `right`: of them the core believes any value.
    fn with_unchecked_of(self, _right: &Self) -> Self {
        self
    }
}

impl Sealed<ServiceKey> for ServiceRef {
    fn sealed(self, key: &ServiceKey) -> Self {
        Self::new(*key, self.index(), self.bits())
    }
}

impl Sealed<Tuple> for Flow {
    fn sealed(mut self, key: &Tuple) -> Self {
        self.reseal(key);
        self
    }

    fn with_unchecked_of(mut self, right: &Self) -> Self {
        (self.state, self.seen) = (right.state, right.seen);
        self
    }
}

impl Sealed<SockKey> for SockEntry {
    fn sealed(self, key: &SockKey) -> Self {
        let Self { addr, port, service, identity, backend, backend_generation, .. } = self;
        Self::new(key, addr, port, service, identity, backend, backend_generation)
    }
}

impl Sealed<AffinityKey> for AffinityEntry {
    fn sealed(self, key: &AffinityKey) -> Self {
        Self::new(key, self.backend, self.backend_generation, self.seen)
    }

    fn with_unchecked_of(mut self, right: &Self) -> Self {
        self.seen = right.seen;
        self
    }
}

/// The value, or now and then what a reader may meet in its place: some other key's, or, for values of several words, a
/// mixture.
pub(super) fn read<K, V>(recycler: &mut Option<Recycler>, map: &mut LruMap<K, V>, key: &K) -> Option<V>
where
    K: Copy + Eq + Hash,
    V: Copy + Sealed<K> + FromBytes + IntoBytes + Immutable,
{
    let right = map.get(key);
    let Some(recycler) = recycler else { return right };
    let all = map.entries();
    if all.is_empty() || !recycler.strikes() {
        return right;
    }
    let (_, other) = all[recycler.random.below(all.len())];
    let wrong = match right {
        // One word is one load, and never a mixture.
        Some(right) if size_of::<V>() > 8 && recycler.random.below(2) == 0 => {
            mixture(&right, &other, || recycler.random.below(2) == 0).with_unchecked_of(&right)
        }
        Some(_) | None => other,
    };
    Some(if recycler.seals() { wrong.sealed(key) } else { wrong })
}
