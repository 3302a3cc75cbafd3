//! The places where packets are met, and what a program's return code tells there.

use super::{DEV_CLIENT, DEV_OVERLAY, DEV_UPLINK, MAC, MemTables, VecPacket};
use crate::{
    abi::Counter,
    datapath::{Link, Packet as _, Scratch, Tables as _, Verdict, pod, uplink},
};

/// Where the packet is met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// From a pod, on the host side of the link with this interface index.
    PodIngress(u32),
    /// To a pod.
    PodEgress,
    /// From an uplink with a link-layer header.
    Uplink,
    /// From an uplink without one.
    UplinkL3,
    /// Out of the host's stack by an uplink with a link-layer header.
    UplinkOut,
    /// By one without.
    UplinkL3Out,
    /// From an overlay with a link-layer header.
    Overlay,
    /// Out of the host's stack by it.
    OverlayOut,
}

impl Hook {
    /// Bytes of link-layer header.
    #[must_use]
    pub const fn l2_len(self) -> usize {
        match self {
            Self::PodIngress(_)
            | Self::PodEgress
            | Self::Uplink
            | Self::UplinkOut
            | Self::Overlay
            | Self::OverlayOut => 14,
            Self::UplinkL3 | Self::UplinkL3Out => 0,
        }
    }

    /// The device that it is on.
    #[must_use]
    pub const fn ifindex(self) -> u32 {
        match self {
            Self::PodIngress(ifindex) => ifindex,
            Self::PodEgress => DEV_CLIENT,
            Self::Uplink | Self::UplinkL3 | Self::UplinkOut | Self::UplinkL3Out => DEV_UPLINK,
            Self::Overlay | Self::OverlayOut => DEV_OVERLAY,
        }
    }

    /// Packets come in here; else they leave the host's stack.
    #[must_use]
    pub const fn is_ingress(self) -> bool {
        matches!(self, Self::PodIngress(_) | Self::Uplink | Self::UplinkL3 | Self::Overlay)
    }

    /// The device as the core takes it.
    #[must_use]
    pub const fn link(self) -> Link {
        match self {
            Self::PodIngress(_) => Link::pod(self.ifindex()),
            Self::PodEgress => Link::pod(self.ifindex()).out(),
            Self::Uplink | Self::UplinkL3 | Self::Overlay => Link::outside(self.ifindex(), self.l2_len() as u16),
            Self::UplinkOut | Self::UplinkL3Out | Self::OverlayOut => {
                Link::outside(self.ifindex(), self.l2_len() as u16).out()
            }
        }
    }

    /// Runs the core as the shell does: it counts drops, and a bounced frame gets its link-layer addresses swapped.
    #[must_use]
    pub fn run(self, packet: &mut VecPacket, tables: &MemTables) -> Verdict {
        self.run_after(packet, tables, &mut Scratch::default())
    }

    /// As [`Self::run`], in the working memory that an earlier packet left.
    #[must_use]
    pub fn run_after(self, packet: &mut VecPacket, tables: &MemTables, scratch: &mut Scratch) -> Verdict {
        let link = self.link();
        let mut verdict = match self {
            Self::PodIngress(_) => pod::ingress(packet, tables, link, scratch),
            Self::PodEgress => pod::egress(packet, tables, link, scratch),
            Self::Uplink | Self::UplinkL3 | Self::Overlay => uplink::ingress(packet, tables, link, scratch),
            Self::UplinkOut | Self::UplinkL3Out | Self::OverlayOut => uplink::egress(packet, tables, link, scratch),
        };
        if verdict == Verdict::Bounce && self.l2_len() != 0 && !swap_macs(packet) {
            verdict = Verdict::Drop(Counter::DropInternal);
        }
        if let Verdict::Drop(reason) = verdict {
            tables.count(reason);
        }
        verdict
    }
}

/// Whether `BPF_PROG_TEST_RUN` makes an skb of these bytes: it refuses those shorter than an Ethernet header and the
/// fixed part of the IP header that its type announces (net/bpf/test_run.c).
#[must_use]
pub fn test_run_takes(bytes: &[u8]) -> bool {
    match bytes.get(12..14) {
        Some([0x08, 0x00]) => bytes.len() >= 14 + 20,
        Some([0x86, 0xdd]) => bytes.len() >= 14 + 40,
        Some(_) => bytes.len() > 14,
        None => false,
    }
}

fn swap_macs(packet: &mut VecPacket) -> bool {
    let Ok(macs) = packet.read::<[u8; 12]>(0) else { return false };
    let swapped: [u8; 12] = core::array::from_fn(|i| macs[(i + 6) % 12]);
    packet.write(0, &swapped).is_ok()
}

/// Whether a test run can show an answer: the helpers that make room for one look for the type in a link-layer header,
/// which a test run takes from the packet's first bytes even where there is none.
#[must_use]
pub const fn test_run_answers(hook: Hook) -> bool {
    hook.l2_len() != 0
}

/// Whether a test run takes the packet for another machine's, which is left alone on devices that leave the node: its
/// link-layer destination is neither the device's nor a group's (`eth_type_trans` in net/ethernet/eth.c), whatever it is
/// that stands there.
#[must_use]
pub fn test_run_is_foreign(bytes: &[u8], hook: Hook) -> bool {
    let comes_in = matches!(hook, Hook::Uplink | Hook::UplinkL3 | Hook::Overlay);
    comes_in && !bytes.starts_with(&MAC) && bytes.first().is_some_and(|byte| byte & 1 == 0)
}

/// A verdict as a program's return code tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// `TC_ACT_UNSPEC`.
    Next,
    /// `TC_ACT_SHOT`.
    Shot,
    /// `TC_ACT_REDIRECT`.
    Redirect,
}

impl From<Verdict> for Action {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass | Verdict::Stack => Self::Next,
            Verdict::Redirect(_) | Verdict::HandOver(_) | Verdict::Bounce => Self::Redirect,
            Verdict::Drop(_) => Self::Shot,
        }
    }
}
