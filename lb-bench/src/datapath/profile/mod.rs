//! `--profile`: where the time of an operation goes, and what of it a way of serving Services adds to direct access.
//!
//! Workers take turns as always, once for the time of an operation and once more while `perf` looks. As all of an
//! operation runs in its worker's thread, soft interrupts as well, a moment belongs to the mode whose worker it was.

mod parts;
mod perf;
mod table;

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, bail};

use self::{
    perf::Recording,
    table::{Column, Moments},
};
use super::{
    crew::{self, Order, Pass, Worker},
    figures::{ModeFigures, figures},
    options::Options,
    scenarios::Scenario,
    stations::Stations,
    turns, workers,
};

/// # Errors
/// There is no `perf`, or it does not run here.
pub(super) fn available() -> Result<()> {
    perf::available()
}

/// Profiles one scenario, and prints its table.
///
/// # Errors
/// `perf` fails, or a worker breaks.
pub(super) fn profile(stations: &Stations, scenario: &Scenario, options: &Options, order: &mut Order) -> Result<()> {
    let file = stations.folder().join("perf.data");
    let mut passes: Vec<Vec<Pass>> = Vec::new();
    let mut moments = vec![Moments::new(); scenario.modes.len()];
    for _ in 0..options.passes() {
        let mut workers = workers(stations, scenario, options)?;
        passes.push(crew::take_turns(&mut workers, turns(options), order)?);
        let recording = Recording::start(options.processor()?, &file)?;
        crew::take_turns(&mut workers, turns(options), order)?;
        let processes: Vec<i32> = workers.iter().map(Worker::pid).collect();
        for (all, seen) in moments.iter_mut().zip(recording.finish(&processes)?) {
            for (part, count) in seen {
                *all.entry(part).or_default() += count;
            }
        }
    }
    let figures = figures(&scenario.modes, scenario.work.pace().is_some(), &passes).context("there was no pass")?;
    let column = |(figures, moments): (&ModeFigures, Moments)| {
        if moments.is_empty() {
            bail!("perf has not seen the worker of {}", figures.mode.name());
        }
        Ok(Column { mode: figures.mode.name().to_owned(), nanos: figures.nanos.median, moments })
    };
    let columns: Vec<Column> = figures.iter().zip(moments).map(column).collect::<Result<_>>()?;
    io::stdout().write_all(table::table(&scenario.name(), &columns).as_bytes()).context("print the profile")
}
