//! What cargo cannot do by itself: bring tools, build the BPF object, run the test levels. No product logic lives here.

mod bench;
mod bpf_toolchain;
mod build_agent;
mod build_ebpf;
mod miri;
mod pins;
mod play;
mod process;
mod setup;
mod strip;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// berrylb's tasks. `make help` lists the everyday ones.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Bring the tools and packages that this machine lacks; done at once when it lacks none
    Setup {
        /// What to make the machine ready for
        #[arg(long = "for", value_enum, default_value = "test")]
        purpose: setup::Purpose,
    },
    /// Build the BPF object into target/bpf/berrylb.o, from where the agent embeds it
    BuildEbpf,
    /// Build the object and the release binary `berrylb` with it
    Build {
        /// For arm64 instead of this machine; needs `setup --for arm64`
        #[arg(long)]
        arm64: bool,
    },
    /// Run the checks and tests, by level; all levels when none is named
    ///
    /// The last line is the total. Each level's output is in target/test-logs/LEVEL.log while it runs and afterwards, and is
    /// shown when it fails. A level that cannot run here is named as such, and with CI=true in the environment it fails the
    /// run. `deny` runs where cargo-deny is installed (`setup --for deny`); with CI=true it is installed first.
    Test {
        /// Levels to run
        #[arg(value_enum)]
        levels: Vec<test::Level>,
    },
    /// Load the programs and run the packet cases on other kernels, in an emulator; on all of them when none is named
    ///
    /// Debian's kernels, without their type information, in software emulation, on Debian 12 on amd64. The first run makes
    /// a small Debian in ~/.cache/berrylb/tools/vm-debian-12 and fetches kernels into it; removing that folder fetches newer
    /// ones. Shown are what became of each program and whatever a kernel cannot show; consoles are in
    /// target/test-logs/vm-*.log.
    Vm {
        /// Kernel to boot; may be given several times
        #[arg(long = "kernel", value_enum)]
        kernels: Vec<vm::Kernel>,
    },
    /// Play the story on this machine's kernel: two nodes, three pods, a Service
    Demo {
        /// Passed on; `-- --help` lists them
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Set the demo's nodes and pods up and leave them up, with the commands to enter them
    Lab {
        /// Passed on; `-- --help` lists them
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Measure the release binary on this machine
    Bench {
        #[command(subcommand)]
        what: bench::Bench,
    },
    /// Format the Rust sources, the BPF programs too
    Fmt,
    /// Run lb-common's tests under Miri (needs a rustup nightly with the miri component)
    Miri,
}

fn main() -> ExitCode {
    match run(Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup { purpose } => setup::run(purpose),
        Task::BuildEbpf => build_ebpf::build().map(|object| eprintln!("BPF object: {}", object.display())),
        Task::Build { arm64 } => build_agent::build(arm64).map(|binary| eprintln!("berrylb: {}", binary.display())),
        Task::Test { levels } => test::run(&levels),
        Task::Vm { kernels } => vm::run(&kernels),
        Task::Demo { args } => play::demo(&args),
        Task::Lab { args } => play::lab(&args),
        Task::Bench { what } => bench::run(&what),
        Task::Fmt => {
            setup::run(setup::Purpose::Test)?;
            process::run(process::cargo().args(["fmt", "--all"]))
        }
        Task::Miri => miri::run(),
    }
}
