//! `cargo xtask demo` and `cargo xtask lab`: make everything ready, then hand over to lb-lab's own program as root.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    build_agent, process,
    setup::{self, Purpose},
};

/// Plays the story from start to clean-up.
///
/// # Errors
/// When something cannot be built, there is no way to be root, or the play fails.
pub(crate) fn demo(args: &[String]) -> Result<()> {
    play("demo", args)
}

/// Sets the story's nodes up and leaves them up.
///
/// # Errors
/// As [`demo`].
pub(crate) fn lab(args: &[String]) -> Result<()> {
    play("lab", args)
}

fn play(what: &str, args: &[String]) -> Result<()> {
    setup::run(Purpose::Demo)?;
    let berrylb = build_agent::build()?;
    process::run(process::cargo().args(["build", "--release", "--package", "lb-lab", "--bin", "berrylb-demo"]))?;
    let mut command = as_root(&process::target_dir().join("release/berrylb-demo"), what)?;
    process::run(command.arg(what).arg("--berrylb").arg(berrylb).args(args))
}

/// A command that runs `program` as root; `task` is what was asked for.
///
/// # Errors
/// When this is another user, and there is no sudo.
pub(crate) fn as_root(program: &Path, task: &str) -> Result<Command> {
    if process::is_root()? {
        Ok(Command::new(program))
    } else if process::find_in_path("sudo").is_some() {
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        Ok(sudo)
    } else {
        bail!("network namespaces need root, and there is no sudo.\nNext step: run `make {task}` as root")
    }
}
