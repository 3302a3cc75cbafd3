//! Taking a lab away: the one way, used by a lab's end, by its reaper process and by [`sweep_dead`].
//!
//! A lab is known by its name alone: every namespace, cgroup and folder of it starts with that name. The reaper is a
//! process in a session of its own that waits for the end of a pipe held by the owner, so a lab goes even when its
//! owner is killed.

use std::{
    fs, io,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{cgroup, netns};

/// Folder of the labs' own folders.
pub(crate) const LABS_DIR: &str = "/run/berrylb-lab";
/// Where bpffs is.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// First letters of every lab's name.
pub(crate) const PREFIX: &str = "bl";

/// What has to be known of a lab whose owner is dead.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Manifest {
    /// Process that made the lab.
    pub(crate) owner: i32,
    /// Its start time in clock ticks since boot, as process ids are reused.
    pub(crate) owner_start: u64,
    /// The lab's cgroup.
    pub(crate) cgroup: PathBuf,
    /// A cgroup v2 mount of the lab's own, if the machine had none.
    pub(crate) cgroup_mount: Option<PathBuf>,
}

impl Manifest {
    pub(crate) fn write(&self, lab: &str) -> Result<()> {
        let path = path(lab);
        let text = serde_json::to_string_pretty(self).context("write a manifest")?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn read(lab: &str) -> Result<Option<Self>> {
        let path = path(lab);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| format!("parse {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

fn path(lab: &str) -> PathBuf {
    Path::new(LABS_DIR).join(lab).join("manifest.json")
}

/// The process that removes a lab when its owner is gone.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Child,
}

impl Reaper {
    /// Starts it. Its standard input is the pipe whose end it waits for; the owner's side is closed on exec, so no
    /// other child holds it.
    pub(crate) fn start(lab: &str) -> Result<Self> {
        let program = crate::peer::path()?;
        let mut command = std::process::Command::new(&program);
        command.args(["reap", lab]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // SAFETY: setsid is one system call and touches no memory of the parent.
        unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(|_| ())?)) };
        let child = command.spawn().with_context(|| format!("start {} as the lab's reaper", program.display()))?;
        Ok(Self { child })
    }

    /// Tells it that the owner is done and waits for it.
    pub(crate) fn finish(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().context("wait for the lab's reaper")?;
        if !status.success() {
            bail!("the lab's reaper ended with {status}");
        }
        Ok(())
    }
}

/// Main of the reaper process: waits for the end of standard input, then removes `lab`.
///
/// # Errors
/// Something of the lab stays.
pub(crate) fn reap(lab: &str) -> Result<()> {
    let mut end = Vec::new();
    io::stdin().read_to_end(&mut end).context("wait for the owner's end")?;
    remove(lab)
}

/// Removes everything of `lab`: processes, pinned BPF objects, namespaces, cgroups, folder. Parts that are gone are fine.
///
/// # Errors
/// The first failure; the other parts are removed all the same.
pub fn remove(lab: &str) -> Result<()> {
    if !is_lab_name(lab) {
        bail!("`{lab}` is not a lab's name");
    }
    let mut outcome = Ok(());
    let mut also = |result: Result<()>| {
        if outcome.is_ok() {
            outcome = result.with_context(|| format!("remove lab {lab}"));
        }
    };
    let manifest = Manifest::read(lab).unwrap_or_else(|error| {
        also(Err(error));
        None
    });
    if let Some(manifest) = &manifest {
        also(cgroup::remove(&manifest.cgroup));
        if let Some(point) = &manifest.cgroup_mount {
            also(cgroup::unmount(point));
        }
    }
    for folder in entries(BPFFS, lab) {
        also(folder.and_then(|folder| remove_folder(&folder)));
    }
    for name in entries(netns::NETNS_DIR, lab) {
        also(name.and_then(|name| netns::remove(&name)));
    }
    also(remove_folder(&Path::new(LABS_DIR).join(lab)));
    outcome
}

/// Removes the labs whose owner is dead and gives their names. Labs of living owners are left alone.
///
/// # Errors
/// The labs' folder cannot be read, or something of a dead lab stays.
pub fn sweep_dead() -> Result<Vec<String>> {
    let mut swept = Vec::new();
    let labs = match fs::read_dir(LABS_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
        other => other.with_context(|| format!("read {LABS_DIR}"))?,
    };
    for entry in labs {
        let name = entry.with_context(|| format!("read {LABS_DIR}"))?.file_name().to_string_lossy().into_owned();
        // A lab in the making has no manifest for a moment; its owner is also part of its name.
        let alive = match Manifest::read(&name)? {
            Some(manifest) => start_time(manifest.owner)? == Some(manifest.owner_start),
            None => match owner_of(&name) {
                Some(pid) => start_time(pid)?.is_some(),
                None => true,
            },
        };
        if !alive {
            remove(&name)?;
            swept.push(name);
        }
    }
    Ok(swept)
}

/// A lab's name: owner's process id, a counter, and a random part.
pub(crate) fn lab_name(pid: u32, counter: u32, random: u32) -> String {
    format!("{PREFIX}{pid}-{counter}-{:05x}", random & 0xf_ffff)
}

/// Whether `lab` is a whole name: a part of one would match other labs as well.
fn is_lab_name(lab: &str) -> bool {
    let parts: Vec<&str> = lab.strip_prefix(PREFIX).unwrap_or_default().split('-').collect();
    matches!(parts[..], [pid, counter, random] if pid.parse::<u32>().is_ok()
        && counter.parse::<u32>().is_ok()
        && random.len() == 5
        && u32::from_str_radix(random, 16).is_ok())
}

/// The process id in a lab's name.
fn owner_of(lab: &str) -> Option<i32> {
    if !is_lab_name(lab) {
        return None;
    }
    lab.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Start time of a process in clock ticks since boot; `None` if there is no such process (proc(5), field 22 of stat).
pub(crate) fn start_time(pid: i32) -> Result<Option<u64>> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("read the status of process {pid}"))?,
    };
    // The name in field 2 may hold anything, also spaces and brackets: count from its last bracket.
    let mut after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    if matches!(after_name.next(), Some("Z" | "X")) {
        return Ok(None);
    }
    let start = after_name.nth(18).with_context(|| format!("/proc/{pid}/stat has too few fields"))?;
    Ok(Some(start.parse().with_context(|| format!("/proc/{pid}/stat: `{start}` is not a time"))?))
}

