//! The cookie of this network namespace, by which socket programs tell the host's sockets from a pod's.
//! Linux 5.14 tells it by a socket option; before that a program in a scratch cgroup has to look. It leaves neither the
//! cgroup nor the program behind.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use aya_obj::generated::{bpf_attach_type, bpf_func_id, bpf_map_type, bpf_prog_type};

use super::{
    error::{Error, Result},
    insn, sys,
};

/// `SO_NETNS_COOKIE` of asm-generic/socket.h, which x86 and ARM64 use.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Asks a socket of this thread's network namespace.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 5.14.
pub fn by_socket_option() -> io::Result<u64> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).map_err(io::Error::other)?;
    // SAFETY: the option is eight bytes, and `cookie` and `length` live across the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u32 = 0x6e73_6673;

/// The cookie of the network namespace that `path` stands for, as in /run/netns; `None`: the file stands for none, as
/// before it is mounted. A thread of its own enters the namespace and ends there.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 5.14; or the path cannot be opened, or is another kind of namespace (`EINVAL`).
pub fn of_netns(path: &Path) -> io::Result<Option<u64>> {
    let file = fs::File::open(path)?;
    let kind = nix::sys::statfs::fstatfs(&file)?.filesystem_type();
    if u32::try_from(kind.0).ok() != Some(NSFS_MAGIC) {
        return Ok(None);
    }
    let entered = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        by_socket_option()
    })?;
    entered.join().map_err(|_| io::Error::other("the thread that entered the namespace panicked"))?.map(Some)
}

/// Lets a child process connect a UDP socket in a cgroup of its own below `cgroup`, where a program notes the cookie.
/// The socket belongs to this thread's network namespace, and nothing is sent.
///
/// # Errors
/// Names the step that failed.
pub fn by_scratch_cgroup(cgroup: &Path) -> Result<u64> {
    let scratch = Scratch::make(cgroup)?;
    let what = |step: &str| format!("learn the network namespace's cookie in {}: {step}", scratch.0.display());

    let map = sys::map_create(bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, 8, 1).map_err(Error::kernel(what("make a map")))?;
    let attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT;
    let [map_low, map_high] = insn::load_map(1, map.as_fd());
    let program = [
        insn::copy(6, 1),
        insn::store_imm32(10, -4, 0),
        map_low,
        map_high,
        insn::copy(2, 10),
        insn::add(2, -4),
        insn::call(bpf_func_id::BPF_FUNC_map_lookup_elem as i32),
        insn::jump_if_zero(0, 4),
        insn::copy(7, 0),
        insn::copy(1, 6),
        insn::call(bpf_func_id::BPF_FUNC_get_netns_cookie as i32),
        insn::store(7, 0, 0),
        insn::mov(0, 1),
        insn::exit(),
    ];
    let program = sys::program_load(bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Some(attach_type), &program)
        .map_err(Error::kernel(what("load a program")))?;
    let dir = fs::File::open(&scratch.0).map_err(Error::kernel(what("open")))?;
    let _link = sys::link_create(program.as_fd(), sys::Target::Cgroup(dir.as_fd()), attach_type, 0)
        .map_err(Error::kernel(what("attach the program")))?;

    connect_in(&scratch.0).map_err(Error::kernel(what("connect in a child process")))?;
    match sys::array_u64(map.as_fd(), 0).map_err(Error::kernel(what("read the map")))? {
        0 => Err(Error::setup(
            what("the program did not run"),
            "a program of a parent cgroup may refuse the connect; give --cgroup a folder above it",
        )),
        cookie => Ok(cookie),
    }
}

/// A cgroup that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("berrylb-cookie-{}", std::process::id()));
        fs::create_dir(&path).map_err(Error::kernel(format!("make cgroup {}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!("scratch cgroup {} stays behind: {error}", self.0.display());
        }
    }
}

/// Forks a child that enters `cgroup`, connects a UDP socket to loopback and ends. The outcome of the connect does not
/// matter: the hook runs before the route is looked up.
fn connect_in(cgroup: &Path) -> io::Result<()> {
    let procs = CString::new(cgroup.join("cgroup.procs").as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: all zero is a valid address of family 0; the fields that matter are set below.
    let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    to.sin_family = libc::AF_INET.try_into().map_err(io::Error::other)?;
    to.sin_port = 9_u16.to_be();
    to.sin_addr.s_addr = u32::from(std::net::Ipv4Addr::LOCALHOST).to_be();
    let length = libc::socklen_t::try_from(size_of_val(&to)).map_err(io::Error::other)?;

    // SAFETY: the child calls only async-signal-safe functions on memory that was prepared before the fork (another
    // thread may have held the allocator's lock), and never returns.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above; `_exit` runs no destructors.
        unsafe {
            let file = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file < 0 || libc::write(file, c"0".as_ptr().cast(), 1) != 1 {
                libc::_exit(1);
            }
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            if socket < 0 {
                libc::_exit(2);
            }
            libc::connect(socket, (&raw const to).cast(), length);
            libc::_exit(0);
        }
    }
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut status = 0;
    loop {
        // SAFETY: waits for the child made above and writes into a local.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, 1) => Err(io::Error::other("it could not enter the cgroup")),
        (true, _) => Err(io::Error::other("it could not make a socket")),
        (false, _) => Err(io::Error::other(format!("it was killed by signal {}", libc::WTERMSIG(status)))),
    }
}
