//! `berrylb cleanup`: takes everything away that an agent made in its folders and network namespace.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::{
    agent::{self, DEFAULT_BPFFS},
    loader,
};

/// Take programs, links, maps and pins of an agent away, whether it runs or not.
///
/// To be run in the node's network namespace. Connections through Services end; the node's objects stay as they are, and
/// so does a snapshot of them, unless --state-dir names its folder: a later agent that boots without its API server serves it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  berrylb cleanup --bpffs /sys/fs/bpf/berrylb")]
pub(super) struct CleanupArgs {
    /// The agent's folder of maps and links.
    #[arg(long, env = "BERRYLB_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    bpffs: PathBuf,
    /// The agent's folder with its snapshot of objects, to be removed, too. Default: it stays.
    #[arg(long, env = "BERRYLB_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
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
    let state = args.state_dir.as_deref().filter(|dir| !dir.as_os_str().is_empty());
    let files = state.map(agent::remove_snapshot).transpose()?.unwrap_or_default();
    let mut out = io::stdout();
    if !removed.is_empty() || files.is_empty() {
        writeln!(out, "{removed}")?;
    }
    for path in files {
        writeln!(out, "removed snapshot {}", path.display())?;
    }
    if args.stay {
        writeln!(out, "done; waiting for SIGTERM")?;
        out.flush()?;
        ending.wait().context("wait for a signal")?;
    }
    Ok(())
}
