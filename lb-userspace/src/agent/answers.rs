//! What the agent answers to its listeners: names and state. Reads only.

use std::{path::Path, time::SystemTime};

use super::{
    api::{ApiAnswer, ApiHealthCheck, ApiSnapshot},
    cluster::Cluster,
    health_checks::HealthAnswer,
    state::Agent,
    status::{Question, Repair},
    verify::Scope,
};
impl Agent {
    pub(super) fn answer(&mut self, question: Question) {
        self.is_taken_away();
        // Whoever asked may have gone; nobody misses the answer then.
        match question {
            Question::Names(sender) => {
                let _gone = sender.send(self.names());
            }
            Question::Verify(repair, sender) => {
                let verdict = self.verify(repair == Repair::Yes, Scope::All).map_err(|error| format!("{error:#}"));
                for difference in verdict.iter().flat_map(|verdict| &verdict.repaired) {
                    tracing::info!("mended, as somebody has asked for: {difference}");
                }
                let _gone = sender.send(verdict);
            }
            Question::Metrics(reading, sender) => {
                let _gone = sender.send(self.metrics(reading));
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
                namespace: check.service.namespace().to_owned(),
                name: check.service.name().to_owned(),
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
            remarks: self.remarks(),
            failed: {
                let services = self.failed.values().map(|failed| &failed.reason);
                services.chain(self.health_checks.failures()).cloned().collect()
            },
        }
    }

    /// What objects that are bad, or that the plan has something to say of, mean for their Services.
    fn remarks(&mut self) -> Vec<String> {
        let of_files = self.files.problems().map(|(service, why)| format!("service {service}: {why}"));
        let bad = self.cluster.iter().flat_map(Cluster::bad_services);
        let of_cluster = bad.map(|(service, why)| format!("service {service}: {why}; this version of it is left out"));
        let mut remarks: Vec<String> = of_files.chain(of_cluster).collect();
        remarks.extend(self.planner.diagnostics().iter().map(ToString::to_string));
        remarks
    }

    pub(super) fn snapshot_status(&self) -> Option<ApiSnapshot> {
        self.snapshots.as_ref().map(|snapshots| snapshots.status(SystemTime::now()))
    }
}

pub(super) fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}
