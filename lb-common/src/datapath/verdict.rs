//! What the core decided.

use super::answer::What;
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
    /// As it came, to the backend's node: leaves by this device (interface index) at once, for the next hop towards
    /// [`super::Scratch::way`].
    HandOver(u32),
    /// Translated or answered: goes back out of the link it came from, with its link-layer addresses swapped.
    Bounce,
    /// Dropped, and counted under this reason.
    Drop(Counter),
}

/// A verdict, or that the packet is to be answered in place of its destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Decision {
    End(Verdict),
    /// Dropped for this reason, and its sender told so.
    Answer(What, Counter),
}

impl Decision {
    /// As one word: a BPF subprogram returns no more than a register. Never 0.
    #[inline(always)]
    pub(super) const fn pack(self) -> u64 {
        match self {
            Self::End(Verdict::Pass) => 1 << 32,
            Self::End(Verdict::Stack) => 2 << 32,
            Self::End(Verdict::Redirect(ifindex)) => 3 << 32 | ifindex as u64,
            Self::End(Verdict::Bounce) => 4 << 32,
            Self::End(Verdict::Drop(reason)) => 5 << 32 | reason as u64,
            Self::End(Verdict::HandOver(ifindex)) => 7 << 32 | ifindex as u64,
            Self::Answer(what, reason) => 6 << 32 | (what as u64) << 16 | reason as u64,
        }
    }

    /// What [`Self::pack`] packed; `None` for 0.
    #[inline(always)]
    pub(super) fn unpack(word: u64) -> Option<Self> {
        Some(match word >> 32 {
            1 => Self::End(Verdict::Pass),
            2 => Self::End(Verdict::Stack),
            3 => Self::End(Verdict::Redirect(word as u32)),
            4 => Self::End(Verdict::Bounce),
            5 => Self::End(Verdict::Drop(Counter::from_index(word as u32))),
            7 => Self::End(Verdict::HandOver(word as u32)),
            6 => Self::Answer(What::from_index(word as u32 >> 16), Counter::from_index(word as u32 & 0xffff)),
            _ => return None,
        })
    }
}
