//! What cargo cannot do by itself: build the BPF object, bring tools, run the test levels. No product logic lives here.

mod bpf_toolchain;
mod build_ebpf;
mod pins;
mod process;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// berrylb's tasks. `make help` lists the everyday ones.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Build the BPF object into target/bpf/berrylb.o, from where the agent embeds it.
    BuildEbpf,
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
        Task::BuildEbpf => build_ebpf::build().map(|object| eprintln!("BPF object: {}", object.display())),
    }
}
