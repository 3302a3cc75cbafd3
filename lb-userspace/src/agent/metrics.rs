//! What /metrics says, in Prometheus' text format, version 0.0.4. Reads only.
//!
//! The loop writes what it knows; tables that programs fill are read afterwards, beside it: reading them takes as long
//! as they are full, and no change of a Service waits for that.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use lb_common::abi::{BackendCounter, Counter, Traffic};

use super::state::Agent;
use crate::{
    maps::{BackendCounts, BpfStore, MapStore as _, Usage, count_usage},
    plan::state::ServiceName,
};

/// What the loop has said, and what is written with the tables' sizes.
#[derive(Debug)]
pub(super) struct Metrics {
    text: String,
    /// Of the tables that the agent fills.
    usage: [Usage; 6],
}

impl Metrics {
    /// The whole text. Reads the programs' tables.
    pub(super) fn finish(self, tables: &BpfStore) -> String {
        let Self { mut text, usage } = self;
        let mut usage = usage.to_vec();
        match count_usage(tables) {
            Ok(counted) => {
                usage.extend(counted.usage);
                let label = |state: &str| format!("{{state=\"{state}\"}}");
                let flows: Vec<_> = counted.flows.into_iter().map(|(state, count)| (label(state), count)).collect();
                let help = "Translated connections of the packet path.";
                write_family(&mut text, "flows", "gauge", help, &flows);
            }
            Err(error) => tracing::warn!("metrics lack the sizes of the programs' tables: {error}"),
        }
        let label = |map: &str| format!("{{map=\"{map}\"}}");
        let used: Vec<_> = usage.iter().map(|u| (label(u.map), u64::from(u.used))).collect();
        let help = "Entries in use, those that wait for a grace period included.";
        write_family(&mut text, "map_entries", "gauge", help, &used);
        let sizes: Vec<_> = usage.iter().map(|u| (label(u.map), u64::from(u.capacity))).collect();
        write_family(&mut text, "map_capacity", "gauge", "Size of the map in entries.", &sizes);
        text
    }
}

/// The programs' tables, read by one scrape at a time, however many ask.
#[derive(Clone)]
pub(super) struct TableReader(Arc<Mutex<BpfStore>>);

impl TableReader {
    pub(super) fn new(tables: BpfStore) -> Self {
        Self(Arc::new(Mutex::new(tables)))
    }

    /// As [`Metrics::finish`], on a thread that may wait. `None`: it panicked.
    pub(super) async fn finish(&self, metrics: Metrics) -> Option<String> {
        let tables = Arc::clone(&self.0);
        let finished = tokio::task::spawn_blocking(move || {
            // Nobody writes by it, so a panic has left nothing half done.
            metrics.finish(&tables.lock().unwrap_or_else(PoisonError::into_inner))
        });
        finished.await.ok()
    }
}

impl Agent {
    /// All metrics but those that [`Metrics::finish`] adds.
    pub(super) fn metrics(&self) -> Metrics {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            write_family(&mut text, name, kind, help, samples);
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
        Metrics { text, usage: self.tables.usage() }
    }
}

fn write_family(text: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, u64)]) {
    text.push_str(&format!("# HELP berrylb_{name} {help}\n# TYPE berrylb_{name} {kind}\n"));
    for (labels, value) in samples {
        text.push_str(&format!("berrylb_{name}{labels} {value}\n"));
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
