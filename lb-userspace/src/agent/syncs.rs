//! Counts changes on their way to the datapath, and how long they take: under the names that users of kube-proxy have
//! dashboards and alerts for, and one of ours. Times are given by the caller; nothing here changes what the agent does.
//!
//! Names, kinds, bounds and meaning are kube-proxy's: `pkg/proxy/metrics/metrics.go`, `endpointschangetracker.go` and
//! `servicechangetracker.go` in `pkg/proxy`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::histogram::{Histogram, write_number};
use crate::{
    model::{Kind, Object},
    plan::state::ServiceName,
};

/// Changes of one sort.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    total: u64,
    /// Since the last sync.
    pending: u64,
}

impl Changes {
    const fn add(&mut self, count: u64) {
        self.total += count;
        self.pending += count;
    }
}

#[derive(Clone, Debug)]
pub(super) struct Syncs {
    endpoints: Changes,
    services: Changes,
    /// When the control plane saw the cause of a change that is not in the datapath yet.
    triggers: Vec<(ServiceName, SystemTime)>,
    /// The first sync. What was caused before it says how long the agent was away, not how long it took.
    first: Option<SystemTime>,
    queued: Option<SystemTime>,
    succeeded: Option<SystemTime>,
    durations: Histogram,
    programming: Histogram,
    latency: Histogram,
}

impl Default for Syncs {
    fn default() -> Self {
        // kube-proxy's first bound is 0, too: one series more, but the same ones.
        let seconds = [0.0, 0.25, 0.5].into_iter().chain((1..60).map(f64::from));
        let minutes = (60..120).step_by(5).chain((120..=300).step_by(30)).map(f64::from);
        Self {
            endpoints: Changes::default(),
            services: Changes::default(),
            triggers: Vec::new(),
            first: None,
            queued: None,
            succeeded: None,
            durations: Histogram::doubling(0.001, 15),
            programming: Histogram::new(seconds.chain(minutes).collect()),
            latency: Histogram::doubling(0.000_1, 15),
        }
    }
}

impl Syncs {
    /// So many changes of this kind were seen.
    pub(super) const fn queue(&mut self, kind: Kind, count: u64, now: SystemTime) {
        if count == 0 {
            return;
        }
        self.queued = Some(now);
        match kind {
            Kind::Service => self.services.add(count),
            Kind::EndpointSlice | Kind::Endpoints => self.endpoints.add(count),
            Kind::Node => {}
        }
    }

    /// What failed before was tried again, with other changes perhaps. What came of it is told by [`Self::synced`], which
    /// follows.
    pub(super) fn retried(&mut self, took: Duration) {
        self.durations.observe(took.as_secs_f64());
    }

    /// This Service has to be planned anew for what the control plane saw at this time.
    pub(super) fn trigger(&mut self, service: ServiceName, at: SystemTime) {
        if self.first.is_some_and(|first| at > first) {
            self.triggers.push((service, at));
        }
    }

    /// Everything planned was brought to the datapath, but for Services that failed. `changed`: there was anything.
    pub(super) fn synced(
        &mut self,
        took: Duration,
        changed: bool,
        failed: impl Fn(&ServiceName) -> bool,
        any_failed: bool,
        now: SystemTime,
    ) {
        self.first.get_or_insert(now);
        (self.endpoints.pending, self.services.pending) = (0, 0);
        if changed {
            self.durations.observe(took.as_secs_f64());
        }
        if !any_failed {
            self.succeeded = Some(now);
        }
        let (mut late, done): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.triggers).into_iter().partition(|(service, _)| failed(service));
        for (_, at) in done {
            // The control plane's clock may be ahead of ours.
            self.programming.observe(now.duration_since(at).unwrap_or_default().as_secs_f64());
        }
        // The oldest of each, so that a Service that never succeeds does not fill the memory.
        late.sort();
        late.dedup_by(|later, first| later.0 == first.0);
        self.triggers = late;
    }

    /// An event that changed something is in the datapath, so long after it was seen.
    pub(super) fn reached(&mut self, after: Duration) {
        self.latency.observe(after.as_secs_f64());
    }

    /// Prometheus text format, version 0.0.4.
    pub(super) fn write(&self, out: &mut String) {
        self.durations.write(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time to bring planned changes to the datapath.",
            out,
        );
        for (name, help, time) in [
            ("last_timestamp", "When all that is planned was last in the datapath, in Unix time.", self.succeeded),
            ("last_queued_timestamp", "When a change was last seen, in Unix time.", self.queued),
        ] {
            let name = format!("kubeproxy_sync_proxy_rules_{name}_seconds");
            write_number(&name, "gauge", help, time.map_or(0.0, unix_seconds), out);
        }
        for (what, object, changes) in
            [("endpoint", "EndpointSlices", self.endpoints), ("service", "Services", self.services)]
        {
            let name = format!("kubeproxy_sync_proxy_rules_{what}_changes");
            write_number(
                &format!("{name}_total"),
                "counter",
                &format!("Changes of {object} seen."),
                changes.total,
                out,
            );
            let help = format!("Changes of {object} that wait for the next sync.");
            write_number(&format!("{name}_pending"), "gauge", &help, changes.pending, out);
        }
        self.programming.write(
            "kubeproxy_network_programming_duration_seconds",
            "Time from a change of a pod or Service, as the control plane saw it, to the datapath.",
            out,
        );
        self.latency.write(
            "berrylb_event_to_datapath_seconds",
            "Time from an event that the agent received to the datapath.",
            out,
        );
    }
}

