//! `cargo xtask miri`: lb-common's tests under Miri. It installs nothing: Miri is a contributor's tool, not a test level.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Runs them.
///
/// # Errors
/// When there is no Miri, or it finds something.
pub(crate) fn run() -> Result<()> {
    let bring = "Next step: `rustup toolchain install nightly --component miri,rust-src`";
    let Some(rustup) = process::find_in_path("rustup") else {
        bail!("Miri comes with rustup's nightly, and there is no rustup.\n{bring}");
    };
    let cargo = |args: &[&str]| {
        let mut command = Command::new(&rustup);
        command.current_dir(process::workspace_root()).args(["run", "nightly", "cargo", "miri"]).args(args);
        command
    };
    if let Err(error) = process::output(&mut cargo(&["--version"])) {
        bail!("Miri does not run: {error:#}\n{bring}");
    }
    process::run(&mut cargo(&["test", "--package", "lb-common"]))
}
