//! The few calls of `bpf(2)` that aya does not offer: links of any kind as plain file descriptors, queries of what is
//! attached, and the small loads that probing needs. It decides nothing and keeps no state.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_link_info, bpf_link_type, bpf_map_info, bpf_map_type,
    bpf_prog_type,
};

/// What a link is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A cgroup's folder.
    Cgroup(BorrowedFd<'a>),
    /// A device of the current network namespace.
    Device(u32),
}

/// Where an existing link is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// A cgroup by its id; 0 once the cgroup is gone.
    Cgroup {
        /// Inode number of the cgroup's folder.
        id: u64,
        /// `bpf_attach_type`.
        attach_type: u32,
    },
    /// A device of the namespace that the link was made in; 0 once the device is gone.
    Tcx {
        /// Interface index.
        ifindex: u32,
        /// `bpf_attach_type`.
        attach_type: u32,
    },
    /// XDP on a device of the namespace that the link was made in; 0 once the device is gone.
    Xdp {
        /// Interface index.
        ifindex: u32,
    },
    /// A kind of link that we never make.
    Other {
        /// `bpf_link_type`.
        link_type: u32,
    },
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct LinkInfo {
    /// Id of the link, unique while the machine runs.
    pub(super) id: u32,
    /// Id of the program that it runs.
    pub(super) program: u32,
    /// Where it is attached.
    pub(super) place: Place,
}

/// Definition of a map as the kernel holds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct MapInfo {
    pub(super) id: u32,
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers, for which all bits zero is what the kernel calls unset.
    unsafe { mem::zeroed() }
}

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: every pointer inside `attr` was made from a reference that its caller holds until this returns.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd as u32, &raw mut *attr, size_of::<bpf_attr>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn bpf_fd(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(cmd, attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: these commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(clippy::cast_sign_loss, reason = "an open descriptor is never negative")]
fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// `BPF_LINK_CREATE` (Linux 5.7 for cgroups, 5.9 for XDP, 6.6 for tcx). `flags` of a tcx link order it among its
/// neighbours, those of an XDP link say whether it is the driver's or the stack's.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: bpf_attach_type,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    match target {
        Target::Cgroup(fd) => attr.link_create.__bindgen_anon_2.target_fd = raw(fd),
        Target::Device(ifindex) => attr.link_create.__bindgen_anon_2.target_ifindex = ifindex,
    }
    attr.link_create.attach_type = attach_type as u32;
    attr.link_create.flags = flags;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// `BPF_LINK_UPDATE`: from one packet or call to the next the link runs another program; it is never unattached.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// `BPF_LINK_DETACH` (Linux 5.9): unattached now, whoever else still holds the link open.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: plain integers and unions of them.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    object_info(link, &mut info)?;
    // SAFETY: the kernel filled the member that belongs to the type; the others are plain integers too.
    let place = unsafe {
        let at = info.__bindgen_anon_1;
        if info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
            Place::Cgroup { id: at.cgroup.cgroup_id, attach_type: at.cgroup.attach_type }
        } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
            Place::Tcx { ifindex: at.tcx.ifindex, attach_type: at.tcx.attach_type }
        } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
            Place::Xdp { ifindex: at.xdp.ifindex }
        } else {
            Place::Other { link_type: info.type_ }
        }
    };
    Ok(LinkInfo { id: info.id, program: info.prog_id, place })
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a map. aya's own does not tell a map from a link that is pinned in its place.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    // SAFETY: plain integers and arrays of them.
    let mut info: bpf_map_info = unsafe { mem::zeroed() };
    object_info(map, &mut info)?;
    Ok(MapInfo {
        id: info.id,
        map_type: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.map_flags,
    })
}

fn object_info<T>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(fd);
    attr.info.info = (&raw mut *info).expose_provenance() as u64;
    attr.info.info_len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// `BPF_OBJ_PIN`.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.bpf_fd = raw(object);
    attr.__bindgen_anon_4.pathname = path.as_ptr().expose_provenance() as u64;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// `BPF_OBJ_GET`; `None` if nothing is pinned there.
