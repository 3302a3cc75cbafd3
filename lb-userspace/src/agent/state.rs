//! Everything that the agent owns, and how a change of objects, links or addresses gets to the maps. It never waits.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Display,
    io,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use lb_common::abi::{Config, local_path, ticks};
use tokio::time::Instant;

use super::{
    audit::Audit,
    cluster::Cluster,
    config::Settings,
    events::Events,
    files::{FileKey, FileSet},
    health::Failed,
    health_checks::HealthChecks,
    links::{self, Links},
    memory,
    own_node::OwnNode,
    retry::{Retry, Standing},
    serve::Asker,
    skips::Skips,
    snapshot::{Snapshots, StateDir},
    syncs::Syncs,
    values::PodDelivery,
};
use crate::{
    clock::now_ticks,
    loader::{self, Datapath, DatapathOptions, Layout, object},
    maps::{ApplyError, BATCH, BpfStore, Capacities, Freed, MapStore as _, Tables},
    net::{ClassifyOptions, Follower, Table, Topology},
    plan::{
        News, PlanConfig, Planner,
        state::{ServiceChange, ServiceName},
    },
};

/// What becomes of what an earlier run left of Services that are not there any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Prune {
    /// It is deleted, or will be with the first full state.
    Done,
    /// It is kept for as long as an object is bad: it may be that object's.
    BadObject,
    /// Not all of it could be deleted; tried again.
    Failed,
}

pub(super) struct Agent {
    pub(super) settings: Settings,
    pub(super) classify: ClassifyOptions,
    pub(super) datapath: Datapath,
    pub(super) tables: Tables<BpfStore>,
    /// Links, addresses and routes as last read.
    pub(super) table: Table,
    pub(super) links: Links,
    pub(super) planner: Planner,
    pub(super) health_checks: HealthChecks,
    pub(super) files: FileSet,
    /// If objects come from the API server, not from files.
    pub(super) cluster: Option<Cluster>,
    /// With `--state-dir`.
    pub(super) snapshots: Option<Snapshots>,
    /// The socket programs are attached, which a snapshot that serves needs before `ready`.
    pub(super) serves_sockets: bool,
    pub(super) own_node: OwnNode,
    /// Sources that could not be read, with the reason that was logged.
    pub(super) unreadable: BTreeMap<usize, String>,
    /// Files that could not be read, likewise.
    pub(super) unreadable_files: BTreeMap<FileKey, String>,
    /// Services whose last change is not wholly in the maps, with that change.
    pub(super) failed: BTreeMap<ServiceName, Failed>,
    pub(super) syncs: Syncs,
    /// What an earlier run left is pruned, and `ready` is said.
    pub(super) ready: bool,
    /// When to let go of the program's pages that only the start needed.
    pub(super) let_go_at: Option<Instant>,
    /// An earlier run left tables.
    pub(super) adopted: bool,
    pub(super) adopted_links: Vec<u32>,
    pub(super) config: Config,
    pub(super) skips: Skips,
    pub(super) retry: Retry,
    pub(super) standing: Standing,
    pub(super) prune: Prune,
    pub(super) audit: Audit,
    pub(super) events: Events,
    /// Somebody took the datapath away.
    pub(super) taken_away: bool,
}

/// The error; that of a table with the flag that sets its size in front.
fn with_flag(error: loader::Error) -> anyhow::Error {
    let flag = if let loader::Error::Table { map, .. } = &error { Capacities::flag(map) } else { None };
    let error = anyhow::Error::new(error);
    match flag {
        Some(flag) => error.context(flag),
        None => error,
    }
}

