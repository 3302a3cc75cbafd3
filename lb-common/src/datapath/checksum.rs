//! The Internet checksum's algebra (RFC 1071, RFC 1624): changes are sums of one's complements, in any byte order.

/// What replacing `old` by `new` adds to a checksum: Σ new + Σ ¬old, folded to 32 bits. Words in memory order.
#[inline(always)]
#[must_use]
pub const fn diff<const N: usize>(old: [u32; N], new: [u32; N]) -> u32 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < N {
        sum += new[i] as u64 + !old[i] as u64;
        i += 1;
    }
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// The sum of words in memory order, folded to 16 bits: a checksum field of zero becomes the complement of it.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum field after a change: ¬(¬field + diff) (RFC 1624, equation 3). Field in memory order.
#[inline(always)]
#[must_use]
pub const fn apply(field: [u8; 2], diff: u32) -> [u8; 2] {
    let mut sum = !u16::from_ne_bytes(field) as u32 as u64 + diff as u64;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}
