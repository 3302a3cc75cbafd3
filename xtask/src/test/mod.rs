//! `cargo xtask test`: every check of this project in levels, each with one line of result, and one total at the end.
//! A level's output goes to a file and is shown when the level fails. What cannot run here is said; under CI it fails.
#![expect(clippy::print_stdout, reason = "the report is this command's product")]

mod checks;
mod libtest;
mod log;

use std::{env, fs, time::Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

pub(crate) use self::libtest::{Counts, as_root};
use self::{libtest::Kind, log::Log};
use crate::{
    build_ebpf, dist, process,
    setup::{self, Purpose},
    tidy,
};

/// The levels, in the order they run: what answers soonest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// rustfmt would change nothing.
    Fmt,
    /// The house rules (xtask/src/tidy).
    Tidy,
    /// clippy without a warning, on the host and on the BPF target.
    Clippy,
    /// rustdoc without a warning, and the examples in the documentation.
    Doc,
    /// What kubectl makes of the manifests is what the files hold, and fits Kubernetes' published schemas. It needs kubectl
    /// 1.27 or newer, which Debian 12 has not, and runs only when it is named; `tidy` sees files that are not current.
    Manifests,
    /// Licences, bans and sources of all dependencies; known vulnerabilities only warn.
    Deny,
    /// Unit, property and golden tests: whatever needs no privilege.
    Unit,
    /// Every input that a fuzzer ever found interesting, once more: the test binaries `fuzz_*`.
    Fuzz,
    /// Tests that load programs into the kernel, as root: the test binaries `bpf_*`.
    Bpf,
    /// Tests on whole nodes made of network namespaces, as root: lb-lab's and the test binaries `lab_*`.
    Lab,
    /// The container image for this machine, built and run as the manifests say, as root: the test binaries `image_*`. It
    /// builds a second release binary and runs only when it is named.
    Image,
    /// Agents beside a real Kubernetes API server and its controllers, as root: the test binaries `kubernetes_*`. Runs only when
    /// it is named; `BERRYLB_KUBERNETES` names a folder with etcd, kube-apiserver, kube-controller-manager and kubectl.
    Kubernetes,
    /// Programs, packet cases and the story on a Raspberry Pi's architecture, in an emulator (`cargo xtask vm --short`). It
    /// runs on Debian 12 on amd64 only, where `setup --for vm` would bring nothing more, and takes as long as all others.
    Vm,
}

/// Levels that run only when they are named.
const NAMED: [Level; 3] = [Level::Manifests, Level::Image, Level::Kubernetes];

/// What became of a level that could be run to its end, or that could not run here at all.
enum Outcome {
    Ran(Counts),
    CannotRun(String),
}

/// Runs `levels`, or when none is named all but those of [`NAMED`], and prints the report.
///
/// # Errors
/// When the machine cannot be made ready, or when a level failed.
pub(crate) fn run(levels: &[Level]) -> Result<()> {
    let all: Vec<Level> = Level::value_variants().iter().copied().filter(|level| !NAMED.contains(level)).collect();
    let levels = if levels.is_empty() { &all } else { levels };
    let ci = env::var("CI").is_ok_and(|value| value == "true");
    prepare(levels, ci)?;

    let logs = process::target_dir().join("test-logs");
    fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
    println!("test: output goes to {}", logs.display());

    let mut total = Counts::default();
    let mut failed = Vec::new();
    let mut not_run = Vec::new();
    for &level in levels {
        let name = level.name();
        let mut log = Log::create(logs.join(format!("{name}.log")))?;
        println!("{name:<8} …");
        let start = Instant::now();
        let outcome = level.run(&mut log);
        let seconds = start.elapsed().as_secs_f32();
        let counts = match outcome {
            Ok(Outcome::Ran(counts)) => counts,
            Ok(Outcome::CannotRun(why)) => {
                println!("{name:<8} NOT RUN: {why}");
                not_run.push(name);
                continue;
            }
            Err(error) => {
                log.note(&format!("{error:#}"))?;
                Counts { failed: 1, ..Counts::default() }
            }
        };
        if counts.failed > 0 {
            println!("----- {} -----\n{}-----", log.path().display(), log.tail()?);
            failed.push(name);
        }
        let word = if counts.failed == 0 { "ok" } else { "FAILED" };
        println!("{name:<8} {word:<6} {seconds:>6.1} s  {counts}");
        total += counts;
    }

    if !not_run.is_empty() {
        println!("not run: {}", not_run.join(", "));
    }
    println!("{total}");
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    if ci && !not_run.is_empty() {
        bail!("with CI=true every level has to run, and these could not: {}", not_run.join(", "));
    }
    Ok(())
}

/// Tools and the BPF object, for the levels that were asked for.
fn prepare(levels: &[Level], ci: bool) -> Result<()> {
    if levels.iter().any(|level| !matches!(level, Level::Tidy | Level::Manifests | Level::Deny)) {
        setup::run(Purpose::Test)?;
    }
    if levels.contains(&Level::Image) {
        setup::run(Purpose::Image)?;
    }
    for (level, purpose) in
        [(Level::Deny, Purpose::Deny), (Level::Manifests, Purpose::Manifests), (Level::Vm, Purpose::Vm)]
    {
        if ci && levels.contains(&level) {
            setup::run(purpose)?;
        }
    }
    // The agent embeds the object, so whatever compiles the agent wants a current one.
    if levels.iter().any(|level| !matches!(level, Level::Fmt | Level::Tidy | Level::Manifests | Level::Deny)) {
        build_ebpf::build()?;
    }
    Ok(())
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Tidy => "tidy",
            Self::Clippy => "clippy",
            Self::Doc => "doc",
            Self::Manifests => "manifests",
            Self::Deny => "deny",
            Self::Unit => "unit",
            Self::Fuzz => "fuzz",
            Self::Bpf => "bpf",
            Self::Lab => "lab",
            Self::Image => "image",
            Self::Kubernetes => "kubernetes",
            Self::Vm => "vm",
        }
    }

    fn run(self, log: &mut Log) -> Result<Outcome> {
        match self {
            Self::Fmt => checks::fmt(log),
            Self::Tidy => {
                let findings = tidy::check(&process::workspace_root())?;
                findings.iter().try_for_each(|finding| log.note(&finding.to_string()))?;
                Ok(Outcome::Ran(Counts::check(findings.is_empty())))
            }
            Self::Clippy => checks::clippy(log),
            Self::Doc => checks::doc(log),
            Self::Manifests => checks::manifests(log),
            Self::Deny => checks::deny(log),
            Self::Unit => libtest::unit(log),
            Self::Fuzz => libtest::integration(Kind::Fuzz, log),
            Self::Bpf => libtest::privileged(Kind::Bpf, log),
            Self::Lab => libtest::privileged(Kind::Lab, log),
            Self::Image => {
                let archive = dist::image::for_this_machine()?;
                libtest::privileged_with(Kind::Image, &[("BERRYLB_IMAGE", &archive)], log)
            }
            Self::Kubernetes => checks::kubernetes(log),
            Self::Vm => checks::vm(log),
        }
    }
}
