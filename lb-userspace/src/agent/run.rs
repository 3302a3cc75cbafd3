//! The agent's loop: one task that owns the planner, the tables, the loader and the links.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    cluster,
    config::Settings,
    filter::FilterKeeper,
    memory,
    metrics::TableReader,
    removal::Lookout,
    serve::Listeners,
    snapshot::{Identity, Snapshots, StateDir},
    stale::StaleSockets,
    state::Agent,
    values::LocalPath,
    watch::Watch,
};
use crate::{
    k8s,
    loader::{self, FolderLock, object::VERSION},
    maps::{BpfStore, Freed, Grace},
    net::Follower,
};

/// Freed places wait this long for others, so that changes in a row share one grace period.
const COLLECT_AFTER: Duration = Duration::from_millis(100);
/// When that failed. An apply that runs out of room does not wait for it.
const COLLECT_AGAIN: Duration = Duration::from_secs(10);
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
    let (file_events, mut changed_files) = mpsc::unbounded_channel();
    let mut watch = Watch::new(&settings.from, file_events).context("watch --from: no inotify instance to be had")?;
    tracing::info!("{}", introduction(&settings));
    // Before anything is loaded: a wrong path is told, and nothing is touched.
    let mut watches = match settings.access.clone() {
        Some(access) => Some(k8s::watch::start(access, k8s::watch::Patience::default()).await?),
        None => None,
    };
    let listeners = listen(&settings).await?;
    let state = state_dir(&settings).await?;
    let mut follower = Follower::start().await?;
    let mut agent = Agent::start(settings, state, &follower, asker.clone())?;
    let _log_forwarder = agent.datapath.forward_logs()?;
    let tables = TableReader::new(BpfStore::open_read_only(agent.datapath.layout().version())?);
    listeners.serve(&asker, tables).context("ask where the agent listens")?;
    agent.read_all();
    let mut stale = StaleSockets::new(agent.settings.socket_lb);
    if agent.adopted {
        stale.look_for_all();
    }
    agent.settle();

    let mut filter = FilterKeeper::open(agent.datapath.layout().version())?;
    let mut collector = Collector::default();
    let mut local_path_at = Instant::now() + LOCAL_PATH_EVERY;
    let mut lookout = Lookout::new();
    loop {
        if agent.taken_away {
            // Nothing of what is to be followed is any more.
            drop((watches, watch, follower));
            agent.linger(&mut questions, [&mut terminate, &mut interrupt]).await;
            break;
        }
        let retry_at = agent.retry_at(watch.is_incomplete());
        if collector.at.is_none() && !collector.is_waiting() && agent.tables.needs_collect() {
            collector.at = Some(Instant::now() + COLLECT_AFTER);
        }
        stale.look_for(agent.tables.take_retired_udp());
        let look_at = stale.at();
        let audit_at = agent.audit.at();
        let let_go_at = agent.let_go_at;
        agent.keep_snapshot();
        let snapshot_at = agent.snapshots.as_ref().and_then(Snapshots::at);
        let event_at = agent.events.at();
        let filter_at = filter.at();
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            event = follower.next() => {
                let event = event?;
                // What is attached to a new link would stay.
                if agent.is_taken_away() {
                    continue;
                }
                agent.follow(&follower, event.resynced);
            }
            Some((seen, event)) = changed_files.recv() => {
                let mut events = vec![event];
                while let Ok((_, event)) = changed_files.try_recv() {
                    if !events.contains(&event) {
                        events.push(event);
                    }
                }
                for event in events {
                    agent.read(event, &mut watch);
                }
                if agent.settle() {
                    agent.syncs.reached(seen.elapsed());
                }
                tracing::debug!(micros = seen.elapsed().as_micros(), "from file event to datapath");
                continue;
            }
            update = cluster::next(&mut watches) => {
                if let Some(watches) = &mut watches {
                    agent.take_updates(update, watches);
                }
                continue;
            }
            Some(question) = questions.recv() => {
                agent.answer(question);
                continue;
            }
            () = lookout.next() => {
                agent.is_taken_away();
                continue;
            }
            () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                for source in watch.retry() {
                    agent.read_source(source);
                }
                agent.retry();
            }
            () = sleep_until(collector.at.unwrap_or_else(Instant::now)), if collector.at.is_some() => {
                collector.start(agent.tables.begin_collect());
                continue;
            }
            Some((freed, waited)) = collector.done.recv() => {
                collector.waiting = false;
                if !agent.collected(freed, waited) {
                    collector.at = Some(Instant::now() + COLLECT_AGAIN);
                }
                continue;
            }
            Some(found) = agent.skips.changed() => {
                agent.skips.update(found);
                agent.apply_skips();
                continue;
            }
            () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                stale.start();
                continue;
            }
            Some(listed) = stale.listed() => {
                stale.finish(listed, agent.tables.store());
                continue;
            }
            () = sleep_until(filter_at.unwrap_or_else(Instant::now)), if filter_at.is_some() => {
                filter.look(|| agent.knows_all_programs());
                continue;
            }
            Some(renewed) = filter.renewed() => {
                filter.finish(renewed);
                continue;
            }
            done = Snapshots::next(&mut agent.snapshots) => agent.snapshot_done(done),
            () = sleep_until(snapshot_at.unwrap_or_else(Instant::now)), if snapshot_at.is_some() => agent.snapshot_due(),
            () = sleep_until(let_go_at.unwrap_or_else(Instant::now)), if let_go_at.is_some() => {
                agent.let_go_at = None;
                memory::let_go_of_program();
                continue;
            }
            () = sleep_until(audit_at.unwrap_or_else(Instant::now)), if audit_at.is_some() => {
                agent.audit();
                continue;
            }
            () = sleep_until(event_at.unwrap_or_else(Instant::now)), if event_at.is_some() => {
                agent.events.write();
                continue;
            }
            answer = agent.events.answered() => {
                agent.events.finish(&answer);
                continue;
            }
            () = sleep_until(local_path_at), if agent.settings.local_path == LocalPath::Auto => {
                local_path_at = Instant::now() + LOCAL_PATH_EVERY;
                agent.configure();
                continue;
            }
        }
        agent.settle();
    }
    agent.end_snapshot().await;
    tracing::info!("ending; the datapath {}", if agent.taken_away { "was taken away" } else { "stays in place" });
    Ok(())
}

