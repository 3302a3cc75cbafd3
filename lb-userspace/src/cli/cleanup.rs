//! `berrylb cleanup`: takes everything away that an agent made in its folders and network namespace.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Result;

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
}

pub(super) fn run(args: &CleanupArgs) -> Result<()> {
    loader::host::check_privileges()?;
    let removed = loader::cleanup(&args.bpffs)?;
    let state = args.state_dir.as_deref().filter(|dir| !dir.as_os_str().is_empty());
    let files = state.map(agent::remove_snapshot).transpose()?.unwrap_or_default();
    if !removed.is_empty() || files.is_empty() {
        writeln!(io::stdout(), "{removed}")?;
    }
    for path in files {
        writeln!(io::stdout(), "removed snapshot {}", path.display())?;
    }
    Ok(())
}
