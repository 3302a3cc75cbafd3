//! The levels that are other tools' judgement: rustfmt, clippy, rustdoc, kubectl and Kubernetes' schemas, cargo-deny, and
//! other kernels.

use std::{env, process::Command};

use anyhow::{Context as _, Result};

use super::{
    Counts, Outcome,
    libtest::{self, Kind},
    log::Log,
};
use crate::{
    bpf_toolchain::{self, Compiler},
    manifests, pins, process, setup, vm,
};

pub(super) fn fmt(log: &mut Log) -> Result<Outcome> {
    check(process::cargo().args(["fmt", "--all", "--check", "--", "--color=never"]), log)
}

/// The host's crates, then the BPF programs, which only compile for their own target.
pub(super) fn clippy(log: &mut Log) -> Result<Outcome> {
    let mut host = process::cargo();
    host.args(["clippy", "--workspace", "--exclude", "lb-ebpf", "--all-targets", "--", "-Dwarnings"]);
    let mut bpf = Compiler::find()?.cargo_clippy(&bpf_toolchain::find_linker()?)?;
    bpf.args(["--", "-Dwarnings"]);
    let (host_clean, _) = log.run(&mut host)?;
    let (bpf_clean, _) = log.run(&mut bpf)?;
    let mut counts = Counts::check(host_clean);
    counts += Counts::check(bpf_clean);
    Ok(Outcome::Ran(counts))
}

pub(super) fn doc(log: &mut Log) -> Result<Outcome> {
    let mut rustdoc = process::cargo();
    rustdoc
        .args(["doc", "--workspace", "--exclude", "lb-ebpf", "--all-features", "--no-deps"])
        .env("RUSTDOCFLAGS", "-Dwarnings");
    let (clean, _) = log.run(&mut rustdoc)?;
    let mut counts = Counts::check(clean);
    counts += libtest::doc(log)?;
    Ok(Outcome::Ran(counts))
}

/// Licences, bans and sources block; advisories need the network and may appear at any time, so they only warn.
pub(super) fn deny(log: &mut Log) -> Result<Outcome> {
    let program = match setup::deny_program() {
        Ok(program) => program,
        Err(error) => return Ok(Outcome::CannotRun(format!("{error:#}").replace('\n', " "))),
    };
    let deny = |checks: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(process::workspace_root()).args(["--workspace", "check"]).args(checks);
        command
    };
    let (clean, _) = log.run(&mut deny(&["bans", "licenses", "sources"]))?;
    if let (false, output) = log.run(&mut deny(&["advisories"]))? {
        eprintln!("warning: cargo-deny could not clear all advisories (this does not fail the level):\n{output}");
    }
    Ok(Outcome::Ran(Counts::check(clean)))
}

/// A check for each kernel. What the tests there print is in logs of their own.
pub(super) fn vm(log: &mut Log) -> Result<Outcome> {
    if let Err(error) = vm::can_run().and_then(|()| setup::vm_packages()) {
        return Ok(Outcome::CannotRun(format!("{error:#}").replace('\n', " ")));
    }
    let mut command = Command::new(env::current_exe().context("find this program")?);
    command.current_dir(process::workspace_root()).args(["vm", "--short"]);
    vm::TESTED.iter().for_each(|machine| {
        command.args(machine.arguments());
    });
    let (_, output) = log.run(&mut command)?;
    let mut counts = Counts::default();
    vm::TESTED.iter().for_each(|machine| counts += Counts::check(vm::was_well(*machine, &output)));
    Ok(Outcome::Ran(counts))
}

/// With the programs that somebody has brought: a release of Kubernetes is no Debian package.
pub(super) fn kubernetes(log: &mut Log) -> Result<Outcome> {
    const FOLDER: &str = "BERRYLB_KUBERNETES";
    match env::var_os(FOLDER) {
        Some(folder) => libtest::privileged_with(Kind::Kubernetes, &[(FOLDER, folder.as_ref())], log),
        None => Ok(Outcome::CannotRun(format!(
            "{FOLDER} names no folder with etcd, kube-apiserver, kube-controller-manager and kubectl (CONTRIBUTING.md)"
        ))),
    }
}

/// The files against kubectl's own work, then all of them against the schemas of an old and a new Kubernetes.
pub(super) fn manifests(log: &mut Log) -> Result<Outcome> {
    if process::find_in_path("kubectl").is_none() {
        return Ok(Outcome::CannotRun(
            "kubectl is not installed (1.27 or newer, kubernetes.io/docs/tasks/tools)".to_owned(),
        ));
    }
    let program = match setup::kubernetes_validate() {
        Ok(program) => program,
        Err(error) => return Ok(Outcome::CannotRun(format!("{error:#}").replace('\n', " "))),
    };
    let folder = process::workspace_root().join("manifests");
    let mut counts = Counts::default();
    for (source, file) in manifests::FILES {
        let made = manifests::kustomize(source)?;
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let current = text.split_once("\n# content ").and_then(|(_, rest)| rest.split_once('\n'));
        let current = current.is_some_and(|(_, content)| content == made);
        if !current {
            log.note(&format!("{file} is not what kubectl makes of {source}: run `cargo xtask manifests`"))?;
        }
        counts += Counts::check(current);
    }
    for version in pins::KUBERNETES {
        let mut validate = Command::new(&program);
        validate.args(["--strict", "--kubernetes-version", version]);
        validate.args(manifests::FILES.map(|(_, file)| folder.join(file)));
        let (valid, _) = log.run(&mut validate)?;
        counts += Counts::check(valid);
    }
    Ok(Outcome::Ran(counts))
}

fn check(command: &mut Command, log: &mut Log) -> Result<Outcome> {
    let (clean, _) = log.run(command)?;
    Ok(Outcome::Ran(Counts::check(clean)))
}
