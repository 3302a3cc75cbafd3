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
