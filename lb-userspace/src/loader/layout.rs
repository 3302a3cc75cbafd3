//! Where things are pinned below `--bpffs`. It only makes and reads paths; it never touches the kernel.
//!
//! ```text
//! <bpffs>/v5/<map>
//! <bpffs>/v5/unconfirmed
//! <bpffs>/v5/links/<socket program>
//! <bpffs>/v5/links/<tc program>-<ifindex>
//! <bpffs>/v5/links/uplink_xdp-<ifindex>
//! ```
//! A bpffs refuses names with a dot, so links are named by interface index and not by a name such as `eth0.5`.

use std::path::{Path, PathBuf};

use lb_common::abi::{VERSION, program};

const LINKS: &str = "links";
/// A second pin of a map, a mark: the tables hold what no source has confirmed since they were made.
pub(super) const UNCONFIRMED: &str = "unconfirmed";

/// The folder of one agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    root: PathBuf,
    version: PathBuf,
}

/// What the name of a pinned link says.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LinkPin {
    /// A socket program on the cgroup.
    Socket(&'static str),
    /// A tc program on a device.
    Tc {
        /// One of [`program::TC`].
        program: &'static str,
        /// Interface index.
        ifindex: u32,
    },
    /// The XDP program on a device.
    Xdp {
        /// Interface index.
        ifindex: u32,
    },
}

impl Layout {
    /// The layout below the `--bpffs` folder `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let version = root.join(format!("v{VERSION}"));
        Self { root, version }
    }

    /// The `--bpffs` folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of this ABI version.
    #[must_use]
    pub fn version(&self) -> &Path {
        &self.version
    }

    /// Pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.version.join(name)
    }

    /// Pin that is there while what the tables hold is unconfirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> PathBuf {
        self.version.join(UNCONFIRMED)
    }

    /// Folder of the pinned links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.version.join(LINKS)
    }

    /// Pin of a link.
    #[must_use]
    pub fn link(&self, pin: LinkPin) -> PathBuf {
        self.links().join(pin.file_name())
    }

    /// Folders `vN` of an ABI version, by their names; `None` for anything else that lies in the root.
    pub(super) fn version_of(name: &str) -> Option<u32> {
        name.strip_prefix('v')?.parse().ok()
    }
}

impl LinkPin {
    /// File name below the links folder.
    #[must_use]
    pub fn file_name(self) -> String {
        match self {
            Self::Socket(program) => program.to_owned(),
            Self::Tc { ifindex, .. } | Self::Xdp { ifindex } => format!("{}-{ifindex}", self.program()),
        }
    }

    /// Reads a file name; `None` if it is none of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(program) = program::SOCKET.into_iter().find(|program| *program == name) {
            return Some(Self::Socket(program));
        }
        let (program, ifindex) = name.rsplit_once('-')?;
        let ifindex = ifindex.parse().ok().filter(|index| *index > 0)?;
        if program == program::UPLINK_XDP {
            return Some(Self::Xdp { ifindex });
        }
        let program = program::TC.into_iter().find(|known| *known == program)?;
        Some(Self::Tc { program, ifindex })
    }

    /// Interface index of a tc or XDP link's device.
    #[must_use]
    pub const fn ifindex(self) -> Option<u32> {
        match self {
            Self::Tc { ifindex, .. } | Self::Xdp { ifindex } => Some(ifindex),
            Self::Socket(_) => None,
        }
    }

    /// The program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Socket(program) | Self::Tc { program, .. } => program,
            Self::Xdp { .. } => program::UPLINK_XDP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let pins = program::SOCKET
            .map(LinkPin::Socket)
            .into_iter()
            .chain(program::TC.map(|program| LinkPin::Tc { program, ifindex: 4_000_000_000 }))
            .chain([LinkPin::Xdp { ifindex: 7 }]);
        for pin in pins {
            assert_eq!(LinkPin::parse(&pin.file_name()), Some(pin));
            assert!(!pin.file_name().contains('.'));
        }
    }

    #[test]
    fn strangers_are_not_ours() {
        for name in
            ["", "connect", "pod_ingress", "pod_ingress-", "pod_ingress-x", "pod_ingress-0", "connect4-3", "x-1"]
        {
            assert_eq!(LinkPin::parse(name), None, "{name}");
        }
    }

    #[test]
    fn paths_carry_the_version() {
        let layout = Layout::new("/sys/fs/bpf/berrylb");
        assert_eq!(layout.map("flows"), Path::new(&format!("/sys/fs/bpf/berrylb/v{VERSION}/flows")));
        assert_eq!(
            layout.link(LinkPin::Tc { program: program::POD_INGRESS, ifindex: 7 }),
            Path::new(&format!("/sys/fs/bpf/berrylb/v{VERSION}/links/pod_ingress-7"))
        );
        assert_eq!(Layout::version_of("v12"), Some(12));
        assert_eq!(Layout::version_of("links"), None);
    }
}
