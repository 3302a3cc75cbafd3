//! `berrylb counters`: what the datapath counted since it was first loaded.

use anyhow::Result;
use lb_common::abi::Counter;
use serde::Serialize;

use super::{
    live::LiveArgs,
    output::{Cell, OutputArgs, Table},
    services::print,
};
use crate::maps::MapStore as _;

/// Print the datapath's counters: connections by path, and drops by reason.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  berrylb counters -o json")]
pub(super) struct CountersArgs {
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct CounterRow {
    name: &'static str,
    value: u64,
    help: &'static str,
}

pub(super) fn run(args: &CountersArgs) -> Result<()> {
    let counters = args.live.open()?.store.counters()?;
    let rows: Vec<CounterRow> = Counter::ALL
        .iter()
        .zip(counters)
        .map(|(counter, value)| CounterRow { name: counter.name(), value, help: counter.help().trim() })
        .collect();
    let mut table = Table::new(&["COUNTER", "VALUE", "WHAT"]);
    for row in &rows {
        let value = Cell::new(row.value.to_string()).right();
        let bad = row.value > 0 && (row.name.starts_with("drop_") || row.name.ends_with("_full"));
        table.row(vec![Cell::new(row.name), if bad { value.warn() } else { value }, Cell::new(row.help).dim()]);
    }
    print(args.output.output, &rows, &table)
}
