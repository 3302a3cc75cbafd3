//! What a plan says beside its frontends: remarks for the operator, and health check ports.
//!
//! Kept one Service at a time, so that whoever asks for what is new does no work for Services that stayed as they were.
//! Never looks at objects; the planner says what each Service has.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    diagnostic::Diagnostic,
    state::{HealthCheck, ServiceName},
};

/// What one Service has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Notice {
    pub(super) remarks: Vec<Diagnostic>,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) has_node_ports: bool,
}

/// What all have. A Service is in a table only if it has something there.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices {
    remarks: BTreeMap<ServiceName, Vec<Diagnostic>>,
    checks: BTreeMap<ServiceName, HealthCheck>,
    /// Who wants a health check port; the first one has it.
    ports: BTreeMap<u16, BTreeSet<ServiceName>>,
    with_node_ports: BTreeSet<ServiceName>,
    of_node: Option<Diagnostic>,
    news: News,
    ports_changed: bool,
}

impl Notices {
    /// Replaces what a Service has.
    pub(super) fn set(&mut self, service: &ServiceName, notice: Notice) {
        let Notice { remarks, health_check, has_node_ports } = notice;
        let old = self.remarks.remove(service).unwrap_or_default();
        self.news.replace(&old, &remarks);
        if !remarks.is_empty() {
            self.remarks.insert(service.clone(), remarks);
        }
        if has_node_ports {
            self.with_node_ports.insert(service.clone());
        } else {
            self.with_node_ports.remove(service);
        }
        let old = self.checks.remove(service).map(|check| check.port);
        let new = health_check.as_ref().map(|check| check.port);
        self.checks.extend(health_check.map(|check| (service.clone(), check)));
        if old != new {
            old.into_iter().for_each(|port| self.change_port(port, |services| services.remove(service)));
            new.into_iter().for_each(|port| self.change_port(port, |services| services.insert(service.clone())));
        }
    }

    /// Replaces what there is to say of the node as a whole.
    pub(super) fn set_of_node(&mut self, remark: Option<Diagnostic>) {
        self.news.replace(self.of_node.as_slice(), remark.as_slice());
        self.of_node = remark;
    }

    /// The first Service with node ports, and how many others there are.
    pub(super) fn with_node_ports(&self) -> Option<(&ServiceName, usize)> {
        self.with_node_ports.first().map(|first| (first, self.with_node_ports.len() - 1))
    }

    /// All remarks, in order.
    pub(super) fn remarks(&self) -> Vec<Diagnostic> {
        let mut all: Vec<_> = self.remarks.values().flatten().chain(&self.of_node).cloned().collect();
        all.extend(self.ports.keys().flat_map(|port| self.port_remarks(*port)));
        all.sort();
        all
    }

    /// How the remarks differ from those at the last call.
    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// The remarks on one Service, in order, but for that of the node as a whole.
    pub(super) fn remarks_of(&self, service: &ServiceName) -> Vec<Diagnostic> {
        let of_port = self.checks.get(service).map(|check| self.port_remarks(check.port)).unwrap_or_default();
        let of_port = of_port.into_iter().filter(|remark| remark.service() == service);
        let mut all: Vec<_> = self.remarks.get(service).into_iter().flatten().cloned().chain(of_port).collect();
        all.sort();
        all
    }

    /// All health checks, in order of Service.
    pub(super) fn health_checks(&self) -> impl ExactSizeIterator<Item = &HealthCheck> {
        self.checks.values()
    }

    /// The health check that answers at a port.
    pub(super) fn health_check_at(&self, port: u16) -> Option<&HealthCheck> {
        self.ports.get(&port)?.first().and_then(|service| self.checks.get(service))
    }

    /// Whether a port came, went, or changed its owner since the last call.
    pub(super) fn take_ports_changed(&mut self) -> bool {
        std::mem::take(&mut self.ports_changed)
    }

    fn change_port(&mut self, port: u16, change: impl FnOnce(&mut BTreeSet<ServiceName>) -> bool) {
        let (owner, said) = (self.port_owner(port).cloned(), self.port_remarks(port));
        let services = self.ports.entry(port).or_default();
        change(services);
        if services.is_empty() {
            self.ports.remove(&port);
        }
        self.ports_changed |= self.port_owner(port) != owner.as_ref();
        self.news.replace(&said, &self.port_remarks(port));
    }

    fn port_owner(&self, port: u16) -> Option<&ServiceName> {
        self.ports.get(&port).and_then(BTreeSet::first)
    }

    fn port_remarks(&self, port: u16) -> Vec<Diagnostic> {
        let mut services = self.ports.get(&port).into_iter().flatten();
        let Some(owner) = services.next() else { return Vec::new() };
        let taken = |loser: &ServiceName| {
            let (loser, owner) = (loser.clone(), owner.clone());
            Diagnostic::HealthPortTaken { loser, port, owner }
        };
        services.map(taken).collect()
    }
}

/// What has come and gone. Something that went and came back is no news.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// What stands now and did not before.
    pub new: BTreeSet<Diagnostic>,
    /// What stands no more.
    pub gone: BTreeSet<Diagnostic>,
}

impl News {
    fn replace(&mut self, old: &[Diagnostic], new: &[Diagnostic]) {
        if old == new {
            return;
        }
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
        for gone in old.difference(&new) {
            if !self.new.remove(*gone) {
                self.gone.insert((*gone).clone());
            }
        }
        for added in new.difference(&old) {
            if !self.gone.remove(*added) {
                self.new.insert((*added).clone());
            }
        }
    }
}
