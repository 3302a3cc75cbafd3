//! `cargo xtask bench`: builds what is measured and what measures, then hands over to lb-bench's program as root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use crate::{
    build_agent, play, process,
    setup::{self, Purpose},
    test,
};

/// What is measured: both, one after the other, where nothing is named. Figures and a page then go to target/bench.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    half: Option<Half>,
    /// Both within three minutes in place of thirty, once everything is built
    #[arg(long)]
    quick: bool,
    /// A kube-proxy program, to be measured in its iptables and nftables modes as well
    #[arg(long, value_name = "FILE")]
    kube_proxy: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Debug, Subcommand)]
enum Half {
    /// What the agent costs and how fast it is, by number of Services: first sync, starts, memory, single changes, CPU
    #[command(disable_help_flag = true)]
    ControlPlane {
        /// Passed on: --quick, --services 10,1000, --json FILE; --help, which lists them all, builds first
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What connections and packets cost by each way of serving Services, beside direct access and kube-proxy's rules
    #[command(disable_help_flag = true)]
    Datapath {
        /// Passed on: --quick, --only crr/pod, --profile, --json FILE, --compare FILE; --help, which lists them all, builds
        /// first
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
    let program = process::target_dir().join("release/berrylb-bench");
    match &what.half {
        Some(Half::ControlPlane { args }) => measure(&program, "control-plane", &berrylb, args),
        Some(Half::Datapath { args }) => datapath(&program, &berrylb, args),
        None => {
            let folder = process::target_dir().join("bench");
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            let file = |name| folder.join(name).display().to_string();
            let quick = what.quick.then(|| "--quick".to_owned());
            let mut args: Vec<String> = quick.iter().cloned().collect();
            args.extend(["--json".to_owned(), file("control-plane.json")]);
            measure(&program, "control-plane", &berrylb, &args)?;
            args = quick.into_iter().collect();
            args.extend(["--json".to_owned(), file("datapath.json"), "--html".to_owned(), file("datapath.html")]);
            args.extend(["--plots".to_owned(), file("plots")]);
            if let Some(kube_proxy) = &what.kube_proxy {
                args.extend(["--kube-proxy".to_owned(), kube_proxy.display().to_string()]);
            }
            datapath(&program, &berrylb, &args)?;
            eprintln!("figures and a page with plots: {}", folder.display());
            Ok(())
        }
    }
}

fn datapath(program: &Path, berrylb: &Path, args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    // Whoever asks for some scenarios or for help does not want to wait for single packets.
    let some = |arg: &String| arg.starts_with("--only") || matches!(arg.as_str(), "--list" | "--help" | "-h");
    if !args.iter().any(some) {
        args.extend(["--packets".to_owned(), single_packets()?.display().to_string()]);
    }
    measure(program, "datapath", berrylb, &args)
}

fn measure(program: &Path, half: &str, berrylb: &Path, args: &[String]) -> Result<()> {
    process::run(play::as_root(program, "bench")?.arg(half).arg("--berrylb").arg(berrylb).args(args))
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
