//! What health and metrics show of the loop.

use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    api::{ApiAnswer, ApiSnapshot, ApiVerdict},
    health_checks::HealthAnswer,
    metrics::{Metrics, Reading},
};

/// The loop's state, as health sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// The first full state is in the datapath.
    pub(super) ready: bool,
    /// The node is not about to be deleted. kube-proxy's name for it.
    pub(super) node_eligible: bool,
    /// Changes that the kernel refuses for a minute.
    pub(super) stuck: bool,
    /// Services that are not, or only partly, in the datapath.
    pub(super) failed_services: usize,
    /// Sources that cannot be read.
    pub(super) unreadable_sources: usize,
    /// With `--state-dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<ApiSnapshot>,
}

/// Whether what differs is to be mended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Repair {
    Yes,
    No,
}

/// A question to the loop; that it answers also shows that it is alive.
#[derive(Debug)]
pub(super) enum Question {
    /// For the API socket.
    Names(oneshot::Sender<ApiAnswer>),
    /// For the API socket: how the datapath differs from what it should be, mended or not; an error for people.
    Verify(Repair, oneshot::Sender<Result<ApiVerdict, String>>),
    /// For /metrics: what the loop has to say to a reading of the tables.
    Metrics(Reading, oneshot::Sender<Metrics>),
    /// For a `healthCheckNodePort`; `None` if no Service has it.
    HealthCheck(u16, oneshot::Sender<Option<HealthAnswer>>),
    /// For /livez and /healthz.
    Status(oneshot::Sender<Status>),
}
