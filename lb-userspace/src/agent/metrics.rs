//! What /metrics says, in Prometheus' text format, version 0.0.4. Reads only.
//!
//! The loop writes what it knows; tables that programs fill are read afterwards, beside it: reading them takes as long
//! as they are full, and no change of a Service waits for that.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use lb_common::abi::Counter;

use super::state::Agent;
use crate::{
    maps::{BpfStore, Connections, MapStore as _, Usage, count_usage},
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
        match self.tables.connections() {
            Ok(connections) => {
                let samples: Vec<_> = connections.iter().map(|c| (backend_labels(c), c.count)).collect();
                let help = "Connections sent to a backend since it became one, without those that have had none.";
                family("backend_connections_total", "counter", help, &samples);
            }
            Err(error) => tracing::warn!("metrics lack the connections of backends: {error}"),
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

fn backend_labels(Connections { service, port_name, protocol, backend, count: _ }: &Connections) -> String {
    let ServiceName { namespace, name } = service;
    let port = port_name.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    format!(
        "{{namespace=\"{namespace}\",service=\"{name}\",port=\"{port}\",protocol=\"{protocol}\",backend=\"{backend}\"}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::state::Protocol;

    /// A port's name comes from anybody's file; a label's value has three characters that need care (text format 0.0.4).
    #[test]
    fn labels_are_quoted() {
        let connections = Connections {
            service: ServiceName::new("default", "web"),
            port_name: "a\"b\\c\nd".into(),
            protocol: Protocol::Udp,
            backend: "[fd00::1]:53".parse().unwrap(),
            count: 7,
        };
        let labels = r#"{namespace="default",service="web",port="a\"b\\c\nd",protocol="UDP",backend="[fd00::1]:53"}"#;
        assert_eq!(backend_labels(&connections), labels);
    }
}
