//! The handful of BPF instructions that probing loads, written out (RFC 9669). Never part of the datapath.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya_obj::generated::bpf_insn;

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(dst, src), off, imm }
}

/// `dst = imm`, 64 bits.
pub(super) fn mov(dst: u8, imm: i32) -> bpf_insn {
    insn(0xb7, dst, 0, 0, imm)
}

/// `dst = src`, 64 bits.
pub(super) fn copy(dst: u8, src: u8) -> bpf_insn {
    insn(0xbf, dst, src, 0, 0)
}

/// `dst += imm`, 64 bits.
pub(super) fn add(dst: u8, imm: i32) -> bpf_insn {
    insn(0x07, dst, 0, 0, imm)
}

/// `*(u64 *)(dst + off) = src`.
pub(super) fn store(dst: u8, off: i16, src: u8) -> bpf_insn {
    insn(0x7b, dst, src, off, 0)
}

/// `*(u32 *)(dst + off) = imm`.
pub(super) fn store_imm32(dst: u8, off: i16, imm: i32) -> bpf_insn {
    insn(0x62, dst, 0, off, imm)
}

/// `dst = map`, two instructions.
pub(super) fn load_map(dst: u8, map: BorrowedFd<'_>) -> [bpf_insn; 2] {
    const PSEUDO_MAP_FD: u8 = 1;
    [insn(0x18, dst, PSEUDO_MAP_FD, 0, map.as_raw_fd()), insn(0, 0, 0, 0, 0)]
}

/// A helper by its number in `enum bpf_func_id`.
pub(super) fn call(helper: i32) -> bpf_insn {
    insn(0x85, 0, 0, 0, helper)
}

/// Skips `off` instructions if `dst == 0`.
pub(super) fn jump_if_zero(dst: u8, off: i16) -> bpf_insn {
    insn(0x15, dst, 0, off, 0)
}

/// `return r0`.
pub(super) fn exit() -> bpf_insn {
    insn(0x95, 0, 0, 0, 0)
}
