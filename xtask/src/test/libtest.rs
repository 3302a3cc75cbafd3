//! The levels that are Rust tests: which test binaries belong to which level, running them, and adding up what libtest
//! says at the end of each. Binaries run one after another, so that a lab has the machine to itself.

use std::{fmt, ops::AddAssign, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{Outcome, log::Log};
use crate::process;

/// What was counted. A check that is no test counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Counts {
    pub(crate) fn check(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), ignored: 0 }
    }

    /// The sum of libtest's own closing lines in `output`.
    ///
    /// # Errors
    /// When such a line holds no numbers.
    pub(crate) fn parse(output: &str) -> Result<Self> {
        let mut sum = Self::default();
        for line in output.lines().filter_map(|line| line.strip_prefix("test result: ")) {
            let number = |what: &str| {
                let words = line.split([';', '.']).map(str::trim);
                let count =
                    words.filter_map(|part| part.strip_suffix(what)).find_map(|count| count.trim().parse().ok());
                count.with_context(|| format!("no number of tests {what} in \"test result: {line}\""))
            };
            sum += Self { passed: number("passed")?, failed: number("failed")?, ignored: number("ignored")? };
        }
        Ok(sum)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, failed, ignored } = other;
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, ignored } = self;
        write!(f, "{passed} passed, {failed} failed")?;
        if *ignored > 0 { write!(f, ", {ignored} ignored") } else { Ok(()) }
    }
}

/// Which level a test binary belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unit,
    Fuzz,
    Bpf,
    Lab,
    Image,
    Kubernetes,
}

impl Kind {
    /// By the binary's name; lb-lab's own tests are lab tests whatever their names.
    fn of(member: &str, name: &str) -> Self {
        match name.split_once('_') {
            _ if member == "lb-lab" => Self::Lab,
            Some(("fuzz", _)) => Self::Fuzz,
            Some(("bpf", _)) => Self::Bpf,
            Some(("lab", _)) => Self::Lab,
            Some(("image", _)) => Self::Image,
            Some(("kubernetes", _)) => Self::Kubernetes,
            Some(_) | None => Self::Unit,
        }
    }
}

/// Tests inside the crates, and the test binaries that no other level claims.
pub(super) fn unit(log: &mut Log) -> Result<Outcome> {
    let mut command = cargo_test(&test_binaries(&process::workspace_root(), Kind::Unit)?);
    run(command.args(["--lib", "--bins"]), log)
}

