//! Which Event is to be written next, and when: each finding once in a cluster, seldom again, and never more of them than
//! a server can bear. Knows no server and no clock; it is told the time and what became of each request.
//!
//! - A finding has to stand for a moment ([`SETTLE`]) before it is written: what passes is nobody's business.
//! - Names of Events follow from findings. The first agent that finds something creates the Event; the others, and the
//!   same one after a restart, are answered that it exists and leave it alone.
//! - Who created an Event keeps it alive while the finding stands, by raising its count before it expires, and counts
//!   the finding's returns. The others ask again now and then, so that one of them takes over if it has expired.
//! - An Event of a finding that stands no more is left to expire.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    finding::{self, Finding, Reason},
    limit::{Limit, Used},
};
use crate::{
    k8s::{
        EventFailure, EventRequest, NewEvent, Written,
        watch::{Backoff, fraction},
    },
    model::Uid,
    plan::state::ServiceName,
};

/// A finding stands for so long before it is written.
pub(super) const SETTLE: Duration = Duration::from_secs(3);
/// API servers keep an Event for an hour after its last change (`--event-ttl`): the count of one that still holds is
/// raised before. Up to a fifth is added, so that not all come together.
pub(super) const REFRESH: Duration = Duration::from_secs(45 * 60);
/// An Event that was there already may expire at any time, if nobody keeps it alive. For so long, and up to a fifth more, it
/// may be missing then. Asking costs the server a look-up.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(20 * 60);
/// For so long it is known of a finding that stands no more that it was written.
pub(super) const KEEP: Duration = Duration::from_secs(60 * 60);
/// For one Service. client-go's: 25, and one in five minutes (`tools/record/events_cache.go`).
pub(super) const PER_SERVICE: Limit = Limit { burst: 10, every: Duration::from_secs(5 * 60) };
/// For all of this agent.
pub(super) const IN_ALL: Limit = Limit { burst: 20, every: Duration::from_secs(5) };
/// Findings that are kept. What is beyond them is in the log and the metrics alone.
pub(super) const MOST: usize = 512;
/// After failures of requests. The last step is also how long it takes until a new permission is found.
pub(super) const BACKOFF: Backoff = Backoff { least: Duration::from_secs(1), most: Duration::from_secs(600) };

/// What is known of a finding's Event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Told {
    /// Nothing.
    No,
    /// This agent created it, and has counted so far.
    Ours(u32),
    /// It was there.
    Theirs,
}

#[derive(Debug)]
struct Record {
    /// Of the Event.
    name: String,
    finding: Finding,
    /// The finding holds now.
    stands: bool,
    told: Told,
    /// When it is to be written; `None`: not until something changes.
    due: Option<Instant>,
    /// When it is to be forgotten.
    forget_at: Option<Instant>,
    /// Requests in a row that failed.
    failures: u32,
}

/// A Service with findings, past or present.
#[derive(Debug)]
struct Subject {
    uid: Uid,
    records: Vec<Record>,
    used: Used,
}

/// What the metrics show.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::agent) struct Counts {
    pub(in crate::agent) created: u64,
    /// Counts that were raised.
    pub(in crate::agent) counted: u64,
    /// Events that were there already.
    pub(in crate::agent) known: u64,
    /// Requests that are not made again.
    pub(in crate::agent) refused: u64,
    /// Requests that are made again.
    pub(in crate::agent) failed: u64,
    /// Findings for which there was no room.
    pub(in crate::agent) dropped: u64,
}

impl Counts {
    /// Requests by what became of them, each with its label in Prometheus' text format.
    pub(in crate::agent) fn by_result(&self) -> Vec<(String, u64)> {
        let Self { created, counted, known, refused, failed, dropped: _ } = *self;
        let all =
            [("created", created), ("counted", counted), ("known", known), ("refused", refused), ("failed", failed)];
        all.into_iter().map(|(result, count)| (format!("{{result=\"{result}\"}}"), count)).collect()
    }
}

/// All findings of this agent, and the one request that is under way.
#[derive(Debug)]
pub(super) struct Correlator {
    node: String,
    subjects: BTreeMap<ServiceName, Subject>,
    /// Records of all subjects.
    records: usize,
    used: Used,
    under_way: Option<(ServiceName, String)>,
    /// After failures, nothing is written until then.
    paused_until: Option<Instant>,
    /// Requests in a row that failed.
    pub(super) failures: u32,
    pub(super) counts: Counts,
}