pub(super) fn get_pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = c_path(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr().expose_provenance() as u64;
    match bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Programs and links at one place, in the order in which they run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Attached {
    pub(super) programs: Vec<u32>,
    /// In the same order, 0 for a program without link; only tcx tells.
    pub(super) links: Vec<u32>,
}

/// `BPF_PROG_QUERY`. On a device it is EINVAL on kernels without tcx (Linux 6.6).
pub(super) fn query(target: Target<'_>, attach_type: bpf_attach_type) -> io::Result<Attached> {
    // The kernel allows at most 64 on each hook of a device or cgroup.
    const MOST: u32 = 64;
    let mut found = Attached { programs: vec![0; MOST as usize], links: vec![0; MOST as usize] };
    let mut attr = zeroed();
    attr.query.prog_ids = found.programs.as_mut_ptr().expose_provenance() as u64;
    match target {
        Target::Cgroup(fd) => attr.query.__bindgen_anon_1.target_fd = raw(fd),
        Target::Device(ifindex) => {
            attr.query.__bindgen_anon_1.target_ifindex = ifindex;
            attr.query.link_ids = found.links.as_mut_ptr().expose_provenance() as u64;
        }
    }
    attr.query.attach_type = attach_type as u32;
    attr.query.__bindgen_anon_2.prog_cnt = MOST;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the kernel wrote the count; both members of the union are u32.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
    found.programs.truncate(count);
    found.links.truncate(count);
    Ok(found)
}

/// `BPF_PROG_LOAD` of a few instructions, without a verifier log.
pub(super) fn program_load(
    program_type: bpf_prog_type,
    attach_type: Option<bpf_attach_type>,
    instructions: &[bpf_insn],
) -> io::Result<OwnedFd> {
    let licence = c"GPL";
    let mut attr = zeroed();
    // SAFETY: writing plain integers into a zeroed union member.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = program_type as u32;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.insns = instructions.as_ptr().expose_provenance() as u64;
    load.license = licence.as_ptr().expose_provenance() as u64;
    if let Some(attach_type) = attach_type {
        load.expected_attach_type = attach_type as u32;
    }
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// `BPF_MAP_CREATE` without a name or BTF.
pub(super) fn map_create(map_type: bpf_map_type, key: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: writing plain integers into a zeroed union member.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = map_type as u32;
    map.key_size = key;
    map.value_size = value;
    map.max_entries = entries;
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// `BPF_MAP_LOOKUP_ELEM` of an array of u64.
pub(super) fn array_u64(map: BorrowedFd<'_>, index: u32) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut attr = zeroed();
    // SAFETY: writing plain integers into a zeroed union member.
    let lookup = unsafe { &mut attr.__bindgen_anon_2 };
    lookup.map_fd = raw(map);
    lookup.key = (&raw const index).expose_provenance() as u64;
    lookup.__bindgen_anon_1.value = (&raw mut value).expose_provenance() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(value)
}

/// `BPF_MAP_UPDATE_BATCH` (Linux 5.6) of one u32 → u32 element, to see whether it works.
pub(super) fn update_batch_of_one(map: BorrowedFd<'_>) -> io::Result<()> {
    let (key, value) = (0_u32, 0_u32);
    let mut attr = zeroed();
    attr.batch.keys = (&raw const key).expose_provenance() as u64;
    attr.batch.values = (&raw const value).expose_provenance() as u64;
    attr.batch.count = 1;
    attr.batch.map_fd = raw(map);
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// Whether a device of this thread's network namespace merges what it receives (GRO): `ETHTOOL_GGRO` of ethtool(8).
pub(super) fn merges_received(name: &str) -> io::Result<bool> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_GGRO: u32 = 0x2b;
    #[repr(C)]
    struct EthtoolValue {
        cmd: u32,
        data: u32,
    }
    let mut value = EthtoolValue { cmd: ETHTOOL_GGRO, data: 0 };
    // SAFETY: plain integers, characters and pointers; the ioctl looks at the name and the pointer only.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        // Signed on x86-64, not on arm64.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: both structures live until the call returns, and are what it asks for.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data != 0)
}
