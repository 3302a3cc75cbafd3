//! `bpf(2)` on maps, as far as the tables need it: safe functions over byte slices whose lengths are checked against what
//! the kernel says of the map. It knows no table and no type of ours.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapGetNextKey = 4,
    ObjPin = 6,
    ObjGet = 7,
    ObjGetInfoByFd = 15,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
}

/// `BPF_F_RDONLY`, for an open of a pinned map.
const READ_ONLY: u32 = 1 << 3;
/// The kernel's own ENOTSUPP, which libc does not have: this map type has no such operation.
const ENOTSUPP: i32 = 524;
/// `BPF_MAP_TYPE_ARRAY` and `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;
/// `BPF_MAP_TYPE_PERCPU_ARRAY`, the only per-CPU type here.
const PERCPU_ARRAY: u32 = 6;

/// The members of `union bpf_attr` that are used. The kernel takes shorter ones than its own, as zeros.
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    /// Value, or the next key.
    value: u64,
    flags: u64,
}

#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The first members of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct MapInfo {
    pub(super) map_type: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) map_flags: u32,
}

/// How far a batch came.
pub(super) enum Batch {
    /// All of it.
    Done,
    /// So many items are done, and the next one failed.
    Stopped(usize, io::Error),
    /// This kernel has no batches for this map; nothing is done.
    Unsupported,
}

/// # Safety
/// Every pointer in `attr` must lead to memory that lives until this returns, and is as large as the command makes the
/// kernel read or write there.
unsafe fn bpf<A: IntoBytes + FromBytes>(command: Command, attr: &mut A) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes `attr` within its size; the rest is the caller's promise.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<A>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(ret).map_err(io::Error::other) }
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

fn address_mut(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr().expose_provenance() as u64
}