/// When the control plane saw the cause of a slice's last change, with the slice's Service.
pub(super) fn trigger_of(object: &Object) -> Option<(ServiceName, SystemTime)> {
    match object {
        Object::EndpointSlice(slice) => slice.service.clone().zip(slice.triggered),
        Object::Service(_) | Object::Endpoints(_) | Object::Node(_) => None,
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn name(service: &str) -> ServiceName {
        ServiceName::new("default", service)
    }

    #[track_caller]
    fn check(syncs: &Syncs, series: &str, value: &str) {
        let mut text = String::new();
        syncs.write(&mut text);
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        assert_eq!(found, Some(value), "{series} in {text}");
    }

    #[test]
    fn changes_wait_until_they_are_synced() {
        let mut syncs = Syncs::default();
        let rules = |name: &str| format!("kubeproxy_sync_proxy_rules_{name}");
        check(&syncs, &rules("last_timestamp_seconds"), "0");
        for kind in [Kind::Service, Kind::EndpointSlice, Kind::EndpointSlice, Kind::Node] {
            syncs.queue(kind, 1, at(7));
        }
        check(&syncs, &rules("service_changes_total"), "1");
        syncs.queue(Kind::Service, 0, at(9));
        check(&syncs, &rules("endpoint_changes_pending"), "2");
        check(&syncs, &rules("last_queued_timestamp_seconds"), "7");
        syncs.synced(Duration::from_millis(3), true, |_| true, true, at(8));
        check(&syncs, &rules("endpoint_changes_pending"), "0");
        check(&syncs, &rules("service_changes_pending"), "0");
        check(&syncs, &rules("endpoint_changes_total"), "2");
        check(&syncs, &rules("last_timestamp_seconds"), "0");
        check(&syncs, &rules("duration_seconds_count"), "1");
        check(&syncs, &rules("duration_seconds_bucket{le=\"0.002\"}"), "0");
        check(&syncs, &rules("duration_seconds_bucket{le=\"0.004\"}"), "1");
        check(&syncs, &rules("duration_seconds_bucket{le=\"16.384\"}"), "1");
        syncs.synced(Duration::from_millis(3), false, |_| false, false, at(9));
        check(&syncs, &rules("duration_seconds_count"), "1");
        check(&syncs, &rules("last_timestamp_seconds"), "9");
        syncs.retried(Duration::from_secs(1));
        check(&syncs, &rules("duration_seconds_count"), "2");
        syncs.reached(Duration::from_micros(150));
        check(&syncs, "berrylb_event_to_datapath_seconds_bucket{le=\"0.0002\"}", "1");
    }

    #[test]
    fn programming_counts_from_the_cause_to_success() {
        let mut syncs = Syncs::default();
        let sync = |syncs: &mut Syncs, failed: &[&str], now: u64| {
            let failed: Vec<ServiceName> = failed.iter().map(|service| name(service)).collect();
            syncs.synced(Duration::ZERO, true, |service| failed.contains(service), !failed.is_empty(), at(now));
        };
        let series = |part: &str| format!("kubeproxy_network_programming_duration_seconds_{part}");
        syncs.trigger(name("web"), at(5));
        sync(&mut syncs, &[], 10);
        syncs.trigger(name("web"), at(9));
        sync(&mut syncs, &[], 11);
        check(&syncs, &series("count"), "0");
        for (service, time) in [("web", 20), ("web", 21), ("db", 20), ("db", 21), ("ahead", 99)] {
            syncs.trigger(name(service), at(time));
        }
        sync(&mut syncs, &["db"], 22);
        check(&syncs, &series("count"), "3");
        check(&syncs, &series("sum"), "3");
        check(&syncs, &series("bucket{le=\"0\"}"), "1");
        sync(&mut syncs, &[], 320);
        check(&syncs, &series("count"), "4");
        check(&syncs, &series("bucket{le=\"270\"}"), "3");
        check(&syncs, &series("bucket{le=\"300\"}"), "4");
        check(&syncs, &series("bucket{le=\"+Inf\"}"), "4");
    }
}
