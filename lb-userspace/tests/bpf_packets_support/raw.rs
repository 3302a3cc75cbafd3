//! Two commands of `bpf(2)`, raw: `BPF_PROG_TEST_RUN` with a repeat count and its time, and `BPF_PROG_LOAD`, with the
//! smallest programs there are, which tell what a run costs by itself.

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};

/// What a run brought.
pub(crate) struct Raw {
    /// The program's return value.
    pub(crate) retval: i32,
    /// The packet after the last run.
    pub(crate) packet: Vec<u8>,
    /// Mean time of one run, in nanoseconds.
    pub(crate) nanos: u32,
}

/// Offset of `ifindex` in `struct __sk_buff` (include/uapi/linux/bpf.h); fields behind it are not given.
const IFINDEX_AT: usize = 40;

/// Size of `struct xdp_md` and offsets of its `data_end` and `ingress_ifindex`.
const XDP_MD: usize = 24;
const DATA_END_AT: usize = 4;
const INGRESS_IFINDEX_AT: usize = 12;

/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` (include/uapi/linux/bpf.h).
const CHECKSUM_COMPLETE: u32 = 1 << 2;

/// Largest packet that a test run takes, in bytes.
const PACKET_MAX: usize = 4096;

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: every pointer inside `attr` was made from a reference that the caller holds until this returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, cmd, core::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs a classifier `repeat` times on one skb: each run sees what the one before it left. `ifindex` 0 stands for no
/// particular device.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8], ifindex: u32, repeat: u32) -> io::Result<Raw> {
    run_in(&of_device(ifindex), program, packet, repeat, 0)
}

fn of_device(ifindex: u32) -> [u8; IFINDEX_AT + 4] {
    let mut context = [0; IFINDEX_AT + 4];
    context[IFINDEX_AT..].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// Runs a classifier once on an skb whose device has summed up all bytes from the IP header on (`CHECKSUM_COMPLETE`).
/// `EBADMSG`: the sum that the skb bears behind the program is not that of its bytes then. `EINVAL`: before Linux 6.18 a
/// test run makes no such skb.
pub(crate) fn test_run_summed(program: BorrowedFd<'_>, packet: &[u8], ifindex: u32) -> io::Result<Raw> {
    run_in(&of_device(ifindex), program, packet, 1, CHECKSUM_COMPLETE)
}

/// The same of an XDP program. The kernel takes only a device that has queues for XDP, as one has while a program is
/// attached to it.
pub(crate) fn test_run_xdp(program: BorrowedFd<'_>, packet: &[u8], ifindex: u32, repeat: u32) -> io::Result<Raw> {
    let mut context = [0; XDP_MD];
    context[DATA_END_AT..][..4].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
    context[INGRESS_IFINDEX_AT..][..4].copy_from_slice(&ifindex.to_ne_bytes());
    run_in(&context, program, packet, repeat, 0)
}

/// Whether this kernel takes a context for a test run of XDP.
pub(crate) fn runs_xdp_for_a_device() -> bool {
    let program = empty_xdp().unwrap_or_else(|error| panic!("an empty XDP program: {error}"));
    // Device 0 is what a run without a context is for.
    match test_run_xdp(program.as_fd(), &[0; 64], 0, 1) {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => false,
        Err(error) => panic!("test run of an empty XDP program: {error}"),
    }
}

/// Sends a frame by a device, of which only the first `linear` bytes lie in one piece, as many drivers leave the payload of
/// what they receive in pages. The kernel does so with frames longer than a page.
pub(crate) fn send_in_pieces(ifindex: u32, frame: &[u8], linear: u16) -> io::Result<()> {
    const PACKET_VNET_HDR: i32 = 15;
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Packet,
        nix::sys::socket::SockType::Raw,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let on: libc::c_int = 1;
    // SAFETY: the option's value lives until the call returns.
    let set = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, value, size_of_val(&on) as u32)
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // `struct virtio_net_hdr`: no checksum to be filled in, nothing to be cut; the length of the headers at offset 2.
    let mut bytes = vec![0; 10];
    bytes[2..4].copy_from_slice(&linear.to_ne_bytes());
    bytes.extend(frame);
    // SAFETY: plain integers, of which zero is one.
    let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
    (to.sll_family, to.sll_ifindex) = (libc::AF_PACKET as u16, ifindex as i32);
    // SAFETY: bytes and address live until the call returns, and are as long as is said.
    let sent = unsafe {
        let address = (&raw const to).cast();
        libc::sendto(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, address, size_of_val(&to) as u32)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn run_in(context: &[u8], program: BorrowedFd<'_>, packet: &[u8], repeat: u32, flags: u32) -> io::Result<Raw> {
    let mut out = vec![0; PACKET_MAX];
    // SAFETY: a union of plain integers, for which all bits zero is what the kernel calls unset.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    attr.test.prog_fd = program.as_raw_fd() as u32;
    attr.test.data_in = packet.as_ptr() as u64;
    attr.test.data_size_in = packet.len() as u32;
    attr.test.data_out = out.as_mut_ptr() as u64;
    attr.test.data_size_out = out.len() as u32;
    attr.test.ctx_in = context.as_ptr() as u64;
    attr.test.ctx_size_in = context.len() as u32;
    attr.test.repeat = repeat;
    attr.test.flags = flags;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the kernel filled in this member.
    let test = unsafe { attr.test };
    out.truncate(test.data_size_out as usize);
    Ok(Raw { retval: test.retval as i32, packet: out, nanos: test.duration })
}

/// A classifier that does nothing but return `TC_ACT_UNSPEC`.
pub(crate) fn empty_classifier() -> io::Result<OwnedFd> {
    empty(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, -1)
}

/// An XDP program that does nothing but return `XDP_PASS`.
pub(crate) fn empty_xdp() -> io::Result<OwnedFd> {
    empty(bpf_prog_type::BPF_PROG_TYPE_XDP, 2)
}

fn empty(kind: bpf_prog_type, value: i32) -> io::Result<OwnedFd> {
    const MOV64_IMM: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let insn = |code, imm| {
        // SAFETY: plain integers; all zero is an instruction without registers or offset.
        let mut insn: bpf_insn = unsafe { mem::zeroed() };
        (insn.code, insn.imm) = (code, imm);
        insn
    };
    let insns = [insn(MOV64_IMM, value), insn(EXIT, 0)];
    // SAFETY: as in `run_in`.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: this command's member of the union, all of whose bits are integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insns = insns.as_ptr() as u64;
    load.insn_cnt = insns.len() as u32;
    load.license = c"GPL".as_ptr() as u64;
    program(&mut attr)
}

/// Loads a program.
pub(crate) fn program(attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, attr)?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
