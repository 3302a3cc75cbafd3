//! The datapath's clock, read from here.

use anyhow::{Context as _, Result};
use lb_common::abi::TICK_SHIFT;
use nix::time::{ClockId, clock_gettime};

/// Now, in the datapath's ticks: `bpf_ktime_get_ns` is CLOCK_MONOTONIC.
///
/// # Errors
/// If the kernel does not tell the time.
pub(crate) fn now_ticks() -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the monotonic clock")?;
    let ns = u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?;
    Ok(u32::try_from(ns >> TICK_SHIFT)?)
}
