//! cgroup v2: where it is mounted, and the sub-tree of a lab.
//!
//! It never touches a cgroup above its own folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::patience::limit;

/// How long processes of a killed cgroup may take to go.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A cgroup v2 mount point that takes new cgroups.
///
/// # Errors
/// `/proc/self/mounts` cannot be read.
pub(crate) fn find_mount() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let writable = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2" && options.split(',').any(|o| o == "rw")).then(|| PathBuf::from(point))
    };
    // A mount point may be hidden below a later mount: then it has no cgroup.procs.
    Ok(mounts.lines().filter_map(writable).find(|point| point.join("cgroup.procs").exists()))
}

/// Mounts cgroup v2 at `point`, for machines that have it nowhere.
///
/// # Errors
/// The kernel has no cgroup v2, or mounting is not allowed.
pub(crate) fn mount_at(point: &Path) -> Result<()> {
    fs::create_dir_all(point).with_context(|| format!("create {}", point.display()))?;
    mount(Some("none"), point, Some("cgroup2"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount cgroup v2 at {}", point.display()))
}

/// Undoes [`mount_at`]; not being mounted is fine.
pub(crate) fn unmount(point: &Path) -> Result<()> {
    match umount2(point, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unmount {}", point.display())),
    }
}

/// Makes the cgroup, with its parents.
pub(crate) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create cgroup {}", folder.display()))
}

/// Kills every process below `folder` and takes the cgroups away; `folder` being gone is fine.
///
/// # Errors
/// A process survives `SIGKILL` for five seconds, or a cgroup stays busy.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + limit(KILL_TIMEOUT);
    loop {
        kill_all(folder)?;
        // A cgroup is busy until its last process has been scheduled out for good.
        match remove_tree(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error).with_context(|| format!("remove cgroup {}", folder.display())),
        }
    }
}

fn kill_all(folder: &Path) -> Result<()> {
    match fs::write(folder.join("cgroup.kill"), "1") {
        Ok(()) => return Ok(()),
        // Before Linux 5.14 there is no cgroup.kill.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
        Err(error) => return Err(error).with_context(|| format!("kill cgroup {}", folder.display())),
    }
    for child in sub_folders(folder).with_context(|| format!("read cgroup {}", folder.display()))? {
        kill_all(&child)?;
    }
    let procs = folder.join("cgroup.procs");
    let pids = match fs::read_to_string(&procs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("read {}", procs.display()))?,
    };
    for pid in pids.lines() {
        let pid: i32 = pid.parse().with_context(|| format!("{}: `{pid}` is not a pid", procs.display()))?;
        if pid == 0 {
            bail!("{} holds a process of another pid namespace", folder.display());
        }
        match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL) {
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("kill process {pid}")),
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for child in sub_folders(folder)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sub_folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}
