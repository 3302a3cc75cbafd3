//! What must be there before a program is loaded: privileges, a bpffs, a cgroup v2 folder, the memory limit.
//! It mounts what is missing and says so; it never unmounts, and never touches a folder that it was not given.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs},
    },
};

use super::{
    error::{Error, Result},
    sys,
};

/// Where a bpffs is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";
/// Where a cgroup v2 hierarchy is mounted if the machine has none mounted.
const PRIVATE_CGROUP: &str = "/run/berrylb/cgroup2";

const CGROUP_ADVICE: &str = "give --cgroup a folder below a cgroup v2 mount (`findmnt -t cgroup2`), or leave it out";

/// Checks that this process may load and attach programs.
///
/// # Errors
/// [`Error::Setup`] names the capabilities that are missing, or what refuses bpf(2) to a process that has them.
pub fn check_privileges() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").map_err(Error::kernel("read /proc/self/status"))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| Error::setup("/proc/self/status has no CapEff line", "mount a proc file system on /proc"))?;
    let missing = missing_capabilities(effective);
    if !missing.is_empty() {
        return Err(Error::setup(
            format!("no permission to load BPF programs: {} missing", missing.join(", ")),
            "run as root, or give these capabilities (in Kubernetes: securityContext.privileged, or capabilities.add)",
        ));
    }
    sys::call_for_nothing().map_err(|cause| refused(&status, &cause))
}

/// Why bpf(2) itself fails for a process with the capabilities; `status` is proc(5)'s file of that name.
fn refused(status: &str, cause: &io::Error) -> Error {
    let filtered = status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"));
    if filtered {
        return Error::setup(
            format!("bpf(2) is refused to a process with all capabilities for it, by its seccomp profile ({cause})"),
            "in Kubernetes: a runtime whose default profile goes by CAP_BPF (containerd 1.7, Docker 23.0, or newer), or for \
             securityContext.seccompProfile the type Unconfined, or a profile that allows bpf",
        );
    }
    Error::setup(
        format!("bpf(2) is refused to a process with all capabilities for it ({cause})"),
        "see whether the kernel has CONFIG_BPF_SYSCALL, and what a security module (SELinux, lockdown) has logged",
    )
}

/// Capabilities that loading, attaching and pinning need and `effective` lacks (bit numbers of capability.h).
fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let has = |bit: u32| effective >> bit & 1 == 1;
    let mut missing = Vec::new();
    if !has(NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    // CAP_SYS_ADMIN stands for the two that were split off it in Linux 5.8.
    if !has(SYS_ADMIN) {
        missing.extend((!has(BPF)).then_some("CAP_BPF"));
        missing.extend((!has(PERFMON)).then_some("CAP_PERFMON"));
    }
    missing
}

/// Lifts the limit of locked memory, against which kernels before 5.11 count maps and programs.
///
/// # Errors
/// When the limit is finite and may not be raised.
pub fn raise_memory_limit() -> Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|e| Error::kernel("read RLIMIT_MEMLOCK")(e.into()))?;
    if soft == libc::RLIM_INFINITY {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY).map_err(|error| {
        let what = format!("raise RLIMIT_MEMLOCK from {soft} bytes to unlimited");
        if error == nix::Error::EPERM {
            return Error::setup(
                format!(
                    "{what}: CAP_SYS_RESOURCE is missing, which this kernel wants for BPF maps (Linux before 5.11)"
                ),
                "give that capability as well, or start the agent without a limit on locked memory",
            );
        }
        Error::kernel(what)(error.into())
    })
}

