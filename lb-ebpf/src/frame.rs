//! `impl Packet` for an XDP frame: direct reads and writes, and checksums by arithmetic, as a received frame's is whole.

use core::mem::zeroed;

use aya_ebpf::{EbpfContext as _, bindings::bpf_fib_lookup, helpers::bpf_fib_lookup, programs::XdpContext};
use lb_common::{
    abi::Addr,
    datapath::{Fault, Frame as Received, L4Checksum, Packet, checksum},
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::fib;

/// A frame on an XDP hook.
pub(crate) struct Frame(pub(crate) XdpContext);

impl Frame {
    /// Where `len` bytes from `offset` on lie, if they lie wholly in the frame.
    #[inline(always)]
    fn at(&self, offset: usize, len: usize) -> Result<usize, Fault> {
        let start = self.0.data() + offset;
        if start + len > self.0.data_end() { Err(Fault) } else { Ok(start) }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn read<T: FromBytes + KnownLayout + Immutable + Copy>(&self, offset: usize) -> Result<T, Fault> {
        let start = self.at(offset, size_of::<T>())?;
        // SAFETY: in bounds, and as on an skb.
        Ok(unsafe { *(start as *const T) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Fault> {
        let start = self.at(offset, N)?;
        // SAFETY: in bounds; an array of bytes may lie anywhere.
        unsafe { *(start as *mut [u8; N]) = *bytes };
        Ok(())
    }

    #[inline(always)]
    fn update_l4_checksum(&mut self, change: L4Checksum) -> Result<(), Fault> {
        let field: [u8; 2] = self.read(change.offset)?;
        if change.zero_is_none && u16::from_ne_bytes(field) == 0 {
            return Ok(());
        }
        let new = checksum::apply(field, change.diff);
        let zero = change.zero_is_none && u16::from_ne_bytes(new) == 0;
        self.write(change.offset, &if zero { [0xff; 2] } else { new })
    }

    #[inline(always)]
    fn note_change(&mut self, _diff: u32) {
        // Nobody has summed the frame up yet.
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.0.data_end() - self.0.data()) as u32
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        0
    }
}

impl Received for Frame {
    #[inline(always)]
    fn neighbour(&self, src: &Addr, dst: &Addr, ifindex: u32) -> Option<[u8; 12]> {
        // SAFETY: plain data; all zero is a valid value of it.
        let mut params: bpf_fib_lookup = unsafe { zeroed() };
        fib::ask(&mut params, src, dst, ifindex);
        // SAFETY: the parameters are on the stack and as long as is said.
        let ret = unsafe { bpf_fib_lookup(self.0.as_ptr(), &raw mut params, size_of::<bpf_fib_lookup>() as i32, 0) };
        if ret != fib::SUCCESS || params.ifindex != ifindex {
            return None;
        }
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (params.dmac, params.smac);
        Some([a, b, c, d, e, f, g, h, i, j, k, l])
    }
}
