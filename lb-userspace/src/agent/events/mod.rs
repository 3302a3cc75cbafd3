//! Events on Services, for their owners: what the agent found out about a Service is told to the API server, by one
//! request at a time and beside the loop. Whether and when is the correlator's; whatever becomes of a request, nothing
//! else notices.
//!
//! ```text
//! plan, maps, health checks, watches ─► dirty Services ─► finding ─► correlator ─► EventWriter
//! ```
//! Nothing of this runs while there is nothing to say.

mod correlator;
mod finding;
mod limit;

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use self::correlator::{Correlator, Counts};
use super::{cluster::Cluster, state::Agent};
use crate::{
    k8s::{EventFailure, EventRequest, EventWriter, Written, watch::Access},
    plan::state::ServiceName,
};

/// A connection that nobody needs for so long is given up.
const IDLE: Duration = Duration::from_secs(60);
/// Failures in a row before those are told that often pass by themselves.
const PATIENT: u32 = 3;

type Answer = Result<Written, EventFailure>;

/// The agent's Events; without an API server, or with `--events off`, there are none.
#[derive(Debug, Default)]
pub(super) struct Events(Option<Active>);

#[derive(Debug)]
struct Active {
    correlator: Correlator,
    /// Services about which there may be something else to say than before.
    dirty: BTreeSet<ServiceName>,
    requests: mpsc::Sender<EventRequest>,
    answers: mpsc::Receiver<Answer>,
    at: Option<Instant>,
    /// The HTTP status (`None`: no answer) of the failure that was told and is not over.
    told: Option<Option<u16>>,
}

impl Events {
    /// Starts what sends them. Runs inside a [`tokio::task::LocalSet`].
    pub(super) fn start(access: Access, node: &str) -> Self {
        // One request is under way at a time.
        let (requests, to_send) = mpsc::channel(1);
        let (sent, answers) = mpsc::channel(1);
        tokio::task::spawn_local(send(EventWriter::new(access, node), to_send, sent));
        let correlator = Correlator::new(node);
        Self(Some(Active { correlator, dirty: BTreeSet::new(), requests, answers, at: None, told: None }))
    }

    /// There may be something else to say about this Service than before.
    pub(super) fn touch(&mut self, service: &ServiceName) {
        if let Some(active) = &mut self.0 {
            active.dirty.insert(service.clone());
        }
    }

    /// The Service is another one, or gone; of interest where something was said about it.
    pub(super) fn touch_known(&mut self, service: &ServiceName) {
        if self.0.as_ref().is_some_and(|active| active.correlator.knows(service)) {
            self.touch(service);
        }
    }

    /// As [`Self::touch_known`], for any Service.
    pub(super) fn touch_all_known(&mut self) {
        if let Some(active) = &mut self.0 {
            active.dirty.extend(active.correlator.services().cloned());
        }
    }

    /// When [`Self::write`] has something to do.
    pub(super) fn at(&self) -> Option<Instant> {
        self.0.as_ref()?.at
    }

    /// Sends what is due.
    pub(super) fn write(&mut self) {
        let Some(active) = &mut self.0 else { return };
        let now = Instant::now();
        if let Some(request) = active.correlator.next(now) {
            tracing::debug!(?request, "an Event");
            if active.requests.try_send(request).is_err() {
                // There is room, as one is under way at a time: the task has ended, which it does only with the loop.
                self.0 = None;
                return;
            }
        }
        active.at = active.correlator.wake_at(now);
    }

    /// The answer to the request under way; waits forever if there is none.
    pub(super) async fn answered(&mut self) -> Answer {
        match &mut self.0 {
            Some(active) => match active.answers.recv().await {
                Some(answer) => answer,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Takes the answer, and says what the operator should know of it.
    pub(super) fn finish(&mut self, answer: &Answer) {
        let Some(active) = &mut self.0 else { return };
        let now = Instant::now();
        active.correlator.finish(answer, now);
        active.at = active.correlator.wake_at(now);
        match answer {
            Ok(_) => {
                if active.told.take().is_some() {
                    tracing::info!("Events on Services are written again");
                }
            }
            Err(failure) if failure.is_expected => tracing::debug!("an Event is not written: {}", failure.text),
            Err(failure) if failure.is_final => tracing::warn!("an Event is not written: {}", failure.text),
            Err(failure) => {
                let tells = failure.is_lasting || active.correlator.failures >= PATIENT;
                if tells && active.told != Some(failure.status) {
                    active.told = Some(failure.status);
                    tracing::warn!("Events on Services are not written: {}; it is tried again", failure.text);
                }
            }
        }
    }

    /// For the metrics; `None` if there are no Events.
    pub(super) fn counts(&self) -> Option<Counts> {
        self.0.as_ref().map(|active| active.correlator.counts)
    }
}

/// Sends one request after the other until nobody asks any more.
async fn send(mut writer: EventWriter, mut requests: mpsc::Receiver<EventRequest>, answers: mpsc::Sender<Answer>) {
    loop {
        let request = if writer.is_connected() {
            match timeout(IDLE, requests.recv()).await {
                Ok(request) => request,
                Err(_) => {
                    writer.disconnect();
                    continue;
                }
            }
        } else {
            requests.recv().await
        };
        let Some(request) = request else { return };
        let answer = writer.write(&request).await;
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

impl Agent {
    /// Brings what there is to say about Services to the correlator: of those about which it may have changed.
    pub(super) fn report_events(&mut self) {
        let bad = self.cluster.as_mut().map(Cluster::take_changed_services).unwrap_or_default();
        let unserved = self.health_checks.take_changed();
        bad.iter().chain(&unserved).for_each(|service| self.events.touch(service));
        let Some(active) = &mut self.events.0 else { return };
        if active.dirty.is_empty() {
            return;
        }
        let now = Instant::now();
        let node = &self.settings.node_name;
        for service in std::mem::take(&mut active.dirty) {
            let mut findings = finding::of_diagnostics(&self.planner.diagnostics_of(&service));
            let failed = self.failed.get(&service);
            findings.extend(failed.and_then(|failed| finding::of_problems(node, &failed.problems)));
            let unserved: Vec<_> = self.health_checks.failures_of(&service).collect();
            findings.extend(finding::of_health_check(node, &unserved));
            let bad = self.cluster.as_ref().and_then(|cluster| cluster.bad_service(&service));
            findings.extend(bad.map(|bad| finding::of_bad_object(&bad.cause)));
            // What is left out may be another Service than the one that was good before.
            let uid = bad.and_then(|bad| bad.uid.clone()).or_else(|| self.planner.uid(&service));
            active.correlator.report(&service, uid.as_ref(), findings, now);
        }
        active.at = active.correlator.wake_at(now);
    }
}