impl Agent {
    /// `state`: where a snapshot of the objects is kept.
    pub(super) fn start(
        settings: Settings,
        state: Option<StateDir>,
        follower: &Follower,
        asker: Asker,
    ) -> Result<Self> {
        let object = object::bytes()?;
        let capacities = settings.capacities;
        let options = DatapathOptions {
            cgroup: settings.cgroup.clone(),
            socket_lb: settings.socket_lb,
            skip_cgroups: settings.skip_rules.depths().map_err(anyhow::Error::msg)?,
            skip_netns: !settings.skip_rules.netns.is_empty(),
            delivers: settings.pod_delivery != PodDelivery::Bridge,
            tc_hook: settings.tc,
            table_sizes: lb_common::abi::map::ALL
                .into_iter()
                .filter_map(|name| Some((name, capacities.of(name)?)))
                .collect(),
            log_level: settings.datapath_log,
            ..DatapathOptions::new(&settings.bpffs)
        };
        let fresh = !Datapath::tables_pinned(&Layout::new(&settings.bpffs))?;
        let mut datapath = Datapath::load(object, &options).map_err(with_flag)?;
        let other_versions = datapath.other_versions()?;
        let takes_over = fresh && !other_versions.is_empty();
        if takes_over {
            tracing::info!("{} serves until this version has its first full state", other_versions.join(", "));
        }
        for finding in datapath.probe().findings() {
            tracing::debug!("{finding}");
        }
        let skips = Skips::start(settings.skip_rules.clone(), &datapath)
            .context("follow cgroups and network namespaces to skip: see fs.inotify.max_user_instances")?;
        let adopted = datapath.adopt()?;
        for removed in &adopted.removed {
            tracing::info!("removed what an earlier run left: {removed}");
        }
        let adopted_links = adopted.kept.iter().filter_map(|kept| kept.pin.ifindex()).collect();

        let store = BpfStore::open(datapath.layout().version())?;
        let (tables, found) = Tables::adopt(store)?;
        let tables = tables.with_maglev_size(settings.maglev_table_size);
        if !fresh {
            tracing::info!("took over {} frontends and {} backends of an earlier run", found.frontends, found.backends);
        }
        // What is in the maps is newer than a snapshot, unless it is one itself.
        let boots = !takes_over && (found.frontends == 0 || datapath.is_unconfirmed()?);
        let interval = Duration::from_secs(settings.state_interval.into());
        let snapshots = state.map(|dir| Snapshots::start(dir, interval, boots));
        let grace = if fresh && settings.grace_seconds > 0 { now_ticks()? + ticks(settings.grace_seconds) } else { 0 };
        let earlier = if fresh { None } else { Some(tables.store().config()?) };
        let config = links::first_config(&settings, grace, earlier);
        let planner = Planner::new(PlanConfig {
            node_name: settings.node_name.clone(),
            node_addresses: settings.node_address.clone(),
            zone: settings.zone.clone(),
            node_port_source_ranges: settings.source_ranges_nodeport,
            node_port_addresses: settings.nodeport_addresses.clone(),
            external_cluster_ips: settings.allow_external_cluster_ip,
            algorithm: settings.algorithm,
        });
        let audit_interval = settings.audit_interval;
        let cluster = settings.access.as_ref().map(|_| Cluster::default());
        let events = match &settings.access {
            Some(access) if settings.events => Events::start(access.clone(), &settings.node_name),
            Some(_) | None => Events::default(),
        };
        let mut agent = Self {
            classify: links::classify_options(&settings, config.stack_taken == 0),
            table: Table::default(),
            links: Links::new(settings.packet_path, takes_over, settings.xdp),
            settings,
            datapath,
            tables,
            planner,
            health_checks: HealthChecks::new(asker),
            files: FileSet::default(),
            cluster,
            snapshots,
            serves_sockets: false,
            own_node: OwnNode::default(),
            unreadable: BTreeMap::new(),
            unreadable_files: BTreeMap::new(),
            failed: BTreeMap::new(),
            syncs: Syncs::default(),
            ready: false,
            let_go_at: None,
            adopted: !fresh,
            adopted_links,
            config,
            skips,
            retry: Retry::default(),
            standing: Standing::default(),
            prune: Prune::Done,
            audit: Audit::new(audit_interval),
            events,
            taken_away: false,
        };
        agent.apply_skips();
        agent.follow(follower, false);
        Ok(agent)
    }

