//! Where this node's pods are: the link and the link-layer address behind a pod's address, as its own packets show. So
//! what is for a pod leaves by its link, past the bridge, or is put into its network namespace at once.
//!
//! An entry is believed for a few ticks after the pod's last packet of one of our flows. A pod that is gone is silent, so
//! nobody has to take its entry away; what is for a silent one takes the way over the bridge, which asks for it.

use aya_ebpf::{bindings::bpf_fib_lookup, btf_maps::LruHashMap, macros::btf_map};
use lb_common::{
    abi::{Addr, delivery},
    datapath::{Fault, Link, Packet as _, Scratch, Tables as _},
};

use crate::{
    maps::{Kernel, copy_once},
    skb::Skb,
};

/// Ticks (of 1.07 s) for which a pod's last packet shows where it is.
const BELIEVED: u32 = 4;

/// Where a pod is. Elements are recycled under their readers, so each says whose it is.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Place {
    /// The host's side of its link.
    ifindex: u32,
    /// The device that routes lead to: the bridge of the link, or the link.
    via: u32,
    /// Its link-layer address in memory order, a byte of zero, and one of [`delivery`].
    mac: [u32; 2],
    /// Over the key and all of the above.
    check: u32,
    /// Time of its last packet, in ticks.
    seen: u32,
}

#[btf_map(name = "pod_places")]
static PLACES: LruHashMap<Addr, Place, 1024> = LruHashMap::new();

impl Place {
    #[inline(always)]
    const fn seal(&self, addr: &Addr) -> u32 {
        let [a, b, c, d] = addr.words();
        let first = mul(a, 0x9e37_79b9, b, 0x85eb_ca6b);
        let second = mul(c, 0xc2b2_ae35, d, 0x27d4_eb2f);
        let third = mul(self.ifindex, 0x1656_67b1, self.via, 0x94d0_49bb);
        let fourth = mul(self.mac[0], 0x6c62_272e, self.mac[1], 0x07bb_0142);
        let sum = first
            .wrapping_add(second.rotate_left(29))
            .wrapping_add(third.rotate_left(13))
            .wrapping_add(fourth.rotate_left(23));
        (sum.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
    }

    #[inline(always)]
    fn find(addr: &Addr) -> Option<Self> {
        let ptr = PLACES.get_ptr(addr)?;
        let mut place = Self::default();
        // SAFETY: a live map value; that it may change meanwhile is what `check` is for.
        unsafe { copy_once(ptr, &mut place) };
        (place.check == place.seal(addr)).then_some(place)
    }
}

#[inline(always)]
const fn mul(a: u32, ka: u64, b: u32, kb: u64) -> u64 {
    (a as u64).wrapping_add(ka).wrapping_mul((b as u64).wrapping_add(kb))
}

/// Notes where the sender of a pod's packet is, once a tick.
#[inline(always)]
fn note(skb: &Skb, ifindex: u32, s: &Scratch) {
    let now = Kernel.now();
    if let Some(place) = Place::find(s.sender())
        && place.seen == now
    {
        return;
    }
    look(skb, ifindex, s, now);
}

/// Notes the sender's place if the host's own tables say the same of it: a packet says of itself what it likes.
#[inline(never)]
fn look(skb: &Skb, ifindex: u32, s: &Scratch, now: u32) -> u32 {
    let Some(dev) = Kernel.dev(ifindex) else { return 0 };
    if dev.delivery == delivery::BRIDGE {
        return 0;
    }
    let via = if dev.bridge != 0 { dev.bridge } else { ifindex };
    let Ok([a, b, c, d, e, f]) = skb.read::<[u8; 6]>(6) else { return 0 };
    let addr = *s.sender();
    // SAFETY: plain data; all zero is a valid value of it.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    if !skb.is_neighbour(&mut params, &addr, via, &[a, b, c, d, e, f]) {
        return 0;
    }
    let mut place = Place {
        ifindex,
        via,
        mac: [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, 0, dev.delivery])],
        check: 0,
        seen: now,
    };
    place.check = place.seal(&addr);
    // If the table takes no entry, the pod's packets go over the bridge.
    let _full = PLACES.insert(addr, place, 0);
    1
}

/// Takes a packet that is to leave by `oif` to the pod that it is for; `None` if nobody knows where that is. What comes from
/// a pod also shows where that one is.
#[inline(always)]
pub(crate) fn deliver(skb: &mut Skb, link: Link, oif: u32, s: &Scratch) -> Option<Result<i32, Fault>> {
    if link.is_pod() {
        note(skb, link.ifindex, s);
    }
    let (_, dst) = s.way();
    let place = Place::find(dst)?;
    // A packet without a link-layer header has no room for the pod's address.
    if place.via != oif || link.l2_len() == 0 || Kernel.now().wrapping_sub(place.seen) > BELIEVED {
        return None;
    }
    let [a, b, c, d] = place.mac[0].to_ne_bytes();
    let [e, f, _, how] = place.mac[1].to_ne_bytes();
    Some(skb.hand_to(place.ifindex, [a, b, c, d, e, f], how == delivery::DIRECT))
}
