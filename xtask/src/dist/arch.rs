//! Static builds of the agent: which compiler, which linker and which flags make the binary of an architecture.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::process;

/// An architecture that binaries are made for, by the name that Debian, OCI and Kubernetes use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit ARM: each Raspberry Pi from the 3 on, with a 64-bit system.
    Arm64,
    /// 64-bit x86.
    Amd64,
}

impl Arch {
    /// The architecture of this machine.
    ///
    /// # Errors
    /// When it is none that binaries are made for.
    pub(crate) fn of_this_machine() -> Result<Self> {
        match env::consts::ARCH {
            "aarch64" => Ok(Self::Arm64),
            "x86_64" => Ok(Self::Amd64),
            other => bail!("berrylb is built for arm64 and amd64, and this machine is {other}"),
        }
    }

    /// As in file names, `GOARCH`, and `kubernetes.io/arch`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::Amd64 => "amd64",
        }
    }

    /// Rust's name of the target. The C library is glibc's static one: a standard library for this target comes with
    /// Debian's rustc-web as well as with rustup, which for musl only rustup has.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64-unknown-linux-gnu",
            Self::Amd64 => "x86_64-unknown-linux-gnu",
        }
    }

    /// The C compiler that links it: the machine's own for its own architecture.
    fn linker(self) -> Result<&'static str> {
        Ok(match self {
            _ if self == Self::of_this_machine()? => "cc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
            Self::Amd64 => "x86_64-linux-gnu-gcc",
        })
    }
}

/// Builds the static, stripped binary of `arch` in `target/static` and returns its path. The BPF object has to be there.
///
/// # Errors
/// When a compiler or linker is missing (the message says how to bring it), or the build fails.
pub(crate) fn build(arch: Arch, commit: &str) -> Result<PathBuf> {
    let folder = process::target_dir().join("static");
    let mut command = process::cargo();
    command.args(["build", "--release", "--locked", "--package", "lb-userspace", "--bin", "berrylb"]);
    command.arg("--target-dir").arg(&folder);
    cross(&mut command, arch)?;
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(&process::workspace_root(), &process::cargo_home(), &folder)?);
    // An incremental build need not give the same bytes as a whole one.
    command.env("CARGO_INCREMENTAL", "0").env("BERRYLB_COMMIT", commit);
    process::run(&mut command)?;
    Ok(folder.join(arch.target()).join("release/berrylb"))
}

/// Lets `cargo` build for `arch`, also on a machine of another one.
fn cross(cargo: &mut Command, arch: Arch) -> Result<()> {
    let linker = arch.linker()?;
    if process::find_program(linker).is_none() {
        bail!("{linker} is missing, which links for {0}.\nNext step: {1}", arch.name(), setup_hint(arch));
    }
    cargo.env("CARGO_BUILD_TARGET", arch.target()).env("RUSTC", compiler(arch)?);
    cargo.env(format!("CARGO_TARGET_{}_LINKER", arch.target().to_uppercase().replace('-', "_")), linker);
    Ok(())
}

/// A cargo that builds tests for `arch`, static. What packets run through and what loads programs is a little optimized, as
/// an emulator takes its time; the two largest crates are not, as theirs is the kernel's and the compiler's.
///
/// # Errors
/// As [`build`].
pub(crate) fn test_cargo(arch: Arch) -> Result<Command> {
    let mut cargo = process::cargo();
    cross(&mut cargo, arch)?;
    for package in ["lb-lab", "lb-userspace"] {
        cargo.args(["--config", &format!("profile.dev.package.{package}.opt-level=0")]);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_PROFILE_DEV_DEBUG", "none").env("CARGO_INCREMENTAL", "0");
    Ok(cargo)
}

/// Debian's rustc if it has the target's standard library, since it is the one that the BPF object is made with, else the
/// one that cargo would take.
fn compiler(arch: Arch) -> Result<PathBuf> {
    let own = env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
    for rustc in [PathBuf::from("/usr/bin/rustc"), own] {
        let Ok(sysroot) = process::output(Command::new(&rustc).args(["--print", "sysroot"])) else { continue };
        if Path::new(sysroot.trim()).join("lib/rustlib").join(arch.target()).join("lib").is_dir() {
            return Ok(rustc);
        }
    }
    bail!("no rustc has the standard library of {}.\nNext step: {}", arch.target(), setup_hint(arch))
}

fn setup_hint(arch: Arch) -> String {
    format!(
        "`cargo xtask setup --for dist` on Debian 12; elsewhere `rustup target add {}` and a C cross compiler",
        arch.target()
    )
}

/// rustc's flags in cargo's encoding (separated by 0x1f). Where the builder keeps things is nobody's business, and would
/// make the bytes of two builders differ.
fn flags(root: &Path, cargo_home: &Path, target_dir: &Path) -> Result<String> {
    let text =
        |path: &Path| path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()));
    // Of several prefixes that fit, rustc takes the last.
    Ok([
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=/berrylb", text(root)?),
        format!("--remap-path-prefix={}=/cargo", text(cargo_home)?),
        format!("--remap-path-prefix={}=/target", text(target_dir)?),
    ]
    .join("\u{1f}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_oci_and_rust() {
        for arch in Arch::value_variants() {
            let value = arch.to_possible_value().expect("no variant is skipped");
            assert_eq!(value.get_name(), arch.name());
            assert!(arch.target().ends_with("-unknown-linux-gnu"));
        }
        assert_eq!(Arch::of_this_machine().expect("known").linker().expect("known"), "cc");
    }

    #[test]
    fn folders_of_the_builder_are_hidden() {
        let flags = flags(Path::new("/a b/berrylb"), Path::new("/c"), Path::new("/a b/berrylb/target/static"));
        let flags = flags.expect("UTF-8");
        let flags: Vec<_> = flags.split('\u{1f}').collect();
        assert_eq!(
            flags,
            [
                "-Ctarget-feature=+crt-static",
                "--remap-path-prefix=/a b/berrylb=/berrylb",
                "--remap-path-prefix=/c=/cargo",
                "--remap-path-prefix=/a b/berrylb/target/static=/target"
            ]
        );
    }
}
