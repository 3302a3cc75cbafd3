//! How the planner gets from objects that changed to plans: who owns what first, for all of them, and then one Service
//! after another.

use std::{collections::BTreeMap, hash::BuildHasher as _};

use super::{Planned, Planner};
use crate::plan::{
    api_server,
    claims::{self, Claim},
    diagnostic::Diagnostic,
    frontends::{self, Input},
    notices::Notice,
    state::{Frontend, ServiceName},
    topology::Here,
};

/// So many Services change together every now and then.
const MANY: usize = 64;

impl Planner {
    /// Brings `planned` up to date.
    pub(super) fn settle(&mut self) {
        self.settle_claims();
        self.plan_waiting(usize::MAX);
    }

    /// Decides who owns what, and so which Services are to be planned: no plan changes a claim, so this comes first for
    /// all of them.
    pub(super) fn settle_claims(&mut self) {
        self.settle_node();
        if self.dirty.is_empty() {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        for (name, before) in &dirty {
            let Some(before) = before else { continue };
            let now = self.index.service(name);
            let created = now.as_ref().map(|service| service.created).unwrap_or_default();
            let wanted = now.map(|service| frontends::claims(&service, &self.node_addresses)).unwrap_or_default();
            let created_of = |owner: &ServiceName| self.index.service(owner).map(|s| s.created).unwrap_or_default();
            self.waiting.extend(self.claims.replace(name, created, [before, &wanted], created_of));
        }
        self.waiting.extend(dirty.into_keys());
        self.waiting.sort_unstable_by(|a, b| b.cmp(a));
        self.waiting.dedup();
    }

    /// Plans the next so many of the Services that wait for it.
    pub(super) fn plan_waiting(&mut self, services: usize) {
        let rest = self.waiting.len().saturating_sub(services);
        while self.waiting.len() > rest {
            let Some(name) = self.waiting.pop() else { break };
            self.plans += 1;
            let (new, notice) = self.plan(&name);
            self.notices.set(&name, notice);
            let has_source_ranges = new.iter().any(|frontend| frontend.has_source_ranges);
            let planned = (!new.is_empty()).then(|| Planned::new(self.sums.hash_one(&new), has_source_ranges));
            let old = match planned {
                Some(planned) => self.planned.insert(name.clone(), planned),
                None => self.planned.remove(&name),
            };
            if old != planned {
                self.changed.insert(name, new);
            }
        }
        if self.waiting.is_empty() {
            // A whole cluster waited here once, and never will again.
            self.waiting.shrink_to(MANY);
        }
        self.notices.set_of_node(self.no_node_address());
    }

    /// The remark on node ports that nothing can listen for.
    fn no_node_address(&self) -> Option<Diagnostic> {
        let (service, others) = self.notices.with_node_ports().filter(|_| self.node_addresses.is_empty())?;
        Some(Diagnostic::NoNodeAddress {
            service: service.clone(),
            others,
            node: self.config.node_name.clone(),
            chosen: self.config.node_port_addresses.is_some() && !self.own_addresses().is_empty(),
        })
    }

    /// Finds the Services that a change of this node's addresses or zone has an effect on.
    fn settle_node(&mut self) {
        if !std::mem::take(&mut self.node_dirty) {
            return;
        }
        let (addresses, zone) = (self.node_addresses(), self.zone_now());
        let zone_changed = zone != self.zone;
        let addresses_changed = addresses != self.node_addresses;
        if !zone_changed && !addresses_changed {
            return;
        }
        for service in self.index.services() {
            let moves = addresses_changed && frontends::has_node_ports(&service);
            if moves {
                let before = || frontends::claims(&service, &self.node_addresses).into();
                self.dirty.entry(service.name.clone()).or_default().get_or_insert_with(before);
            } else if zone_changed {
                self.dirty.entry(service.name).or_default();
            }
        }
        self.listen_addresses_changed |= addresses_changed;
        self.zone = zone;
        self.node_addresses = addresses;
    }

    pub(super) fn plan(&mut self, name: &ServiceName) -> (Vec<Frontend>, Notice) {
        let Some(service) = self.index.service(name) else { return Default::default() };
        let groups = self.index.groups(&service);
        let (groups, kept) =
            if api_server::is_named_so(name) { self.api_server.or_kept(groups) } else { (groups, false) };
        let input = Input {
            service: &service,
            groups: &groups,
            here: Here { name: &self.config.node_name, zone: self.zone.as_deref() },
            node_port_source_ranges: self.config.node_port_source_ranges,
            external_cluster_ips: self.config.external_cluster_ips,
            algorithm: self.config.algorithm,
        };
        let mut remarks = frontends::remarks(&service);
        if kept {
            remarks.push(Diagnostic::KeptBackends { service: name.clone() });
        }
        let wanted = frontends::claims(&service, &self.node_addresses);
        let mut won = Vec::with_capacity(wanted.len());
        let own = claims::counting(&wanted);
        let mut of_others: BTreeMap<&ServiceName, Vec<Claim>> = BTreeMap::new();
        for claim in &wanted {
            let owner = self.claims.owner(&claim.target).expect("the claims of all Services are settled");
            let of_owner = if owner == name {
                &own
            } else {
                of_others.entry(owner).or_insert_with(|| claims::counting(&self.wanted_by(owner)))
            };
            let counts = claims::claim_of(of_owner, &claim.target).expect("who owns something wants it");
            if owner == name && counts == claim {
                won.push(*claim);
            } else {
                remarks.push(frontends::taken(name, claim, owner, counts.kind));
            }
        }
        let has_node_ports = frontends::has_node_ports(&service);
        let planned = input.frontends(&won);
        remarks.extend(frontends::dropped(&service, &planned));
        let notice = Notice { remarks, health_check: input.health_check(), has_node_ports };
        (planned, notice)
    }
}
