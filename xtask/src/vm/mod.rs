//! `cargo xtask vm`: the BPF programs, the packet cases and the story on other kernels than this machine's, and on a
//! Raspberry Pi's architecture, in an emulator, with the kernel's type information hidden. What needs root is in
//! scripts/vm.sh.
#![expect(clippy::print_stdout, reason = "the report is this command's product")]

mod builds;
mod initramfs;
mod kernels;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::ValueEnum as _;

pub(crate) use self::kernels::{Kernel, Machine, TESTED};
use self::{builds::Builds, initramfs::Initramfs, kernels::triplet};
use crate::{
    build_ebpf,
    dist::Arch,
    process,
    setup::{self, Purpose},
    test::Counts,
};

/// Test binaries and their arguments. Tests that measure time or load are not for an emulator.
const TESTS: [(&str, &str); 3] =
    [("bpf_programs", "--nocapture"), ("bpf_loader", "--nocapture this_kernel"), ("bpf_packets", "--nocapture")];

/// The story over each kind of pod network: routes, and VXLAN. Emulated requests take their time.
const PLAYS: [&str; 2] = [
    "berrylb-demo demo --spread 300 --berrylb /bin/berrylb",
    "berrylb-demo demo --spread 300 --network vxlan --berrylb /bin/berrylb",
];

/// How much is done on each machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extent {
    /// Everything, with the binary that is shipped.
    Full,
    /// What the test level does: a binary of the same sources, as static but less optimized, and one kind of pod network
    /// on each kernel, so that the level ends in half of the time.
    Level,
}

impl Extent {
    fn plays(self, machine: Machine) -> &'static [&'static str] {
        match (self, machine.kernel) {
            (Self::Full, _) => &PLAYS,
            (Self::Level, Kernel::Linux6_1) => &PLAYS[..1],
            (Self::Level, Kernel::Linux5_10 | Kernel::Linux6_12 | Kernel::Linux6_12Pages16K) => &PLAYS[1..],
        }
    }

    /// Seconds after which a machine is ended, whatever it does: several times what it takes where two run side by side on
    /// two processors.
    const fn limit(self) -> u32 {
        match self {
            Self::Full => 3600,
            Self::Level => 2400,
        }
    }
}

/// What the play starts, in the folders that Debian has it in; other commands are busybox's.
const PROGRAMS: [(&str, &str); 10] = [
    ("bin/sh", "bin/dash"),
    ("bin/ip", "bin/ip"),
    ("bin/nft", "usr/sbin/nft"),
    ("bin/nginx", "usr/sbin/nginx"),
    ("bin/redis-server", "usr/bin/redis-server"),
    ("bin/dnsmasq", "usr/sbin/dnsmasq"),
    ("bin/curl", "usr/bin/curl"),
    ("bin/kdig", "usr/bin/kdig"),
    ("bin/bpftool", "usr/sbin/bpftool"),
    ("bin/getent", "usr/bin/getent"),
];

/// How many machines run at a time. Each has two processors, and mostly uses one.
const SIDE_BY_SIDE: usize = 2;

/// How the lines begin that the report shows.
const SHOWN: [&str; 7] = ["program ", "kernel ", "loaded ", "not shown here: ", "cannot load ", "  (after ", "All "];

/// How much of a failed kernel's output is shown.
const TAIL_LINES: usize = 60;

/// Whether this machine can bring emulator and kernels.
///
/// # Errors
/// Says what it would have to be.
pub(crate) fn can_run() -> Result<()> {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !(cfg!(target_arch = "x86_64") && system.lines().any(|line| line == "VERSION_CODENAME=bookworm")) {
        bail!(
            "the emulators and kernels are those of Debian 12 on amd64.\nNext step: run `cargo xtask vm` on such a machine"
        );
    }
    Ok(())
}

/// Boots the machines, prints what became of each program and how the cases and the story went, and gives the sum.
///
/// # Errors
/// When something cannot be brought or built.
pub(crate) fn run(machines: &[Machine], extent: Extent) -> Result<Counts> {
    can_run()?;
    setup::run(Purpose::Test)?;
    setup::run(Purpose::Vm)?;
    let object = build_ebpf::build()?;
    let system = process::tool_root("vm-debian-12")?;
    let logs = process::target_dir().join("test-logs");
    fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;

    let mut total = Counts::default();
    for &arch in Arch::value_variants() {
        let machines: Vec<Machine> = machines.iter().copied().filter(|machine| machine.arch == arch).collect();
        if machines.is_empty() {
            continue;
        }
        let builds = make_ready(&system, arch, &machines, extent)?;
        for group in machines.chunks(SIDE_BY_SIDE) {
            let ends = thread::scope(|scope| {
                let run = |machine| run_one(machine, extent, &system, &object, &builds, &logs);
                let booted: Vec<_> = group.iter().map(|&machine| scope.spawn(move || run(machine))).collect();
                booted.into_iter().map(ScopedJoinHandle::join).collect::<Vec<_>>()
            });
            for (machine, end) in group.iter().zip(ends) {
                let end = end.map_err(|_| anyhow!("{machine}: its thread panicked"))??;
                total += end.report(*machine, extent)?;
            }
        }
    }
    Ok(total)
}

