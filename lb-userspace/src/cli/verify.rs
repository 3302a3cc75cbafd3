//! `berrylb verify`: asks the running agent whether the datapath is what it wants it to be, and to mend it. It reads and
//! writes nothing itself: what is wanted, only the agent knows.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{
    live::LiveArgs,
    output::{Cell, OutputArgs, Table},
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
    match advice(&verdict, args.repair) {
        None => Ok(()),
        Some(advice) => bail!(advice),
    }
}

/// What is left, and what can be done about it; `None` if nothing is.
fn advice(verdict: &ApiVerdict, repaired: bool) -> Option<String> {
    let left = match (verdict.left.len(), repaired) {
        (0, _) => return None,
        (1, false) => "1 difference".to_owned(),
        (1, true) => "1 difference is left".to_owned(),
        (left, false) => format!("{left} differences"),
        (left, true) => format!("{left} differences are left"),
    };
    Some(match (verdict.limits.is_empty(), repaired) {
        (true, false) => format!("{left}: `berrylb verify --repair` has the agent mend what differs"),
        (true, true) => format!("{left}: the agent's log says why, and it tries again what failed"),
        (false, false) => format!("{left}; {}; --repair mends only what has another cause", verdict.limits.join("; ")),
        (false, true) => format!("{left}; {}", verdict.limits.join("; ")),
    })
}

fn show(args: &VerifyArgs, verdict: &ApiVerdict) -> Result<()> {
    let row = |repaired| move |difference| Row { repaired, difference };
    let rows: Vec<Row<'_>> =
        verdict.left.iter().map(row(false)).chain(verdict.repaired.iter().map(row(true))).collect();
    if rows.is_empty() && args.output.output.is_table() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_is_one_that_helps() {
        let mut verdict = ApiVerdict::default();
        assert_eq!(advice(&verdict, false), None);
        verdict.left = vec![Difference::new("service a/b", "map has nothing", "forward")];
        let text = advice(&verdict, false).unwrap();
        assert_eq!(text, "1 difference: `berrylb verify --repair` has the agent mend what differs");
        assert!(advice(&verdict, true).unwrap().starts_with("1 difference is left: the agent's log"));

        verdict.limits = vec!["map services is full".into(), "another".into()];
        verdict.left.push(verdict.left[0].clone());
        let text = advice(&verdict, false).unwrap();
        assert_eq!(text, "2 differences; map services is full; another; --repair mends only what has another cause");
        assert_eq!(advice(&verdict, true).unwrap(), "2 differences are left; map services is full; another");
    }
}
