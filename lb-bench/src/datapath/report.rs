//! The figures as text and as JSON. Rounds them, and says what is what; measures nothing.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    compare::{self, Comparison},
    figures::{ModeFigures, ScenarioFigures},
    html,
    modes::Absent,
    options::{Cluster, Options},
    packets::{Packet, Packets, Program},
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
    pub(super) absent: Absent,
    pub(super) cluster: Cluster,
    pub(super) scenarios: Vec<ScenarioFigures>,
    /// What single packets cost, if that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) packets: Option<Packets>,
    #[serde(default)]
    pub(super) programs: Vec<Program>,
}

impl Report {
    pub(super) fn new(options: &Options, absent: Absent) -> Result<Self> {
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
            cluster: options.cluster,
            scenarios: Vec::new(),
            packets: None,
            programs: Vec::new(),
        })
    }

    /// Without a figure.
    #[cfg(test)]
    pub(super) const fn empty(machine: Machine) -> Self {
        Self {
            machine,
            quick: false,
            rounds: 0,
            passes: 0,
            slice_millis: 0,
            seconds: 0,
            tools: Vec::new(),
            absent: Vec::new(),
            cluster: Cluster::Plain,
            scenarios: Vec::new(),
            packets: None,
            programs: Vec::new(),
        }
    }

    /// Prints the figures and writes the files that were asked for.
    ///
    /// # Errors
    /// A file cannot be written, or the comparison finds something worse.
    pub(super) fn finish(&self, options: &Options) -> Result<()> {
        io::stdout().write_all(self.text().as_bytes()).context("print the figures")?;
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(self).context("write the figures as JSON")?;
            write(path, &(text + "\n"))?;
        }
        if let Some(path) = &options.html {
            write(path, &html::page(self))?;
        }
        if let Some(folder) = &options.plots {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            html::plots(self).iter().try_for_each(|(name, svg)| write(&folder.join(name), svg))?;
        }
        options.compare.as_deref().map_or(Ok(()), |path| self.compare(path))
    }

    /// Single packets, and programs.
    fn singles(&self, out: &mut String) {
        if let Some(Packets { services, empty_tc, empty_xdp, packets }) = &self.packets {
            let _infallible = writeln!(
                out,
                "\nnanoseconds of a packet above an empty program (tc {empty_tc:.1}, XDP {empty_xdp:.1}), {services} \
                 Services: median (eight of ten within)"
            );
            for Packet { name, nanos } in packets {
                let _infallible =
                    writeln!(out, "  {name:<60}{:>7.1} ({:.1} – {:.1})", nanos.median, nanos.p10, nanos.p90);
            }
        }
        if !self.programs.is_empty() {
            out.push_str("\nprograms: verified instructions, bytes of machine code\n");
        }
        for Program { name, verified_instructions, jited_bytes } in &self.programs {
            let verified = verified_instructions.map_or_else(|| "not told".to_owned(), |count| count.to_string());
            let _infallible = writeln!(out, "  {name:<24}{verified:>10}{jited_bytes:>10}");
        }
    }

    /// # Errors
    /// Something is worse than in the file beyond the noise, or nothing of it was measured.
    fn compare(&self, path: &Path) -> Result<()> {
        let before = read(path)?;
        let Comparison { compared, worse, better } = compare::compare(&before, self);
        let mut out = io::stdout();
        let mut say = |text: String| writeln!(out, "{text}").context("print the comparison");
        say(format!("\ncompared with {}: {} ({})", path.display(), before.machine.date, before.machine.processor))?;
        better.iter().try_for_each(|text| say(format!("better: {text}")))?;
        worse.iter().try_for_each(|text| say(format!("WORSE:  {text}")))?;
        say(format!("{compared} ratios compared, {} better, {} worse", better.len(), worse.len()))?;
        match (compared, worse.len()) {
            (0, _) => bail!("{} holds none of the ratios that were measured", path.display()),
            (_, 0) => Ok(()),
            (_, count) => bail!("{count} of {compared} ratios are worse than in {}", path.display()),
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let Machine { processor, processors, kernel, date } = &self.machine;
        let _infallible = writeln!(
            out,
            "{processor}, {processors} processors, Linux {kernel}, {date}\n{} passes of {} rounds of {} ms, in {} s; {}\n\
             processor time of one operation, and its ratio to the first line: median (eight of ten within) ±noise",
            self.passes,
            self.rounds,
            self.slice_millis,
            self.seconds,
            self.cluster.about()
        );
        for (mode, why) in &self.absent {
            let _infallible = writeln!(out, "NOT MEASURED: {}: {why}", mode.name());
        }
        for scenario in &self.scenarios {
            let _infallible = writeln!(out, "\n{}", scenario.name);
            scenario.modes.iter().for_each(|mode| line(scenario, mode, &mut out));
        }
        self.singles(&mut out);
        out
    }
}

/// # Errors
/// It is not there, or holds something else.
pub(super) fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no figures of `datapath`", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
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
