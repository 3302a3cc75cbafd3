//! Maglev's look-up table: which backend each of M slots leads to, so that a flow's hash finds the same backend on every
//! node, and few flows move when backends come and go.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4: each backend
//! has a permutation of the slots, and the backends take turns at claiming the next free one of theirs. Weights alter
//! how often a backend gets a turn, as the paper proposes; here by adding its weight to a credit in each round, and a
//! turn costs the largest weight, as in Katran's `MaglevHashV2`.
//!
//! Pure: equal backends give equal tables, in whatever order they come, on every node and in every run. A permutation
//! depends on nothing but the backend's address and port.

use lb_common::abi::{Addr, Port};

/// Sizes to choose from: each is the largest prime below a power of two. The paper advises a hundred times as many slots
/// as backends.
pub const MAGLEV_SIZES: [u16; 9] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521];

/// Slots of a table: a prime, so that every step length walks through all of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MaglevSize(u16);

impl MaglevSize {
    /// Enough for 20 backends at a hundred slots each. A table takes 16,312 bytes of the map, and the map has by default room
    /// for those of a Service of both families, with one of them beside its successor.
    pub const DEFAULT: Self = Self(2039);

    /// A size; `None` if it is not a prime of at least 3.
    #[must_use]
    pub fn new(size: u16) -> Option<Self> {
        let n = u32::from(size);
        let is_prime = n >= 3 && (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        is_prime.then_some(Self(size))
    }

    /// The number of slots.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for MaglevSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A backend as the table sees it.
#[derive(Clone, Copy, Debug)]
pub struct MaglevBackend {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// Its share relative to the others; 0: none.
    pub weight: u16,
}

/// Marks a slot that nobody has claimed yet. No position is that large: there are never more backends than slots.
const FREE: u16 = u16::MAX;

/// A backend while the table is being filled.
struct Player {
    position: u16,
    /// The slot that it asks for next.
    next: u32,
    /// Step of its permutation.
    skip: u32,
    weight: u32,
    credit: u32,
}

/// The table: for each slot the position in `backends` of the one that it leads to. Every backend with a weight has at
/// least one slot. Empty without such backends; `None` if there are more of them than slots.
#[must_use]
pub fn maglev_table(size: MaglevSize, backends: &[MaglevBackend]) -> Option<Vec<u16>> {
    let slots = u32::from(size.get());
    let dearest = backends.iter().map(|backend| u32::from(backend.weight)).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..backends.len()).filter(|at| backends[*at].weight > 0).collect();
    if order.is_empty() {
        return Some(Vec::new());
    }
    if order.len() > usize::from(size.get()) {
        return None;
    }
    // Who comes first in a round must not depend on who was known first.
    order.sort_by_key(|at| (backends[*at].addr.octets(), backends[*at].port.get()));
    let mut players = Vec::with_capacity(order.len());
    for at in order {
        let MaglevBackend { addr, port, weight } = backends[at];
        let (offset, skip) = permutation(addr, port, slots);
        let weight = u32::from(weight);
        // All have a turn in the first round, so that the lightest are not left without a slot.
        players.push(Player {
            position: u16::try_from(at).ok().filter(|at| *at != FREE)?,
            next: offset,
            skip,
            weight,
            credit: dearest - weight,
        });
    }
    let mut table = vec![FREE; usize::from(size.get())];
    let mut free = table.len();
    loop {
        for player in &mut players {
            player.credit += player.weight;
            if player.credit < dearest {
                continue;
            }
            player.credit -= dearest;
            while table[player.next as usize] != FREE {
                player.step(slots);
            }
            table[player.next as usize] = player.position;
            free -= 1;
            if free == 0 {
                return Some(table);
            }
        }
    }
}

impl Player {
    const fn step(&mut self, slots: u32) {
        self.next += self.skip;
        if self.next >= slots {
            self.next -= slots;
        }
    }
}

/// First slot and step of a backend's permutation, from two independent hashes.
///
/// These numbers must be equal on all nodes of a cluster, so they never change: nodes of two versions would send the
/// packets of one flow to two backends.
fn permutation(addr: Addr, port: Port, slots: u32) -> (u32, u32) {
    let addr = u128::from_be_bytes(addr.octets());
    let seed = mix(mix((addr >> 64) as u64) ^ addr as u64) ^ u64::from(port.get());
    let slots = u64::from(slots);
    let offset = mix(seed ^ 0x6f66_6673_6574_0000) % slots;
    let skip = mix(seed ^ 0x736b_6970_0000_0000) % (slots - 1) + 1;
    (offset as u32, skip as u32)
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood, 2014) behind its increment.
const fn mix(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
