//! When the snapshot is written: some seconds after a change, as changes come in bursts, and not more often than the
//! interval says, as memory cards wear. What it holds is what the last start says; one write at a time.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{
    Done, Snapshots, age_text,
    files::{WriteError, Written},
    format::Snapshot,
};
use crate::{agent::state::Agent, model::Shared};

/// From a change to the write, for other changes to come along.
const SETTLE: Duration = Duration::from_secs(5);
/// After a failure: the interval or this, doubled each time up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(3600);
/// For the last write: the agent has two seconds to end.
const LAST: Duration = Duration::from_millis(1200);

#[derive(Debug)]
pub(super) struct Keeper {
    interval: Duration,
    /// Version of the objects that are on the disk; see [`crate::plan::Planner::version`].
    kept: Option<u64>,
    /// Version that is being written.
    writing: Option<(u64, SystemTime)>,
    digest: Option<u64>,
    written: Option<SystemTime>,
    last: Option<Instant>,
    due: Option<Instant>,
    /// Failures in a row.
    row: u32,
    failures: u64,
    problem: Option<String>,
}

impl Keeper {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            kept: None,
            writing: None,
            digest: None,
            written: None,
            last: None,
            due: None,
            row: 0,
            failures: 0,
            problem: None,
        }
    }

    /// A snapshot of this agent is on the disk.
    pub(super) fn found(&mut self, snapshot: &Snapshot) {
        // One that was written meanwhile is newer.
        if self.written.is_none() && self.writing.is_none() {
            (self.digest, self.written) = (Some(snapshot.digest), Some(snapshot.written));
        }
    }

    /// The objects are of this version now, and good.
    fn changed(&mut self, version: u64, now: Instant) {
        if self.due.is_none() && self.writing.is_none() && self.kept != Some(version) {
            let soon = now + SETTLE.min(self.interval);
            self.due = Some(self.last.map_or(soon, |last| soon.max(last + self.interval)));
        }
    }

    /// When to write.
    pub(super) fn at(&self) -> Option<Instant> {
        self.due.filter(|_| self.writing.is_none())
    }

    fn start(&mut self, version: u64, at: SystemTime, now: Instant) {
        (self.due, self.last, self.writing) = (None, Some(now), Some((version, at)));
    }

    /// Gives what is to be logged.
    fn finish(&mut self, result: Result<Written, WriteError>, now: Instant) -> Option<String> {
        let (version, at) = self.writing.take()?;
        match result {
            Ok(Written { digest, bytes }) => {
                (self.kept, self.digest, self.row) = (Some(version), Some(digest), 0);
                match bytes {
                    Some(bytes) => {
                        self.written = Some(at);
                        tracing::debug!(bytes, "wrote the snapshot");
                    }
                    None => tracing::debug!("the snapshot on disk is what there is"),
                }
                self.problem.take().map(|_| "the snapshot is written again".to_owned())
            }
            Err(error) => {
                self.row += 1;
                self.failures += 1;
                let wait = self.interval.max(RETRY_LEAST).saturating_mul(1 << (self.row - 1).min(12)).min(RETRY_MOST);
                self.due = Some(now + wait);
                let reason = format!("the snapshot is not written: {error}");
                let told = self.problem.as_ref() == Some(&reason);
                self.problem = Some(reason.clone());
                (!told).then_some(reason)
            }
        }
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) const fn failures(&self) -> u64 {
        self.failures
    }

    pub(super) const fn written(&self) -> Option<SystemTime> {
        self.written
    }
}

impl Snapshots {
    /// Writes beside the loop; [`Done::Written`] tells.
    fn write(&mut self, version: u64, objects: Vec<Shared>) {
        let at = SystemTime::now();
        self.keeper.start(version, at, Instant::now());
        let (dir, sender, known) = (self.dir.clone(), self.sender.clone(), self.keeper.digest);
        tokio::task::spawn_blocking(move || {
            // A loop that has ended has waited as long as it can.
            let _ended = sender.send(Done::Written(dir.write(at, objects, known)));
        });
    }

    pub(super) fn wrote(&mut self, result: Result<Written, WriteError>) {
        let failed = result.is_err();
        if !failed {
            self.refused = None;
        }
        let Some(text) = self.keeper.finish(result, Instant::now()) else { return };
        if failed {
            let before = match self.keeper.written {
                Some(at) => format!("the one that is {} stays", age_text(at, SystemTime::now())),
                None => "there is none, so a node that boots without its API server serves nothing".to_owned(),
            };
            tracing::warn!("{text}; {before}; tried again with growing waits: see to the disk, or drop --state-dir");
        } else {
            tracing::info!("{text}");
        }
    }
}

impl Agent {
    /// Sees to it that what is in the planner gets on the disk, once it is what the API server has.
    pub(in crate::agent) fn keep_snapshot(&mut self) {
        if self.is_confirmed()
            && let Some(snapshots) = &mut self.snapshots
        {
            snapshots.keeper.changed(self.planner.version(), Instant::now());
        }
    }

    pub(super) fn write_snapshot(&mut self) {
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.write(self.planner.version(), self.planner.shared_objects());
        }
    }

    /// The last write. What takes too long is left: the one from before is whole.
    pub(in crate::agent) async fn end_snapshot(&mut self) {
        let (confirmed, version) = (self.is_confirmed(), self.planner.version());
        let end = Instant::now() + LAST;
        loop {
            let Some(Snapshots { keeper, done, .. }) = &mut self.snapshots else { return };
            if keeper.writing.is_none() {
                if !confirmed || keeper.kept == Some(version) || Instant::now() >= end {
                    return;
                }
                self.write_snapshot();
                continue;
            }
            let Ok(Some(event)) = tokio::time::timeout_at(end, done.recv()).await else {
                tracing::warn!("the last snapshot was not written in time; the one from before stays");
                return;
            };
            if let (Done::Written(result), Some(snapshots)) = (event, &mut self.snapshots) {
                let failed = result.is_err();
                snapshots.wrote(result);
                if failed {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