    /// Brings everything that is planned to the maps; the first time also programs to sockets, and says `ready`. Returns
    /// whether a Service changed.
    pub(super) fn settle(&mut self) -> bool {
        if !self.is_complete() {
            return false;
        }
        let start = Instant::now();
        self.settle_addresses();
        let mut many = 0;
        let mut planner = std::mem::take(&mut self.planner);
        planner.take_changes_in_batches(BATCH, |changes| {
            many += changes.len();
            self.apply(changes);
        });
        self.planner = planner;
        if self.planner.take_listeners_changed() {
            self.health_checks.follow(&self.planner.health_checks(), &self.planner.node_addresses());
        }
        if self.health_checks.failures().next().is_some() {
            self.schedule_retry();
        }
        self.tell();
        self.report_events();
        let failed = |service: &ServiceName| self.failed.contains_key(service);
        let (changed, any_failed) = (many > 0, !self.failed.is_empty());
        self.syncs.synced(start.elapsed(), changed, failed, any_failed, SystemTime::now());
        if !self.is_confirmed() {
            let done = self.serve_sockets().map_err(|error| format!("{error:#}"));
            self.note("the snapshot does not serve all sockets", done);
        } else if !self.ready && self.unreadable.is_empty() && self.unreadable_files.is_empty() {
            let done = self.become_ready().map_err(|error| format!("{error:#}"));
            if done.is_ok() {
                // Of what loading the programs took.
                memory::give_back();
                self.let_go_at = Some(Instant::now() + memory::SETTLED);
            }
            self.note("not ready yet", done);
        } else if self.prune == Prune::BadObject && !self.has_bad_objects() {
            self.prune_unlisted();
        }
        memory::give_back_after(many);
        changed
    }

