//! `berrylb-demo`: plays the story on this machine's kernel with real servers, or sets its cluster up and keeps it.
//!
//! Each command is printed as a reader would type it and then really run; each promise of the story is checked
//! against the real answer, and a broken one ends the play with status 1. It touches nothing outside the lab.

mod cluster;
mod discovery;
mod kinds;
mod lasting;
mod stage;
mod story;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_lab::{Network, peer, sweep_dead};
use nix::sys::signal::{SigSet, Signal};

use crate::{cluster::Cluster, stage::Stage};

/// Play berrylb's story in a small cluster on this machine's kernel.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example: sudo berrylb-demo demo --berrylb target/release/berrylb")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Play the story from start to clean-up
    Demo {
        #[command(flatten)]
        options: Options,
        /// Keep the lab up at the end, until Ctrl-C
        #[arg(long)]
        keep: bool,
        /// Requests from a node and as many from a pod, whose spread is looked at
        #[arg(long, value_name = "COUNT", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(100..))]
        spread: u64,
    },
    /// Set the story's cluster up and keep it up until Ctrl-C
    Lab(Options),
}

#[derive(Args, Debug)]
struct Options {
    /// The berrylb program
    #[arg(long, value_name = "FILE")]
    berrylb: PathBuf,
    /// How pods reach pods of other nodes
    #[arg(long, value_enum, default_value_t = Net::HostGw)]
    network: Net,
    /// A flag for the agents, such as --socket-lb=off; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    agent_flag: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Net {
    /// Routes via the nodes' addresses
    HostGw,
    /// flannel.1
    Vxlan,
}

impl From<Net> for Network {
    fn from(net: Net) -> Self {
        match net {
            Net::HostGw => Self::HostGw,
            Net::Vxlan => Self::Vxlan,
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("berrylb-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything went as the story tells.
fn run() -> Result<bool> {
    if peer::main_if_asked()? {
        return Ok(true);
    }
    let cli = Cli::parse();
    for lab in sweep_dead()? {
        eprintln!("removed lab {lab}, whose owner was killed");
    }
    let mut stage = Stage::new();
    match cli.what {
        What::Demo { options, keep, spread } => {
            // Without --keep, Ctrl-C ends the play at once; the lab's reaper takes everything away.
            let until = if keep { Some(block_signals()?) } else { None };
            play(&mut stage, &options, spread, until.as_ref())
        }
        What::Lab(options) => {
            let until = block_signals()?;
            let mut cluster = Cluster::new(&mut stage, &options)?;
            cluster.start_agents(&mut stage)?;
            cluster.apply_story(&mut stage)?;
            discovery::start_dns(&mut stage, &mut cluster)?;
            hold(&mut stage, &cluster, &until)?;
            Ok(true)
        }
    }
}

fn play(stage: &mut Stage, options: &Options, spread: u64, until: Option<&SigSet>) -> Result<bool> {
    let mut cluster = Cluster::new(stage, options)?;
    story::direct(stage, &cluster)?;
    cluster.start_agents(stage)?;
    cluster.apply_story(stage)?;
    story::service(stage, &cluster)?;
    story::mix(stage, &cluster, spread)?;
    story::outside(stage, &cluster)?;
    kinds::play(stage, &mut cluster)?;
    discovery::play(stage, &mut cluster)?;
    lasting::maps(stage, &cluster)?;
    lasting::kill(stage, &mut cluster)?;
    match until {
        Some(until) => hold(stage, &cluster, until)?,
        None => {
            lasting::clean_up(stage, &mut cluster)?;
            let name = cluster.lab.name().to_owned();
            drop(cluster);
            lasting::nothing_left(stage, &name)?;
            stage.say("\n`make lab` sets the same cluster up and keeps it open for you to poke at.")?;
        }
    }
    stage.verdict()
}

/// Interrupt and termination are waited for from here on, instead of ending the process.
fn block_signals() -> Result<SigSet> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().context("block SIGINT and SIGTERM")?;
    Ok(signals)
}

fn hold(stage: &mut Stage, cluster: &Cluster, until: &SigSet) -> Result<()> {
    cluster.guide(stage)?;
    let signal = until.wait().context("wait for Ctrl-C")?;
    stage.say(&format!("\n{signal}: taking the lab down"))
}
