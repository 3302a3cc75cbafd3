//! A BPF array as memory. The only place that makes pointers into a map; it knows bytes and words, no tables.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

/// A mapped array of 8-byte words that the kernel, BPF programs and other processes read and write at the same time:
/// therefore every access is one atomic load or store.
pub(super) struct Mmap {
    start: NonNull<AtomicU64>,
    words: usize,
    bytes: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is accessed by atomics only.
unsafe impl Send for Mmap {}
// SAFETY: as above; `&Mmap` gives no access that is not atomic.
unsafe impl Sync for Mmap {}

impl Mmap {
    /// Maps the first `bytes` bytes of an array made with `BPF_F_MMAPABLE`; the kernel takes whole pages, of whatever
    /// size this machine has.
    pub(super) fn new(fd: BorrowedFd<'_>, bytes: usize, writable: bool) -> io::Result<Self> {
        // SAFETY: takes a number and gives one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| io::Error::last_os_error())?;
        let rounded = bytes.checked_next_multiple_of(page).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice; nothing that exists is touched.
        let start = unsafe { libc::mmap(ptr::null_mut(), rounded, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, words: bytes / 8, bytes: rounded, writable })
    }

    /// Words in the array.
    pub(super) fn words(&self) -> usize {
        self.words
    }

    /// # Panics
    /// Beyond the end.
    pub(super) fn word(&self, at: usize) -> u64 {
        self.at(at).load(Ordering::Acquire)
    }

    /// A store that other CPUs see after everything written before it.
    ///
    /// # Panics
    /// Beyond the end, or if mapped for reading.
    pub(super) fn set_word(&self, at: usize, value: u64) {
        assert!(self.writable, "the map was opened for reading");
        self.at(at).store(value, Ordering::Release);
    }

    /// The lower-addressed half of a word: a u32 element of an array, whose elements are 8 bytes apart.
    ///
    /// # Panics
    /// Beyond the end.
    pub(super) fn half(&self, at: usize) -> u32 {
        self.half_at(at).load(Ordering::Relaxed)
    }

    /// # Panics
    /// Beyond the end, or if mapped for reading.
    pub(super) fn set_half(&self, at: usize, value: u32) {
        assert!(self.writable, "the map was opened for reading");
        self.half_at(at).store(value, Ordering::Relaxed);
    }

    /// One byte. A program's store to another byte of its word is never lost.
    ///
    /// # Panics
    /// Beyond the end, or if mapped for reading.
    pub(super) fn set_byte(&self, at: usize, value: u8) {
        assert!(self.writable, "the map was opened for reading");
        assert!(at < 8 * self.words, "byte {at} of {} words", self.words);
        // SAFETY: `at` is inside the mapping, which lives as long as `self` and is valid for any bits. Others access it at the
        // same time, by single loads and stores of bytes and of whole words, of which processors make one or the other.
        unsafe { self.start.cast::<AtomicU8>().add(at).as_ref() }.store(value, Ordering::Relaxed);
    }

    fn at(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.words, "word {at} of {}", self.words);
        // SAFETY: `at` is inside the mapping, which lives as long as `self`, starts at a page and thus aligned, and is
        // valid for any bits; a store through it is reached only if it was mapped writable.
        unsafe { self.start.add(at).as_ref() }
    }

    fn half_at(&self, at: usize) -> &AtomicU32 {
        assert!(at < self.words, "word {at} of {}", self.words);
        // SAFETY: as in `at`. BPF programs and we access these elements as u32 only, so no access of another size
        // overlaps this one.
        unsafe { self.start.add(at).cast::<AtomicU32>().as_ref() }
    }
}

impl Drop for Mmap {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, and no reference into it outlives `self`.
        let unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(unmapped, 0, "{}", io::Error::last_os_error());
    }
}
