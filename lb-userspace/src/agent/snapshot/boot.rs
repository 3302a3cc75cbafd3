//! Whether a snapshot serves. It does where nothing else would: on a node that has just booted and whose API server does not
//! answer. The server gets a few seconds, as most nodes boot while it is there, and pods that are gone since the
//! snapshot would be sent traffic for nothing.
//!
//! An agent that finds Services in the maps leaves the snapshot alone, as the maps are newer; unless those came from a snapshot
//! themselves and no list was read since, which a mark beside the maps tells.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Done, Snapshots, age_text, format::Snapshot, held::Held};
use crate::agent::{
    cluster::Cluster,
    files::{ObjectChange, Outcome},
    state::Agent,
};

/// How long the API server has to say something, from the start and from what it said last.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it has in all to list everything.
const PATIENCE_MOST: Duration = Duration::from_secs(15);

/// Where a boot stands.
#[derive(Debug)]
pub(super) enum Boot {
    /// The snapshot is being read, or the API server still has time.
    Waiting {
        since: Instant,
        /// When the API server last told anything.
        heard: Option<Instant>,
        /// `None`: it is being read.
        snapshot: Option<Snapshot>,
        held: Held,
    },
    /// The snapshot is in the datapath.
    Serving { written: SystemTime, held: Held },
    /// The API server decides alone.
    Over,
}

impl Boot {
    pub(super) fn reading(now: Instant) -> Self {
        Self::Waiting { since: now, heard: None, snapshot: None, held: Held::default() }
    }

    /// When the API server has had its time.
    pub(super) fn at(&self) -> Option<Instant> {
        match self {
            Self::Waiting { since, heard, .. } => {
                Some((heard.unwrap_or(*since) + PATIENCE).min(*since + PATIENCE_MOST))
            }
            Self::Serving { .. } | Self::Over => None,
        }
    }

    /// When the snapshot that serves was written.
    pub(super) fn used(&self) -> Option<SystemTime> {
        match self {
            Self::Serving { written, .. } => Some(*written),
            Self::Waiting { .. } | Self::Over => None,
        }
    }

    fn held(&mut self) -> Option<&mut Held> {
        match self {
            Self::Waiting { held, .. } | Self::Serving { held, .. } => Some(held),
            Self::Over => None,
        }
    }
}

impl Agent {
    /// Whether the planner holds what may go to the datapath.
    pub(in crate::agent) fn is_complete(&self) -> bool {
        match self.snapshots.as_ref().map(|snapshots| &snapshots.boot) {
            Some(Boot::Waiting { .. }) => false,
            Some(Boot::Serving { .. }) => true,
            Some(Boot::Over) | None => self.cluster.as_ref().is_none_or(Cluster::is_synced),
        }
    }

    /// Whether that is what every source says, so that it may take the place of what an earlier run left.
    pub(in crate::agent) fn is_confirmed(&self) -> bool {
        let serving = self.snapshots.as_ref().is_some_and(|snapshots| snapshots.boot.used().is_some());
        self.is_complete() && !serving
    }

    /// What of an update goes to the planner now. `heard`: the API server told of objects.
    pub(in crate::agent) fn hold_back(&mut self, mut outcome: Outcome, was_heard: bool) -> Outcome {
        let Some(Snapshots { boot, .. }) = &mut self.snapshots else { return outcome };
        if let (Boot::Waiting { heard, .. }, true) = (&mut *boot, was_heard) {
            *heard = Some(Instant::now());
        }
        if let Some(held) = boot.held() {
            held.take(std::mem::take(&mut outcome.changes));
        }
        outcome
    }

    /// Every list may be whole by now: then the API server decides.
    pub(in crate::agent) fn release(&mut self) {
        let synced = self.cluster.as_ref().is_some_and(Cluster::is_synced);
        let Some(Snapshots { boot, .. }) = &mut self.snapshots else { return };
        // What is being read is soon there, and may know backends of the API server itself.
        if !synced || matches!(boot, Boot::Over | Boot::Waiting { snapshot: None, .. }) {
            return;
        }
        match std::mem::replace(boot, Boot::Over) {
            Boot::Waiting { snapshot, held, .. } => {
                self.planner.remember_api_server(snapshot.map(|snapshot| snapshot.objects).unwrap_or_default());
                self.plan(held.release(true));
            }
            Boot::Serving { written, held } => {
                let age = age_text(written, SystemTime::now());
                tracing::info!("the API server's lists take the place of the snapshot, which was {age}");
                self.plan(held.release(true));
            }
            Boot::Over => {}
        }
    }

    /// Something was done beside the loop.
    pub(in crate::agent) fn snapshot_done(&mut self, done: Done) {
        let Some(snapshots) = &mut self.snapshots else { return };
        match done {
            Done::Written(result) => snapshots.wrote(result),
            Done::Read(Ok(Some(found))) => {
                snapshots.keeper.found(&found);
                if let Boot::Waiting { snapshot, .. } = &mut snapshots.boot {
                    *snapshot = Some(found);
                    self.release();
                }
            }
            Done::Read(Ok(None)) => {
                tracing::info!("there is no snapshot at {} yet", snapshots.dir.path().display());
                self.go_on_without();
            }
            Done::Read(Err(refused)) => {
                tracing::warn!("{refused}");
                snapshots.refused = Some(refused.to_string());
                self.go_on_without();
            }
        }
    }

    /// Its time has come: the snapshot's, or that of the next write.
    pub(in crate::agent) fn snapshot_due(&mut self) {
        let now = Instant::now();
        let Some(Snapshots { boot, keeper, dir, .. }) = &mut self.snapshots else { return };
        if keeper.at().is_some_and(|at| at <= now) {
            self.write_snapshot();
        } else if boot.at().is_some_and(|at| at <= now) {
            match std::mem::replace(boot, Boot::Over) {
                Boot::Waiting { snapshot: Some(Snapshot { written, objects, .. }), held, .. } => {
                    *boot = Boot::Serving { written, held };
                    self.serve_snapshot(written, objects);
                }
                Boot::Waiting { snapshot: None, held, .. } => {
                    tracing::warn!(
                        "snapshot {} is not used: the disk does not give it in time; the agent goes on without it",
                        dir.path().display()
                    );
                    self.plan(held.release(self.cluster.as_ref().is_some_and(Cluster::is_synced)));
                }
                Boot::Serving { .. } | Boot::Over => {}
            }
        }
    }

    fn serve_snapshot(&mut self, written: SystemTime, objects: Vec<crate::model::Object>) {
        tracing::warn!(
            "the API server does not answer: serving {} objects of a snapshot that is {}, until every list was read; not \
             ready before",
            objects.len(),
            age_text(written, SystemTime::now())
        );
        // Before the first write: whoever finds the maps thereafter knows what they are worth.
        if let Err(error) = self.datapath.mark_unconfirmed() {
            tracing::warn!(
                "an agent that starts after this one will take the snapshot in the maps for a newer state: {error}"
            );
        }
        let changes = objects.into_iter().map(|object| ObjectChange::Upsert(Box::new(object))).collect();
        self.plan(Outcome { changes, ..Outcome::default() });
    }

    /// There is no snapshot to be used: what the API server has told so far counts as it is.
    fn go_on_without(&mut self) {
        let synced = self.cluster.as_ref().is_some_and(Cluster::is_synced);
        let Some(Snapshots { boot, .. }) = &mut self.snapshots else { return };
        if let Boot::Waiting { held, .. } = std::mem::replace(boot, Boot::Over) {
            self.plan(held.release(synced));
        }
    }
}
