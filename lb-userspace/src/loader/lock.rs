//! One agent for each bpffs folder: an advisory lock on the folder itself, which ends with its process however that
//! ends. It never waits and leaves no file behind.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::error::{Error, Result};

/// Holds the folder until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    folder: Flock<fs::File>,
}

impl FolderLock {
    /// Takes the lock on `folder`, which exists.
    ///
    /// # Errors
    /// [`Error::InUse`] with the holder's process id where `/proc/locks` shows it.
    pub fn take(folder: &Path) -> Result<Self> {
        let what = format!("lock {}", folder.display());
        let dir = fs::File::open(folder).map_err(Error::kernel(what.clone()))?;
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self { folder: held }),
            Err((dir, Errno::EWOULDBLOCK)) => Err(Error::InUse { folder: PathBuf::from(folder), pid: holder(&dir) }),
            Err((_, errno)) => Err(Error::kernel(what)(errno.into())),
        }
    }

    /// Whether the folder that is held is the one at `folder` now, and not one that is gone.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn is_at(&self, folder: &Path) -> Result<bool> {
        let what = || format!("look at {}", folder.display());
        let held = self.folder.metadata().map_err(Error::kernel(what()))?;
        match fs::metadata(folder) {
            Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::kernel(what())(error)),
        }
    }

    /// The process that holds `folder`, if any does and it can be seen from this PID namespace.
    #[must_use]
    pub fn holder(folder: &Path) -> Option<u32> {
        fs::File::open(folder).ok().as_ref().and_then(holder)
    }
}

/// The name of the holder is a courtesy: whatever keeps it from being read leaves it out.
fn holder(dir: &fs::File) -> Option<u32> {
    let meta = dir.metadata().ok()?;
    let device = meta.dev();
    let place = format!("{:02x}:{:02x}:{}", libc::major(device), libc::minor(device), meta.ino());
    find_holder(&fs::read_to_string("/proc/locks").ok()?, &place)
}

/// `place` is major:minor:inode, the first two in hexadecimal (proc(5), /proc/locks).
fn find_holder(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // `1: FLOCK ADVISORY WRITE 4711 00:2a:13 0 EOF`; waiting ones have an arrow in second place.
        let [_, "FLOCK", _, _, pid, at, ..] = fields.as_slice() else { return None };
        (*at == place).then(|| pid.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_learns_who_holds_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = FolderLock::take(dir.path()).expect("free");
        // flock belongs to the open file, so a second open in this process conflicts like another process.
        match FolderLock::take(dir.path()) {
            Err(Error::InUse { folder, pid }) => {
                assert_eq!(folder, dir.path());
                assert_eq!(pid, Some(std::process::id()));
            }
            other => panic!("expected InUse, got {other:?}"),
        }
        drop(first);
        let again = FolderLock::take(dir.path()).expect("free again");
        let (here, elsewhere) = (dir.path(), tempfile::tempdir().expect("another folder"));
        assert_eq!(
            [here, elsewhere.path(), &here.join("gone")].map(|at| again.is_at(at).expect("seen")),
            [true, false, false]
        );
        drop(again);
        assert_eq!(FolderLock::holder(dir.path()), None);
    }

    #[test]
    fn locks_of_others_are_not_mistaken() {
        let table = "1: POSIX  ADVISORY  WRITE 10 00:2a:13 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 11 00:2b:13 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 12 00:2a:13 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 13 00:2a:13 0 EOF\n";
        assert_eq!(find_holder(table, "00:2a:13"), Some(12));
        assert_eq!(find_holder(table, "00:2c:13"), None);
    }
}
