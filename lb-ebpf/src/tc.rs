//! Entry points on links.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use lb_common::{
    abi::Counter,
    datapath::{Link, Scratch, Tables as _, Verdict, pod, uplink},
};

use crate::{
    globals::DELIVERS,
    maps::{Kernel, scratch},
    pods,
    skb::Skb,
};

const ETHERNET: u16 = 14;

/// Host side of a pod's link: what the pod sends.
#[classifier]
pub(crate) fn pod_ingress(ctx: TcContext) -> i32 {
    run(ctx, Link::pod, |skb, link, s| pod::ingress(skb, &Kernel, link, s))
}

/// Host side of a pod's link, or the pods' bridge: what goes to pods.
#[classifier]
pub(crate) fn pod_egress(ctx: TcContext) -> i32 {
    run(ctx, |ifindex| Link::pod(ifindex).out(), |skb, link, s| pod::egress(skb, &Kernel, link, s))
}

/// Uplink or overlay with an Ethernet header: what comes in.
#[classifier]
pub(crate) fn uplink_ingress(ctx: TcContext) -> i32 {
    run(ctx, |ifindex| Link::outside(ifindex, ETHERNET), |skb, link, s| uplink::ingress(skb, &Kernel, link, s))
}

/// Uplink or overlay with an Ethernet header: what leaves.
#[classifier]
pub(crate) fn uplink_egress(ctx: TcContext) -> i32 {
    run(ctx, |ifindex| Link::outside(ifindex, ETHERNET).out(), |skb, link, s| uplink::egress(skb, &Kernel, link, s))
}

/// Uplink or overlay without a link-layer header: what comes in.
#[classifier]
pub(crate) fn uplink_l3(ctx: TcContext) -> i32 {
    run(ctx, |ifindex| Link::outside(ifindex, 0), |skb, link, s| uplink::ingress(skb, &Kernel, link, s))
}

/// Uplink or overlay without a link-layer header: what leaves.
#[classifier]
pub(crate) fn uplink_l3_out(ctx: TcContext) -> i32 {
    run(ctx, |ifindex| Link::outside(ifindex, 0).out(), |skb, link, s| uplink::egress(skb, &Kernel, link, s))
}

#[inline(always)]
fn run(
    ctx: TcContext,
    link: impl FnOnce(u32) -> Link,
    core: impl FnOnce(&mut Skb, Link, &mut Scratch) -> Verdict,
) -> i32 {
    let mut skb = Skb(ctx);
    // SAFETY: the context is the program's own.
    let link = link(unsafe { (*skb.0.skb.skb).ifindex });
    if skb.is_foreign(link) {
        return TC_ACT_UNSPEC;
    }
    if !link.is_egress() {
        skb.arrive();
    }
    let Some(scratch) = scratch() else { return drop_packet(&skb, Counter::DropInternal) };
    skb.pull_headers(link.l2_len());
    let verdict = core(&mut skb, link, scratch);
    finish(&mut skb, link, scratch, verdict)
}

/// The verdict as an action. `TC_ACT_UNSPEC` (tcx: `TCX_NEXT`) lets other programs on the hook have their turn.
#[inline(always)]
fn finish(skb: &mut Skb, link: Link, scratch: &Scratch, verdict: Verdict) -> i32 {
    let action = match verdict {
        Verdict::Pass | Verdict::Stack => return TC_ACT_UNSPEC,
        Verdict::Redirect(ifindex) => {
            skb.mark_redirected();
            let delivered = if DELIVERS.load() == 0 { None } else { pods::deliver(skb, link, ifindex, scratch) };
            delivered.unwrap_or_else(|| skb.redirect_neigh(ifindex, link.l2_len(), scratch.next_hop()))
        }
        Verdict::HandOver(ifindex) => {
            skb.mark_redirected();
            let action = skb.redirect_towards(scratch, ifindex, link);
            return action.unwrap_or_else(|_| drop_packet(skb, Counter::DropNoRoute));
        }
        Verdict::Bounce => {
            skb.mark_redirected();
            skb.bounce(link.l2_len())
        }
        Verdict::Drop(reason) => return drop_packet(skb, reason),
    };
    action.unwrap_or_else(|_| drop_packet(skb, Counter::DropInternal))
}

#[inline(always)]
fn drop_packet(skb: &Skb, reason: Counter) -> i32 {
    Kernel.count(reason);
    debug!(&skb.0, "drop: counter {}, {} bytes", reason as u32, skb.0.len());
    TC_ACT_SHOT
}
