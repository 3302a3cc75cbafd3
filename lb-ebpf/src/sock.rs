//! Entry points on socket calls.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use lb_common::{
    abi::{Addr, Port},
    datapath::sock::{self, Call, Outcome, Policy},
};

use crate::{
    globals::{HAS_SET_RETVAL, HOST_NETNS, SKIP_CGROUPS, SKIP_NETNS, SOCKET_LB},
    maps::Kernel,
};

/// Let the call go on / refuse it. A refusal is EPERM unless `bpf_set_retval` says otherwise.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
/// State of a connected socket, UDP's as well (include/net/tcp_states.h).
const TCP_ESTABLISHED: u32 = 1;

/// The address fields of the call, by family; both mean the same mapped form.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

#[inline(always)]
fn read(ctx: *const bpf_sock_addr, family: Family) -> (Addr, Port) {
    // SAFETY: the context is the program's own; each field is one load, as its rewriting by the verifier demands.
    unsafe {
        let addr = match family {
            Family::V4 => Addr::v4((&raw const (*ctx).user_ip4).read_volatile().to_ne_bytes()),
            Family::V6 => read_v6((&raw const (*ctx).user_ip6).cast()),
        };
        let [a, b, ..] = (&raw const (*ctx).user_port).read_volatile().to_ne_bytes();
        (addr, Port::from_octets([a, b]))
    }
}

/// An IPv6 address in a context.
///
/// # Safety
/// `words` points at four words of a context that the verifier lets this program read.
#[inline(always)]
unsafe fn read_v6(words: *const u32) -> Addr {
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 4 {
        // SAFETY: one of the four words.
        let [a, b, c, d] = unsafe { words.add(i).read_volatile() }.to_ne_bytes();
        bytes[4 * i] = a;
        bytes[4 * i + 1] = b;
        bytes[4 * i + 2] = c;
        bytes[4 * i + 3] = d;
        i += 1;
    }
    Addr::v6(bytes)
}

/// Whether the socket is connected to just this destination.
#[inline(always)]
fn is_connected_to(ctx: *const bpf_sock_addr, family: Family, dst: Addr, dport: Port) -> bool {
    // SAFETY: the kernel gives a socket to all of these hooks; each field is one load, as its rewriting by the verifier
    // demands.
    unsafe {
        let sk = (&raw const (*ctx).__bindgen_anon_1.sk).read_volatile();
        if (&raw const (*sk).state).read_volatile() != TCP_ESTABLISHED {
            return false;
        }
        let port = Port::from_octets((&raw const (*sk).dst_port).read_volatile().to_ne_bytes());
        let peer = match family {
            Family::V4 => Addr::v4((&raw const (*sk).dst_ip4).read_volatile().to_ne_bytes()),
            Family::V6 => read_v6((&raw const (*sk).dst_ip6).cast()),
        };
        port == dport && peer == dst
    }
}

#[inline(always)]
fn write(ctx: *mut bpf_sock_addr, family: Family, addr: Addr, port: Port) {
    let words = addr.words();
    let [a, b] = port.octets();
    // SAFETY: as in `read`, with stores.
    unsafe {
        match family {
            Family::V4 => (&raw mut (*ctx).user_ip4).write_volatile(words[3]),
            Family::V6 => {
                let to = (&raw mut (*ctx).user_ip6).cast::<u32>();
                to.write_volatile(words[0]);
                to.add(1).write_volatile(words[1]);
                to.add(2).write_volatile(words[2]);
                to.add(3).write_volatile(words[3]);
            }
        }
        (&raw mut (*ctx).user_port).write_volatile(u32::from_ne_bytes([a, b, 0, 0]));
    }
}

