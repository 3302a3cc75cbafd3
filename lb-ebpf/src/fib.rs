//! What tc and XDP ask of `bpf_fib_lookup`, and what it answers. It decides nothing.

use aya_ebpf::bindings::bpf_fib_lookup;
use lb_common::abi::Addr;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `BPF_FIB_LKUP_RET_SUCCESS` and `…_NO_NEIGH`: there is a route; the neighbour is resolved by the redirect.
pub(crate) const SUCCESS: i64 = 0;
pub(crate) const NO_NEIGH: i64 = 7;
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`: there is a route, and the packet is larger than it takes.
pub(crate) const FRAG_NEEDED: i64 = 8;

/// Family of an address, as the kernel numbers them.
#[inline(always)]
pub(crate) const fn family(addr: &Addr) -> u8 {
    if addr.is_v4() { AF_INET } else { AF_INET6 }
}

/// Whether an answer names `dst`, which was asked for, as the next hop. The helper puts the router in its place where there
/// is one, which may be of the other family.
#[inline(always)]
pub(crate) fn leads_to(params: &bpf_fib_lookup, dst: &Addr) -> bool {
    // SAFETY: all members are plain words, of which an IPv4 address is the first.
    let next = unsafe { params.__bindgen_anon_4.ipv6_dst };
    let same = if dst.is_v4() { next[0] == dst.words()[3] } else { next == dst.words() };
    same && params.family == family(dst)
}

/// Makes `params` ask for the way from `src` to `dst` of a packet that came in by this device. The length is left to the
/// caller; whatever else an earlier look-up has left there is asked for anew.
#[inline(always)]
pub(crate) fn ask(params: &mut bpf_fib_lookup, src: &Addr, dst: &Addr, ifindex: u32) {
    params.ifindex = ifindex;
    params.family = family(dst);
    if dst.is_v4() {
        params.__bindgen_anon_3.ipv4_src = src.words()[3];
        params.__bindgen_anon_4.ipv4_dst = dst.words()[3];
    } else {
        params.__bindgen_anon_3.ipv6_src = src.words();
        params.__bindgen_anon_4.ipv6_dst = dst.words();
    }
    params.__bindgen_anon_2.flowinfo = 0;
}
