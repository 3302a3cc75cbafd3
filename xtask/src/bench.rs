//! `cargo xtask bench`: builds what is measured and what measures, then hands over to lb-bench's program as root.

use std::{path::PathBuf, process::Stdio};

use anyhow::Result;
use clap::Subcommand;

use crate::{
    build_agent, play, process,
    setup::{self, Purpose},
    test,
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
    /// What connections and packets cost by each way of serving Services, beside direct access and kube-proxy's rules
    Datapath {
        /// Passed on; `--help` lists them: --quick, --only crr/pod, --profile, --json FILE, --compare FILE and more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Measures the release binary.
///
/// # Errors
/// When something cannot be built, there is no way to be root, or a measurement fails.
pub(crate) fn run(what: &Bench) -> Result<()> {
    setup::run(Purpose::Demo)?;
    let berrylb = build_agent::build()?;
    process::run(process::cargo().args(["build", "--release", "--package", "lb-bench"]))?;
    let mut command = play::as_root(&process::target_dir().join("release/berrylb-bench"), "bench")?;
    match what {
        Bench::ControlPlane { args } => {
            process::run(command.arg("control-plane").arg("--berrylb").arg(berrylb).args(args))
        }
        Bench::Datapath { args } => {
            command.arg("datapath").arg("--berrylb").arg(berrylb);
            // Whoever asks for some scenarios or for help does not want to wait for single packets.
            let all = !args.iter().any(|arg| arg.starts_with("--only") || matches!(arg.as_str(), "--list" | "--help"));
            if all {
                command.arg("--packets").arg(single_packets()?);
            }
            process::run(command.args(args))
        }
    }
}

/// Has the test that measures single packets write its figures, and gives the file.
fn single_packets() -> Result<PathBuf> {
    let path = process::target_dir().join("bench-packets.json");
    let mut test = process::cargo();
    test.args(["test", "--package", "lb-userspace", "--test", "bpf_perf"]).env("BERRYLB_PERF_JSON", &path);
    test::as_root(&mut test)?;
    process::run(test.stdout(Stdio::null()))?;
    Ok(path)
}
