//! `berrylb-bench control-plane`: what the agent costs and how fast it is, by number of Services.
//!
//! A lab with one node, whose agent follows the lab's API server, which runs in this process. Of each size: first syncs
//! without an agent; starts of the agent on empty maps and on full ones; its memory once it is at rest; single changes
//! of endpoints; its CPU time at rest and under load. Several programs take turns in every round.

mod agents;
mod cluster;
mod events;
mod first_sync;
mod report;

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lb_lab::{
    Host as _, Lab, LabConfig, Node,
    api_server::{ApiConfig, ApiServer},
};

use self::{
    agents::{Memory, Program, Ready},
    cluster::Cluster,
    events::Changes,
    first_sync::FirstSync,
    report::{ProgramReport, Report, SizeReport},
};
pub(crate) use first_sync::{FirstSyncArgs, first_sync};

/// What is measured, and for how long.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: sudo berrylb-bench control-plane --services 10,1000 --berrylb target/release/berrylb")]
pub(crate) struct Options {
    /// The berrylb program; several take turns in every round, to be compared
    #[arg(long, value_name = "FILE", required = true)]
    berrylb: Vec<PathBuf>,
    /// Shorter times: within a minute
    #[arg(long)]
    quick: bool,
    /// Numbers of Services. Default: 10,1000,10000,50000, with --quick 10,10000
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    services: Vec<u32>,
    /// Endpoints of each Service. Default: 10, and 2 above 10,000 Services
    #[arg(long, value_name = "N")]
    endpoints: Option<u32>,
    /// Also write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds of first syncs, starts and restarts. Default: 3
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Seconds before the agent counts as at rest. Default: 5, with --quick 2
    #[arg(long, value_name = "S")]
    settle: Option<u64>,
    /// Single changes. Default: 500, with --quick 200
    #[arg(long, value_name = "N")]
    changes: Option<u32>,
    /// Seconds at rest. Default: 30, with --quick 5
    #[arg(long, value_name = "S")]
    idle: Option<u64>,
    /// Seconds of 100 changes each. Default: 10, with --quick 3
    #[arg(long, value_name = "S")]
    load: Option<u64>,
}

impl Options {
    fn or_default<T>(&self, given: Option<T>, quick: T, full: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }

    fn clusters(&self) -> Vec<Cluster> {
        let full: &[u32] = if self.quick { &[10, 10_000] } else { &[10, 1000, 10_000, 50_000] };
        let sizes = if self.services.is_empty() { full } else { &self.services };
        let endpoints = |services| self.endpoints.unwrap_or(if services > 10_000 { 2 } else { 10 });
        sizes.iter().map(|services| Cluster { services: *services, endpoints: endpoints(*services) }).collect()
    }
}

/// Measures everything, prints it, and writes it down.
///
/// # Errors
/// Not root, or an agent does not do what it is to do.
pub(crate) fn run(options: &Options) -> Result<()> {
    let clusters = options.clusters();
    if let Some(cluster) = clusters.iter().find(|c| c.services == 0 || c.services > 100_000 || c.endpoints < 2) {
        bail!("{} Services of {} endpoints: 1 to 100,000, of 2 or more", cluster.services, cluster.endpoints);
    }
    let name = "raspi001";
    let config = LabConfig {
        nodes: vec![name.into()],
        service_gateway: 0,
        masquerade: false,
        bridge_netfilter: false,
        ..LabConfig::default()
    };
    let lab = Lab::new(config)?;
    let mut report = Report::new(options.quick, &options.berrylb)?;
    for cluster in clusters {
        let start = Instant::now();
        eprintln!("{} Services of {} endpoints …", cluster.services, cluster.endpoints);
        let size = measure(options, lab.node(name), cluster)?;
        eprintln!("  measured in {:.0} s", start.elapsed().as_secs_f64());
        report.sizes.push(size);
    }
    report.print()?;
    match &options.json {
        Some(path) => {
            let text = serde_json::to_string_pretty(&report).context("write the figures as JSON")?;
            std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
        }
        None => Ok(()),
    }
}

/// What the rounds of one program gave.
#[derive(Default)]
struct Rounds {
    starts: Vec<Ready>,
    restarts: Vec<Ready>,
    rest: Option<Rest>,
}

/// What is measured once.
struct Rest {
    memory: Memory,
    outside: Vec<f64>,
    agent: Vec<f64>,
    idle: f64,
    load: f64,
    loaded: u32,
    under_load: Vec<f64>,
}

fn measure(options: &Options, node: &Node, cluster: Cluster) -> Result<SizeReport> {
    // As a real server's, so that they do not count as work of an agent at rest.
    let config = ApiConfig { bookmark_every: Duration::from_secs(60), ..ApiConfig::default() };
    let server = ApiServer::start_in(node.netns(), (Ipv4Addr::LOCALHOST, 0).into(), config)?;
    for node in cluster::nodes_json(node.name()) {
        server.put(node)?;
    }
    for n in 0..cluster.services {
        server.put(Cluster::service_json(n))?;
        server.put(cluster.slice_json(n, None))?;
    }
    let programs: Vec<Program<'_>> =
        options.berrylb.iter().map(|binary| Program::new(node, &server, binary, cluster)).collect();
    let mut first_syncs: Vec<FirstSync> = Vec::new();
    let mut all: Vec<Rounds> = programs.iter().map(|_| Rounds::default()).collect();
    let last = options.rounds.unwrap_or(3).max(1) - 1;
    for round in 0..=last {
        first_syncs.push(first_sync::round(node, cluster)?);
        for (program, rounds) in programs.iter().zip(&mut all) {
            let (mut agent, ready) = program.start()?;
            rounds.starts.push(ready);
            if round == last {
                rounds.rest = Some(rest(options, node, &server, cluster, &mut agent)?);
            }
            agent.terminate()?;
            drop(agent);
            let (agent, ready) = program.start()?;
            rounds.restarts.push(ready);
            Program::end(agent)?;
        }
    }
    let programs = options.berrylb.iter().zip(all).map(|(binary, rounds)| ProgramReport::new(binary, &rounds));
    Ok(SizeReport::new(cluster, &first_syncs, programs.collect::<Result<_>>()?))
}

/// What a running agent costs, at rest and at work.
fn rest(
    options: &Options,
    node: &Node,
    server: &ApiServer,
    cluster: Cluster,
    agent: &mut lb_lab::Agent,
) -> Result<Rest> {
    let seconds = |given, quick, full| Duration::from_secs(options.or_default(given, quick, full));
    thread::sleep(seconds(options.settle, 2, 5));
    let memory = agents::memory(agent.running()?.pid())?;
    let idle_time = seconds(options.idle, 5, 30);
    let (idle, ()) = events::millicores(node.cgroup(), || {
        thread::sleep(idle_time);
        Ok(())
    })?;
    let mut changes = Changes::new(node, server, cluster)?;
    let (_, from) = events::told(agent, 0)?;
    let outside = changes.outside(options.or_default(options.changes, 200, 500))?;
    let (inside, from) = events::told(agent, from)?;
    let load_time = seconds(options.load, 3, 10);
    let (load, loaded) = events::millicores(node.cgroup(), || changes.load(load_time))?;
    let (under_load, _) = events::told(agent, from)?;
    changes.undo()?;
    Ok(Rest { memory, outside, agent: inside, idle, load, loaded, under_load })
}
