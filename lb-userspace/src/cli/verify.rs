//! `berrylb verify`: asks the running agent whether the datapath is what it wants it to be, and to mend it. It reads and
//! writes nothing itself: what is wanted, only the agent knows.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{
    live::LiveArgs,
    output::{Cell, Format, OutputArgs, Table},
    services::print,
};
use crate::{
    agent::{ApiSnapshot, ApiVerdict, verify},
    plan::compare::Difference,
};

/// Compare the live maps, attached programs and pins with what the running agent wants; list what differs.
///
/// Exit code 1 if anything differs, or no agent runs. With --repair the agent mends what differs, and compares again:
/// maps are adopted anew and written where they differ, detached programs are attached again, lost pins are made again.
/// A pin that another map has taken is listed and left alone.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  berrylb verify\n  berrylb verify --repair -o json")]
pub(super) struct VerifyArgs {
    /// Have the agent mend what differs.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Row<'a> {
    repaired: bool,
    #[serde(flatten)]
    difference: &'a Difference,
}

pub(super) fn run(args: &VerifyArgs) -> Result<()> {
    let LiveArgs { bpffs, api_socket } = &args.live;
    let verdict = verify(api_socket, args.repair)
        .with_context(|| format!("ask the agent at {} to compare", api_socket.display()))?;
    let Some(verdict) = verdict else {
        bail!(
            "no agent runs at {}, so nobody knows what the datapath should hold: start the agent, or give its \
             --api-socket; `berrylb dump` shows what the datapath holds",
            api_socket.display()
        );
    };
    if std::path::absolute(bpffs)? != std::path::Path::new(&verdict.bpffs) {
        bail!(
            "the agent at {} serves {}, not {}: give --bpffs and --api-socket of one agent",
            api_socket.display(),
            verdict.bpffs,
            bpffs.display()
        );
    }
    if let Some(remark) = verdict.snapshot.as_ref().and_then(ApiSnapshot::remark) {
        writeln!(io::stderr(), "berrylb verify: {remark}")?;
    }
    if !verdict.ready {
        bail!("the agent has not its first full state yet: try again when its /healthz answers 200");
    }
    show(args, &verdict)?;
    for problem in &verdict.problems {
        writeln!(io::stderr(), "berrylb verify: {problem}")?;
    }
    match (verdict.left.len(), args.repair) {
        (0, _) => Ok(()),
        (left, false) => bail!("{left} differences: `berrylb verify --repair` has the agent mend them"),
        (left, true) => bail!("{left} differences are left: the agent's log says why, and it tries again what failed"),
    }
}

fn show(args: &VerifyArgs, verdict: &ApiVerdict) -> Result<()> {
    let row = |repaired| move |difference| Row { repaired, difference };
    let rows: Vec<Row<'_>> =
        verdict.left.iter().map(row(false)).chain(verdict.repaired.iter().map(row(true))).collect();
    if rows.is_empty() && matches!(args.output.output, Format::Table | Format::Wide) {
        writeln!(io::stdout(), "nothing differs")?;
        return Ok(());
    }
    let mut table = Table::new(&["STATE", "DIFFERENCE"]);
    for Row { repaired, difference } in &rows {
        let state = if *repaired { Cell::new("repaired").good() } else { Cell::new("differs").bad() };
        table.row(vec![state, Cell::new(difference.to_string())]);
    }
    print(args.output.output, &rows, &table)
}
