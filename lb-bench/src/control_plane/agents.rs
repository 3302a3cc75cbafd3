//! One agent, beside others to compare it with: started on empty maps, started again on full ones, and how much memory
//! it takes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_lab::{
    Agent, Host as _, Node,
    api_server::{ApiServer, Verb},
};
use serde::Serialize;

use super::cluster::Cluster;

/// The agent's log goes on as in production, with one line for each event, written after the event is measured.
const LOG: &str = "--log-level=info,berrylb::agent::cluster=debug";

/// Milliseconds until the agent says `ready`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// From before the process is made.
    pub(super) process: f64,
    /// From its first request for objects.
    pub(super) list: f64,
    /// Time that the agent itself counts for its first sync: the plan and the maps.
    pub(super) sync: f64,
}

/// KiB of a process and of the maps that it holds.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    /// `VmRSS`.
    pub(super) rss: u64,
    /// The part that is its own.
    pub(super) anonymous: u64,
    /// The part that is the program and mapped maps.
    pub(super) file: u64,
    /// `VmHWM`: the most that it ever had.
    pub(super) peak: u64,
    /// Kernel memory of its maps, as the kernel counts it.
    pub(super) maps: u64,
}

/// The agent program of one version.
pub(super) struct Program<'a> {
    node: &'a Node,
    server: &'a ApiServer,
    binary: PathBuf,
    flags: Vec<String>,
}

impl<'a> Program<'a> {
    pub(super) fn new(node: &'a Node, server: &'a ApiServer, binary: &Path, cluster: Cluster) -> Self {
        let mut flags = cluster.flags();
        flags.push(LOG.to_owned());
        Self { node, server, binary: binary.to_owned(), flags }
    }

    /// Starts it on whatever maps are there.
    pub(super) fn start(&self) -> Result<(Agent, Ready)> {
        let _before = self.server.take_seen();
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let start = Instant::now();
        // `plan` is not asked for, so the folder of objects is nobody's.
        let agent = Agent::start_at_api_server(self.node, &self.binary, self.node.dir(), &self.server.url(), &flags)?;
        let process = start.elapsed();
        let seen = self.server.take_seen();
        let asked = seen.iter().filter(|seen| matches!(seen.verb, Verb::List | Verb::Watch)).map(|seen| seen.at).min();
        let list = process.saturating_sub(asked.context("the agent asked for no objects")? - start);
        let metrics = Metrics::of(self.node)?;
        let sync = metrics.number("kubeproxy_sync_proxy_rules_duration_seconds_sum")? * 1e3;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        Ok((agent, Ready { process: millis(process), list: millis(list), sync }))
    }

    /// Ends an agent and takes away what it left.
    pub(super) fn end(mut agent: Agent) -> Result<()> {
        agent.terminate()?;
        agent.cleanup().map(drop)
    }
}

/// What the agent's `/metrics` says.
pub(super) struct Metrics(String);

impl Metrics {
    fn of(node: &Node) -> Result<Self> {
        node.command("curl").args(["-sf", "http://127.0.0.1:10249/metrics"]).ok().map(Self).context("read /metrics")
    }

    fn number(&self, series: &str) -> Result<f64> {
        let found = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.with_context(|| format!("no {series}"))?.parse().with_context(|| format!("{series} is no number"))
    }
}

/// The memory of a process now.
pub(super) fn memory(pid: i32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib = |key: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().with_context(|| format!("{key}{line}"))
    };
    let file = kib("RssFile")? + kib("RssShmem")?;
    Ok(Memory { rss: kib("VmRSS")?, anonymous: kib("RssAnon")?, file, peak: kib("VmHWM")?, maps: maps_kib(pid)? })
}

/// Each map once, by what `/proc/PID/fdinfo` says of its descriptors.
fn maps_kib(pid: i32) -> Result<u64> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut maps: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        // A descriptor may have been closed meanwhile; maps stay open.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (number("map_id:"), number("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    if maps.is_empty() {
        bail!("process {pid} holds no maps");
    }
    Ok(maps.values().sum::<u64>() / 1024)
}

/// Microseconds of CPU time of a cgroup so far, all threads, those that ended too.
///
/// # Errors
/// The cgroup does not count.
pub(super) fn cpu_micros(cgroup: &Path) -> Result<u64> {
    let path = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    usage.context("no usage_usec in cpu.stat")?.parse().context("usage_usec is no number")
}