impl Correlator {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            subjects: BTreeMap::new(),
            records: 0,
            used: Used::default(),
            under_way: None,
            paused_until: None,
            failures: 0,
            counts: Counts::default(),
        }
    }

    /// Whether anything is known of a Service, past or present.
    pub(super) fn knows(&self, service: &ServiceName) -> bool {
        self.subjects.contains_key(service)
    }

    /// The Services of which anything is known.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.subjects.keys()
    }

    /// All that there is to know of a Service now. No uid: the Service is gone.
    pub(super) fn report(&mut self, service: &ServiceName, uid: Option<&Uid>, findings: Vec<Finding>, now: Instant) {
        // Events of one that is gone, or of an earlier one by the same name, are nothing to this one.
        if self.subjects.get(service).is_some_and(|subject| Some(&subject.uid) != uid) {
            self.forget(service);
        }
        let Some(uid) = uid else { return };
        if findings.is_empty() && !self.knows(service) {
            return;
        }
        let mut room = MOST.saturating_sub(self.records);
        let subject = self.subjects.entry(service.clone()).or_insert_with(|| Subject::new(uid.clone()));
        let before = subject.records.len();
        let dropped = subject.report(service, findings, &self.node, &mut room, now);
        self.records = self.records - before + subject.records.len();
        self.counts.dropped += dropped;
        if subject.records.is_empty() {
            self.subjects.remove(service);
        }
    }

    /// When [`Self::next`] has something to do.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let records = || self.subjects.values().flat_map(|subject| &subject.records);
        let forget_at = records().filter_map(|record| record.forget_at).min();
        let write_at = if self.under_way.is_some() {
            None
        } else {
            let due = self.subjects.values().filter_map(|subject| {
                let due = subject.records.iter().filter_map(|record| record.due).min()?;
                Some(due.max(subject.used.ready_at(PER_SERVICE, now)))
            });
            let free = self.used.ready_at(IN_ALL, now).max(self.paused_until.unwrap_or(now));
            due.min().map(|due| due.max(free))
        };
        forget_at.into_iter().chain(write_at).min()
    }

    /// What to write now, if anything. Until [`Self::finish`] there is nothing else.
    pub(super) fn next(&mut self, now: Instant) -> Option<EventRequest> {
        self.forget_old(now);
        let paused = self.paused_until.is_some_and(|until| until > now);
        if self.under_way.is_some() || paused || self.used.ready_at(IN_ALL, now) > now {
            return None;
        }
        let ready = self.subjects.iter_mut().filter(|(_, subject)| subject.used.ready_at(PER_SERVICE, now) <= now);
        let due = ready.filter_map(|(service, subject)| {
            let due = subject.records.iter().enumerate().filter_map(|(i, record)| Some((record.due?, i)));
            let (due, at) = due.min().filter(|(due, _)| *due <= now)?;
            Some((due, service, subject, at))
        });
        let (_, service, subject, at) = due.min_by_key(|(due, ..)| *due)?;
        self.used.take(IN_ALL, now);
        subject.used.take(PER_SERVICE, now);
        let record = &mut subject.records[at];
        record.due = None;
        self.under_way = Some((service.clone(), record.name.clone()));
        Some(record.request(service, &subject.uid))
    }

    /// What became of the request.
    pub(super) fn finish(&mut self, result: &Result<Written, EventFailure>, now: Instant) {
        let Some((service, name)) = self.under_way.take() else { return };
        let wait = match result {
            Ok(_) => {
                (self.failures, self.paused_until) = (0, None);
                Duration::ZERO
            }
            // It is about this Event alone.
            Err(EventFailure { is_final: true, .. }) => Duration::ZERO,
            Err(failure) => {
                self.failures = self.failures.saturating_add(1);
                let wait = BACKOFF.delay(self.failures).max(failure.retry_after.unwrap_or_default());
                self.paused_until = Some(now + wait);
                wait
            }
        };
        let counts = &mut self.counts;
        *match result {
            Ok(Written::Created) => &mut counts.created,
            Ok(Written::Counted) => &mut counts.counted,
            Ok(Written::Known) => &mut counts.known,
            Err(EventFailure { is_final: true, .. }) => &mut counts.refused,
            // The server has forgotten it; it is created anew.
            Ok(Written::Gone) | Err(_) => &mut counts.failed,
        } += 1;
        let records = self.subjects.get_mut(&service).map(|subject| &mut subject.records);
        // If it is not there any more, the Service is gone, or the finding was before it was written.
        if let Some(record) = records.and_then(|records| records.iter_mut().find(|record| record.name == name)) {
            record.finish(result, wait, now);
        }
        self.forget_old(now);
    }

    /// Forgets all of a Service.
    fn forget(&mut self, service: &ServiceName) {
        if let Some(subject) = self.subjects.remove(service) {
            self.records -= subject.records.len();
        }
    }

    fn forget_old(&mut self, now: Instant) {
        self.subjects.retain(|_, subject| {
            let before = subject.records.len();
            subject.records.retain(|record| record.forget_at.is_none_or(|at| at > now));
            self.records -= before - subject.records.len();
            !subject.records.is_empty()
        });
    }
}

