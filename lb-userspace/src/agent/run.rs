//! The agent's loop: one task that owns the planner, the tables, the loader and the links.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_common::abi::{Config, Counter, TICK_SHIFT, ticks};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    api::{ApiAnswer, ApiHealthCheck},
    config::{LocalPath, Settings},
    files::{self, FileKey, FileSet, ObjectChange, Outcome},
    links::{self, Links},
    serve,
    status::{Question, Status},
    watch::{FileEvent, Watch},
};
use crate::{
    loader::{Datapath, DatapathOptions, object},
    maps::{ApplyError, BpfStore, MapStore as _, Tables},
    model::Object,
    net::{ClassifyOptions, Follower, Topology},
    plan::{
        PlanConfig, Planner,
        state::{ServiceChange, ServiceName},
    },
};

/// A failed write, attach or read is tried again after this, doubled up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// Freed places wait this long for their grace period, so that the wait (milliseconds) is not in the way of changes
/// that come in a row.
const COLLECT_AFTER: Duration = Duration::from_millis(100);
/// How often `bridge-nf-call-iptables` is read: the kernel tells nobody when it changes.
const LOCAL_PATH_EVERY: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or SIGINT. The datapath stays as it is.
///
/// # Errors
/// If the agent cannot start, or the node's links cannot be followed any more.
pub async fn run(settings: Settings) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let (asker, mut questions) = mpsc::channel(16);
    if let Some(addr) = settings.healthz {
        let bound = serve::health(addr, asker.clone())
            .await
            .with_context(|| format!("serve /healthz on {addr}: give another --healthz, or off"))?;
        tracing::info!("health on http://{bound}/healthz");
    }
    if let Some(addr) = settings.metrics {
        let bound = serve::metrics(addr, asker.clone())
            .await
            .with_context(|| format!("serve /metrics on {addr}: give another --metrics, or off"))?;
        tracing::info!("metrics on http://{bound}/metrics");
    }

    let (file_events, mut changed_files) = mpsc::unbounded_channel();
    let mut watch = Watch::new(&settings.from, file_events).context("watch --from: no inotify instance to be had")?;
    let mut follower = Follower::start().await?;
    let mut agent = Agent::start(settings, &follower)?;
    let _log_forwarder = agent.datapath.forward_logs()?;
    serve::api(&agent.settings.api_socket, asker)
        .with_context(|| format!("serve {}: give another --api-socket", agent.settings.api_socket.display()))?;
    agent.read_all();
    agent.settle();

    loop {
        let retry_at = agent.retry_at(watch.is_incomplete());
        let collect_at = agent.collect_at;
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            event = follower.next() => {
                let event = event?;
                agent.follow(&follower, event.resynced);
            }
            Some(event) = changed_files.recv() => {
                let mut events = vec![event];
                while let Ok(event) = changed_files.try_recv() {
                    if !events.contains(&event) {
                        events.push(event);
                    }
                }
                for event in events {
                    agent.read(event, &mut watch);
                }
            }
            Some(question) = questions.recv() => {
                agent.answer(question);
                continue;
            }
            () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                for source in watch.retry() {
                    agent.read_source(source);
                }
                agent.retry();
            }
            () = sleep_until(collect_at.unwrap_or_else(Instant::now)), if collect_at.is_some() => {
                agent.collect();
                continue;
            }
            () = sleep_until(agent.local_path_at), if agent.settings.local_path == LocalPath::Auto => {
                agent.local_path_at = Instant::now() + LOCAL_PATH_EVERY;
                agent.configure();
                continue;
            }
        }
        agent.settle();
    }
    tracing::info!("ending; the datapath stays in place");
    Ok(())
}

struct Agent {
    settings: Settings,
    classify: ClassifyOptions,
    datapath: Datapath,
    tables: Tables<BpfStore>,
    links: Links,
    planner: Planner,
    files: FileSet,
    /// The node's object names its addresses; without it, the links do.
    node_known: bool,
    /// Sources that could not be read, with the reason that was logged.
    unreadable: BTreeMap<usize, String>,
    /// Files that could not be read, likewise.
    unreadable_files: BTreeMap<FileKey, String>,
    /// Services whose last change is not wholly in the maps, with that change.
    failed: BTreeMap<ServiceName, (ServiceChange, String)>,
    /// Diagnostics that were logged.
    said: BTreeSet<String>,
    /// What an earlier run left is pruned, and `ready` is said.
    ready: bool,
    adopted_links: Vec<u32>,
    config: Config,
    retry_after: Duration,
    retry_at: Option<Instant>,
    collect_at: Option<Instant>,
    local_path_at: Instant,
}

