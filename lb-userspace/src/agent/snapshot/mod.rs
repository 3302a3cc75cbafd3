//! The last good objects on disk (`--state-dir`), so that a node that boots while the API server is away serves what it
//! served before: a bpffs is memory, and goes with the power.
//!
//! ```text
//! planner ─ every list was read whole ─► keeper ─► files ─► disk
//! disk ─► files ─► boot ─ no list within a few seconds, and nothing of an earlier run in the maps ─► planner
//! ```
//! What it never does: a snapshot never takes the place of what the API server has told, or of what an earlier run left in the
//! maps, which is newer; nothing is pruned for it, and nobody is told `ready`. It is written beside the loop, and a disk that
//! fails costs the snapshot and nothing else.

mod boot;
mod files;
mod format;
mod held;
mod keeper;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::{sync::mpsc, time::Instant};

pub(super) use self::files::StateDir;
pub use self::files::remove_snapshot;
pub(super) use self::format::Identity;
use self::{
    boot::Boot,
    files::{Refused, WriteError, Written},
    format::Snapshot,
    keeper::Keeper,
};
use super::{api::ApiSnapshot, histogram::write_number};

/// What work beside the loop came to.
#[derive(Debug)]
pub(super) enum Done {
    Read(Result<Option<Snapshot>, Refused>),
    Written(Result<Written, WriteError>),
}

/// The snapshot, as the loop knows it.
#[derive(Debug)]
pub(super) struct Snapshots {
    dir: StateDir,
    boot: Boot,
    keeper: Keeper,
    /// Why the snapshot of an earlier run was not used.
    refused: Option<String>,
    sender: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
}

impl Snapshots {
    /// Begins to read what is there. `boots`: nothing of an earlier run is in the datapath, so that the snapshot may be
    /// used; else nobody waits for it.
    pub(super) fn start(dir: StateDir, interval: Duration, boots: bool) -> Self {
        let (sender, done) = mpsc::unbounded_channel();
        let reader = (dir.clone(), sender.clone());
        tokio::task::spawn_blocking(move || {
            let (dir, sender) = reader;
            // Without use for its objects it is read for its digest, so that it is not written again as it is.
            // A loop that has ended reads nothing any more.
            let _ended = sender.send(Done::Read(dir.read(|_| boots)));
        });
        let boot = if boots { Boot::reading(Instant::now()) } else { Boot::Over };
        Self { dir, boot, keeper: Keeper::new(interval), refused: None, sender, done }
    }

    /// Waits for what was done beside the loop. Cancel-safe.
    pub(super) async fn next(snapshots: &mut Option<Self>) -> Done {
        match snapshots {
            Some(Self { done, .. }) => match done.recv().await {
                Some(done) => done,
                None => unreachable!("a sender is kept beside the receiver"),
            },
            None => std::future::pending().await,
        }
    }

    /// When to call [`super::state::Agent::snapshot_due`].
    pub(super) fn at(&self) -> Option<Instant> {
        [self.boot.at(), self.keeper.at()].into_iter().flatten().min()
    }

    /// For the commands and health.
    pub(super) fn status(&self, now: SystemTime) -> ApiSnapshot {
        let used = self.boot.used();
        let written = used.or_else(|| self.keeper.written());
        ApiSnapshot {
            path: self.dir.path().display().to_string(),
            in_use: used.is_some(),
            written: written.map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
            age_seconds: written.and_then(|at| now.duration_since(at).ok()).map(|age| age.as_secs()),
            problem: self.keeper.problem().or(self.refused.as_deref()).map(str::to_owned),
        }
    }

    /// Prometheus text format, version 0.0.4.
    pub(super) fn write_metrics(&self, now: SystemTime, out: &mut String) {
        let ApiSnapshot { in_use, written, age_seconds, .. } = self.status(now);
        let number = |name: &str, kind: &str, help: &str, value: u64, out: &mut String| {
            write_number(&format!("berrylb_snapshot_{name}"), kind, help, value, out);
        };
        let help =
            "The datapath holds what the snapshot on disk says, as the API server was not heard since the node booted.";
        number("in_use", "gauge", help, in_use.into(), out);
        let age = age_seconds.filter(|_| in_use).unwrap_or(0);
        number("in_use_age_seconds", "gauge", "Age of the snapshot that is in use; 0 if none is.", age, out);
        let help = "When the snapshot on disk was written, in Unix time; 0: there is none.";
        number("written_timestamp_seconds", "gauge", help, written.unwrap_or(0), out);
        let failures = self.keeper.failures();
        number("write_failures_total", "counter", "Writes of the snapshot that failed.", failures, out);
    }
}

/// How old, in a person's words.
pub(super) fn age_text(written: SystemTime, now: SystemTime) -> String {
    match now.duration_since(written) {
        Ok(age) => format!("{} old", span(age.as_secs())),
        // A machine without a battery for its clock counts on from when it was last on.
        Err(ahead) => {
            format!("of unknown age (this machine's clock is {} behind it)", span(ahead.duration().as_secs()))
        }
    }
}

/// The two largest units of a time.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_readable() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (age, text) in [(0, "0 s old"), (63, "1 min 3 s old"), (7_260, "2 h 1 min old"), (183_600, "2 d 3 h old")] {
            assert_eq!(age_text(at(1_000), at(1_000 + age)), text);
        }
        assert_eq!(age_text(at(1_000), at(10)), "of unknown age (this machine's clock is 16 min 30 s behind it)");
    }
}
