//! `impl Packet` for an skb: direct reads, writes through helpers.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        bpf_adj_room_mode::{BPF_ADJ_ROOM_MAC, BPF_ADJ_ROOM_NET},
        bpf_fib_lookup, bpf_redir_neigh,
    },
    helpers::{
        bpf_csum_update, bpf_fib_lookup, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
        bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skb_adjust_room, bpf_skb_change_head,
        bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use lb_common::{
    abi::{Addr, Tuple, proto},
    datapath::{ANSWER_WORDS, Fault, HostPacket, L4Checksum, Link, Packet, Route, Scratch},
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::fib;

/// `BPF_F_CURRENT_NETNS`.
const OWN_NETNS: u64 = u64::MAX;
/// `tc_index` of what our programs redirect: it stays with the packet up to the egress hook of the device that it leaves
/// by, unless another program on its way ends a chain. Only the dsmark and tcindex of before Linux 6.3 look at it.
const REDIRECTED: u32 = 0xbe77;
/// To another machine's link-layer address (include/uapi/linux/if_packet.h).
const PACKET_OTHERHOST: u32 = 3;
/// To this machine's.
const PACKET_HOST: u32 = 0;

/// An skb on a tc hook.
pub(crate) struct Skb(pub(crate) TcContext);

impl Skb {
    /// Whether the packet is none of this device's own: it bears a VLAN tag, so it is met again on the VLAN's device; or it
    /// was seen on an uplink that listens to everything, and its frame is to another machine. A pod's frames are to the
    /// bridge, so on their links the latter says nothing.
    #[inline(always)]
    pub(crate) fn is_foreign(&self, link: Link) -> bool {
        // SAFETY: fields of the program's own context.
        let (tagged, kind) = unsafe { ((*self.0.skb.skb).vlan_present, (*self.0.skb.skb).pkt_type) };
        tagged != 0 || (link.comes_from_outside() && kind == PACKET_OTHERHOST)
    }

    /// Makes the headers linear, so that reads need no helper: just as many bytes as plain headers take, as payload in
    /// fragments is the rule on these hooks and moving it would cost each packet. An ICMP error has headers in its payload.
    #[inline(always)]
    pub(crate) fn pull_headers(&self, l2_len: usize) {
        let plain = match self.read::<[u8; 10]>(l2_len) {
            Ok([0x45, _, _, _, _, _, _, _, _, next]) if next != proto::ICMP => l2_len + 40,
            Ok([first, _, _, _, _, _, next, ..]) if first >> 4 == 6 && (next == proto::TCP || next == proto::UDP) => {
                l2_len + 60
            }
            _ => l2_len + 160,
        };
        let wanted = (plain as u32).min(self.0.len());
        if ((self.0.data_end() - self.0.data()) as u32) < wanted {
            // SAFETY: the context is the program's own. On failure the reads fault, and the packet passes.
            unsafe { bpf_skb_pull_data(self.0.skb.skb, wanted) };
        }
    }

    /// The mark of what is about to be redirected.
    #[inline(always)]
    pub(crate) fn mark_redirected(&mut self) {
        // SAFETY: a field of the program's own context.
        unsafe { (*self.0.skb.skb).tc_index = REDIRECTED };
    }

    /// A packet comes in: a mark that it bears is of programs on its earlier way, in another namespace of this machine.
    #[inline(always)]
    pub(crate) fn arrive(&mut self) {
        if self.is_redirected() {
            // SAFETY: a field of the program's own context.
            unsafe { (*self.0.skb.skb).tc_index = 0 };
        }
    }

    /// Sends the packet out of a device, with the neighbour resolved there: `next_hop` if that is known, else who the
    /// routes say.
    #[inline(always)]
    pub(crate) fn redirect_neigh(
        &mut self,
        ifindex: u32,
        l2_len: usize,
        next_hop: Option<&Addr>,
    ) -> Result<i32, Fault> {
        if l2_len == 0 {
            self.add_ethernet()?;
        }
        Ok(match next_hop {
            Some(addr) => redirect_to(ifindex, addr) as i32,
            // SAFETY: no parameters are handed over, so the helper takes the route from the packet.
            None => unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 },
        })
    }

    /// Whether the host reaches `addr` by the device `via` at this link-layer address. `params` is working memory.
    #[inline(always)]
    pub(crate) fn is_neighbour(&self, params: &mut bpf_fib_lookup, addr: &Addr, via: u32, mac: &[u8; 6]) -> bool {
        let found = self.look_up(params, addr, addr, via, 1) == fib::SUCCESS;
        found && params.ifindex == via && params.dmac == *mac
    }

    /// Sends the packet out of the link `ifindex`, at whose other end this link-layer address is; with `direct` it appears
    /// there at once. It bears the address that it came to as its sender's.
    #[inline(always)]
    pub(crate) fn hand_to(&mut self, ifindex: u32, mac: [u8; 6], direct: bool) -> Result<i32, Fault> {
        let [g, h, i, j, k, l] = self.read::<[u8; 6]>(0)?;
        let [a, b, c, d, e, f] = mac;
        self.write(0, &[a, b, c, d, e, f, g, h, i, j, k, l])?;
        if !direct {
            // SAFETY: a helper without pointers.
            return Ok(unsafe { bpf_redirect(ifindex, 0) } as i32);
        }
        // SAFETY: helpers without pointers but the context. The frame was to another address up to now.
        Ok(unsafe {
            bpf_skb_change_type(self.0.skb.skb, PACKET_HOST);
            bpf_redirect_peer(ifindex, 0) as i32
        })
    }

    /// Sends the packet out of a device, to the next hop of another destination than its own.
    #[inline(always)]
    pub(crate) fn redirect_towards(&mut self, way: &Scratch, ifindex: u32, link: Link) -> Result<i32, Fault> {
        if link.l2_len() == 0 {
            self.add_ethernet()?;
        }
        match self.towards(way, ifindex, link.ifindex) {
            0 => Err(Fault),
            action => Ok(action as i32),
        }
    }

    /// The action that does so; 0 where there is no such way. Not inlined, for the BPF stack's sake.
    #[inline(never)]
    fn towards(&self, way: &Scratch, ifindex: u32, iif: u32) -> u32 {
        let (src, dst) = way.way();
        // SAFETY: plain data; all zero is a valid value of both.
        let (mut params, mut next): (bpf_fib_lookup, bpf_redir_neigh) = unsafe { core::mem::zeroed() };
        let ret = self.look_up(&mut params, src, dst, iif, 1);
        if !matches!(ret, fib::SUCCESS | fib::NO_NEIGH) || params.ifindex != ifindex {
            return 0;
        }
        next.nh_family = u32::from(params.family);
        // SAFETY: both unions hold as many words, of which an IPv4 address is the first.
        next.__bindgen_anon_1.ipv6_nh = unsafe { params.__bindgen_anon_4.ipv6_dst };
        // SAFETY: the parameters are on the stack and as long as is said.
        unsafe { bpf_redirect_neigh(ifindex, &raw mut next, size_of::<bpf_redir_neigh>() as i32, 0) as u32 }
    }

    /// Puts an Ethernet header before a packet that has no link-layer header: `bpf_redirect_neigh` replaces one, and
    /// refuses a packet without.
    #[inline(always)]
    fn add_ethernet(&mut self) -> Result<(), Fault> {
        // SAFETY: a field of the program's own context.
        let [a, b, ..] = unsafe { (*self.0.skb.skb).protocol }.to_ne_bytes();
        // SAFETY: a helper without pointers but the context.
        if unsafe { bpf_skb_change_head(self.0.skb.skb, 14, 0) } != 0 {
            return Err(Fault);
        }
        self.write(0, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b])
    }

    /// Swaps the link-layer addresses and sends the packet back out of its own link.
    #[inline(always)]
    pub(crate) fn bounce(&mut self, l2_len: usize) -> Result<i32, Fault> {
        if l2_len == 0 {
            // SAFETY: a helper without pointers.
            return Ok(unsafe { bpf_redirect((*self.0.skb.skb).ifindex, 0) } as i32);
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.read::<[u8; 12]>(0)?;
        self.write(0, &[g, h, i, j, k, l, a, b, c, d, e, f])?;
        // SAFETY: a helper without pointers.
        Ok(unsafe { bpf_redirect((*self.0.skb.skb).ifindex, 0) } as i32)
    }
}

/// The action that sends a packet to a neighbour at a device. Not inlined, for the BPF stack's sake.
#[inline(never)]
fn redirect_to(ifindex: u32, addr: &Addr) -> u32 {
    // SAFETY: plain data; all zero is a valid value of it.
    let mut next: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    next.nh_family = u32::from(fib::family(addr));
    let [first, second, third, fourth] = addr.words();
    next.__bindgen_anon_1.ipv6_nh = if addr.is_v4() { [fourth, 0, 0, 0] } else { [first, second, third, fourth] };
    // SAFETY: the parameters are on the stack and as long as is said.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut next, size_of::<bpf_redir_neigh>() as i32, 0) as u32 }
}

impl Packet for Skb {
    #[inline(always)]
    fn read<T: FromBytes + KnownLayout + Immutable + Copy>(&self, offset: usize) -> Result<T, Fault> {
        let start = self.0.data() + offset;
        if start + size_of::<T>() > self.0.data_end() {
            return Err(Fault);
        }
        // SAFETY: in bounds by the check above, any bytes are a `T`, and the architectures that we load on read words
        // at any address (the verifier refuses packet access at odd ones elsewhere).
        Ok(unsafe { *(start as *const T) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Fault> {
        // SAFETY: the source is N bytes of stack; the helper checks the packet's bounds.
        let ret = unsafe { bpf_skb_store_bytes(self.0.skb.skb, offset as u32, bytes.as_ptr().cast(), N as u32, 0) };
        if ret == 0 { Ok(()) } else { Err(Fault) }
    }

    #[inline(always)]
    fn update_l4_checksum(&mut self, change: L4Checksum) -> Result<(), Fault> {
        let mut flags = 0;
        if change.pseudo {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if change.zero_is_none {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the helper checks the packet's bounds; a size of 0 means that `to` is a difference.
        let ret =
            unsafe { bpf_l4_csum_replace(self.0.skb.skb, change.offset as u32, 0, u64::from(change.diff), flags) };
        if ret != 0 {
            return Err(Fault);
        }
        if change.pseudo && change.v6 {
            // The helper takes the change off a sum that the device made of the whole packet, as for IPv4, where the
            // header's own checksum changes as well. Here addresses and transport checksum make up for each other.
            // (BPF_F_IPV6 says so, but only from Linux 6.16 on, ead7f9b8de65.)
            self.note_change(change.diff);
        }
        Ok(())
    }

    #[inline(always)]
    fn note_change(&mut self, diff: u32) {
        // Where the device did not sum the packet up, there is nothing to keep right, and the helper says so.
        // SAFETY: a helper without pointers but the context.
        let _unsummed = unsafe { bpf_csum_update(self.0.skb.skb, diff) };
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: a field of the program's own context.
        unsafe { (*self.0.skb.skb).gso_size }
    }
}

impl HostPacket for Skb {
    #[inline(always)]
    fn replace<const WORDS: usize>(
        &mut self,
        l2_len: usize,
        l4: usize,
        words: &[u32; ANSWER_WORDS],
    ) -> Result<(), Fault> {
        let skb = self.0.skb.skb;
        let len = (l2_len + 4 * WORDS) as u32;
        // The checksum of a local sender's packet may be left to the device, from the transport header on. It is not any
        // more once the front of the packet was taken away beyond that (`skb_postpull_rcsum`).
        let front = l4 as u32 + 2;
        // SAFETY: helpers without pointers but the context; they check the packet's bounds.
        let ret = unsafe { bpf_skb_change_tail(skb, len + front, 0) };
        if ret != 0 {
            return Err(Fault);
        }
        // SAFETY: as above.
        if unsafe { bpf_skb_adjust_room(skb, -(front as i32), BPF_ADJ_ROOM_MAC, 0) } != 0 {
            return Err(Fault);
        }
        // SAFETY: the source has `WORDS` words at least.
        let ret = unsafe { bpf_skb_store_bytes(skb, l2_len as u32, words.as_ptr().cast(), 4 * WORDS as u32, 0) };
        if ret == 0 { Ok(()) } else { Err(Fault) }
    }

    #[inline(always)]
    fn insert<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Result<(), Fault> {
        // What stands for several datagrams stays as it is segmented: the kernel makes room in no other way there.
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
        // SAFETY: a helper without pointers but the context.
        if unsafe { bpf_skb_adjust_room(self.0.skb.skb, N as i32, BPF_ADJ_ROOM_NET, flags) } != 0 {
            return Err(Fault);
        }
        self.write(at, bytes)
    }

    #[inline(always)]
    fn is_redirected(&self) -> bool {
        // SAFETY: a field of the program's own context.
        unsafe { (*self.0.skb.skb).tc_index == REDIRECTED }
    }

    #[inline(never)]
    fn has_socket(&self, tuple: &Tuple) -> bool {
        let [s0, s1, s2, s3, d0, d1, d2, d3, ports, _] = *tuple.as_words();
        // As the answer would be looked up: its source is our destination.
        let ports = ports.rotate_left(16);
        let (v4, v6) = ([d3, s3, ports], [d0, d1, d2, d3, s0, s1, s2, s3, ports]);
        let (place, len) =
            if tuple.dst.is_v4() { (v4.as_ptr(), size_of_val(&v4)) } else { (v6.as_ptr(), size_of_val(&v6)) };
        let (skb, place) = (self.0.skb.skb.cast(), place.cast_mut().cast());
        // SAFETY: the tuple lies on the stack and is as long as is said; a socket that was found is given back at once.
        unsafe {
            let socket = if tuple.proto == proto::TCP {
                bpf_sk_lookup_tcp(skb, place, len as u32, OWN_NETNS, 0)
            } else {
                bpf_sk_lookup_udp(skb, place, len as u32, OWN_NETNS, 0)
            };
            if socket.is_null() {
                return false;
            }
            bpf_sk_release(socket.cast());
        }
        true
    }

    #[inline(always)]
    fn route(&self, src: &Addr, dst: &Addr, iif: u32) -> Route {
        // SAFETY: plain data; all zero is a valid value of it.
        let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
        let ret = self.look_up(&mut params, src, dst, iif, 1);
        if !matches!(ret, fib::SUCCESS | fib::NO_NEIGH) {
            return Route::default();
        }
        let oif = params.ifindex;
        let on_link = fib::leads_to(&params, dst);
        // The way's MTU is told of a neighbour that is known, or of a packet that does not fit. Before Linux 5.12 of
        // neither.
        if ret == fib::NO_NEIGH && self.look_up(&mut params, src, dst, iif, u16::MAX) != fib::FRAG_NEEDED {
            return Route { oif, mtu: 0, on_link };
        }
        // SAFETY: both members are plain 16-bit numbers.
        let mtu = u32::from(unsafe { params.__bindgen_anon_1.mtu_result });
        // Where the length that was asked for is still there, nothing was told: later releases of Linux 5.10 do compare it
        // with the MTU (2c0a10af688c), and keep that to themselves (e1850ea9bd9e).
        Route { oif, mtu: if matches!(mtu, 1 | 0xffff) { 0 } else { mtu }, on_link }
    }
}

impl Skb {
    /// Looks up the way of a packet of this length; the helper's answer, the rest in `params`.
    #[inline(always)]
    fn look_up(&self, params: &mut bpf_fib_lookup, src: &Addr, dst: &Addr, iif: u32, len: u16) -> i64 {
        fib::ask(params, src, dst, iif);
        params.__bindgen_anon_1.tot_len = len;
        // SAFETY: the parameters are as long as is said.
        unsafe { bpf_fib_lookup(self.0.as_ptr(), params, size_of::<bpf_fib_lookup>() as i32, 0) }
    }
}
