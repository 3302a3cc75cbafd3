//! Whether the agent is healthy, in kube-proxy's sense (`pkg/proxy/healthcheck/proxy_health.go`): what is wanted gets
//! into the datapath in time. That the API server cannot be reached is no illness, for one node is no better than another.

use std::time::Duration;

use tokio::time::Instant;

use super::{state::Agent, status::Status};
use crate::{
    maps::{ApplyError, Cause, Problem},
    plan::state::ServiceChange,
};

/// A change that the kernel refuses for so long is stuck. kube-proxy allows two sync periods of 30 s.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// A change that is not wholly in the datapath.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) change: ServiceChange,
    /// As it was logged.
    pub(super) reason: String,
    /// The same, for Events.
    pub(super) problems: Vec<Problem>,
    /// Since when the kernel refuses it. A full table is not among this: it is told of the Service, and a new start of the
    /// agent would not make it larger.
    pub(super) refused_since: Option<Instant>,
}

impl Failed {
    pub(super) fn new(change: &ServiceChange, error: ApplyError, before: Option<&Self>) -> Self {
        let refused = error.problems.iter().any(|problem| matches!(problem.cause, Cause::Store(_)));
        let since = before.and_then(|failed| failed.refused_since);
        Self {
            change: change.clone(),
            reason: error.to_string(),
            problems: error.problems,
            refused_since: refused.then(|| since.unwrap_or_else(Instant::now)),
        }
    }

    fn is_stuck(&self) -> bool {
        self.refused_since.is_some_and(|since| since.elapsed() >= STUCK_AFTER)
    }
}

impl Agent {
    /// Whether changes are stuck on their way to the datapath.
    pub(super) fn is_stuck(&self) -> bool {
        self.failed.values().any(Failed::is_stuck)
    }

    pub(super) fn status(&self) -> Status {
        let failing = self.cluster.as_ref().map_or(0, super::cluster::Cluster::failing);
        Status {
            ready: self.ready,
            node_eligible: !self.own_node.leaving,
            stuck: self.is_stuck(),
            taken_away: self.taken_away,
            failed_services: self.failed.len(),
            unreadable_sources: self.unreadable.len() + self.unreadable_files.len() + failing,
            snapshot: self.snapshot_status(),
        }
    }
}

impl Status {
    /// For `/healthz`: load balancers may send traffic to this node.
    pub(super) fn is_healthy(&self) -> bool {
        self.ready && self.node_eligible && self.is_alive()
    }

    /// For `/livez`: the agent does its work, whatever becomes of the node.
    pub(super) fn is_alive(&self) -> bool {
        !self.stuck && !self.taken_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_node_unhealthy_and_what_an_agent() {
        let good = Status { ready: true, node_eligible: true, ..Status::default() };
        for (status, healthy, alive) in [
            (good.clone(), true, true),
            (Status { ready: false, ..good.clone() }, false, true),
            (Status { node_eligible: false, ..good.clone() }, false, true),
            (Status { stuck: true, ..good.clone() }, false, false),
            (Status { taken_away: true, ..good.clone() }, false, false),
            (Status { failed_services: 1, unreadable_sources: 1, ..good }, true, true),
        ] {
            assert_eq!((status.is_healthy(), status.is_alive()), (healthy, alive), "{status:?}");
        }
    }
}
