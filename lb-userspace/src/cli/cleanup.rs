//! `berrylb cleanup`: takes everything away that an agent made in its folders and network namespace.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Result;

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
}

pub(super) fn run(args: &CleanupArgs) -> Result<()> {
    loader::host::check_privileges()?;
    let removed = loader::cleanup(&args.bpffs)?;
    writeln!(io::stdout(), "{removed}")?;
    Ok(())
}
