//! Read-only globals, set by the loader before verification; the verifier removes what they switch off.

use aya_ebpf::Global;

/// Cookie of the agent's network namespace.
#[unsafe(no_mangle)]
pub(crate) static HOST_NETNS: Global<u64> = Global::new(0);

/// [`lb_common::abi::socket_lb`] bits.
#[unsafe(no_mangle)]
pub(crate) static SOCKET_LB: Global<u8> = Global::new(3);

/// 1 where `bpf_set_retval` exists.
#[unsafe(no_mangle)]
pub(crate) static HAS_SET_RETVAL: Global<u8> = Global::new(1);

/// Bit n: `skips` may hold cgroups of level n.
#[unsafe(no_mangle)]
pub(crate) static SKIP_CGROUPS: Global<u32> = Global::new(0);

/// 1 if `skips` may hold network namespaces.
#[unsafe(no_mangle)]
pub(crate) static SKIP_NETNS: Global<u8> = Global::new(0);

/// 1 where `bpf_ktime_get_coarse_ns` exists.
#[unsafe(no_mangle)]
pub(crate) static HAS_COARSE_CLOCK: Global<u8> = Global::new(1);

/// 1 if `devs` may hold links that packets are delivered by, past the bridge.
#[unsafe(no_mangle)]
pub(crate) static DELIVERS: Global<u8> = Global::new(1);
