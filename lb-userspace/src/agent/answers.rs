//! What the agent answers to its listeners: names, state and metrics. Reads only.

use std::{path::Path, time::SystemTime};

use lb_common::abi::{BackendCounter, Counter, Traffic};

use super::{
    api::{ApiAnswer, ApiHealthCheck, ApiSnapshot},
    health_checks::HealthAnswer,
    state::Agent,
    status::{Question, Repair},
    verify::Scope,
};
use crate::{
    maps::{BackendCounts, MapStore as _},
    plan::state::ServiceName,
};

impl Agent {
    pub(super) fn answer(&mut self, question: Question) {
        // Whoever asked may have gone; nobody misses the answer then.
        match question {
            Question::Names(sender) => {
                let _gone = sender.send(self.names());
            }
            Question::Verify(repair, sender) => {
                let verdict = self.verify(repair == Repair::Yes, Scope::All).map_err(|error| format!("{error:#}"));
                let _gone = sender.send(verdict);
            }
            Question::Metrics(sender) => {
                let _gone = sender.send(self.metrics());
            }
            Question::HealthCheck(port, sender) => {
                let check = self.planner.health_check_at(port);
                let _gone = sender.send(check.map(|check| HealthAnswer::new(&check, self.ready && !self.is_stuck())));
            }
            Question::Status(sender) => {
                let _gone = sender.send(self.status());
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
            skipped: self.skips.names(),
            links: self.links.names(),
            snapshot: self.snapshot_status(),
            failed: {
                let services = self.failed.values().map(|failed| &failed.reason);
                services.chain(self.health_checks.failures()).cloned().collect()
            },
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
        match self.tables.backend_counts() {
            Ok(counts) => {
                let connected = counts.iter().filter(|c| c.counter.connections > 0);
                let connections: Vec<_> = connected.map(|c| (backend_labels(c, ""), c.counter.connections)).collect();
                let help = "Connections sent to a backend since it became one, without those that have had none.";
                family("backend_connections_total", "counter", help, &connections);
                let packets = traffic_samples(&counts, |traffic| traffic.packets);
                let help = "Packets to and from a backend that the packet path translated. The socket path sees none.";
                family("backend_packets_total", "counter", help, &packets);
                let bytes = traffic_samples(&counts, |traffic| traffic.bytes);
                let help = "Bytes of berrylb_backend_packets_total, from the IP header on. The socket path sees none.";
                family("backend_bytes_total", "counter", help, &bytes);
            }
            Err(error) => tracing::warn!("metrics lack what was counted for backends: {error}"),
        }
        let mut usage = self.tables.usage().to_vec();
        match self.tables.count_usage() {
            Ok(counted) => {
                usage.extend(counted.usage);
                let label = |state: &str| format!("{{state=\"{state}\"}}");
                let flows: Vec<_> = counted.flows.into_iter().map(|(state, count)| (label(state), count)).collect();
                family("flows", "gauge", "Translated connections of the packet path.", &flows);
            }
            Err(error) => tracing::warn!("metrics lack the sizes of the programs' tables: {error}"),
        }
        let label = |map: &str| format!("{{map=\"{map}\"}}");
        let used: Vec<_> = usage.iter().map(|u| (label(u.map), u64::from(u.used))).collect();
        family("map_entries", "gauge", "Entries in use, those that wait for a grace period included.", &used);
        let sizes: Vec<_> = usage.iter().map(|u| (label(u.map), u64::from(u.capacity))).collect();
        family("map_capacity", "gauge", "Size of the map in entries.", &sizes);
        family("ready", "gauge", "The first full state is in the datapath.", &[(String::new(), self.ready.into())]);
        let failed = u64::try_from(self.failed.len()).unwrap_or(u64::MAX);
        family("failed_services", "gauge", "Services that are not wholly in the datapath.", &[(String::new(), failed)]);
        let drift = [(String::new(), self.audit.drift)];
        family("audit_drift_total", "counter", "Differences that the audit of the datapath found.", &drift);
        if let Some(counts) = self.events.counts() {
            family("kube_events_total", "counter", "Requests to write Events on Services.", &counts.by_result());
            let dropped = [(String::new(), counts.dropped)];
            family(
                "kube_events_dropped_total",
                "counter",
                "Findings on Services that were too many for Events.",
                &dropped,
            );
        }
        self.syncs.write(&mut text);
        if let Some(snapshots) = &self.snapshots {
            snapshots.write_metrics(SystemTime::now(), &mut text);
        }
        text
    }

    pub(super) fn snapshot_status(&self) -> Option<ApiSnapshot> {
        self.snapshots.as_ref().map(|snapshots| snapshots.status(SystemTime::now()))
    }
}

/// One number of both directions, of the backends that have had packets.
fn traffic_samples(counts: &[BackendCounts], number: impl Fn(Traffic) -> u64) -> Vec<(String, u64)> {
    let of = |counts: &BackendCounts| {
        let BackendCounter { to, from, .. } = counts.counter;
        [("to", to), ("from", from)].map(|(direction, traffic)| {
            (backend_labels(counts, &format!(",direction=\"{direction}\"")), number(traffic))
        })
    };
    let idle = |counts: &&BackendCounts| counts.counter.to.packets == 0 && counts.counter.from.packets == 0;
    counts.iter().filter(|counts| !idle(counts)).flat_map(of).collect()
}

/// The labels of a backend, and `more` of them.
fn backend_labels(counts: &BackendCounts, more: &str) -> String {
    let BackendCounts { service, port_name, protocol, backend, counter: _ } = counts;
    let ServiceName { namespace, name } = service;
    let port = port_name.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    format!(
        "{{namespace=\"{namespace}\",service=\"{name}\",port=\"{port}\",protocol=\"{protocol}\",backend=\"{backend}\"{more}}}"
    )
}

pub(super) fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::state::Protocol;

    /// A port's name comes from anybody's file; a label's value has three characters that need care (text format 0.0.4).
    #[test]
    fn labels_are_quoted() {
        let counts = BackendCounts {
            service: ServiceName::new("default", "web"),
            port_name: "a\"b\\c\nd".into(),
            protocol: Protocol::Udp,
            backend: "[fd00::1]:53".parse().unwrap(),
            counter: BackendCounter::default(),
        };
        let labels = r#"{namespace="default",service="web",port="a\"b\\c\nd",protocol="UDP",backend="[fd00::1]:53"}"#;
        assert_eq!(backend_labels(&counts, ""), labels);
    }
}
