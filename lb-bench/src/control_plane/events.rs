//! Changes of single endpoints: how long they take to the datapath, and what CPU time they cost.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use berrylb::{
    loader::Layout,
    maps::{BpfStore, MapStore as _},
};
use lb_lab::{Agent, Node, api_server::ApiServer};
use nix::sched::sched_yield;

use super::cluster::Cluster;

/// So long a change may take before it counts as lost.
const LOST: Duration = Duration::from_secs(10);
/// Changes in a second under load.
pub(super) const RATE: u32 = 100;

/// Makes changes, one at a time, and sees them arrive.
pub(super) struct Changes<'a> {
    server: &'a ApiServer,
    cluster: Cluster,
    store: BpfStore,
    /// Changes so far.
    made: u32,
}

/// A change to come.
struct Change {
    service: u32,
    slice: serde_json::Value,
    /// Endpoints that the Service has then.
    endpoints: u32,
}

impl<'a> Changes<'a> {
    /// Over the maps that the node's agent has pinned.
    pub(super) fn new(node: &Node, server: &'a ApiServer, cluster: Cluster) -> Result<Self> {
        let layout = Layout::new(node.bpffs());
        Ok(Self { server, cluster, store: BpfStore::open_read_only(layout.version())?, made: 0 })
    }

    /// An endpoint of some Service, another one each time, that gets lame, and gets well with the next change.
    fn next(&mut self) -> Change {
        let Cluster { services, endpoints } = self.cluster;
        // Spread over all, so that no Service is warm.
        let service = (self.made / 2).wrapping_mul(0x9e37_79b1) % services;
        let lame = self.made.is_multiple_of(2).then_some(self.made / 2 % endpoints);
        self.made += 1;
        let endpoints = endpoints - u32::from(lame.is_some());
        Change { service, slice: self.cluster.slice_json(service, lame), endpoints }
    }

    /// Milliseconds of each of so many changes, from before the server is given it until the map's commit word shows it.
    /// They come 2 to 10 ms apart: an agent that waits is woken.
    pub(super) fn outside(&mut self, count: u32) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for n in 0..count {
            thread::sleep(Duration::from_millis(u64::from(2 + n.wrapping_mul(0x9e37_79b1) % 9)));
            let Change { service, slice, endpoints } = self.next();
            let index = self.store.service(&Cluster::key(service))?.context("the Service is not in the maps")?.index();
            let start = Instant::now();
            self.server.put(slice)?;
            self.wait(index, endpoints, start).with_context(|| format!("change {n}"))?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    }

    fn wait(&self, index: u32, endpoints: u32, start: Instant) -> Result<()> {
        loop {
            let state = self.store.state(index).context("the index is beyond the map")?;
            if u32::from(state.word.count()) == endpoints {
                return Ok(());
            }
            if start.elapsed() > LOST {
                bail!("not in the datapath after {LOST:?}");
            }
            // On a machine with few processors whoever has work to do comes first.
            sched_yield().context("yield")?;
        }
    }

    /// Makes changes at [`RATE`] for so long, and waits for the last one. Gives how many there were.
    pub(super) fn load(&mut self, time: Duration) -> Result<u32> {
        let (start, every) = (Instant::now(), Duration::from_secs(1) / RATE);
        let count = u32::try_from(time.as_millis() / every.as_millis()).context("a time of hours at most")?;
        let mut last = None;
        for n in 0..count {
            thread::sleep((start + every * n).saturating_duration_since(Instant::now()));
            let Change { service, slice, endpoints } = self.next();
            self.server.put(slice)?;
            last = Some((service, endpoints));
        }
        if let Some((service, endpoints)) = last {
            let index = self.store.service(&Cluster::key(service))?.context("the Service is not in the maps")?.index();
            self.wait(index, endpoints, Instant::now())?;
        }
        Ok(count)
    }

    /// Makes the endpoint well that is lame, if one is: the next agent begins as this one did.
    pub(super) fn undo(mut self) -> Result<()> {
        if self.made % 2 == 1 {
            let Change { slice, .. } = self.next();
            self.server.put(slice)?;
        }
        Ok(())
    }
}

/// Milliseconds from each event to the datapath, as the agent's log tells them, from line `from` on; and the next line.
pub(super) fn told(agent: &Agent, from: usize) -> Result<(Vec<f64>, usize)> {
    let log = agent.log()?;
    let micros = |line: &str| line.split_once("from API event to datapath micros=")?.1.split(' ').next()?.parse().ok();
    let times = log.lines().skip(from).filter_map(micros).map(|micros: f64| micros / 1e3).collect();
    Ok((times, log.lines().count()))
}

/// CPU time of the cgroup in millicores while `work` ran, and what it gave.
pub(super) fn millicores<T>(cgroup: &Path, work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let (before, start) = (super::agents::cpu_micros(cgroup)?, Instant::now());
    let done = work()?;
    let (after, time) = (super::agents::cpu_micros(cgroup)?, start.elapsed());
    Ok(((after - before) as f64 / 1e3 / time.as_secs_f64(), done))
}
