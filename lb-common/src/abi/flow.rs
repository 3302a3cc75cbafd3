//! Flows: one entry for each direction of a translated connection.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Tuple;

/// Bits of [`Flow::role`].
pub mod role {
    /// From the client to the service; without it, the entry is for replies.
    pub const FORWARD: u8 = 1;
    /// The client is its own backend: both directions go back out of the link they came from.
    pub const HAIRPIN: u8 = 1 << 1;
    /// Redirected from one network to another: we do a router's work (hop limit, path MTU) in both directions.
    pub const ROUTED: u8 = 1 << 2;
    /// A connection of the node itself to a backend, whose source port a translated flow had taken: it got another one.
    pub const HOST: u8 = 1 << 3;
    /// Opened by a packet from outside; nobody else's packets go on in it.
    pub const OUTSIDE: u8 = 1 << 4;
    /// With [`FORWARD`]: packets go on unchanged to the backend's node, which translates them.
    pub const DSR: u8 = 1 << 5;
    /// Redirected between neighbours: both directions' destinations are their own next hops, so nobody asks the routes with
    /// each packet.
    pub const ON_LINK: u8 = 1 << 6;
}

/// Values of [`Flow::state`], in order.
pub mod flow_state {
    /// No reply seen.
    pub const NEW: u8 = 0;
    /// A reply was seen.
    pub const REPLIED: u8 = 1;
    /// The client has sent on after the reply, or (not TCP) replies came on for a while. Entries stand in `flows` from then
    /// on.
    pub const ESTABLISHED: u8 = 2;
    /// TCP: a FIN or RST was seen.
    pub const CLOSING: u8 = 3;
}

/// Value of `flows` and `embryos`. Everything up to [`Flow::check`] never changes while the entry lives; `state` and
/// `seen` do.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C, align(8))]
pub struct Flow {
    /// What the packet becomes.
    pub to: Tuple,
    /// Service index the flow was made by.
    pub service: u32,
    /// Low half of that service's identity then.
    pub identity: u32,
    /// Backend id.
    pub backend: u32,
    /// That backend's generation then.
    pub backend_generation: u32,
    /// Device that this direction is redirected out of; 0: both directions take the host's stack.
    pub oif: u32,
    /// [`Self::oif`] of the other direction.
    pub mate_oif: u32,
    /// Largest packet in bytes, without link-layer header, that this direction's way takes; 0: whoever is behind the
    /// device looks after that.
    pub mtu: u16,
    /// [`Self::mtu`] of the other direction.
    pub mate_mtu: u16,
    /// [`role`] bits.
    pub role: u8,
    /// One of [`flow_state`].
    pub state: u8,
    reserved: [u8; 2],
    /// Time of the last packet, in [`TICK_SHIFT`] ticks, at tick resolution.
    pub seen: u32,
    /// Over the key and all immutable fields: LRU elements are recycled under their readers, and a value that was
    /// half overwritten, or belongs to another key by now, shows here. Only `state` and `seen` may then still be
    /// another's, for one packet: at worst its flow is taken for closed.
    pub check: u32,
}

/// A tick is 2^30 ns, about 1.07 s: the clock is shifted, never divided.
pub const TICK_SHIFT: u32 = 30;

/// Seconds as ticks, rounded up.
#[must_use]
pub const fn ticks(seconds: u32) -> u32 {
    ((seconds as u64 * 1_000_000_000).div_ceil(1 << TICK_SHIFT)) as u32
}

impl Flow {
    /// Takes the way of the other direction for its own, and its own for that one's.
    #[inline(always)]
    pub const fn swap_ways(&mut self) {
        core::mem::swap(&mut self.oif, &mut self.mate_oif);
        core::mem::swap(&mut self.mtu, &mut self.mate_mtu);
    }

    /// Sets the check word after a change of immutable fields.
    #[inline(always)]
    pub const fn reseal(&mut self, key: &Tuple) {
        self.check = self.seal(key);
    }

    /// Whether the value is whole and belongs to `key`.
    #[inline(always)]
    #[must_use]
    pub const fn is_for(&self, key: &Tuple) -> bool {
        self.check == self.seal(key)
    }

    /// As [`Self::is_for`], for the one place that each packet passes, by the key's hash.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn is_for_hashed(&self, hash: u64) -> bool {
        self.check == self.seal_hashed(hash)
    }

    /// Not inlined: its temporaries would crowd the callers' BPF stacks.
    #[inline(never)]
    const fn seal(&self, key: &Tuple) -> u32 {
        self.seal_hashed(tuple_hash(key))
    }

    /// Multilinear hash of the key and the immutable fields (pairs of words multiplied, so the products are
    /// independent of each other and cheap).
    #[inline(always)]
    const fn seal_hashed(&self, a: u64) -> u32 {
        let b = tuple_hash(&self.to);
        let c = mul(self.service, 0x9e37_79b9, self.identity, 0x85eb_ca6b);
        let d = mul(self.backend, 0xc2b2_ae35, self.backend_generation, 0x27d4_eb2f);
        let e = mul(self.oif, 0x1656_67b1, self.role as u32, 0x94d0_49bb);
        let f = mul(self.mate_oif, 0x6c62_272e, self.mtu as u32 | (self.mate_mtu as u32) << 16, 0x07bb_0142);
        let sum = a
            .wrapping_add(b.rotate_left(29))
            .wrapping_add(c)
            .wrapping_add(d.rotate_left(13))
            .wrapping_add(e)
            .wrapping_add(f.rotate_left(23));
        (sum.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
    }
}

#[inline(always)]
const fn mul(a: u32, ka: u64, b: u32, kb: u64) -> u64 {
    (a as u64).wrapping_add(ka).wrapping_mul((b as u64).wrapping_add(kb))
}

/// 64 bits over a tuple: for the seal of flows and, mixed, their place in a filter and the flow hash of Maglev.
#[inline(always)]
pub(crate) const fn tuple_hash(t: &Tuple) -> u64 {
    let [s0, s1, s2, s3, d0, d1, d2, d3, ports, proto] = *t.as_words();
    mul(s0, 0x243f_6a88, s1, 0x85a3_08d3)
        .wrapping_add(mul(s2, 0x1319_8a2e, s3, 0x0370_7344))
        .wrapping_add(mul(d0, 0xa409_3822, d1, 0x299f_31d0).rotate_left(7))
        .wrapping_add(mul(d2, 0x082e_fa98, d3, 0xec4e_6c89).rotate_left(11))
        .wrapping_add(mul(ports, 0x4528_21e6, proto, 0x38d0_1377).rotate_left(19))
}

/// The flow hash that Maglev selects by: all of the tuple, well mixed; the upper half is used.
#[inline(always)]
#[must_use]
pub const fn flow_tuple_hash(t: &Tuple) -> u64 {
    let h = tuple_hash(t);
    (h ^ h >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
