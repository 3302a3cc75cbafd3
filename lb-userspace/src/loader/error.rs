//! What can go wrong while programs are brought to the kernel, told so that an operator knows the next step.
//! It never hides a cause: every variant prints the object, the cause and what to do.

use std::{fmt, io, path::PathBuf};

pub(super) use crate::chain::chain;

/// A failure of the loader.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an operation on a named object.
    #[error("{what}: {cause}{}", Advice(cause))]
    Kernel {
        /// Operation and object, such as `pin link /sys/fs/bpf/berrylb/v5/links/connect4`.
        what: String,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// The kernel did not make a map of the size that is asked for.
    #[error("make map {map} of {entries} entries: {cause}. Next step: ask for fewer")]
    Table {
        /// Map name.
        map: String,
        /// Entries that were asked for.
        entries: u32,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// The BPF object or a map of it could not be brought to the kernel.
    #[error("BPF object: {0}")]
    Object(String),
    /// The kernel did not accept a program. The cause holds the verifier's log.
    #[error("program {program}: {cause}")]
    Program {
        /// Name in the object.
        program: String,
        /// aya's error with everything below it.
        cause: String,
    },
    /// Another live agent holds the folder.
    #[error(
        "{} is in use by {}. Next step: stop that agent; two on the same links and cgroup get into each other's way. (Only one \
         that serves another node of a lab takes a --bpffs of its own.)",
        folder.display(),
        Holder(*pid)
    )]
    InUse {
        /// The `--bpffs` folder.
        folder: PathBuf,
        /// Process that holds it, where the kernel tells.
        pid: Option<u32>,
    },
    /// A pinned map does not fit this build's object.
    #[error(
        "map {map} pinned at {}: found {found}, this build needs {wanted}. Next step: `berrylb cleanup --bpffs {}` \
         (interrupts traffic), then start the agent again; or give it another --bpffs",
        path.display(),
        bpffs.display()
    )]
    MapMismatch {
        /// Map name.
        map: String,
        /// Its pin.
        path: PathBuf,
        /// The `--bpffs` folder.
        bpffs: PathBuf,
        /// Definition in the kernel.
        found: String,
        /// Definition in the object.
        wanted: String,
    },
    /// The surroundings are not as they must be.
    #[error("{what}. Next step: {next}")]
    Setup {
        /// Object and cause.
        what: String,
        /// What the operator can do.
        next: String,
    },
}

/// Result of the loader.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Kernel { what, cause }
    }

    pub(super) fn setup(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::Setup { what: what.into(), next: next.into() }
    }

    /// The errno behind a [`Error::Kernel`].
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { cause, .. } | Self::Table { cause, .. } => cause.raw_os_error(),
            Self::Object(_)
            | Self::Program { .. }
            | Self::InUse { .. }
            | Self::MapMismatch { .. }
            | Self::Setup { .. } => None,
        }
    }

    /// Whether the device that the operation was about has vanished meanwhile, which a follower of links expects.
    #[must_use]
    pub fn is_device_gone(&self) -> bool {
        matches!(self.errno(), Some(libc::ENODEV))
    }
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "another agent (process {pid})"),
            None => f.write_str("another agent (in another PID namespace)"),
        }
    }
}

struct Advice<'a>(&'a io::Error);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.0.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "run as root or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN; if it is root already, a \
                 seccomp or AppArmor profile, kernel lockdown (/sys/kernel/security/lockdown), a parent cgroup's \
                 exclusive program, or a dot in the name of a bpffs folder forbids it"
            }
            Some(libc::ENOMEM) => "free memory or give smaller tables; below Linux 5.11 also raise RLIMIT_MEMLOCK",
            Some(libc::ENOSPC) => "the hook or table is full: see `bpftool link` for who is attached",
            Some(libc::ENOSYS | libc::EOPNOTSUPP) => {
                "the running kernel lacks this: a newer one, or another setting of the flag that asked for it"
            }
            Some(libc::ENODEV) => "the device is gone; nothing to do if it was removed on purpose",
            Some(_) | None => return Ok(()),
        };
        write!(f, ". Next step: {advice}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_object_cause_and_next_step() {
        let error = Error::kernel("pin map flows at /x/v4/flows")(io::Error::from_raw_os_error(libc::EPERM));
        let text = error.to_string();
        assert!(text.starts_with("pin map flows at /x/v4/flows: Operation not permitted"), "{text}");
        assert!(text.contains("Next step: run as root"), "{text}");
        assert_eq!(error.errno(), Some(libc::EPERM));
        assert!(!error.is_device_gone());
    }

    /// Only commands that there are may be a next step.
    #[test]
    fn no_advice_names_a_command_that_is_not_there() {
        for errno in 1..134 {
            let text = Advice(&io::Error::from_raw_os_error(errno)).to_string();
            assert!(!text.contains("doctor"), "{text}");
        }
    }

    #[test]
    fn the_holder_is_named_if_known() {
        let text = |pid| Error::InUse { folder: "/x".into(), pid }.to_string();
        assert!(text(Some(7)).contains("process 7"));
        assert!(text(None).contains("another PID namespace"));
    }
}
