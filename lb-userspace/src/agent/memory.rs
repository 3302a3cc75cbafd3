//! Memory that the allocator has and nobody uses, back to the kernel: reading a whole cluster takes much more for a moment
//! than what is kept of it.

/// Services that change together from which on there is something to give back.
const MANY: usize = 500;

/// After work on so many Services at once.
pub(super) fn give_back_after(services: usize) {
    if services >= MANY {
        give_back();
    }
}

/// Takes some milliseconds with tens of thousands of Services.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: takes a number, and touches only memory that is not in use.
    let given = unsafe { libc::malloc_trim(0) };
    tracing::debug!(given, "free memory given back");
}

/// Other C libraries do it by themselves, or cannot.
#[cfg(not(target_env = "gnu"))]
pub(super) const fn give_back() {}
