//! Pinned links: what an earlier run left, whether it is still where its name says, and how it is taken away.
//! It never attaches a program.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use aya_obj::generated::bpf_attach_type;

use super::{
    error::{Error, Result},
    host::Cgroup,
    layout::{Layout, LinkPin},
    sockets, sys,
    sys::{LinkInfo, Place, Target},
    tc::Direction,
    xdp,
};

/// A program where it runs.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Attachment {
    /// Program and place.
    pub pin: LinkPin,
    /// Id of the link; `None` for a clsact filter, which is none.
    pub link: Option<u32>,
    /// Id of the program.
    pub program: u32,
}

/// What [`super::Datapath::adopt`] found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Adopted {
    /// Still attached where they should be, with the program of the earlier run.
    pub kept: Vec<Attachment>,
    /// Taken away, each with the reason.
    pub removed: Vec<String>,
}

/// A pinned link, open.
#[derive(Debug)]
pub(super) struct PinnedLink {
    pub(super) fd: OwnedFd,
    pub(super) info: LinkInfo,
}

/// Opens the pin at `path`; `None` if there is nothing.
pub(super) fn open(path: &Path) -> Result<Option<PinnedLink>> {
    let what = || format!("open pinned link {}", path.display());
    let Some(fd) = sys::get_pinned(path).map_err(Error::kernel(what()))? else { return Ok(None) };
    if !is_kind(&fd, "link").map_err(Error::kernel(what()))? {
        return Err(Error::setup(
            format!("{} is pinned, but it is not a link", path.display()),
            "remove that file, or give the agent another --bpffs",
        ));
    }
    let info = sys::link_info(fd.as_fd()).map_err(Error::kernel(what()))?;
    Ok(Some(PinnedLink { fd, info }))
}

/// Whether a BPF descriptor is a `map`, `prog` or `link`; its name in `/proc` is the one place that tells.
pub(super) fn is_kind(fd: &OwnedFd, kind: &str) -> io::Result<bool> {
    let name = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    // `anon_inode:bpf-map`, but `anon_inode:bpf_link`, with or without brackets.
    Ok(name.to_string_lossy().trim_end_matches(']').ends_with(kind))
}

/// Detaches the link pinned at `path` and removes the pin. `false` if there is none.
pub(super) fn discard(path: &Path) -> Result<bool> {
    let Some(link) = open(path)? else { return Ok(false) };
    // Removing the pin would do, did nobody hold the link open: a running agent, or a tool that looks at it.
    match sys::link_detach(link.fd.as_fd()) {
        Ok(()) => {}
        // Its device or cgroup is gone already.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::ENOENT | libc::ENODEV)) => {}
        Err(error) => return Err(Error::kernel(format!("detach link {}", path.display()))(error)),
    }
    unpin(path)?;
    Ok(true)
}

/// Removes a pin; that it is gone already is no error.
pub(super) fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::kernel(format!("remove pin {}", path.display()))(error)),
    }
}

/// File names below a folder, sorted; none if the folder is missing.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let what = || format!("list {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::kernel(what())(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(Error::kernel(what()))?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// The pinned links of a layout.
pub(super) fn list(layout: &Layout) -> Result<Vec<LinkPin>> {
    Ok(names(&layout.links())?.iter().filter_map(|name| LinkPin::parse(name)).collect())
}

/// Why a link is not what its pin says, or `None` if it is.
///
/// An interface index alone proves nothing: it is used again, and each network namespace counts its own. That the
/// link's id stands among those attached to this index in this namespace does.
pub(super) fn stale(pin: LinkPin, info: &LinkInfo, cgroup: Option<&Cgroup>) -> Result<Option<String>> {
    match (pin, info.place) {
        (LinkPin::Socket(program), Place::Cgroup { id, attach_type }) => {
            let hook = sockets::hook(program);
            Ok(match cgroup {
                _ if attach_type != hook as u32 => Some(format!("it hangs on another hook ({attach_type})")),
                _ if id == 0 => Some("its cgroup is gone".to_owned()),
                Some(cgroup) if cgroup.id() != id => {
                    Some(format!("it is attached to cgroup {id}, not to {} ({})", cgroup.path().display(), cgroup.id()))
                }
                Some(_) | None => None,
            })
        }
        (LinkPin::Tc { program, ifindex }, Place::Tcx { ifindex: found, attach_type }) => {
            let hook = Direction::of(program).hook();
            if found == 0 {
                return Ok(Some("its device is gone".to_owned()));
            }
            if found != ifindex || attach_type != hook as u32 {
                return Ok(Some(format!("it is attached to device {found}, hook {attach_type}")));
            }
            let here = attached_here(ifindex, hook)?.contains(&info.id);
            Ok((!here).then(|| format!("device {ifindex} of this network namespace is another one")))
        }
        (LinkPin::Xdp { ifindex }, Place::Xdp { ifindex: found }) => xdp::stale(ifindex, found, info),
        (_, place) => Ok(Some(format!("it is a link of another kind ({place:?})"))),
    }
}

/// Ids of the links on a device's hook; none if the device is gone.
pub(super) fn attached_here(ifindex: u32, hook: bpf_attach_type) -> Result<Vec<u32>> {
    match sys::query(Target::Device(ifindex), hook) {
        Ok(attached) => Ok(attached.links),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        Err(error) => Err(Error::kernel(format!("ask what is attached to device {ifindex}"))(error)),
    }
}
