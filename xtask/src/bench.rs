//! `cargo xtask bench`: builds what is measured and what measures, then hands over to lb-bench's program as root.

use anyhow::Result;
use clap::Subcommand;

use crate::{
    build_agent, play, process,
    setup::{self, Purpose},
};

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// What the agent costs and how fast it is, by number of Services: first sync, starts, memory, single changes, CPU
    ControlPlane {
        /// Passed on; `--help` lists them: --quick, --services 10,1000, --json FILE and more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Measures the release binary.
///
/// # Errors
/// When something cannot be built, there is no way to be root, or a measurement fails.
pub(crate) fn run(what: &Bench) -> Result<()> {
    let Bench::ControlPlane { args } = what;
    setup::run(Purpose::Demo)?;
    let berrylb = build_agent::build(false)?;
    process::run(process::cargo().args(["build", "--release", "--package", "lb-bench"]))?;
    let mut command = play::as_root(&process::target_dir().join("release/berrylb-bench"), "bench")?;
    process::run(command.arg("control-plane").arg("--berrylb").arg(berrylb).args(args))
}
