//! The figures as text and as JSON. Rounds them, and says what is what; measures nothing.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    figures::{ModeFigures, ScenarioFigures},
    modes::Mode,
    options::Options,
};
use crate::machine::Machine;

/// Everything that was measured.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) quick: bool,
    pub(super) rounds: u32,
    pub(super) passes: u32,
    pub(super) slice_millis: u64,
    /// How long it all took.
    pub(super) seconds: u64,
    /// Programs that made the rules, by their own words.
    pub(super) tools: Vec<String>,
    /// Modes that cannot be measured here, and why.
    pub(super) absent: Vec<(Mode, String)>,
    pub(super) scenarios: Vec<ScenarioFigures>,
}

impl Report {
    pub(super) fn new(options: &Options, absent: Vec<(Mode, String)>) -> Result<Self> {
        let tool = |name: &str| {
            let output = std::process::Command::new(name).arg("--version").output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        Ok(Self {
            machine: Machine::here()?,
            quick: options.quick(),
            rounds: options.rounds(),
            passes: options.passes(),
            slice_millis: options.slice(),
            seconds: 0,
            tools: ["iptables", "nft"].into_iter().filter_map(tool).collect(),
            absent,
            scenarios: Vec::new(),
        })
    }

    /// Prints the figures and writes the files that were asked for.
    ///
    /// # Errors
    /// A file cannot be written, or the comparison finds something worse.
    pub(super) fn finish(&self, options: &Options) -> Result<()> {
        io::stdout().write_all(self.text().as_bytes()).context("print the figures")?;
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(self).context("write the figures as JSON")?;
            std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let Machine { processor, processors, kernel, date } = &self.machine;
        let _infallible = writeln!(
            out,
            "{processor}, {processors} processors, Linux {kernel}, {date}\n{} passes of {} rounds of {} ms, in {} s\n\
             processor time of one operation, and its ratio to the first line: median (eight of ten within) ±noise",
            self.passes, self.rounds, self.slice_millis, self.seconds
        );
        for (mode, why) in &self.absent {
            let _infallible = writeln!(out, "NOT MEASURED: {}: {why}", mode.name());
        }
        for scenario in &self.scenarios {
            let _infallible = writeln!(out, "\n{}", scenario.name);
            scenario.modes.iter().for_each(|mode| line(scenario, mode, &mut out));
        }
        out
    }
}

fn line(scenario: &ScenarioFigures, figures: &ModeFigures, out: &mut String) {
    let ModeFigures { mode, services, nanos, ratio, times, busy, operations: _ } = figures;
    let scale = if *services > 1 { format!(" {services}") } else { String::new() };
    let rate = match scenario.bytes {
        Some(bytes) => format!("  {:.2} GB/s", bytes as f64 / nanos.median),
        None => format!("  p50 {:.1} p99 {:.1} µs", times.p50, times.p99),
    };
    let middle = ratio.middle;
    let _infallible = writeln!(
        out,
        "  {:<16}{:>8.2} µs ({:.2} – {:.2})  {:.3} ({:.3} – {:.3}) ±{:.3}{rate}  busy {:.0} %",
        format!("{}{scale}", mode.name()),
        nanos.median / 1e3,
        nanos.p10 / 1e3,
        nanos.p90 / 1e3,
        middle.median,
        middle.p10,
        middle.p90,
        ratio.noise,
        busy * 100.0
    );
}