impl Subject {
    fn new(uid: Uid) -> Self {
        Self { uid, records: Vec::new(), used: Used::default() }
    }

    /// Takes the findings that there are now; gives for how many there was no room.
    fn report(
        &mut self,
        service: &ServiceName,
        findings: Vec<Finding>,
        node: &str,
        room: &mut usize,
        now: Instant,
    ) -> u64 {
        let mut found: BTreeMap<String, Finding> =
            findings.into_iter().map(|finding| (finding.event_name(service, &self.uid), finding)).collect();
        let fails = found.values().any(|finding| finding.reason.is_failure());
        let mut recovered = false;
        for record in &mut self.records {
            if record.finding.reason == Reason::InDatapath {
                if fails {
                    record.end(now);
                }
            } else if found.remove(&record.name).is_some() {
                record.begin(now);
            } else if record.stands {
                recovered |= record.finding.reason.is_failure() && matches!(record.told, Told::Ours(_));
                record.end(now);
            }
        }
        if recovered && !fails {
            let finding = finding::in_datapath(node);
            found.insert(finding.event_name(service, &self.uid), finding);
        }
        self.records.retain(|record| record.stands || record.told != Told::No);
        let mut dropped = 0;
        for (name, finding) in found {
            match self.records.iter_mut().find(|record| record.name == name) {
                Some(record) => record.begin(now),
                None if *room == 0 => dropped += 1,
                None => {
                    *room -= 1;
                    self.records.push(Record::new(name, finding, now));
                }
            }
        }
        dropped
    }
}

impl Record {
    fn new(name: String, finding: Finding, now: Instant) -> Self {
        Self { name, finding, stands: true, told: Told::No, due: Some(now + SETTLE), forget_at: None, failures: 0 }
    }

    /// The finding holds.
    fn begin(&mut self, now: Instant) {
        if !self.stands {
            (self.stands, self.forget_at) = (true, None);
            self.due = Some(now + SETTLE);
        }
    }

    /// It does not hold any more.
    fn end(&mut self, now: Instant) {
        if self.stands {
            self.stands = false;
            self.due = None;
            self.forget_at = Some(now + KEEP);
        }
    }

    fn request(&self, service: &ServiceName, uid: &Uid) -> EventRequest {
        match self.told {
            Told::Ours(count) => EventRequest::Count {
                namespace: service.namespace().to_owned(),
                name: self.name.clone(),
                count: count.saturating_add(1),
            },
            Told::No | Told::Theirs => {
                let Finding { reason, detail: _, note } = &self.finding;
                EventRequest::Create(Box::new(NewEvent {
                    service: service.clone(),
                    uid: uid.clone(),
                    name: self.name.clone(),
                    event_type: reason.event_type(),
                    reason: reason.as_str(),
                    action: reason.action(),
                    note: note.clone(),
                }))
            }
        }
    }

    fn finish(&mut self, result: &Result<Written, EventFailure>, wait: Duration, now: Instant) {
        let again = match result {
            Ok(Written::Created) => {
                self.told = Told::Ours(1);
                Some(spread(REFRESH))
            }
            Ok(Written::Counted) => {
                if let Told::Ours(count) = &mut self.told {
                    *count = count.saturating_add(1);
                }
                Some(spread(REFRESH))
            }
            Ok(Written::Known) => {
                self.told = Told::Theirs;
                Some(spread(ASK_AGAIN))
            }
            Ok(Written::Gone) => {
                self.told = Told::No;
                Some(Duration::ZERO)
            }
            // As if it were told: no attempt does better before the finding is another one.
            Err(EventFailure { is_final: true, .. }) => {
                self.told = Told::Theirs;
                None
            }
            Err(_) => {
                self.failures = self.failures.saturating_add(1);
                Some(BACKOFF.delay(self.failures).max(wait))
            }
        };
        if result.is_ok() {
            self.failures = 0;
        }
        let is_told = result.is_ok() && self.told != Told::No || again.is_none();
        if self.finding.reason == Reason::InDatapath && is_told {
            // It is said once.
            self.end(now);
        }
        // What came back or ended meanwhile has its own time.
        if self.stands && self.due.is_none() {
            self.due = again.map(|after| now + after);
        }
    }
}

/// Up to a fifth longer.
fn spread(least: Duration) -> Duration {
    least.mul_f64(1.0 + fraction() / 5.0)
}

#[cfg(test)]
#[path = "correlator_tests.rs"]
mod tests;