/// Programs that run on these machines of one architecture. What else they have is fetched while those are built.
fn make_ready(system: &Path, arch: Arch, machines: &[Machine], extent: Extent) -> Result<Builds> {
    let start = Instant::now();
    let fetch = || {
        for (number, &machine) in machines.iter().enumerate() {
            let tasks: &[&str] = if number == 0 { &["programs", "kernel"] } else { &["kernel"] };
            tasks.iter().try_for_each(|task| process::run(script(task, system, machine)?.stdout(Stdio::null())))?;
        }
        Ok::<_, Error>(())
    };
    let (fetched, builds) = thread::scope(|scope| {
        let fetched = scope.spawn(fetch);
        let builds = Builds::make(arch, extent);
        (fetched.join(), builds)
    });
    fetched.map_err(|_| anyhow!("the thread that fetches kernels panicked"))??;
    let builds = builds?;
    println!("vm {:<14} built  {:>6.1} s", arch.name(), start.elapsed().as_secs_f32());
    Ok(builds)
}

/// How a machine ended.
struct End {
    seconds: f32,
    /// The emulator's own word.
    well: bool,
    log: PathBuf,
}

fn run_one(
    machine: Machine,
    extent: Extent,
    system: &Path,
    object: &Path,
    builds: &Builds,
    logs: &Path,
) -> Result<End> {
    let start = Instant::now();
    let image = process::target_dir().join(format!("vm-{machine}.cpio"));
    pack(system, machine, extent, object, builds)?.write(&image)?;
    let log = logs.join(format!("vm-{machine}.log"));
    let well = boot(script("boot", system, machine)?.arg(&image).arg(extent.limit().to_string()), &log)?;
    fs::remove_file(&image).with_context(|| format!("remove {}", image.display()))?;
    Ok(End { seconds: start.elapsed().as_secs_f32(), well, log })
}

impl End {
    /// Prints what the console says of the kernel, and gives the sum of tests and plays.
    fn report(&self, machine: Machine, extent: Extent) -> Result<Counts> {
        let Self { seconds, well, log } = self;
        let text = fs::read(log).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        text.lines().filter_map(shown).for_each(|line| println!("{machine:<14} {line}"));

        let mut counts = Counts::parse(&text)?;
        let wanted = extent.plays(machine);
        let plays = text.lines().filter_map(ended_with).filter(|(_, command)| wanted.contains(command));
        plays.for_each(|(status, _)| counts += Counts::check(status == "0"));
        let complete = text.lines().filter_map(ended_with).count() == TESTS.len() + wanted.len();
        let whole = *well && complete;
        if !whole {
            counts.failed += 1;
        }
        if counts.failed > 0 {
            let skip = text.lines().count().saturating_sub(TAIL_LINES);
            println!("----- {} -----", log.display());
            text.lines().skip(skip).for_each(|line| println!("{line}"));
            println!("-----");
        }
        if !whole {
            println!("{machine:<14} {}", unfinished(&text, *seconds, extent.limit()));
        }
        let word = if counts.failed == 0 { "ok" } else { "FAILED" };
        println!("vm {machine:<14} {word:<6} {seconds:>6.1} s  {counts}");
        Ok(counts)
    }
}

/// Whether [`run`] printed in `output` that all went well on this machine.
pub(crate) fn was_well(machine: Machine, output: &str) -> bool {
    let name = machine.to_string();
    output.lines().any(|line| line.split_whitespace().take(3).eq(["vm", &name, "ok"]))
}

/// Why a machine did not come to its end, as far as its console shows.
fn unfinished(console: &str, seconds: f32, limit: u32) -> String {
    let started = console.lines().filter_map(|line| line.strip_prefix("$ ")).next_back();
    let place = match started {
        None => "before its first command".to_owned(),
        Some(command) if console.lines().filter_map(ended_with).any(|(_, ended)| ended == command) => {
            format!("after `{command}`")
        }
        Some(command) => format!("in `{command}`"),
    };
    // The emulator had not this long: what was packed before counts as well.
    let why = if seconds >= limit as f32 { format!("it was ended after {limit} s") } else { "it ended".to_owned() };
    format!("not all commands were run: {why}, {place}")
}

