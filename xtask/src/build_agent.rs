//! `cargo xtask build`: the BPF object, then the release binary for this machine that embeds it.

use std::path::PathBuf;

use anyhow::Result;

use crate::{build_ebpf, process};

/// Builds `berrylb` and returns the binary's path.
///
/// # Errors
/// When a tool is missing or the build fails.
pub(crate) fn build() -> Result<PathBuf> {
    build_ebpf::build()?;
    process::run(process::cargo().args(["build", "--release", "--package", "lb-userspace", "--bin", "berrylb"]))?;
    Ok(process::target_dir().join("release/berrylb"))
}