impl Agent {
    fn start(settings: Settings, follower: &Follower) -> Result<Self> {
        let object = object::bytes()?;
        let capacities = settings.capacities;
        let options = DatapathOptions {
            cgroup: settings.cgroup.clone(),
            socket_lb: settings.socket_lb,
            tc_hook: settings.tc,
            table_sizes: lb_common::abi::map::ALL
                .into_iter()
                .filter_map(|name| Some((name, capacities.of(name)?)))
                .collect(),
            log_level: settings.datapath_log,
            ..DatapathOptions::new(&settings.bpffs)
        };
        let fresh = !Datapath::tables_pinned(&crate::loader::Layout::new(&settings.bpffs))?;
        let mut datapath = Datapath::load(object, &options)?;
        for finding in datapath.probe().findings() {
            tracing::debug!("{finding}");
        }
        let adopted = datapath.adopt()?;
        for removed in &adopted.removed {
            tracing::info!("removed what an earlier run left: {removed}");
        }
        let adopted_links = adopted.kept.iter().filter_map(|kept| kept.pin.ifindex()).collect();

        let store = BpfStore::open(datapath.layout().version())?;
        let (tables, found) = Tables::adopt(store)?;
        if !fresh {
            tracing::info!("took over {} frontends and {} backends of an earlier run", found.frontends, found.backends);
        }
        let grace = if fresh && settings.grace_seconds > 0 { now_ticks()? + ticks(settings.grace_seconds) } else { 0 };
        let config = Config { local_path: links::local_path(settings.local_path), grace_until: grace };
        let planner = Planner::new(PlanConfig {
            node_name: settings.node_name.clone(),
            node_addresses: settings.node_address.clone(),
            zone: settings.zone.clone(),
            node_port_source_ranges: settings.source_ranges_nodeport,
        });
        let mut agent = Self {
            classify: links::classify_options(&settings),
            links: Links::new(settings.packet_path),
            settings,
            datapath,
            tables,
            planner,
            files: FileSet::default(),
            node_known: false,
            unreadable: BTreeMap::new(),
            unreadable_files: BTreeMap::new(),
            failed: BTreeMap::new(),
            said: BTreeSet::new(),
            ready: false,
            adopted_links,
            config,
            retry_after: RETRY_LEAST,
            retry_at: None,
            collect_at: None,
            local_path_at: Instant::now() + LOCAL_PATH_EVERY,
        };
        if !fresh {
            // The first run's grace goes on across restarts.
            agent.config.grace_until = agent.tables.store().config()?.grace_until;
        }
        agent.configure();
        agent.follow(follower, false);
        Ok(agent)
    }

    /// Reads every source.
    fn read_all(&mut self) {
        for source in 0..self.settings.from.len() {
            self.read_source(source);
        }
    }

    fn read(&mut self, event: FileEvent, watch: &mut Watch) {
        match event {
            FileEvent::Source(source) => {
                if !self.settings.from[source].exists() {
                    watch.lost(source);
                }
                self.read_source(source);
            }
            FileEvent::File(source, path) => {
                let wanted = self.settings.from[source] == path || crate::k8s::is_object_file(&path);
                if wanted {
                    self.read_file(FileKey { source, path });
                }
            }
        }
    }

    /// Reads a whole source again: what is gone from it is gone, unless the source itself cannot be read.
    fn read_source(&mut self, source: usize) {
        let path = self.settings.from[source].clone();
        let found = match files::read(&path) {
            Ok(found) => found,
            Err(error) => {
                let reason = format!("cannot read {}: {error}; what it held stays in force", path.display());
                if self.unreadable.insert(source, reason.clone()).as_ref() != Some(&reason) {
                    tracing::error!("{reason}");
                }
                return;
            }
        };
        if self.unreadable.remove(&source).is_some() {
            tracing::info!("{} can be read again", path.display());
        }
        let mut gone: BTreeSet<FileKey> = self.files.of_source(source).into_iter().collect();
        for (path, bytes) in found {
            let key = FileKey { source, path };
            gone.remove(&key);
            self.take_file(key, bytes);
        }
        for key in gone {
            self.unreadable_files.remove(&key);
            let outcome = self.files.remove(&key);
            self.plan(outcome);
        }
    }

    fn read_file(&mut self, key: FileKey) {
        let bytes = std::fs::read(&key.path);
        self.take_file(key, bytes);
    }

    fn take_file(&mut self, key: FileKey, bytes: std::io::Result<Vec<u8>>) {
        let outcome = match bytes {
            Ok(bytes) => {
                self.unreadable_files.remove(&key);
                self.files.update(&key, bytes)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.unreadable_files.remove(&key);
                self.files.remove(&key)
            }
            Err(error) => {
                let reason = format!("cannot read {}: {error}; its objects stay as they were", key.path.display());
                if self.unreadable_files.insert(key, reason.clone()).as_ref() != Some(&reason) {
                    tracing::error!("{reason}");
                }
                return;
            }
        };
        self.plan(outcome);
    }