/// The examples in the documentation; having none is fine.
pub(super) fn doc(log: &mut Log) -> Result<Counts> {
    let (success, output) = log.run(cargo_test(&[]).arg("--doc"))?;
    let mut counts = Counts::parse(&output)?;
    if !success && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// The test binaries of one level.
pub(super) fn integration(kind: Kind, log: &mut Log) -> Result<Outcome> {
    let binaries = test_binaries(&process::workspace_root(), kind)?;
    if binaries.is_empty() { Ok(none()) } else { run(&mut cargo_test(&binaries), log) }
}

/// As [`integration`], by root, and one test at a time: they measure time, load the machine and share the kernel.
pub(super) fn privileged(kind: Kind, log: &mut Log) -> Result<Outcome> {
    privileged_with(kind, &[], log)
}

/// As [`privileged`], with variables in the tests' environment.
pub(super) fn privileged_with(kind: Kind, variables: &[(&str, &Path)], log: &mut Log) -> Result<Outcome> {
    let binaries = test_binaries(&process::workspace_root(), kind)?;
    if binaries.is_empty() {
        return Ok(none());
    }
    let mut command = cargo_test(&binaries);
    command.env("RUST_TEST_THREADS", "1").envs(variables.iter().copied());
    let sudo: &[&str] = if process::is_root()? { &[] } else { &["sudo", "-E"] };
    if let [program, ..] = sudo
        && process::find_in_path(program).is_none()
    {
        return Ok(Outcome::CannotRun("needs root, and there is no sudo".to_owned()));
    }
    let mut probe = Command::new(sudo.first().unwrap_or(&"unshare"));
    if let [_, options @ ..] = sudo {
        probe.args(options).arg("unshare");
    }
    if let (false, _) = log.run(probe.args(["--net", "--mount", "true"]))? {
        return Ok(Outcome::CannotRun("this machine lets not even root make a network namespace".to_owned()));
    }
    as_root(&mut command)?;
    run(&mut command, log)
}

/// Lets a command of cargo run its tests as root.
///
/// # Errors
/// rustc does not say what it builds for.
pub(crate) fn as_root(cargo: &mut Command) -> Result<()> {
    if !process::is_root()? {
        let triple = host_triple()?.to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{triple}_RUNNER"), "sudo -E");
    }
    Ok(())
}

fn none() -> Outcome {
    Outcome::CannotRun("there is no test binary of this level".to_owned())
}

/// The same packages, and so the same features, in every level: nothing is compiled twice.
fn cargo_test(binaries: &[String]) -> Command {
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--exclude", "lb-ebpf", "--no-fail-fast"]);
    binaries.iter().for_each(|name| {
        command.args(["--test", name]);
    });
    command
}

fn run(command: &mut Command, log: &mut Log) -> Result<Outcome> {
    let (success, output) = log.run(command)?;
    let mut counts = Counts::parse(&output)?;
    if !success && counts.failed == 0 {
        // It did not compile, or a test took its whole process down.
        counts.failed = 1;
    }
    if success && counts == Counts::default() {
        bail!("`{}` ran no test", process::display(command));
    }
    Ok(Outcome::Ran(counts))
}

/// The names of the test binaries of one level: `tests/NAME.rs` and `tests/NAME/main.rs` of each member.
fn test_binaries(root: &Path, kind: Kind) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for member in folder(root)? {
        let tests = member.join("tests");
        if !member.join("Cargo.toml").is_file() || !tests.is_dir() {
            continue;
        }
        let member_name = member.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for path in folder(&tests)? {
            let binary = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
            if let (true, Some(name)) = (binary, path.file_stem().and_then(|name| name.to_str()))
                && Kind::of(member_name, name) == kind
            {
                names.push(name.to_owned());
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn folder(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let context = || format!("list {}", path.display());
    let entries = std::fs::read_dir(path).with_context(context)?;
    entries.map(|entry| entry.map(|entry| entry.path()).with_context(context)).collect()
}

fn host_triple() -> Result<String> {
    let version = process::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    Ok(host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let output = "running 3 tests\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s\n\
            noise: test result: ok. 9 passed; 9 failed; 9 ignored; 0 measured\n\
            test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s\n";
        let counts = Counts::parse(output).expect("two closing lines");
        assert_eq!(counts, Counts { passed: 13, failed: 2, ignored: 1 });
        assert_eq!(counts.to_string(), "13 passed, 2 failed, 1 ignored");
    }

    #[test]
    fn an_unknown_closing_line_is_an_error_and_not_a_zero() {
        let error = Counts::parse("test result: splendid\n").expect_err("no numbers");
        assert!(error.to_string().contains("splendid"), "{error}");
    }

    #[test]
    fn a_binary_belongs_to_the_level_that_its_name_or_its_crate_says() {
        for (member, name, kind) in [
            ("lb-userspace", "golden", Kind::Unit),
            ("lb-userspace", "bpf", Kind::Unit),
            ("lb-userspace", "bpf_packets", Kind::Bpf),
            ("lb-userspace", "lab_story", Kind::Lab),
            ("lb-userspace", "image_daemonset", Kind::Image),
            ("lb-userspace", "kubernetes_cluster", Kind::Kubernetes),
            ("lb-common", "fuzz_parse", Kind::Fuzz),
            ("lb-lab", "network", Kind::Lab),
        ] {
            assert_eq!(Kind::of(member, name), kind, "{member} {name}");
        }
    }

    #[test]
    fn no_two_test_binaries_share_a_name() {
        let root = process::workspace_root();
        let kinds = [Kind::Unit, Kind::Fuzz, Kind::Bpf, Kind::Lab, Kind::Image, Kind::Kubernetes];
        let mut names: Vec<_> = kinds.into_iter().flat_map(|kind| test_binaries(&root, kind).expect("list")).collect();
        names.sort_unstable();
        let mut unique = names.clone();
        unique.dedup();
        assert_eq!(names, unique, "cargo's --test NAME runs every binary of that name, in whatever level");
        assert!(!names.is_empty());
    }
}