#[inline(always)]
fn call(ctx: &SockAddrContext, family: Family) -> Call {
    let (dst, dport) = read(ctx.sock_addr, family);
    // SAFETY: helpers on the program's own context, and a plain field of it.
    unsafe {
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        Call {
            cookie: bpf_get_socket_cookie(ctx.as_ptr()),
            netns,
            host: netns == HOST_NETNS.load(),
            dst,
            dport,
            proto: (&raw const (*ctx.sock_addr).protocol).read_volatile() as u8,
            connected: false,
        }
    }
}

/// A sendmsg call. The kernel runs its hooks for connected sockets, too: for sendto(2) with an address, and for every
/// send(2) on an IPv6 socket that is connected to a mapped address.
#[inline(always)]
fn send_call(ctx: &SockAddrContext, family: Family) -> Call {
    let call = call(ctx, family);
    Call { connected: is_connected_to(ctx.sock_addr, family, call.dst, call.dport), ..call }
}

#[inline(always)]
fn policy() -> Policy {
    Policy {
        socket_lb: SOCKET_LB.load(),
        has_set_retval: HAS_SET_RETVAL.load() != 0,
        skip_cgroups: SKIP_CGROUPS.load(),
        skip_netns: SKIP_NETNS.load() != 0,
    }
}

#[inline(always)]
fn finish(ctx: &SockAddrContext, family: Family, outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Pass => ALLOW,
        Outcome::To(addr, port) => {
            write(ctx.sock_addr, family, addr, port);
            ALLOW
        }
        Outcome::Refuse => {
            if HAS_SET_RETVAL.load() != 0 {
                // SAFETY: a helper with a plain argument.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
            }
            REFUSE
        }
    }
}

/// recvmsg and getpeername: the frontend that the application named, in place of the backend.
#[inline(always)]
fn reverse(ctx: &SockAddrContext, family: Family) -> i32 {
    let call = call(ctx, family);
    if let Some((addr, port)) = sock::reverse(&Kernel, call.cookie, call.dst, call.dport, call.proto) {
        write(ctx.sock_addr, family, addr, port);
    }
    ALLOW
}

macro_rules! entry_points {
    ($($(#[doc = $doc:literal])+ $name:ident, $hook:ident: |$ctx:ident| $body:expr;)+) => {
        $(
            $(#[doc = $doc])+
            #[cgroup_sock_addr($hook)]
            pub(crate) fn $name($ctx: SockAddrContext) -> i32 {
                $body
            }
        )+
    };
}

entry_points! {
    /// connect(2) on an IPv4 socket.
    connect4, connect4: |ctx| finish(&ctx, Family::V4, sock::connect(&Kernel, &call(&ctx, Family::V4), policy()));
    /// connect(2) on an IPv6 socket, also to mapped addresses.
    connect6, connect6: |ctx| finish(&ctx, Family::V6, sock::connect(&Kernel, &call(&ctx, Family::V6), policy()));
    /// sendto(2), sendmsg(2) on an IPv4 socket, and on an IPv6 one to mapped addresses.
    sendmsg4, sendmsg4: |ctx| finish(&ctx, Family::V4, sock::sendmsg(&Kernel, &send_call(&ctx, Family::V4), policy()));
    /// sendto(2), sendmsg(2) on an IPv6 socket.
    sendmsg6, sendmsg6: |ctx| finish(&ctx, Family::V6, sock::sendmsg(&Kernel, &send_call(&ctx, Family::V6), policy()));
    /// recvfrom(2), recvmsg(2) on an IPv4 socket.
    recvmsg4, recvmsg4: |ctx| reverse(&ctx, Family::V4);
    /// recvfrom(2), recvmsg(2) on an IPv6 socket.
    recvmsg6, recvmsg6: |ctx| reverse(&ctx, Family::V6);
    /// getpeername(2) on an IPv4 socket.
    getpeername4, getpeername4: |ctx| reverse(&ctx, Family::V4);
    /// getpeername(2) on an IPv6 socket.
    getpeername6, getpeername6: |ctx| reverse(&ctx, Family::V6);
}
