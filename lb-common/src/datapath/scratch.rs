//! Working memory for one packet's way through the core.
//!
//! A BPF stack has 512 bytes for all functions of a call chain, and the verifier follows every value on it. This lies in
//! a per-CPU map instead, whose contents it takes for unknown: so a program is verified once, however it got there.

use super::{
    answer::Answer,
    dsr::Handed,
    flow::{Found, Spare},
    parse::Parsed,
};
use crate::abi::{Addr, Flow, ServiceRef, role};

/// Working memory. Each stage fills in what it reads, so what an earlier packet left means nothing.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Scratch {
    pub(super) parsed: Parsed,
    /// What `addrs` says of the packet's destination.
    pub(super) flags: u32,
    /// The frontend that claims its destination, once it was asked for.
    pub(super) claim: ServiceRef,
    /// The backend that another node chose for it.
    pub(super) handed: Handed,
    /// The packet that an ICMP error is about.
    pub(super) quoted: Parsed,
    pub(super) found: Found,
    pub(super) spare: Spare,
    pub(super) answer: Answer,
}

impl Scratch {
    /// Source and destination by whose route a packet leaves that is handed over ([`super::Verdict::HandOver`]).
    #[inline(always)]
    #[must_use]
    pub const fn way(&self) -> (&Addr, &Addr) {
        (&self.found.flow.to.src, &self.found.flow.to.dst)
    }

    /// Next hop of a packet that is redirected ([`super::Verdict::Redirect`]): its destination, if that is known to be a
    /// neighbour. `None` if the routes have to be asked.
    #[inline(always)]
    #[must_use]
    pub const fn next_hop(&self) -> Option<&Addr> {
        let Flow { role, to, .. } = &self.found.flow;
        if *role & role::ON_LINK == 0 { None } else { Some(&to.dst) }
    }

    /// Source of the packet as it came.
    #[inline(always)]
    #[must_use]
    pub const fn sender(&self) -> &Addr {
        &self.parsed.tuple.src
    }
}

/// Words of eight bytes that a [`Scratch`] takes; all bits zero are a valid one.
pub const SCRATCH_WORDS: usize = size_of::<Scratch>().div_ceil(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_are_next_hops() {
        let mut s = Scratch::default();
        s.found.flow.to.dst = Addr::v4([10, 244, 1, 20]);
        s.found.flow.role = !role::ON_LINK;
        assert_eq!(s.next_hop(), None);
        s.found.flow.role = role::ON_LINK;
        assert_eq!(s.next_hop(), Some(&Addr::v4([10, 244, 1, 20])));
    }
}
