//! Entry points on links.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use lb_common::{
    abi::Counter,
    datapath::{Tables as _, Verdict, pod, uplink},
};

use crate::{maps::Kernel, skb::Skb};

/// Host side of a pod's link: what the pod sends.
#[classifier]
pub(crate) fn pod_ingress(ctx: TcContext) -> i32 {
    let mut skb = Skb(ctx);
    skb.pull_headers(pod::L2_LEN);
    // SAFETY: the context is the program's own.
    let ifindex = unsafe { (*skb.0.skb.skb).ifindex };
    let verdict = pod::ingress(&mut skb, &Kernel, ifindex);
    finish(&mut skb, verdict)
}

/// Host side of a pod's link: what goes to the pod.
#[classifier]
pub(crate) fn pod_egress(ctx: TcContext) -> i32 {
    let mut skb = Skb(ctx);
    skb.pull_headers(pod::L2_LEN);
    let verdict = pod::egress(&mut skb, &Kernel);
    finish(&mut skb, verdict)
}

/// Uplink or overlay with an Ethernet header.
#[classifier]
pub(crate) fn uplink_ingress(ctx: TcContext) -> i32 {
    from_outside(ctx, 14)
}

/// Uplink or overlay without a link-layer header.
#[classifier]
pub(crate) fn uplink_l3(ctx: TcContext) -> i32 {
    from_outside(ctx, 0)
}

#[inline(always)]
fn from_outside(ctx: TcContext, l2_len: usize) -> i32 {
    let mut skb = Skb(ctx);
    skb.pull_headers(l2_len);
    let verdict = uplink::ingress(&skb, &Kernel, l2_len);
    finish(&mut skb, verdict)
}

/// The verdict as an action. `TC_ACT_UNSPEC` (tcx: `TCX_NEXT`) lets other programs on the hook have their turn.
#[inline(always)]
fn finish(skb: &mut Skb, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass | Verdict::Stack => TC_ACT_UNSPEC,
        Verdict::Redirect(ifindex) => skb.redirect_neigh(ifindex),
        Verdict::Bounce => match skb.bounce() {
            Ok(action) => action,
            Err(_) => drop_packet(skb, Counter::DropInternal),
        },
        Verdict::Drop(reason) => drop_packet(skb, reason),
    }
}

#[inline(always)]
fn drop_packet(skb: &Skb, reason: Counter) -> i32 {
    Kernel.count(reason);
    debug!(&skb.0, "drop: counter {}, {} bytes", reason as u32, skb.0.len());
    TC_ACT_SHOT
}