    fn plan(&mut self, outcome: Outcome) {
        for message in outcome.messages {
            tracing::warn!("{message}");
        }
        for change in outcome.changes {
            match change {
                ObjectChange::Upsert(object) => {
                    if let Object::Node(node) = &object
                        && *node.name == *self.settings.node_name
                    {
                        self.node_known = !node.addresses.is_empty();
                    }
                    self.planner.upsert(object);
                }
                ObjectChange::Remove(name) => {
                    if name.kind == crate::model::Kind::Node && *name.name == *self.settings.node_name {
                        self.node_known = false;
                    }
                    self.planner.remove(&name);
                }
            }
        }
    }

    /// Brings everything that is planned to the maps; the first time also programs to sockets, and says `ready`.
    fn settle(&mut self) {
        self.settle_addresses();
        let changes = self.planner.take_changes();
        if !changes.is_empty() {
            self.apply(&changes);
        }
        self.tell();
        if !self.ready && self.unreadable.is_empty() && self.unreadable_files.is_empty() {
            match self.become_ready() {
                Ok(()) => {}
                Err(error) => {
                    tracing::error!("{error:#}");
                    self.schedule_retry();
                }
            }
        }
        if self.tables.needs_collect() && self.collect_at.is_none() {
            self.collect_at = Some(Instant::now() + COLLECT_AFTER);
        }
    }

    fn settle_addresses(&mut self) {
        if self.settings.node_address.is_none() {
            let from_links = (!self.node_known).then(|| self.links.topology().node_addresses.clone());
            self.planner.set_node_addresses(from_links);
        }
        if let Err(error) = self.tables.set_node_addresses(&self.planner.node_addresses()) {
            tracing::error!("the node's addresses are not all in the datapath: {error}");
            self.schedule_retry();
        }
    }

    fn apply(&mut self, changes: &[ServiceChange]) {
        let (outcome, errors) = self.tables.apply_all(changes);
        tracing::debug!(?outcome, "applied {} services", changes.len());
        let mut failed: BTreeMap<ServiceName, ApplyError> =
            errors.into_iter().map(|error| (error.service.clone(), error)).collect();
        for change in changes {
            match failed.remove(&change.service) {
                Some(error) => {
                    let reason = error.to_string();
                    let old = self.failed.insert(change.service.clone(), (change.clone(), reason.clone()));
                    if old.is_none_or(|(_, said)| said != reason) {
                        tracing::error!("{reason}");
                    }
                    self.schedule_retry();
                }
                None => {
                    if self.failed.remove(&change.service).is_some() {
                        tracing::info!("service {} is in the datapath now", change.service);
                    }
                }
            }
        }
    }

    /// Says each diagnostic of the plan once, for as long as it stands.
    fn tell(&mut self) {
        let now: BTreeSet<String> = self.planner.diagnostics().iter().map(ToString::to_string).collect();
        for new in now.difference(&self.said) {
            tracing::warn!("{new}");
        }
        self.said = now;
    }

    fn become_ready(&mut self) -> Result<()> {
        // Services that have a bad object now keep what an earlier run gave them.
        if !self.files.has_bad_objects() {
            let keep: HashSet<ServiceName> =
                self.planner.state().frontends.iter().filter_map(|frontend| frontend.service.clone()).collect();
            if let Err(errors) = self.tables.prune(&keep) {
                for error in errors {
                    tracing::error!("{error}");
                }
            }
        } else {
            tracing::warn!("an object is bad, so what an earlier run left of unlisted services is kept");
        }
        let adopted = std::mem::take(&mut self.adopted_links);
        self.links.prune(adopted, &mut self.datapath, self.tables.store_mut());
        self.datapath.attach_sockets()?;
        let retired = self.datapath.retire_other_versions()?;
        if !retired.is_empty() {
            tracing::info!("{retired}");
        }
        self.ready = true;
        #[expect(clippy::print_stdout, reason = "the one line that scripts wait for")]
        {
            println!("ready");
        }
        tracing::info!("the first full state is in the datapath");
        Ok(())
    }

    fn follow(&mut self, follower: &Follower, resynced: bool) {
        let next = Topology::derive(follower.table(), &self.classify);
        self.links.follow(next, resynced, &mut self.datapath, self.tables.store_mut());
        if self.links.has_failures() {
            self.schedule_retry();
        }
        if self.settings.local_path == LocalPath::Auto {
            self.configure();
        }
    }

    fn configure(&mut self) {
        let local_path = links::local_path(self.settings.local_path);
        if local_path != self.config.local_path {
            tracing::info!("bridge-nf-call-iptables changed: flows on one bridge take another way from now on");
        }
        self.config.local_path = local_path;
        if let Err(error) = links::configure(self.tables.store_mut(), self.config) {
            tracing::error!("the datapath's configuration is not written: {error}");
            self.schedule_retry();
        }
    }