/// Who starts, and by what: the first line of a log.
fn introduction(settings: &Settings) -> String {
    let source = match &settings.access {
        Some(access) => access.to_string(),
        None => settings.from.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    let node = match settings.node_name.as_str() {
        "" => "no node by name, so no endpoint is local".to_owned(),
        name => format!("node {name}"),
    };
    format!("berrylb {VERSION}: objects come from {source}, for {node}")
}

/// Takes the agent's sockets before anything is attached: a port that kube-proxy holds ends an agent that has changed
/// nothing, and does not start the time of `--grace-seconds`.
async fn listen(settings: &Settings) -> Result<Listeners> {
    loader::host::check_privileges()?;
    let bound = Listeners::bind(settings).await;
    // A second agent on the folder is told of the first, not of a port that it holds.
    if bound.is_err()
        && settings.bpffs.exists()
        && let Err(in_use @ loader::Error::InUse { .. }) = FolderLock::take(&settings.bpffs)
    {
        return Err(in_use.into());
    }
    bound
}

/// Where a snapshot is kept, if one is.
async fn state_dir(settings: &Settings) -> Result<Option<StateDir>> {
    match (&settings.state_dir, &settings.access) {
        (Some(dir), Some(access)) => {
            let identity = Identity { node: settings.node_name.clone(), server: access.server_url().await? };
            Ok(Some(StateDir::new(dir, identity)))
        }
        (Some(_), None) => {
            tracing::warn!(
                "--state-dir is without effect: objects come from files, which are there when the node boots"
            );
            Ok(None)
        }
        (None, _) => Ok(None),
    }
}

type Collected = (Freed, std::io::Result<()>);

/// Waits for grace periods (milliseconds each) beside the loop.
struct Collector {
    at: Option<Instant>,
    waiting: bool,
    sender: mpsc::UnboundedSender<Collected>,
    done: mpsc::UnboundedReceiver<Collected>,
}

impl Default for Collector {
    fn default() -> Self {
        let (sender, done) = mpsc::unbounded_channel();
        Self { at: None, waiting: false, sender, done }
    }
}

impl Collector {
    const fn is_waiting(&self) -> bool {
        self.waiting
    }

    fn start(&mut self, freed: Freed) {
        self.at = None;
        self.waiting = true;
        let sender = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            let waited = Grace::choose().and_then(|mut grace| grace.wait());
            // A loop that has ended reuses nothing any more.
            let _ended = sender.send((freed, waited));
        });
    }
}
