//! The figures as a table and as JSON. Rounds it, and says what is what; measures nothing.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Rest, Rounds, agents::Memory, cluster::Cluster, first_sync::FirstSync};
use crate::{
    machine::{self, Machine},
    stats::{Spread, Times},
};

/// Everything that was measured. Times are in milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    machine: Machine,
    quick: bool,
    programs: Vec<ProgramFile>,
    pub(super) sizes: Vec<SizeReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProgramFile {
    path: PathBuf,
    bytes: u64,
}

/// One number of Services.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SizeReport {
    services: u32,
    endpoints_per_service: u32,
    /// From decoded objects to maps, without an agent.
    first_sync: FirstSyncReport,
    programs: Vec<ProgramReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FirstSyncReport {
    index: Option<Spread>,
    plan: Option<Spread>,
    maps: Option<Spread>,
    total: Option<Spread>,
}

/// One berrylb program at one size.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProgramReport {
    program: PathBuf,
    /// Process start to `ready`, on empty maps.
    start: Option<Spread>,
    /// First request for objects to `ready`, on empty maps.
    list: Option<Spread>,
    /// What the agent itself says that its first sync took: plan and maps.
    sync: Option<Spread>,
    /// Process start to `ready`, on maps that an earlier run left.
    restart: Option<Spread>,
    /// At rest.
    memory_kib: Memory,
    /// Single changes, from the API server to the map, seen from outside.
    change_outside: Option<Times>,
    /// The same, from what the agent received to the map, by its own clock.
    change_in_agent: Option<Times>,
    /// The latter under load.
    change_under_load: Option<Times>,
    idle_millicores: f64,
    load_millicores: f64,
    /// Agent's CPU time of one change under load.
    change_cpu_millis: f64,
}

impl ProgramReport {
    pub(super) fn new(program: &Path, Rounds { starts, restarts, rest }: &Rounds) -> Result<Self> {
        let Rest { memory, outside, agent, idle, load, loaded, under_load } = rest.as_ref().context("no last round")?;
        let spread = |values: &mut dyn Iterator<Item = f64>| Spread::of(&values.collect::<Vec<_>>());
        Ok(Self {
            program: program.to_owned(),
            start: spread(&mut starts.iter().map(|ready| ready.process)),
            list: spread(&mut starts.iter().map(|ready| ready.list)),
            sync: spread(&mut starts.iter().map(|ready| ready.sync)),
            restart: spread(&mut restarts.iter().map(|ready| ready.process)),
            memory_kib: *memory,
            change_outside: Times::of(outside),
            change_in_agent: Times::of(agent),
            change_under_load: Times::of(under_load),
            idle_millicores: *idle,
            load_millicores: *load,
            change_cpu_millis: if *loaded > 0 { load / f64::from(super::events::RATE) } else { 0.0 },
        })
    }
}

impl SizeReport {
    pub(super) fn new(cluster: Cluster, first_syncs: &[FirstSync], programs: Vec<ProgramReport>) -> Self {
        let Cluster { services, endpoints } = cluster;
        let spread = |part: fn(&FirstSync) -> f64| Spread::of(&first_syncs.iter().map(part).collect::<Vec<_>>());
        let first_sync = FirstSyncReport {
            index: spread(|sync| sync.index),
            plan: spread(|sync| sync.plan),
            maps: spread(|sync| sync.maps),
            total: spread(|sync| sync.total()),
        };
        Self { services, endpoints_per_service: endpoints, first_sync, programs }
    }
}

impl Report {
    pub(super) fn new(quick: bool, programs: &[PathBuf]) -> Result<Self> {
        let file = |path: &PathBuf| Ok(ProgramFile { path: path.clone(), bytes: machine::size(path)? });
        let programs = programs.iter().map(file).collect::<Result<_>>()?;
        Ok(Self { machine: Machine::here()?, quick, programs, sizes: Vec::new() })
    }

    /// Prints it as text.
    pub(super) fn print(&self) -> Result<()> {
        let mut text = String::new();
        self.write(&mut text);
        io::stdout().write_all(text.as_bytes()).context("print the figures")
    }

    fn write(&self, out: &mut String) {
        let Machine { processor, processors, kernel, date } = &self.machine;
        out.push_str(&format!("{processor}, {processors} processors, Linux {kernel}, {date}\n"));
        for ProgramFile { path, bytes } in &self.programs {
            out.push_str(&format!("{}: {:.1} MB\n", path.display(), *bytes as f64 / 1e6));
        }
        out.push_str("median (least – most) of rounds; times in ms\n");
        for size in &self.sizes {
            out.push_str(&format!("\n{} Services of {} endpoints\n", size.services, size.endpoints_per_service));
            let FirstSyncReport { index, plan, maps, total } = &size.first_sync;
            line("first sync, objects to maps", &spread(total), out);
            for (part, value) in [("objects to index", index), ("index to plan", plan), ("plan to maps", maps)] {
                line(&format!("  {part}"), &spread(value), out);
            }
            for program in &size.programs {
                program.write(out);
            }
        }
    }
}

impl ProgramReport {
    fn write(&self, out: &mut String) {
        let Memory { rss, anonymous, file, peak, maps } = self.memory_kib;
        let mib = |kib: u64| kib as f64 / 1024.0;
        out.push_str(&format!(" {}\n", self.program.display()));
        line("start to ready, empty maps", &spread(&self.start), out);
        line("  first request to ready", &spread(&self.list), out);
        line("  agent's first sync, plan to maps", &spread(&self.sync), out);
        line("start to ready, maps of an earlier run", &spread(&self.restart), out);
        let parts =
            format!("{:.1} MiB ({:.1} own, {:.1} program and mapped maps)", mib(rss), mib(anonymous), mib(file));
        line("memory at rest", &parts, out);
        line("  the most it had", &format!("{:.1} MiB", mib(peak)), out);
        line("  kernel memory of maps", &format!("{:.1} MiB", mib(maps)), out);
        line("change, API server to map", &times(&self.change_outside), out);
        line("  in the agent", &times(&self.change_in_agent), out);
        line("  in the agent, 100 changes/s", &times(&self.change_under_load), out);
        line("CPU at rest", &format!("{:.3} millicores", self.idle_millicores), out);
        let load = format!("{:.1} millicores, {:.3} ms a change", self.load_millicores, self.change_cpu_millis);
        line("CPU at 100 changes/s", &load, out);
    }
}

fn line(name: &str, value: &str, out: &mut String) {
    out.push_str(&format!("  {name:<42}{value}\n"));
}

fn spread(value: &Option<Spread>) -> String {
    match value {
        Some(Spread { median, least, most, rounds: _ }) => format!("{median:.1} ({least:.1} – {most:.1})"),
        None => "not measured".to_owned(),
    }
}

fn times(value: &Option<Times>) -> String {
    match value {
        Some(Times { p50, p99, max, count }) => {
            format!("p50 {p50:.3}, p99 {p99:.3}, max {max:.3} of {count}")
        }
        None => "not measured".to_owned(),
    }
}
