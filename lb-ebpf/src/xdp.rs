//! Entry point on uplinks whose driver runs XDP.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::datapath::{
    Link, Tables as _,
    xdp::{self, Verdict},
};

use crate::{
    frame::Frame,
    maps::{Kernel, scratch},
};

/// What comes in, before the stack sees it.
#[xdp]
pub(crate) fn uplink_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the program's own.
    let link = Link::outside(unsafe { (*ctx.ctx).ingress_ifindex }, 14);
    let Some(scratch) = scratch() else { return XDP_PASS };
    match xdp::ingress(&mut Frame(ctx), &Kernel, link, scratch) {
        Verdict::Pass => XDP_PASS,
        Verdict::Transmit => XDP_TX,
        Verdict::Drop(reason) => {
            Kernel.count(reason);
            XDP_DROP
        }
    }
}
