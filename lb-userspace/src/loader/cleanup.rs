//! Taking everything away: links, tables, pins and folders of one agent's bpffs folder, of every ABI version, and its
//! clsact filters in this network namespace. It works with the agent running or not, asks no table, and is happy to
//! find nothing. Mounts stay: others may use them by now.

use std::{fmt, fs, io, path::Path};

use lb_common::abi::map;

use super::{
    clsact::Clsact,
    error::{Error, Result},
    host::{self, interface_indexes},
    layout::{Layout, LinkPin, UNCONFIRMED},
    pins,
};

/// Files that the kernel itself puts into each bpffs that is mounted (`bpf_preload` of Linux 5.10). Nobody can make a file
/// with a dot in its name there.
const OF_THE_KERNEL: [&str; 2] = ["maps.debug", "progs.debug"];

/// What was taken away.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    /// Pinned links, detached.
    pub links: Vec<String>,
    /// clsact filters, as `program on device index`.
    pub filters: Vec<String>,
    /// Pinned tables.
    pub maps: Vec<String>,
    /// Folders.
    pub folders: Vec<String>,
    /// What lies in the folders and is not berrylb's; left alone.
    pub left: Vec<String>,
}

impl Removed {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { links, filters, maps, folders, left } = self;
        links.is_empty() && filters.is_empty() && maps.is_empty() && folders.is_empty() && left.is_empty()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing to remove");
        }
        let Self { links, filters, maps, folders, left } = self;
        let mut first = true;
        for (list, name) in [
            (links, "removed link"),
            (filters, "removed filter"),
            (maps, "removed map"),
            (folders, "removed folder"),
            (left, "left alone, not berrylb's:"),
        ] {
            for item in list {
                if !std::mem::take(&mut first) {
                    f.write_str("\n")?;
                }
                write!(f, "{name} {item}")?;
            }
        }
        Ok(())
    }
}

/// Removes all that an agent with this `--bpffs` folder made, in this thread's network namespace.
///
/// Links go before tables, so that no program runs on a table that is being taken away.
///
/// # Errors
/// Names the first thing that could not be removed; calling it again goes on from there.
pub fn cleanup(bpffs: &Path) -> Result<Removed> {
    let mut removed = Removed::default();
    let clsact = Clsact::open(bpffs)?;
    for ifindex in interface_indexes()? {
        let programs = clsact.detach(ifindex)?;
        removed.filters.extend(programs.into_iter().map(|program| format!("{program} on device {ifindex}")));
    }
    if !host::is_bpffs(bpffs)? {
        return Ok(removed);
    }
    for name in versions(bpffs)? {
        remove_version(&bpffs.join(name), &mut removed)?;
    }
    for name in pins::names(bpffs)?.into_iter().filter(|name| !OF_THE_KERNEL.contains(&name.as_str())) {
        removed.left.push(bpffs.join(name).display().to_string());
    }
    if removed.left.is_empty() {
        remove_folder(bpffs, &mut removed)?;
    }
    Ok(removed)
}

/// Removes the folders of other ABI versions than the layout's.
pub(super) fn retire_other_versions(layout: &Layout) -> Result<Removed> {
    let mut removed = Removed::default();
    for name in other_versions(layout)? {
        remove_version(&layout.root().join(name), &mut removed)?;
    }
    Ok(removed)
}

/// Names of the folders of other ABI versions than the layout's.
pub(super) fn other_versions(layout: &Layout) -> Result<Vec<String>> {
    let mut names = versions(layout.root())?;
    names.retain(|name| layout.root().join(name) != layout.version());
    Ok(names)
}

fn versions(bpffs: &Path) -> Result<Vec<String>> {
    Ok(pins::names(bpffs)?.into_iter().filter(|name| Layout::version_of(name).is_some()).collect())
}

fn remove_version(folder: &Path, removed: &mut Removed) -> Result<()> {
    let links = folder.join("links");
    let mut pinned = pins::names(&links)?;
    // Programs that translate forth go before those that translate back.
    pinned.sort_by_key(|name| {
        let back = ["recvmsg", "getpeername", "pod_egress", "uplink_egress", "uplink_l3_out"];
        back.iter().any(|prefix| name.starts_with(prefix))
    });
    for name in pinned {
        let path = links.join(&name);
        // Another version's programs may have names that this one does not know, but its links folder holds only links.
        pins::discard(&path)?;
        removed.links.push(path.display().to_string());
        tracing::debug!(known = LinkPin::parse(&name).is_some(), "removed link {name}");
    }
    remove_folder(&links, removed)?;
    let this_version =
        folder.file_name().is_some_and(|name| name.to_str() == Some(&format!("v{}", lb_common::abi::VERSION)));
    let mut empty = true;
    for name in pins::names(folder)? {
        let path = folder.join(&name);
        if this_version && name != UNCONFIRMED && !map::ALL.contains(&name.as_str()) {
            removed.left.push(path.display().to_string());
            empty = false;
            continue;
        }
        pins::unpin(&path)?;
        removed.maps.push(path.display().to_string());
    }
    if empty {
        remove_folder(folder, removed)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path, removed: &mut Removed) -> Result<()> {
    match fs::remove_dir(folder) {
        Ok(()) => removed.folders.push(folder.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // A mount point: a bpffs of its own, which stays.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) => return Err(Error::kernel(format!("remove folder {}", folder.display()))(error)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_a_line_for_each_thing() {
        assert_eq!(Removed::default().to_string(), "nothing to remove");
        let removed = Removed {
            links: vec!["/b/v4/links/connect4".into()],
            maps: vec!["/b/v4/flows".into()],
            left: vec!["/b/x".into()],
            ..Removed::default()
        };
        assert_eq!(
            removed.to_string(),
            "removed link /b/v4/links/connect4\nremoved map /b/v4/flows\nleft alone, not berrylb's: /b/x"
        );
    }
}
