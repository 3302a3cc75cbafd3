//! `berrylb-bench`: measures berrylb on this machine, in a lab of its own. `cargo xtask bench` builds and starts it.
//!
//! It measures and says what it measured; it judges nothing. Everything it makes belongs to a lab, which is gone when
//! it ends, however it ends.

mod control_plane;
mod datapath;
mod machine;
mod stats;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lb_lab::{peer, sweep_dead};

/// Measure berrylb on this machine.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example: sudo berrylb-bench control-plane --quick --berrylb target/release/berrylb")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What the agent costs and how fast it is, by number of Services
    ControlPlane(control_plane::Options),
    /// What connections and packets cost by each way of serving Services, beside direct access and kube-proxy's rules
    Datapath(datapath::Options),
    /// Both ends of one work, for datapath
    #[command(hide = true)]
    Worker(datapath::WorkerArgs),
    /// One first sync in this process, as JSON: what control-plane starts anew for each round
    #[command(hide = true)]
    FirstSync(control_plane::FirstSyncArgs),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berrylb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if peer::main_if_asked()? {
        return Ok(());
    }
    match Cli::parse().what {
        What::FirstSync(args) => control_plane::first_sync(&args),
        What::Worker(args) => datapath::worker(&args),
        What::ControlPlane(options) => {
            sweep()?;
            control_plane::run(&options)
        }
        What::Datapath(options) => {
            sweep()?;
            datapath::run(&options)
        }
    }
}

fn sweep() -> Result<()> {
    for lab in sweep_dead()? {
        eprintln!("removed lab {lab}, whose owner was killed");
    }
    Ok(())
}