    fn schedule_retry(&mut self) {
        if self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.retry_after);
            self.retry_after = (self.retry_after * 2).min(RETRY_MOST);
        }
    }

    fn retry_at(&mut self, watch_incomplete: bool) -> Option<Instant> {
        if watch_incomplete || !self.unreadable.is_empty() || !self.unreadable_files.is_empty() {
            self.schedule_retry();
        }
        self.retry_at
    }

    fn retry(&mut self) {
        self.retry_at = None;
        self.links.retry(&mut self.datapath);
        for source in self.unreadable.keys().copied().collect::<Vec<_>>() {
            self.read_source(source);
        }
        for key in self.unreadable_files.keys().cloned().collect::<Vec<_>>() {
            self.read_file(key);
        }
        self.configure();
        let failed: Vec<ServiceChange> = self.failed.values().map(|(change, _)| change.clone()).collect();
        // What the plan says by now counts, so its newest changes go first.
        let newest = self.planner.take_changes();
        let stale: HashSet<&ServiceName> = newest.iter().map(|change| &change.service).collect();
        let mut changes: Vec<ServiceChange> =
            failed.into_iter().filter(|change| !stale.contains(&change.service)).collect();
        changes.splice(0..0, newest.iter().cloned());
        if !changes.is_empty() {
            self.apply(&changes);
        }
        if self.links.has_failures() {
            self.schedule_retry();
        }
        if self.retry_at.is_none() {
            self.retry_after = RETRY_LEAST;
        }
    }

    fn collect(&mut self) {
        self.collect_at = None;
        if let Err(error) = self.tables.collect() {
            tracing::warn!("freed places stay unused for now: {error}");
            self.collect_at = Some(Instant::now() + RETRY_MOST);
        }
    }

    fn answer(&mut self, question: Question) {
        // Whoever asked may have gone; nobody misses the answer then.
        match question {
            Question::Names(sender) => {
                let _gone = sender.send(self.names());
            }
            Question::Metrics(sender) => {
                let _gone = sender.send(self.metrics());
            }
            Question::Status(sender) => {
                let _gone = sender.send(Status {
                    ready: self.ready,
                    failed_services: self.failed.len(),
                    unreadable_sources: self.unreadable.len() + self.unreadable_files.len(),
                });
            }
        }
    }

    fn names(&mut self) -> ApiAnswer {
        let health_checks = self
            .planner
            .health_checks()
            .into_iter()
            .map(|check| ApiHealthCheck {
                namespace: check.service.namespace.to_string(),
                name: check.service.name.to_string(),
                port: check.port,
                local_endpoints: check.local_endpoints,
            })
            .collect();
        ApiAnswer {
            node: self.settings.node_name.clone(),
            ready: self.ready,
            bpffs: absolute(&self.settings.bpffs),
            names: self.tables.names(),
            health_checks,
            failed: self.failed.values().map(|(_, reason)| reason.clone()).collect(),
        }
    }

    /// Prometheus text format, version 0.0.4.
    fn metrics(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            text.push_str(&format!("# HELP berrylb_{name} {help}\n# TYPE berrylb_{name} {kind}\n"));
            for (labels, value) in samples {
                text.push_str(&format!("berrylb_{name}{labels} {value}\n"));
            }
        };
        match self.tables.store().counters() {
            Ok(counters) => {
                for (counter, value) in Counter::ALL.iter().zip(counters) {
                    let name = format!("{}_total", counter.name());
                    family(&name, "counter", counter.help().trim(), &[(String::new(), value)]);
                }
            }
            Err(error) => tracing::warn!("metrics lack the datapath's counters: {error}"),
        }
        let usage: Vec<_> = self.tables.usage().to_vec();
        let label = |map: &str| format!("{{map=\"{map}\"}}");
        let used: Vec<_> = usage.iter().map(|u| (label(u.map), u64::from(u.used))).collect();
        family("map_entries", "gauge", "Entries in use, those that wait for a grace period included.", &used);
        let sizes: Vec<_> = usage.iter().map(|u| (label(u.map), u64::from(u.capacity))).collect();
        family("map_capacity", "gauge", "Size of the map in entries.", &sizes);
        family("ready", "gauge", "The first full state is in the datapath.", &[(String::new(), self.ready.into())]);
        let failed = u64::try_from(self.failed.len()).unwrap_or(u64::MAX);
        family("failed_services", "gauge", "Services that are not wholly in the datapath.", &[(String::new(), failed)]);
        text
    }
}

fn absolute(path: &PathBuf) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
}

/// Now, in the datapath's ticks: `bpf_ktime_get_ns` is CLOCK_MONOTONIC.
fn now_ticks() -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the monotonic clock")?;
    let ns = u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?;
    Ok(u32::try_from(ns >> TICK_SHIFT)?)
}
