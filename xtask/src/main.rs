//! What cargo cannot do by itself: bring tools, build the BPF object, run the test levels. No product logic lives here.

mod bench;
mod bpf_toolchain;
mod build_agent;
mod build_ebpf;
mod dist;
mod manifests;
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
    /// Build the object and the release binary `berrylb` with it, for this machine
    Build,
    /// Make what is shipped, in target/dist: static binaries, bills of materials, licence texts, checksums
    ///
    /// Needs `setup --for dist`.
    Dist {
        /// For which architecture
        #[arg(long, value_enum, default_value = "all")]
        arch: dist::Archs,
        /// Build a second time, from a copy of the sources in another folder, and compare every byte
        #[arg(long)]
        check: bool,
    },
    /// Pack the binaries of `dist` into container images, without a container engine, in target/dist
    ///
    /// One archive for each architecture, and with `--arch all` one of both. They are OCI archives that `ctr image import`,
    /// `k3s ctr images import`, `docker load` and `skopeo copy oci-archive:…` take.
    Image {
        /// For which architecture
        #[arg(long, value_enum, default_value = "all")]
        arch: dist::Archs,
        /// The image's name, with its registry; the tag is the version
        #[arg(long, default_value = dist::image::NAME)]
        name: String,
    },
    /// Write the files in manifests/ that are made of its folders; needs kubectl
    Manifests,
    /// Run the checks and tests, by level; all but `manifests`, `image` and `kubernetes` when none is named
    ///
    /// The last line is the total. Each level's output is in target/test-logs/LEVEL.log while it runs and afterwards, and is
    /// shown when it fails. A level that cannot run here is named as such, and with CI=true in the environment it fails the
    /// run. `deny` runs where cargo-deny is installed (`setup --for deny`), `vm` where what `setup --for vm` brings is; with
    /// CI=true these are installed first.
    Test {
        /// Levels to run
        #[arg(value_enum)]
        levels: Vec<test::Level>,
    },
    /// Load the programs, run the packet cases and play the story on other kernels and on arm64, in an emulator
    ///
    /// Debian's kernels, without their type information, in software emulation, on Debian 12 on amd64; all of them when
    /// none is named. The first run makes a small Debian in ~/.cache/berrylb/tools/vm-debian-12 and fetches kernels into
    /// it; removing that folder fetches newer ones. Shown are what became of each program and whatever a kernel cannot
    /// show; consoles are in target/test-logs/vm-*.log.
    Vm {
        /// Kernel to boot; may be given several times
        #[arg(long = "kernel", value_enum)]
        kernels: Vec<vm::Kernel>,
        /// Architecture to emulate; may be given several times
        #[arg(long = "arch", value_enum)]
        arches: Vec<dist::Arch>,
        /// Do what the test level does: no binary as it is shipped, and one kind of pod network on each kernel
        #[arg(long)]
        short: bool,
    },
    /// Play the story on this machine's kernel: three nodes, three pods on two of them, a Service
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
    /// Measure the release binary on this machine: the agent, then the data path
    ///
    /// Figures as JSON and a page with plots go to target/bench. Either by itself takes flags of its own.
    Bench(bench::Bench),
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
        Task::Build => build_agent::build().map(|binary| eprintln!("berrylb: {}", binary.display())),
        Task::Dist { arch, check } => dist::run(arch, check).map(|folder| eprintln!("all in {}", folder.display())),
        Task::Image { arch, name } => dist::image::run(arch, &name).map(drop),
        Task::Manifests => manifests::run(),
        Task::Test { levels } => test::run(&levels),
        Task::Vm { kernels, arches, short } => {
            let extent = if short { vm::Extent::Level } else { vm::Extent::Full };
            let counts = vm::run(&vm::Machine::all(&arches, &kernels), extent)?;
            anyhow::ensure!(counts.failed == 0, "{counts}");
            Ok(())
        }
        Task::Demo { args } => play::demo(&args),
        Task::Lab { args } => play::lab(&args),
        Task::Bench(what) => bench::run(&what),
        Task::Fmt => {
            setup::run(setup::Purpose::Test)?;
            process::run(process::cargo().args(["fmt", "--all"]))
        }
        Task::Miri => miri::run(),
    }
}
