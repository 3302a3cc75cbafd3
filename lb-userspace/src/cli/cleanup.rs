//! `berrylb cleanup`: takes everything away that an agent made in its folders and network namespace.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::{
    agent::{self, DEFAULT_BPFFS},
    loader::{self, Error, FolderLock},
};

/// Take programs, links, maps and pins of an agent away, whether it runs or not.
///
/// To be run in the node's network namespace. Connections through Services end; the node's objects stay as they are, and
/// so does a snapshot of them, unless --state-dir names its folder: a later agent that boots without its API server serves
/// it. Stop the agent first: one that runs on serves nothing from then on, until it is started again.
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
    let bpffs = args.bpffs.display();
    // Held meanwhile, so that no agent starts on what is being taken away.
    let (lock, running) = match args.bpffs.exists().then(|| FolderLock::take(&args.bpffs)) {
        None => (None, None),
        Some(Ok(lock)) => (Some(lock), None),
        Some(Err(Error::InUse { pid, .. })) => (None, Some(pid)),
        Some(Err(error)) => return Err(error.into()),
    };
    let removed = loader::cleanup(&args.bpffs)?;
    let state = args.state_dir.as_deref().filter(|dir| !dir.as_os_str().is_empty());
    let files = state.map(agent::remove_snapshot).transpose()?.unwrap_or_default();
    let mut out = io::stdout();
    if removed.is_empty() && files.is_empty() {
        writeln!(out, "nothing to remove: there is no datapath at {bpffs}")?;
    } else if !removed.is_empty() {
        writeln!(out, "{removed}")?;
    }
    for path in files {
        writeln!(out, "removed snapshot {}", path.display())?;
    }
    if let Some(pid) = running {
        let process = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        writeln!(
            io::stderr(),
            "berrylb cleanup: an agent{process} still runs on {bpffs}: it serves nothing until it is started again, and its \
             /healthz says so; stop it"
        )?;
    }
    drop(lock);
    if args.stay {
        writeln!(out, "done; waiting for SIGTERM")?;
        out.flush()?;
        ending.wait().context("wait for a signal")?;
    }
    Ok(())
}
