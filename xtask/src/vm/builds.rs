//! What is built for a machine of an architecture: the agent as it is shipped, the story's play, and the tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{TESTS, kernels::Arch};
use crate::{build_agent, process};

/// Paths of programs for one architecture.
pub(super) struct Builds {
    /// The release binary.
    pub(super) berrylb: PathBuf,
    /// Plays the story.
    pub(super) demo: PathBuf,
    /// In the order of [`TESTS`].
    pub(super) tests: Vec<PathBuf>,
}

impl Builds {
    /// Builds them all.
    ///
    /// # Errors
    /// When something cannot be built.
    pub(super) fn make(arch: Arch) -> Result<Self> {
        let berrylb = build_agent::build(arch == Arch::Arm64)?;
        let mut demo = cargo(arch);
        demo.args(["build", "--package", "lb-lab", "--bin", "berrylb-demo"]);
        process::run(&mut demo)?;
        let folder = match arch {
            Arch::Arm64 => process::target_dir().join(build_agent::ARM64),
            Arch::Amd64 => process::target_dir(),
        };
        Ok(Self { berrylb, demo: folder.join("debug/berrylb-demo"), tests: tests(arch)? })
    }
}

fn cargo(arch: Arch) -> std::process::Command {
    let mut command = process::cargo();
    if arch == Arch::Arm64 {
        build_agent::for_arm64(&mut command);
    }
    command
}

/// Builds the tests as the level `bpf` does.
fn tests(arch: Arch) -> Result<Vec<PathBuf>> {
    let mut command = cargo(arch);
    // A runner that only says what it would run.
    command.args(["--config", "target.'cfg(all())'.runner='echo'"]);
    command.args(["test", "--quiet", "--workspace", "--exclude", "lb-ebpf", "--exclude", "xtask"]);
    TESTS.iter().for_each(|(name, _)| {
        command.args(["--test", name]);
    });
    let output = process::output(&mut command)?;
    let lines = output.lines().filter_map(|line| line.split_whitespace().next());
    TESTS
        .iter()
        .map(|(name, _)| {
            let path = lines.clone().map(Path::new).find(|path| is_test(path, name));
            let path = path.with_context(|| format!("cargo built no test {name}:\n{output}"))?;
            Ok(process::workspace_root().join(path))
        })
        .collect()
}

/// Whether cargo's file of a test has this name; it adds a hash.
fn is_test(path: &Path, name: &str) -> bool {
    let file = path.file_name().and_then(|file| file.to_str());
    file.and_then(|file| file.strip_prefix(name)).is_some_and(|rest| rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_a_hash_in_its_file_name() {
        assert!(is_test(Path::new("target/debug/deps/bpf_maps-0123abc"), "bpf_maps"));
        assert!(!is_test(Path::new("target/debug/deps/bpf_maps_stress-0123abc"), "bpf_maps"));
    }
}