/// Makes the folder `dir` on a bpffs. If it lies on none, one is mounted: on `/sys/fs/bpf` for a folder below that,
/// else on `dir` itself. Returns the mount point if it mounted.
///
/// # Errors
/// When the folder cannot be made or the mount is refused.
pub fn ensure_bpffs(dir: &Path) -> Result<Option<PathBuf>> {
    let nearest = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let mut mounted = None;
    if !is_on(nearest, BPF_FS_MAGIC)? {
        let point = if dir.starts_with(BPFFS) { Path::new(BPFFS) } else { dir };
        make_dir(point)?;
        mount(Some("bpffs"), point, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .map_err(|e| Error::kernel(format!("mount a bpffs on {}", point.display()))(e.into()))?;
        mounted = Some(point.to_owned());
    }
    make_dir(dir)?;
    Ok(mounted)
}

/// Whether `dir` exists and lies on a bpffs.
///
/// # Errors
/// When the file system cannot be asked.
pub fn is_bpffs(dir: &Path) -> Result<bool> {
    Ok(dir.exists() && is_on(dir, BPF_FS_MAGIC)?)
}

pub(super) fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::kernel(format!("make folder {}", dir.display())))
}

fn is_on(path: &Path, magic: FsType) -> Result<bool> {
    let found =
        statfs(path).map_err(|e| Error::kernel(format!("ask for the file system of {}", path.display()))(e.into()))?;
    Ok(found.filesystem_type() == magic)
}

/// An open cgroup v2 folder.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    fd: OwnedFd,
    id: u64,
}

impl Cgroup {
    /// Opens `given`, or else the root of the cgroup v2 hierarchy, which is mounted privately if it is not mounted.
    ///
    /// # Errors
    /// When there is no such folder, it is not cgroup v2, or the mount is refused.
    pub fn open(given: Option<&Path>) -> Result<Self> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => Self::find_or_mount_root()?,
        };
        let what = format!("open cgroup {}", path.display());
        let dir = match fs::File::open(&path) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::setup(format!("there is no cgroup {}", path.display()), CGROUP_ADVICE));
            }
            Err(error) => return Err(Error::kernel(what)(error)),
        };
        if !is_on(&path, CGROUP2_SUPER_MAGIC)? {
            return Err(Error::setup(format!("{} is not a cgroup v2 folder", path.display()), CGROUP_ADVICE));
        }
        // On 64-bit kernels the inode number is the cgroup's id, as link information tells it.
        let id = dir.metadata().map_err(Error::kernel(what))?.ino();
        Ok(Self { path, fd: dir.into(), id })
    }

    fn find_or_mount_root() -> Result<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(Error::kernel("read /proc/self/mountinfo"))?;
        if let Some(root) = cgroup2_mount(&table) {
            return Ok(root);
        }
        let point = Path::new(PRIVATE_CGROUP);
        make_dir(point)?;
        mount(Some("cgroup2"), point, Some("cgroup2"), MsFlags::empty(), None::<&str>)
            .map_err(|e| Error::kernel(format!("mount cgroup v2 on {PRIVATE_CGROUP}"))(e.into()))?;
        Ok(point.to_owned())
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many levels it is below the root of the hierarchy, whatever part of that is visible: the root alone has no
    /// file `cgroup.type` (Documentation/admin-guide/cgroup-v2.rst).
    ///
    /// # Errors
    /// When the root is outside what is mounted here.
    pub fn level(&self) -> Result<u32> {
        let what = || format!("find the level of cgroup {}", self.path.display());
        let path = fs::canonicalize(&self.path).map_err(Error::kernel(what()))?;
        for (level, folder) in (0..).zip(path.ancestors()) {
            if !is_on(folder, CGROUP2_SUPER_MAGIC)? {
                break;
            }
            if !folder.join("cgroup.type").exists() {
                return Ok(level);
            }
        }
        Err(Error::setup(
            format!("{}: the root of the cgroup hierarchy is not mounted above it", what()),
            "mount the host's /sys/fs/cgroup into the agent, or leave out --socket-lb-skip-cgroups",
        ))
    }

    /// The cgroup's id in the kernel.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The first cgroup v2 mount of a mountinfo table (proc(5)), one that shows the hierarchy's root before any other.
