//! Named network namespaces, visible as `/run/netns/NAME` so that `nsenter --net=` works for people.
//!
//! The calling thread never changes its own namespace: whatever has to happen inside happens on a fresh thread that
//! ends there.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::netlink::Netlink;

/// Folder of the named namespaces, the one that iproute2 uses.
pub const NETNS_DIR: &str = "/run/netns";

/// A named network namespace; the name goes when this is dropped, the namespace with its last process and socket.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
    netlink: Netlink,
}

impl NetNs {
    /// Makes the namespace, with `lo` up and these settings under `/proc/sys/net` (path, value), written before
    /// anything else is there.
    ///
    /// # Errors
    /// Not root, the name is taken, or a setting does not exist.
    pub fn create(name: &str, settings: &[(&str, &str)]) -> Result<Self> {
        fs::create_dir_all(NETNS_DIR).with_context(|| format!("create {NETNS_DIR}"))?;
        let path = Path::new(NETNS_DIR).join(name);
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let made = on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace (are you root?)")?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("mount the namespace at {}", path.display()))?;
            write_settings(settings)?;
            let netlink = Netlink::open()?;
            netlink.set_up("lo", true)?;
            Ok(netlink)
        })
        .and_then(|netlink| Ok((netlink, File::open(&path).with_context(|| format!("open {}", path.display()))?)));
        match made {
            Ok((netlink, file)) => Ok(Self { name: name.into(), file, netlink }),
            Err(error) => {
                remove(&path).with_context(|| format!("after: {error:#}"))?;
                Err(error.context(format!("create network namespace {name}")))
            }
        }
    }

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// A netlink socket of this namespace.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets that it makes belong to the namespace, but to
    /// the cgroup of this process: where a cgroup's programs matter, use a [`crate::Peer`].
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` fails.
    ///
    /// # Panics
    /// When `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_fresh_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter namespace {}", self.name))?;
            work()
        })
    }

    /// Writes settings under `/proc/sys/net` of this namespace (path, value).
    ///
    /// # Errors
    /// A setting does not exist or refuses the value.
    pub fn set(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| write_settings(settings))
    }

    /// Reads a setting under `/proc/sys/net` of this namespace, without the newline.
    ///
    /// # Errors
    /// It does not exist.
    pub fn get(&self, setting: &str) -> Result<String> {
        let path = Path::new("/proc/sys/net").join(setting);
        self.enter(|| {
            let value = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(value.trim_end().to_owned())
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path()) {
            crate::complain(&error);
        }
    }
}

/// Takes the name `path` away, mounted or not, there or not.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: not a mount point; ENOENT: already gone.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("unmount {}", path.display())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_settings(settings: &[(&str, &str)]) -> Result<()> {
    for (setting, value) in settings {
        let path = Path::new("/proc/sys/net").join(setting);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))?;
    }
    Ok(())
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
