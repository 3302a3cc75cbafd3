//! `berrylb cleanup`: takes everything away that an agent made in its folders and network namespace.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::{agent::DEFAULT_BPFFS, loader};

/// Take programs, links, maps and pins of an agent away, whether it runs or not.
///
/// To be run in the node's network namespace. Connections through Services end; the node's objects stay as they are.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  berrylb cleanup --bpffs /sys/fs/bpf/berrylb")]
pub(super) struct CleanupArgs {
    /// The agent's folder of maps and links.
    #[arg(long, env = "BERRYLB_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    bpffs: PathBuf,
    /// Wait for SIGTERM or SIGINT afterwards, as what runs on every node has to do until it has run on all of them.
    #[arg(long)]
    stay: bool,
}

pub(super) fn run(args: &CleanupArgs) -> Result<()> {
    let ending: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    if args.stay {
        // Before the work, so that a signal that comes meanwhile is kept; the first process of a container gets no other.
        ending.thread_block().context("hold signals back")?;
    }
    loader::host::check_privileges()?;
    let removed = loader::cleanup(&args.bpffs)?;
    let mut out = io::stdout();
    writeln!(out, "{removed}")?;
    if args.stay {
        writeln!(out, "done; waiting for SIGTERM")?;
        out.flush()?;
        ending.wait().context("wait for a signal")?;
    }
    Ok(())
}
