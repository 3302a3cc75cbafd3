//! What is built for a machine of an architecture: the agent, the story's play, and the tests.

use std::{path::PathBuf, process::Stdio, thread};

use anyhow::{Context, Result, anyhow, bail};
use cargo_metadata::{Artifact, Message};

use super::{Extent, TESTS};
use crate::{
    dist::{self, Arch},
    process,
};

/// Plays the story.
const DEMO: &str = "berrylb-demo";
/// The agent and its commands.
const BERRYLB: &str = "berrylb";

/// Paths of programs for one architecture, all of them static.
pub(super) struct Builds {
    /// The binary that is shipped, or for [`Extent::Level`] one of the same sources and kind that is made in less time.
    pub(super) berrylb: PathBuf,
    /// Plays the story.
    pub(super) demo: PathBuf,
    /// In the order of [`TESTS`].
    pub(super) tests: Vec<PathBuf>,
}

impl Builds {
    /// Builds them all. The shipped binary shares nothing with the others and doubles the time: it is built beside them, as
    /// the end of its build is one long job for one processor.
    ///
    /// # Errors
    /// When something cannot be built.
    pub(super) fn make(arch: Arch, extent: Extent) -> Result<Self> {
        match extent {
            Extent::Level => in_one_go(arch),
            Extent::Full => {
                let (berrylb, others) = thread::scope(|scope| {
                    let shipped = scope.spawn(|| dist::binary(arch));
                    let others = in_one_go(arch);
                    (shipped.join(), others)
                });
                let berrylb = berrylb.map_err(|_| anyhow!("the build of the shipped binary panicked"))??;
                Ok(Self { berrylb, ..others? })
            }
        }
    }
}

/// Builds all with the tests' profile in one go, so that what they depend on is compiled once. The agent comes with the
/// tests, as cargo builds a package's programs for them.
fn in_one_go(arch: Arch) -> Result<Builds> {
    let mut cargo = dist::test_cargo(arch)?;
    cargo.args([
        "build",
        "--locked",
        "--package",
        "lb-lab",
        "--package",
        "lb-userspace",
        "--bin",
        DEMO,
        "--bin",
        BERRYLB,
    ]);
    TESTS.iter().for_each(|(name, _)| {
        cargo.args(["--test", name]);
    });
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().with_context(|| format!("start `{}`", process::display(&cargo)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", process::display(&cargo), output.status);
    }
    let built = executables(&output.stdout)?;
    let find = |name: &str| {
        let path = built.iter().find(|(built, _)| built == name).map(|(_, path)| path.clone());
        path.with_context(|| format!("`{}` built no {name}", process::display(&cargo)))
    };
    let tests = TESTS.iter().map(|(name, _)| find(name)).collect::<Result<_>>()?;
    Ok(Builds { berrylb: find(BERRYLB)?, demo: find(DEMO)?, tests })
}

/// Names and paths of the programs that cargo tells of.
fn executables(messages: &[u8]) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for message in Message::parse_stream(messages) {
        if let Message::CompilerArtifact(Artifact { target, executable: Some(path), .. }) =
            message.context("read what cargo tells")?
        {
            found.push((target.name, path.into_std_path_buf()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let artifact = |name: &str, kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"p","manifest_path":"/m","target":{{"kind":["{kind}"],"crate_types":["bin"],"name":"{name}","src_path":"/s","edition":"2024","doc":true,"doctest":false,"test":true}},"profile":{{"opt_level":"1","debuginfo":0,"debug_assertions":true,"overflow_checks":true,"test":true}},"features":[],"filenames":[],"executable":{executable},"fresh":true}}"#
            )
        };
        let text = [
            artifact("lb_lab", "lib", "null"),
            artifact("bpf_maps", "test", r#""/t/bpf_maps-0123""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ]
        .join("\n");
        let found = executables(text.as_bytes()).expect("messages");
        assert_eq!(found, [("bpf_maps".to_owned(), PathBuf::from("/t/bpf_maps-0123"))]);
    }
}
