//! Where a packet is met, and which packets of a flow are translated there.

use crate::abi::{Flow, role, scope};

/// Where a packet was met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Link {
    /// Interface index.
    pub ifindex: u32,
    l2_len: u16,
    pub(super) outside: bool,
    pub(super) egress: bool,
}

impl Link {
    /// The host side of a pod's link; all are Ethernet.
    #[inline(always)]
    #[must_use]
    pub const fn pod(ifindex: u32) -> Self {
        Self { ifindex, l2_len: 14, outside: false, egress: false }
    }

    /// An uplink or overlay with `l2_len` bytes of link-layer header (14 or 0).
    #[inline(always)]
    #[must_use]
    pub const fn outside(ifindex: u32, l2_len: u16) -> Self {
        Self { ifindex, l2_len, outside: true, egress: false }
    }

    /// The same device, for packets that leave through it.
    #[inline(always)]
    #[must_use]
    pub const fn out(mut self) -> Self {
        self.egress = true;
        self
    }

    /// Length of the link-layer header, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn l2_len(self) -> usize {
        self.l2_len as usize
    }

    /// The host side of a pod's link.
    #[inline(always)]
    #[must_use]
    pub const fn is_pod(self) -> bool {
        !self.outside
    }

    /// Packets leave by here.
    #[inline(always)]
    #[must_use]
    pub const fn is_egress(self) -> bool {
        self.egress
    }

    /// Packets come in here from outside the node.
    #[inline(always)]
    #[must_use]
    pub const fn comes_from_outside(self) -> bool {
        self.outside && !self.egress
    }

    /// Whether packets of this flow entry are translated here. A flow that takes the host's stack is translated before it
    /// on the way to the backend, and behind it on the way back.
    #[inline(always)]
    pub(super) fn handles(self, flow: &Flow) -> bool {
        let stack = flow.oif == 0 && flow.role & role::HAIRPIN == 0;
        let host = flow.role & role::HOST != 0;
        match (flow.role & role::FORWARD != 0, self.egress) {
            (true, false) => !host && self.outside == (flow.role & role::OUTSIDE != 0),
            (true, true) => host,
            (false, false) => !stack || host,
            (false, true) => stack && !host,
        }
    }

    #[inline(always)]
    pub(super) const fn scope(self) -> u8 {
        if self.outside { scope::EXTERNAL } else { scope::INTERNAL }
    }
}
