//! `cargo xtask vm`: the BPF programs and the packet cases on other kernels than this machine's, in an emulator, with the
//! kernel's type information hidden. What needs root is in scripts/vm.sh.
#![expect(clippy::print_stdout, reason = "the report is this command's product")]

mod initramfs;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::initramfs::Initramfs;
use crate::{
    build_ebpf, process,
    setup::{self, Purpose},
    test::Counts,
};

/// Kernels of Debian: 11, 12, and 12 with the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// The oldest that is supported.
    #[value(name = "5.10")]
    Linux5_10,
    /// The last long-term one without tcx.
    #[value(name = "6.1")]
    Linux6_1,
    /// The first long-term one with tcx among Debian's.
    #[value(name = "6.12")]
    Linux6_12,
}

impl Kernel {
    const fn version(self) -> &'static str {
        match self {
            Self::Linux5_10 => "5.10",
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
        }
    }
}

/// What runs there: test binary and arguments. Tests that measure time or load are not for an emulator.
const COMMANDS: [(&str, &str); 3] =
    [("bpf_programs", "--nocapture"), ("bpf_loader", "--nocapture this_kernel"), ("bpf_packets", "--nocapture")];

/// How the lines begin that the report shows.
const SHOWN: [&str; 5] = ["program ", "kernel ", "loaded ", "not shown here: ", "cannot load "];

/// How much of a failed kernel's output is shown.
const TAIL_LINES: usize = 60;

/// Boots `kernels`, or all of them when none is named, one after another, and prints what became of each program and how
/// the cases went.
///
/// # Errors
/// When something cannot be brought or built, or a kernel refuses a program, or a case differs there.
pub(crate) fn run(kernels: &[Kernel]) -> Result<()> {
    let kernels = if kernels.is_empty() { Kernel::value_variants() } else { kernels };
    setup::run(Purpose::Test)?;
    setup::run(Purpose::Vm)?;
    let object = build_ebpf::build()?;
    let tests = test_binaries()?;
    let system = process::tool_root("vm-debian-12")?;
    let logs = process::target_dir().join("test-logs");
    fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;

    let mut failed = Vec::new();
    for kernel in kernels.iter().map(|kernel| kernel.version()) {
        process::run(script("kernel", &system, kernel)?.stdout(Stdio::null()))?;
        let image = process::target_dir().join(format!("vm-{kernel}.cpio"));
        pack(&system, kernel, &object, &tests)?.write(&image)?;
        let log = logs.join(format!("vm-{kernel}.log"));
        let start = Instant::now();
        let ended = boot(script("boot", &system, kernel)?.arg(&image), &log)?;
        let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        text.lines().filter_map(shown).for_each(|line| println!("{kernel:<6} {line}"));

        let mut counts = Counts::parse(&text)?;
        let complete = text.lines().filter(|line| line.starts_with("test result: ")).count() == COMMANDS.len();
        if !(ended && complete) {
            counts.failed += 1;
        }
        if counts.failed > 0 {
            let skip = text.lines().count().saturating_sub(TAIL_LINES);
            println!("----- {} -----", log.display());
            text.lines().skip(skip).for_each(|line| println!("{line}"));
            println!("-----");
            failed.push(kernel);
        }
        let word = if counts.failed == 0 { "ok" } else { "FAILED" };
        println!("vm {kernel:<6} {word:<6} {:>6.1} s  {counts}", start.elapsed().as_secs_f32());
    }
    if !failed.is_empty() {
        bail!("failed on Linux {}", failed.join(", "));
    }
    Ok(())
}

/// Builds the tests as the level `bpf` does and returns their paths, in the order of [`COMMANDS`].
fn test_binaries() -> Result<Vec<PathBuf>> {
    let mut command = process::cargo();
    // A runner that only says what it would run.
    command.args(["--config", "target.'cfg(all())'.runner='echo'"]);
    command.args(["test", "--quiet", "--workspace", "--exclude", "lb-ebpf"]);
    COMMANDS.iter().for_each(|(name, _)| {
        command.args(["--test", name]);
    });
    let output = process::output(&mut command)?;
    let path = |name: &str| {
        let runs = |path: &PathBuf| {
            let file = path.file_name().and_then(|file| file.to_str());
            file.and_then(|file| file.strip_prefix(name)).is_some_and(|rest| rest.starts_with('-'))
        };
        let paths = output.lines().filter_map(|line| line.split_whitespace().next()).map(PathBuf::from);
        paths.into_iter().find(runs).with_context(|| format!("cargo built no test {name}:\n{output}"))
    };
    COMMANDS.iter().map(|(name, _)| path(name)).collect()
}

/// Everything that the machine has: busybox and modules of the emulator's Debian, tests and `ip` of this machine with
/// their libraries.
fn pack(system: &Path, kernel: &str, object: &Path, tests: &[PathBuf]) -> Result<Initramfs> {
    let mut files = Initramfs::default();
    files.add("init", 0o755, &process::workspace_root().join("scripts/vm-init.sh"))?;
    files.add("bin/busybox", 0o755, &system.join("bin/busybox"))?;
    files.add("berrylb.o", 0o644, object)?;
    let ip = process::find_program("ip").context("there is no `ip`.\nNext step: install iproute2")?;
    files.add_program("bin/ip", &ip)?;
    for ((name, _), path) in COMMANDS.iter().zip(tests) {
        let stripped = process::target_dir().join(format!("vm-{name}"));
        process::run(Command::new("strip").arg("-o").arg(&stripped).arg(path))?;
        files.add_program(name, &stripped)?;
    }
    let commands: String = COMMANDS.iter().map(|(name, arguments)| format!("{name} {arguments}\n")).collect();
    files.add_bytes("commands", 0o644, commands.as_bytes());
    let modules = system.join("kernels").join(kernel).join("load");
    let entries = fs::read_dir(&modules).with_context(|| format!("list {}", modules.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", modules.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
        files.add(&format!("modules/{name}"), 0o644, &path)?;
    }
    Ok(files)
}

/// scripts/vm.sh as root.
fn script(task: &str, system: &Path, kernel: &str) -> Result<Command> {
    let mut command = Command::new("sh");
    if !process::is_root()? {
        if process::find_in_path("sudo").is_none() {
            bail!("the emulator's folder needs root, and there is no sudo.\nNext step: run `cargo xtask vm` as root");
        }
        command = Command::new("sudo");
        command.arg("sh");
    }
    command.arg(process::workspace_root().join("scripts/vm.sh")).arg(task).arg(system).arg(kernel);
    Ok(command)
}

/// Runs the emulator with its console in `log`; whether it ended well.
fn boot(command: &mut Command, log: &Path) -> Result<bool> {
    let context = || format!("create {}", log.display());
    let file = File::create(log).with_context(context)?;
    command.stdin(Stdio::null()).stdout(file.try_clone().with_context(context)?).stderr(file);
    let status = command.status().with_context(|| format!("start `{}`", process::display(command)))?;
    Ok(status.success())
}

/// A line of the report; libtest writes "test NAME ... " before a test's first.
fn shown(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
        Some((_, line)) => line,
        None => line,
    };
    SHOWN.iter().any(|start| line.starts_with(start)).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_lines_that_say_something_of_the_kernel() {
        assert_eq!(shown("program connect4: loaded"), Some("program connect4: loaded"));
        assert_eq!(shown("test of_some_name ... program connect4: REFUSED"), Some("program connect4: REFUSED"));
        assert_eq!(shown("test of_some_name ... ok"), None);
        assert_eq!(shown("[    5.1] reboot: Power down"), None);
    }
}