/// What in `folder` belongs to `lab`.
fn entries(folder: &str, lab: &str) -> Vec<Result<PathBuf>> {
    let own = format!("{lab}-");
    let list = match fs::read_dir(folder) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![Err(error).with_context(|| format!("read {folder}"))],
    };
    list.filter_map(|entry| match entry {
        Ok(entry) => entry.file_name().to_string_lossy().starts_with(&own).then(|| Ok(entry.path())),
        Err(error) => Some(Err(error).with_context(|| format!("read {folder}"))),
    })
    .collect()
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_of_self_is_stable_and_of_nobody_is_none() {
        let own = std::process::id().cast_signed();
        let first = start_time(own).unwrap();
        assert!(first.is_some());
        assert_eq!(first, start_time(own).unwrap());
        assert_eq!(start_time(i32::MAX).unwrap(), None);
    }

    #[test]
    fn owner_is_read_from_the_name() {
        assert_eq!(owner_of(&lab_name(123, 0, 0x9f3c)), Some(123));
        assert_eq!(owner_of("other"), None);
    }

    #[test]
    fn foreign_names_are_refused() {
        for name in ["", "host", "bl/../etc", "/run", "bl1", "bl1-2", "bl1-2-0000", "bl1-2-0000a-raspi001"] {
            remove(name).unwrap_err();
        }
    }
}
