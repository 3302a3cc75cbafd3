//! What is built for a machine of an architecture: the agent as it is shipped, the story's play, and the tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::TESTS;
use crate::{
    dist::{self, Arch},
    process,
};

/// Paths of programs for one architecture, all of them static.
pub(super) struct Builds {
    /// The binary that is shipped.
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
        let berrylb = dist::binary(arch)?;
        let (mut cargo, folder) = dist::test_cargo(arch)?;
        process::run(cargo.args(["build", "--package", "lb-lab", "--bin", "berrylb-demo"]))?;
        Ok(Self { berrylb, demo: folder.join("berrylb-demo"), tests: tests(arch)? })
    }
}

/// Builds the tests as the level `bpf` does.
fn tests(arch: Arch) -> Result<Vec<PathBuf>> {
    let (mut cargo, _) = dist::test_cargo(arch)?;
    // A runner that only says what it would run.
    cargo.args(["--config", "target.'cfg(all())'.runner='echo'"]);
    cargo.args(["test", "--quiet", "--package", "lb-userspace"]);
    TESTS.iter().for_each(|(name, _)| {
        cargo.args(["--test", name]);
    });
    let output = process::output(&mut cargo)?;
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
