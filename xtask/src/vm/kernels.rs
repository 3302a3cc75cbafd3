//! The kernels that can be booted: Debian's, of two architectures.

use std::fmt;

use clap::ValueEnum;

use crate::dist::Arch;

/// Kernels of Debian: 11, 12, and 12 with the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// The oldest that is supported.
    #[value(name = "5.10")]
    Linux5_10,
    /// The last long-term one without tcx.
    #[value(name = "6.1")]
    Linux6_1,
    /// The first long-term one with tcx among Debian's.
    #[value(name = "6.12")]
    Linux6_12,
    /// The same with pages of 16 KiB, as a Raspberry Pi 5 has them: arm64 only.
    #[value(name = "6.12-16k")]
    Linux6_12Pages16K,
}

/// One of them on one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(super) arch: Arch,
    pub(super) kernel: Kernel,
}

/// What the test level `vm` boots: the versions that Raspberry Pi OS has had since Debian 12.
pub(crate) const TESTED: [Machine; 2] =
    [Machine { arch: Arch::Arm64, kernel: Kernel::Linux6_1 }, Machine { arch: Arch::Arm64, kernel: Kernel::Linux6_12 }];

/// The folder of libraries for an architecture, and the start of its tools' names.
pub(super) const fn triplet(arch: Arch) -> &'static str {
    match arch {
        Arch::Arm64 => "aarch64-linux-gnu",
        Arch::Amd64 => "x86_64-linux-gnu",
    }
}

impl Kernel {
    pub(super) const fn version(self) -> &'static str {
        match self {
            Self::Linux5_10 => "5.10",
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
            Self::Linux6_12Pages16K => "6.12-16k",
        }
    }

    const fn is_for(self, arch: Arch) -> bool {
        !matches!((self, arch), (Self::Linux6_12Pages16K, Arch::Amd64))
    }
}

impl Machine {
    /// How `cargo xtask vm` is told to boot this one, which it does with all of the architectures and kernels that it is told.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        ["--arch", self.arch.name(), "--kernel", self.kernel.version()]
    }

    /// Those of the kernels and architectures that there are, each once; none named means all.
    pub(crate) fn all(arches: &[Arch], kernels: &[Kernel]) -> Vec<Self> {
        let arches = if arches.is_empty() { Arch::value_variants() } else { arches };
        let kernels = if kernels.is_empty() { Kernel::value_variants() } else { kernels };
        let mut machines = Vec::new();
        for machine in arches.iter().flat_map(|&arch| kernels.iter().map(move |&kernel| Self { arch, kernel })) {
            if machine.kernel.is_for(machine.arch) && !machines.contains(&machine) {
                machines.push(machine);
            }
        }
        machines
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.arch.name(), self.kernel.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pages_are_for_arm64_alone() {
        assert_eq!(Machine::all(&[], &[]).len(), 7);
        let names: Vec<String> = Machine::all(&[Arch::Amd64], &[Kernel::Linux6_12Pages16K, Kernel::Linux6_1])
            .iter()
            .map(Machine::to_string)
            .collect();
        assert_eq!(names, ["amd64-6.1"]);
        let (arm, newest) = (Arch::Arm64, Kernel::Linux6_12);
        assert_eq!(Machine::all(&[arm, arm], &[newest, newest]), [Machine { arch: arm, kernel: newest }]);
        assert!(TESTED.iter().all(|machine| machine.kernel.is_for(machine.arch)));
    }
}