/// A command of scripts/vm-init.sh that came to its end: exit status and command.
fn ended_with(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("ended with ")?.split_once(": ")
}

/// Everything that the machine has: the kernel's modules, tests, and the story's programs with their libraries.
fn pack(system: &Path, machine: Machine, extent: Extent, object: &Path, builds: &Builds) -> Result<Initramfs> {
    let Machine { arch, .. } = machine;
    let mut files = Initramfs::default();
    files.add("init", 0o755, &process::workspace_root().join("scripts/vm-init.sh"))?;
    let root = system.join(format!("programs-{}", arch.name()));
    files.add("bin/busybox", 0o755, &root.join("bin/busybox"))?;
    files.add("berrylb.o", 0o644, object)?;
    for (path, program) in PROGRAMS {
        files.add_program(path, &root.join(program), &root, triplet(arch))?;
    }
    let Builds { berrylb, demo, tests } = builds;
    let built = [("berrylb", berrylb), ("berrylb-demo", demo)].into_iter();
    for (name, path) in built.chain(TESTS.iter().map(|(name, _)| *name).zip(tests)) {
        let stripped = stripped(name, path, machine)?;
        files.add_program(&format!("bin/{name}"), &stripped, Path::new("/"), triplet(arch))?;
        fs::remove_file(&stripped).with_context(|| format!("remove {}", stripped.display()))?;
    }
    let tests = TESTS.iter().map(|(name, arguments)| format!("{name} {arguments}\n"));
    let commands: String = tests.chain(extent.plays(machine).iter().map(|play| format!("{play}\n"))).collect();
    files.add_bytes("commands", 0o644, commands.as_bytes());
    let modules = system.join("kernels").join(machine.to_string()).join("load");
    let entries = fs::read_dir(&modules).with_context(|| format!("list {}", modules.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", modules.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
        files.add(&format!("modules/{name}"), 0o644, &path)?;
    }
    Ok(files)
}

/// The program without its debug information, which would be most of the machine's memory.
fn stripped(name: &str, path: &Path, machine: Machine) -> Result<PathBuf> {
    let stripped = process::target_dir().join(format!("vm-{machine}-{name}"));
    let mut command = Command::new(format!("{}-strip", triplet(machine.arch)));
    process::run(command.arg("-o").arg(&stripped).arg(path))?;
    Ok(stripped)
}

/// scripts/vm.sh as root.
fn script(task: &str, system: &Path, machine: Machine) -> Result<Command> {
    let mut command = Command::new("sh");
    if !process::is_root()? {
        if process::find_in_path("sudo").is_none() {
            bail!("the emulator's folder needs root, and there is no sudo.\nNext step: run `cargo xtask vm` as root");
        }
        command = Command::new("sudo");
        command.arg("sh");
    }
    command.arg(process::workspace_root().join("scripts/vm.sh")).arg(task).arg(system);
    command.arg(machine.arch.name()).arg(machine.kernel.version());
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
        assert!(was_well(TESTED[0], &format!("x\nvm {:<14} ok  200.1 s  9 passed, 0 failed\n", TESTED[0].to_string())));
        assert!(!was_well(TESTED[0], &format!("vm {} FAILED 1 s\nvm {} ok 1 s\n", TESTED[0], TESTED[1])));
        assert_eq!(ended_with("ended with 1: a-test --flag"), Some(("1", "a-test --flag")));
    }

    #[test]
    fn the_level_plays_over_both_kinds_of_network() {
        let plays: Vec<_> = TESTED.iter().flat_map(|machine| Extent::Level.plays(*machine)).collect();
        assert_eq!(plays, PLAYS.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_machine_that_hangs_is_told_with_its_command() {
        let text = "kernel 6.1\n$ a-test\nended with 0: a-test\n$ a-play --flag\n";
        assert_eq!(unfinished("boot", 3.0, 9), "not all commands were run: it ended, before its first command");
        let hangs = "not all commands were run: it was ended after 9 s, in `a-play --flag`";
        assert_eq!(unfinished(text, 9.5, 9), hangs);
        let panicked = unfinished(text.rsplit_once('$').expect("two").0, 3.0, 9);
        assert_eq!(panicked, "not all commands were run: it ended, after `a-test`");
    }
}