fn cgroup2_mount(table: &str) -> Option<PathBuf> {
    let mounts = table.lines().filter_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (rest.split(' ').next()? == "cgroup2").then(|| (root, unescape(point)))
    });
    let mut first = None;
    for (root, point) in mounts {
        if root == "/" {
            return Some(point);
        }
        first.get_or_insert(point);
    }
    first
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, plain);
    }
    text.into()
}

/// What security settings of the kernel say, for the explanation of a refusal: one line for each that matters.
#[must_use]
pub fn security_notes() -> Vec<String> {
    let mut notes = Vec::new();
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(text) if text.contains("[confidentiality]") => notes.push(
            "kernel lockdown is [confidentiality]: BPF programs may not read kernel memory (ours do not)".to_owned(),
        ),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => notes.push(format!("kernel lockdown unknown: {error}")),
    }
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(text) if text.trim() == "0" => notes.push(
            "net.core.bpf_jit_enable is 0: programs are interpreted, several times slower; set it to 1".to_owned(),
        ),
        Ok(_) => {}
        // The file is absent in network namespaces other than the first, and on kernels that always compile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => notes.push(format!("BPF JIT state unknown: {error}")),
    }
    notes
}

/// Indexes of all devices in this thread's network namespace.
pub(super) fn interface_indexes() -> Result<Vec<u32>> {
    let devices = nix::net::if_::if_nameindex().map_err(|e| Error::kernel("list network devices")(e.into()))?;
    let mut indexes: Vec<u32> = devices.iter().map(|device| device.index()).collect();
    indexes.sort_unstable();
    Ok(indexes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named() {
        let bits = |bits: &[u32]| bits.iter().fold(0_u64, |all, bit| all | 1 << bit);
        assert!(missing_capabilities(bits(&[12, 21])).is_empty());
        assert!(missing_capabilities(bits(&[12, 38, 39])).is_empty());
        assert_eq!(missing_capabilities(bits(&[21])), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(bits(&[12, 38])), ["CAP_BPF"]);
        assert_eq!(missing_capabilities(0), ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn a_filter_is_told_from_a_kernel_that_refuses() {
        let cause = io::Error::from_raw_os_error(libc::EPERM);
        let filtered = refused("Name:\tberrylb\nSeccomp:\t2\nSeccomp_filters:\t1\n", &cause).to_string();
        assert!(filtered.contains("seccomp profile") && filtered.contains("CAP_BPF"), "{filtered}");
        let plain = refused("Seccomp:\t0\n", &cause).to_string();
        assert!(!plain.contains("seccomp") && plain.contains("CONFIG_BPF_SYSCALL"), "{plain}");
    }

    #[test]
    fn the_root_of_the_hierarchy_is_preferred() {
        let table = "\
            24 30 0:22 / /proc rw - proc proc rw\n\
            31 30 0:27 /kubepods/pod1 /mnt/part rw - cgroup2 cgroup2 rw\n\
            32 30 0:27 / /sys/fs/cgroup/with\\040space rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mount(table).as_deref(), Some(Path::new("/sys/fs/cgroup/with space")));
        let part = table.lines().take(2).collect::<Vec<_>>().join("\n");
        assert_eq!(cgroup2_mount(&part).as_deref(), Some(Path::new("/mnt/part")));
        assert_eq!(cgroup2_mount("24 30 0:22 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu"), None);
    }

    #[test]
    fn a_folder_of_another_kind_is_refused() {
        let error = Cgroup::open(Some(Path::new("/proc"))).expect_err("not a cgroup").to_string();
        assert!(error.contains("/proc is not a cgroup v2 folder"), "{error}");
        let error = Cgroup::open(Some(Path::new("/no/such/cgroup"))).expect_err("nothing").to_string();
        assert!(error.contains("no cgroup /no/such/cgroup") && error.contains("findmnt -t cgroup2"), "{error}");
    }
}