/// `membarrier(2)`.
pub(super) fn membarrier(command: libc::c_int) -> io::Result<()> {
    // SAFETY: takes numbers only.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A map by its descriptor.
#[derive(Debug)]
pub(super) struct RawMap {
    fd: OwnedFd,
    info: MapInfo,
    /// Bytes of a value as system calls pass it: for a per-CPU map all CPUs' values.
    value_bytes: usize,
}

impl RawMap {
    /// Opens a pinned map. `cpus` is the number of possible CPUs, for which a per-CPU map has values.
    pub(super) fn open(path: &Path, read_only: bool, cpus: usize) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let file_flags = if read_only { READ_ONLY } else { 0 };
        let mut attr = ObjectAttr { pathname: address(path.as_bytes_with_nul()), bpf_fd: 0, file_flags };
        // SAFETY: the path ends with NUL and lives until the end of this function.
        let fd = unsafe { bpf(Command::ObjGet, &mut attr) }?;
        // SAFETY: a new descriptor that nobody else owns.
        Self::from_fd(unsafe { OwnedFd::from_raw_fd(fd) }, cpus)
    }

    fn from_fd(fd: OwnedFd, cpus: usize) -> io::Result<Self> {
        let mut info = MapInfo::default();
        let mut attr = InfoAttr {
            bpf_fd: number(fd.as_fd()),
            info_len: size_of::<MapInfo>() as u32,
            info: address_mut(info.as_mut_bytes()),
        };
        // SAFETY: the kernel writes at most `info_len` bytes to `info`.
        unsafe { bpf(Command::ObjGetInfoByFd, &mut attr) }?;
        let value = info.value_size as usize;
        let value_bytes = if info.map_type == PERCPU_ARRAY { value.next_multiple_of(8) * cpus } else { value };
        Ok(Self { fd, info, value_bytes })
    }

    /// Makes a map and pins it.
    pub(super) fn create_pinned(path: &Path, name: &str, wanted: &MapInfo) -> io::Result<()> {
        let MapInfo { map_type, id: _, key_size, value_size, max_entries, map_flags } = *wanted;
        let mut attr = CreateAttr { map_type, key_size, value_size, max_entries, map_flags, ..CreateAttr::default() };
        let len = name.len().min(attr.name.len() - 1);
        attr.name[..len].copy_from_slice(&name.as_bytes()[..len]);
        let fd = Self::create(&mut attr)?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr =
            ObjectAttr { pathname: address(path.as_bytes_with_nul()), bpf_fd: number(fd.as_fd()), file_flags: 0 };
        // SAFETY: the path ends with NUL and lives until the end of this function.
        unsafe { bpf(Command::ObjPin, &mut attr) }.map(drop)
    }

    /// An unpinned array of one u32, or of one map like `inner`.
    pub(super) fn create_array(inner: Option<&Self>) -> io::Result<Self> {
        let mut attr = CreateAttr {
            map_type: if inner.is_some() { ARRAY_OF_MAPS } else { ARRAY },
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            inner_map_fd: inner.map_or(0, |inner| number(inner.fd())),
            ..CreateAttr::default()
        };
        Self::from_fd(Self::create(&mut attr)?, 1)
    }

    fn create(attr: &mut CreateAttr) -> io::Result<OwnedFd> {
        // SAFETY: no pointers in it.
        let fd = unsafe { bpf(Command::MapCreate, attr) }?;
        // SAFETY: a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(super) fn info(&self) -> &MapInfo {
        &self.info
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The descriptor as the value of an array of maps.
    pub(super) fn fd_bytes(&self) -> [u8; 4] {
        number(self.fd()).to_ne_bytes()
    }

    pub(super) fn key_bytes(&self) -> usize {
        self.info.key_size as usize
    }

    pub(super) fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Reads an element; false if there is none.
    pub(super) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(key, 1, Some(value.len()));
        let mut attr = self.element(key, address_mut(value));
        // SAFETY: key and value are as long as the map's, as checked.
        found(unsafe { bpf(Command::MapLookup, &mut attr) })
    }

    /// Inserts or replaces an element.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, 1, Some(value.len()));
        let mut attr = self.element(key, address(value));
        // SAFETY: key and value are as long as the map's, as checked; the kernel only reads them.
        unsafe { bpf(Command::MapUpdate, &mut attr) }.map(drop)
    }

    /// Deletes an element; false if there was none.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.check(key, 1, None);
        let mut attr = self.element(key, 0);
        // SAFETY: the key is as long as the map's, as checked.
        found(unsafe { bpf(Command::MapDelete, &mut attr) })
    }

    /// The key behind `key`, or the first; false at the end. A key that is gone meanwhile leads to the first.
    pub(super) fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        self.check(next, 1, None);
        let mut attr = self.element(&[], address_mut(next));
        attr.key = 0;
        if let Some(key) = key {
            self.check(key, 1, None);
            attr.key = address(key);
        }
        // SAFETY: both keys are as long as the map's, as checked; a null key means the first.
        found(unsafe { bpf(Command::MapGetNextKey, &mut attr) })
    }

    /// Inserts or replaces `count` elements (Linux 5.6 for hashes and arrays, 5.13 per CPU, later for tries).
    pub(super) fn update_batch(&self, keys: &[u8], values: &[u8], count: usize) -> Batch {
        self.check(keys, count, Some(values.len()));
        self.batch(Command::MapUpdateBatch, keys, address(values), count)
    }

    /// Deletes `count` elements; stops at one that is missing.
    pub(super) fn delete_batch(&self, keys: &[u8], count: usize) -> Batch {
        self.check(keys, count, None);
        self.batch(Command::MapDeleteBatch, keys, 0, count)
    }

    fn batch(&self, command: Command, keys: &[u8], values: u64, count: usize) -> Batch {
        let Ok(count) = u32::try_from(count) else { return Batch::Unsupported };
        let mut attr =
            BatchAttr { keys: address(keys), values, count, map_fd: number(self.fd()), ..BatchAttr::default() };
        // SAFETY: keys and values are `count` times as long as the map's, as the callers checked; the kernel only
        // reads them.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => Batch::Done,
            Err(error) if is_unsupported(&error) => Batch::Unsupported,
            // A batch that is refused before its first item leaves the count as it was.
            Err(error) => Batch::Stopped(if attr.count < count { attr.count as usize } else { 0 }, error),
        }
    }

    /// Reads the next elements behind the place `from` (the start: `None`) into `keys` and `values`; gives how many, and
    /// whether more may follow, from the place that is left in `to`. `None`: no batches for this map.
    pub(super) fn lookup_batch(
        &self,
        from: Option<&[u8]>,
        to: &mut [u8],
        keys: &mut [u8],
        values: &mut [u8],
    ) -> io::Result<Option<(usize, bool)>> {
        let room = keys.len() / self.key_bytes();
        self.check(keys, room, Some(values.len()));
        assert!(to.len() >= self.place_bytes() && from.is_none_or(|from| from.len() >= self.place_bytes()));
        let mut attr = BatchAttr {
            in_batch: from.map_or(0, address),
            out_batch: address_mut(to),
            keys: address_mut(keys),
            values: address_mut(values),
            count: u32::try_from(room).map_err(io::Error::other)?,
            map_fd: number(self.fd()),
            ..BatchAttr::default()
        };
        // SAFETY: keys and values have room for `count` elements of the map, as checked, and places are as long as its
        // key, which no place is longer than.
        match unsafe { bpf(Command::MapLookupBatch, &mut attr) } {
            Ok(_) => Ok(Some((attr.count as usize, true))),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Some((attr.count as usize, false))),
            Err(error) if is_unsupported(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of a place in [`Self::lookup_batch`]: a bucket's number or a key.
    pub(super) fn place_bytes(&self) -> usize {
        self.key_bytes().max(4)
    }

    fn element(&self, key: &[u8], value: u64) -> ElementAttr {
        ElementAttr { map_fd: number(self.fd()), key: address(key), value, ..ElementAttr::default() }
    }

    /// # Panics
    /// If the lengths are not those of `count` elements: the kernel would read or write beyond them.
    fn check(&self, keys: &[u8], count: usize, values: Option<usize>) {
        assert_eq!(keys.len(), count * self.key_bytes(), "length of keys");
        if let Some(values) = values {
            assert_eq!(values, count * self.value_bytes, "length of values");
        }
    }
}

fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// EINVAL comes from kernels without the command; where it means something else the single operation says so again.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EINVAL | libc::EOPNOTSUPP))
}

#[expect(clippy::cast_sign_loss, reason = "an open descriptor is never negative")]
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Whether this process is allowed to make maps.
#[cfg(test)]
pub(super) fn may_use_bpf() -> bool {
    RawMap::create_array(None).is_ok()
}
