//! `berrylb dump`: the live maps in the shape of `berrylb plan`.

use std::io::{self, Write as _};

use anyhow::Result;

use super::{
    live::LiveArgs,
    output::{self, OutputArgs},
};

/// Print what the datapath holds now, in the shape of `berrylb plan`.
///
/// Names come from the running agent; without one, service, portName and zone are null.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  berrylb dump -o json")]
pub(super) struct DumpArgs {
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &DumpArgs) -> Result<()> {
    let live = args.live.open()?;
    let state = live.state()?;
    if args.output.output.is_table() && state.frontends.iter().any(|frontend| frontend.service.is_none()) {
        live.tell_of_missing_names()?;
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    output::print_state(&state, args.output.output, output::stdout_colour(), &mut out)?;
    out.flush()?;
    Ok(())
}
