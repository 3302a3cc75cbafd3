//! What the core decided.

use crate::abi::Counter;

/// The end of a packet's way through the core. The shell turns it into its hook's action.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Not ours: goes on untouched.
    Pass,
    /// Translated: goes on through the host's stack.
    Stack,
    /// Translated: leaves by this device (interface index) at once, with its neighbour resolved there.
    Redirect(u32),
    /// Translated: goes back out of the link it came from, with its link-layer addresses swapped.
    Bounce,
    /// Dropped, and counted under this reason.
    Drop(Counter),
}

impl Verdict {
    /// As one word: a BPF subprogram returns no more than a register.
    #[inline(always)]
    pub(super) const fn pack(self) -> u64 {
        match self {
            Self::Pass => 1 << 32,
            Self::Stack => 2 << 32,
            Self::Redirect(ifindex) => 3 << 32 | ifindex as u64,
            Self::Bounce => 4 << 32,
            Self::Drop(reason) => 5 << 32 | reason as u64,
        }
    }

    /// What [`Self::pack`] packed; `None` for 0.
    #[inline(always)]
    pub(super) fn unpack(word: u64) -> Option<Self> {
        match word >> 32 {
            1 => Some(Self::Pass),
            2 => Some(Self::Stack),
            3 => Some(Self::Redirect(word as u32)),
            4 => Some(Self::Bounce),
            5 => Some(Self::Drop(Counter::from_index(word as u32))),
            _ => None,
        }
    }
}