    fn serve_sockets(&mut self) -> Result<()> {
        if !self.serves_sockets {
            self.datapath.attach_sockets()?;
            self.serves_sockets = true;
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, changes: &[ServiceChange]) {
        let (outcome, errors) = self.tables.apply_all(changes);
        tracing::debug!(?outcome, "applied {} services", changes.len());
        let mut failed: BTreeMap<ServiceName, ApplyError> =
            errors.into_iter().map(|error| (error.service.clone(), error)).collect();
        for change in changes {
            match failed.remove(&change.service) {
                Some(error) => {
                    let old = self.failed.remove(&change.service);
                    let failed = Failed::new(change, error, old.as_ref());
                    if old.is_none_or(|old| old.reason != failed.reason) {
                        tracing::error!("{}", failed.reason);
                        self.events.touch(&change.service);
                    }
                    self.failed.insert(change.service.clone(), failed);
                    self.schedule_retry();
                }
                None => {
                    if self.failed.remove(&change.service).is_some() {
                        tracing::info!("service {} is in the datapath now", change.service);
                        self.events.touch(&change.service);
                    }
                }
            }
        }
    }

    /// Says each diagnostic of the plan once, for as long as it stands.
    fn tell(&mut self) {
        let News { new, gone } = self.planner.take_news();
        for diagnostic in &new {
            tracing::warn!("{diagnostic}");
        }
        new.iter().chain(&gone).for_each(|diagnostic| self.events.touch(diagnostic.service()));
    }

    fn become_ready(&mut self) -> Result<()> {
        self.prune_unlisted();
        let adopted = std::mem::take(&mut self.adopted_links);
        self.links.prune(adopted, &mut self.datapath, self.tables.store_mut());
        self.links.attach_deferred(&mut self.datapath);
        self.serve_sockets()?;
        self.datapath.mark_confirmed()?;
        let retired = self.datapath.retire_other_versions()?;
        if !retired.is_empty() {
            let (links, maps) = (retired.links.len(), retired.maps.len());
            tracing::info!("took over from another version: {links} links detached, {maps} maps removed");
            tracing::debug!("{retired}");
            self.links.retry_xdp(&mut self.datapath);
        }
        if self.links.has_failures() {
            self.schedule_retry();
        }
        self.ready = true;
        #[expect(clippy::print_stdout, reason = "the one line that scripts wait for")]
        {
            println!("ready");
        }
        tracing::info!("the first full state is in the datapath");
        if let Some(nodes) = self.planner.nodes_without_ours() {
            tracing::warn!(
                "none of the {nodes} Node objects is {:?}, so no endpoint counts as local: is --node-name right?",
                self.settings.node_name
            );
        }
        Ok(())
    }

    pub(super) fn follow(&mut self, follower: &Follower, resynced: bool) {
        self.table = follower.table().clone();
        self.follow_table(resynced);
    }

    pub(super) fn follow_table(&mut self, resynced: bool) {
        self.follow_links(resynced);
        self.configure();
    }

    fn follow_links(&mut self, resynced: bool) {
        let next = Topology::derive(&self.table, &self.classify);
        self.links.follow(next, resynced, &mut self.datapath, self.tables.store_mut());
        if self.links.has_failures() {
            self.schedule_retry();
        }
    }

    pub(super) fn configure(&mut self) {
        (self.config.pod_source_v4, self.config.pod_source_v6) = self.links.topology().pod_sources;
        let local_path = links::local_path(self.settings.local_path);
        if local_path != self.config.local_path {
            tracing::info!("bridge-nf-call-iptables changed: flows on one bridge take another way from now on");
        }
        self.config.local_path = local_path;
        if local_path == local_path::STACK && self.config.stack_taken == 0 {
            self.config.stack_taken = 1;
            // Before such a flow is there: its replies do not come by the bridge's own hook.
            self.classify.at_bridge = false;
            self.follow_links(false);
        }
        let written = links::configure(self.tables.store_mut(), self.config);
        self.note("the datapath's configuration is not written", written.map(drop));
    }

    pub(super) fn apply_skips(&mut self) {
        let applied = self.skips.apply(self.tables.store_mut());
        self.note("not all sockets that are to be skipped are", applied);
    }

    pub(super) fn schedule_retry(&mut self) {
        self.retry.schedule(Instant::now());
    }

    /// Notes what came of something that is tried again when it fails.
    pub(super) fn note(&mut self, what: &'static str, result: Result<(), impl Display>) {
        if self.standing.note(what, result) {
            self.schedule_retry();
        }
    }

    /// When to call [`Self::retry`]; to be asked when everything else is done.
    pub(super) fn retry_at(&mut self, watch_incomplete: bool) -> Option<Instant> {
        if watch_incomplete || !self.unreadable.is_empty() || !self.unreadable_files.is_empty() {
            self.schedule_retry();
        }
        self.retry.rest();
        self.retry.at()
    }

    pub(super) fn retry(&mut self) {
        self.retry.begin();
        self.links.retry(&mut self.datapath, self.tables.store_mut());
        for source in self.unreadable.keys().copied().collect::<Vec<_>>() {
            self.read_source(source);
        }
        for key in self.unreadable_files.keys().cloned().collect::<Vec<_>>() {
            self.read_file(key);
        }
        self.configure();
        self.apply_skips();
        let failed: Vec<ServiceChange> = self.failed.values().map(|failed| failed.change.clone()).collect();
        // What the plan says by now counts, so its newest changes go first.
        let newest = if self.is_complete() { self.planner.take_changes() } else { Vec::new() };
        let stale: HashSet<&ServiceName> = newest.iter().map(|change| &change.service).collect();
        let mut changes: Vec<ServiceChange> =
            failed.into_iter().filter(|change| !stale.contains(&change.service)).collect();
        changes.splice(0..0, newest.iter().cloned());
        if !changes.is_empty() {
            let start = Instant::now();
            self.apply(&changes);
            self.syncs.retried(start.elapsed());
        }
        if self.prune == Prune::Failed {
            self.prune_unlisted();
        }
        self.health_checks.retry();
        if self.links.has_failures() || self.health_checks.failures().next().is_some() {
            self.schedule_retry();
        }
    }

    /// A grace period is over, or could not be awaited. Gives whether what was freed can be used again.
    pub(super) fn collected(&mut self, freed: Freed, waited: io::Result<()>) -> bool {
        let collected = match waited {
            Ok(()) => {
                self.tables.finish_collect(freed);
                Ok(())
            }
            Err(error) => {
                self.tables.give_up_collect(freed);
                Err(error.to_string())
            }
        };
        !self.standing.note("freed places of the maps stay unused for now", collected)
    }
}
