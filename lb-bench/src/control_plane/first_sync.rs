//! The first sync without an agent: from decoded objects to the kernel's maps, step by step.
//!
//! Each round is a process of its own, so that it meets a fresh heap, as an agent does.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use berrylb::{
    maps::{BATCH, BpfStore, Tables, create_pinned},
    plan::{PlanConfig, Planner},
};
use clap::Args;
use lb_lab::{Host as _, Node};
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;

/// What a round is told.
#[derive(Args, Debug)]
pub(crate) struct FirstSyncArgs {
    #[arg(long)]
    services: u32,
    #[arg(long)]
    endpoints: u32,
    /// Folder on a bpffs, for maps that are made anew; not there yet.
    #[arg(long)]
    bpffs: PathBuf,
}

/// Milliseconds of one first sync.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct FirstSync {
    /// Objects into the index, by Service.
    pub(super) index: f64,
    /// Planning that the maps waited for: the next Services are planned while some are written.
    pub(super) plan: f64,
    /// The plan into the maps.
    pub(super) maps: f64,
}

impl FirstSync {
    pub(super) fn total(self) -> f64 {
        self.index + self.plan + self.maps
    }
}

/// Does one round, and prints it.
///
/// # Errors
/// Maps cannot be made, or take not all.
pub(crate) fn first_sync(args: &FirstSyncArgs) -> Result<()> {
    let cluster = Cluster { services: args.services, endpoints: args.endpoints };
    create_pinned(&args.bpffs, &cluster.capacities()).context("make maps")?;
    let (mut tables, _) = Tables::adopt(BpfStore::open(&args.bpffs)?)?;
    let mut planner = Planner::new(PlanConfig { node_name: "raspi001".to_owned(), ..PlanConfig::default() });
    let objects = cluster.objects();
    let start = Instant::now();
    objects.into_iter().for_each(|object| planner.upsert(object));
    let indexed = Instant::now();
    let (mut plan, mut maps, mut backends) = (Duration::ZERO, Duration::ZERO, 0);
    let mut last = indexed;
    let mut failed = Vec::new();
    planner.take_changes_in_batches(BATCH, |changes| {
        let planned = Instant::now();
        plan += planned - last;
        let (outcome, errors) = tables.apply_all(changes);
        failed.extend(errors);
        backends += outcome.backends_added;
        last = Instant::now();
        maps += last - planned;
    });
    plan += last.elapsed();
    if let Some(error) = failed.first() {
        bail!("{} Services are not in the maps: {error}", failed.len());
    }
    if backends != (args.services * args.endpoints) as usize {
        bail!("{backends} backends are in the maps");
    }
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let times = FirstSync { index: millis(indexed - start), plan: millis(plan), maps: millis(maps) };
    serde_json::to_writer(std::io::stdout(), &times).context("tell the times")
}

/// Has one round done by a process on `node`.
///
/// # Errors
/// As [`first_sync`].
pub(super) fn round(node: &Node, cluster: Cluster) -> Result<FirstSync> {
    let own = std::env::current_exe().context("find the running program")?;
    let bpffs = node.bpffs().join("first-sync");
    let Cluster { services, endpoints } = cluster;
    let command = node.command(own).arg("first-sync");
    let command = command.arg(format!("--services={services}")).arg(format!("--endpoints={endpoints}"));
    let told = command.arg("--bpffs").arg(&bpffs).ok();
    if bpffs.exists() {
        std::fs::remove_dir_all(&bpffs).with_context(|| format!("remove {}", bpffs.display()))?;
    }
    serde_json::from_str(&told?).context("read the times of a first sync")
}
