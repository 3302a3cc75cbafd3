//! What /metrics says, in Prometheus' text format, version 0.0.4. Reads only.
//!
//! Tables that programs fill are read beside the agent's loop: that takes as long as they are full, and no change of a
//! Service waits for it. The loop adds what only it knows; the text is written beside it again.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use lb_common::abi::{BackendCounter, Counter, Traffic};

use super::state::Agent;
use crate::{
    clock::now_ticks,
    maps::{BackendCounts, BpfStore, Counted, MapStore as _, Usage, count_usage},
};

/// What the programs counted, and how full their tables are. What could not be read is in the log, and missing.
#[derive(Debug)]
pub(super) struct Reading {
    counters: Option<Vec<u64>>,
    backends: Option<Vec<(u32, BackendCounter)>>,
    sizes: Option<Counted>,
}

impl Reading {
    fn of(tables: &BpfStore) -> Self {
        Self {
            counters: read("the datapath's counters", tables.counters()),
            backends: read("what was counted for backends", tables.backend_counters()),
            sizes: read("the sizes of the programs' tables", sizes(tables)),
        }
    }
}

fn sizes(tables: &BpfStore) -> anyhow::Result<Counted> {
    Ok(count_usage(tables, now_ticks()?)?)
}

fn read<T>(what: &str, result: Result<T, impl fmt::Display>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!("metrics lack {what}: {error}")).ok()
}

/// A reading with what the loop has said to it.
#[derive(Debug)]
pub(super) struct Metrics {
    counters: Option<Vec<u64>>,
    backends: Option<Vec<BackendCounts>>,
    sizes: Option<Counted>,
    /// Of the loop's own.
    text: String,
    /// Of the tables that the agent fills.
    usage: [Usage; 6],
}

impl Metrics {
    /// The whole text.
    fn finish(self) -> String {
        let Self { counters, backends, sizes, text: own, usage } = self;
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            write_family(&mut text, name, kind, help, samples);
        };
        for (counter, value) in Counter::ALL.iter().zip(counters.unwrap_or_default()) {
            let name = format!("{}_total", counter.name());
            family(&name, "counter", counter.help().trim(), &[(String::new(), value)]);
        }
        if let Some(mut counts) = backends {
            BackendCounts::sort(&mut counts);
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
        text.push_str(&own);
        let mut usage = usage.to_vec();
        if let Some(counted) = sizes {
            usage.extend(counted.usage);
            let label = |state: &str| format!("{{state=\"{state}\"}}");
            let flows: Vec<_> = counted.flows.into_iter().map(|(state, count)| (label(state), count)).collect();
            let help = "Translated connections of the packet path that are not over.";
            write_family(&mut text, "flows", "gauge", help, &flows);
        }
        let label = |map: &str| format!("{{map=\"{map}\"}}");
        let used: Vec<_> = usage.iter().map(|u| (label(u.map), u64::from(u.used))).collect();
        let help = "Entries in use, those that wait for a grace period included.";
        write_family(&mut text, "map_entries", "gauge", help, &used);
        let sizes: Vec<_> = usage.iter().map(|u| (label(u.map), u64::from(u.capacity))).collect();
        write_family(&mut text, "map_capacity", "gauge", "Size of the map in entries.", &sizes);
        text
    }

    /// As [`Self::finish`], on a thread that may take its time. `None`: it panicked.
    pub(super) async fn write(self) -> Option<String> {
        tokio::task::spawn_blocking(move || self.finish()).await.ok()
    }
}

/// The programs' tables, read by one scrape at a time, however many ask.
#[derive(Clone)]
pub(super) struct TableReader(Arc<Mutex<BpfStore>>);

impl TableReader {
    pub(super) fn new(tables: BpfStore) -> Self {
        Self(Arc::new(Mutex::new(tables)))
    }

    /// Reads them, on a thread that may wait. `None`: it panicked.
    pub(super) async fn read(&self) -> Option<Reading> {
        let tables = Arc::clone(&self.0);
        // Nobody writes by it, so a panic has left nothing half done.
        let read = move || Reading::of(&tables.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(read).await.ok()
    }
}

impl Agent {
    /// Adds to a reading what only the loop knows.
    pub(super) fn metrics(&self, reading: Reading) -> Metrics {
        let Reading { counters, backends, sizes } = reading;
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            write_family(&mut text, name, kind, help, samples);
        };
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
        let backends = backends.map(|counted| self.tables.backend_counts(counted));
        Metrics { counters, backends, sizes, text, usage: self.tables.usage() }
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
    let (namespace, name) = service.parts();
    let port = port_name.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    format!(
        "{{namespace=\"{namespace}\",service=\"{name}\",port=\"{port}\",protocol=\"{protocol}\",backend=\"{backend}\"{more}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::state::{Protocol, ServiceName};

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
