//! `cargo xtask build`: the BPF object, then the release binary that embeds it.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{build_ebpf, process};

/// The target that a Raspberry Pi runs.
pub(crate) const ARM64: &str = "aarch64-unknown-linux-gnu";

/// Builds `berrylb` for this machine or for arm64 and returns the binary's path.
///
/// # Errors
/// When a tool is missing or the build fails.
pub(crate) fn build(arm64: bool) -> Result<PathBuf> {
    build_ebpf::build()?;
    let mut command = process::cargo();
    command.args(["build", "--release", "--package", "lb-userspace", "--bin", "berrylb"]);
    let mut dir = process::target_dir();
    if arm64 {
        for_arm64(&mut command);
        dir.push(ARM64);
    }
    process::run(&mut command)?;
    Ok(dir.join("release/berrylb"))
}

/// Makes a `cargo` build for arm64.
pub(crate) fn for_arm64(cargo: &mut Command) {
    // Debian's compiler, since only it finds Debian's standard library for arm64. Static, so that the binary runs on any
    // distribution's image.
    cargo
        .env("CARGO_BUILD_TARGET", ARM64)
        .env("RUSTC", "/usr/bin/rustc")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Ctarget-feature=+crt-static");
}
