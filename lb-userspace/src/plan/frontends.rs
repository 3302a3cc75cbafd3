//! One Service into its frontends: which addresses it claims, and what stands behind those that it gets.
//!
//! Looks at one Service at a time; who owns a contested address is `claims`' business.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    claims::{Claim, Target},
    diagnostic::{Diagnostic, Place},
    state::{Action, Algorithm, Frontend, FrontendType, HealthCheck, Protocol, Scope, ServiceName},
    topology::{Candidate, Categories, Here},
};
use crate::model::{BadAnnotation, EndpointGroup, Policy, Service, ServicePort, ServiceType};

/// Whether the Service has frontends at all: kube-proxy's `ShouldSkipService`, and its selector on the label
/// `service.kubernetes.io/service-proxy-name`.
fn is_served(service: &Service) -> bool {
    !service.ignored
        && !service.headless
        && service.kind != ServiceType::ExternalName
        && !service.cluster_ips.is_empty()
}

/// Whether the Service works in this family: like kube-proxy, which runs once for each family and skips Services
/// without a cluster IP of its own.
fn has_family(service: &Service, address: IpAddr) -> bool {
    service.cluster_ips.iter().any(|ip| ip.is_ipv4() == address.is_ipv4())
}

/// The Service's addresses by kind, in order of precedence, without repetitions and without those of a family that it
/// does not have.
fn addresses<'a>(
    service: &'a Service,
    node_addresses: &'a [IpAddr],
) -> impl Iterator<Item = (FrontendType, IpAddr)> + 'a {
    let load_balancer: &[IpAddr] =
        if service.kind == ServiceType::LoadBalancer { &service.load_balancer_ips } else { &[] };
    [
        (FrontendType::ClusterIp, service.cluster_ips.as_slice()),
        (FrontendType::LoadBalancer, load_balancer),
        (FrontendType::ExternalIp, &service.external_ips),
        (FrontendType::NodePort, node_addresses),
    ]
    .into_iter()
    .flat_map(|(kind, list)| {
        let first = |(i, ip): &(usize, &IpAddr)| !list[..*i].contains(ip);
        list.iter().enumerate().filter(first).map(move |(_, ip)| (kind, *ip)).collect::<Vec<_>>()
    })
    .filter(|(_, ip)| has_family(service, *ip))
}

/// The port of one kind of address. Node ports exist for the two types that have them; the API server clears what a
/// Service of another type carries there.
fn listening_port(service: &Service, port: &ServicePort, kind: FrontendType) -> Option<u16> {
    match (kind, service.kind) {
        (FrontendType::NodePort, ServiceType::NodePort | ServiceType::LoadBalancer) => port.node_port,
        (FrontendType::NodePort, ServiceType::ClusterIp | ServiceType::ExternalName) => None,
        (FrontendType::ClusterIp | FrontendType::LoadBalancer | FrontendType::ExternalIp, _) => Some(port.port),
    }
}

/// Whether the Service listens on the node's addresses.
pub(super) fn has_node_ports(service: &Service) -> bool {
    is_served(service) && service.ports.iter().any(|p| listening_port(service, p, FrontendType::NodePort).is_some())
}

/// Everything the Service wants, in order of kind, and then of ports for each address.
pub(super) fn claims(service: &Service, node_addresses: &[IpAddr]) -> Vec<Claim> {
    if !is_served(service) {
        return Vec::new();
    }
    let mut claims = Vec::new();
    for (kind, address) in addresses(service, node_addresses) {
        for (port, port_index) in service.ports.iter().zip(0..) {
            if let Some(number) = listening_port(service, port, kind) {
                let target = Target { address, port: number, protocol: port.protocol };
                claims.push(Claim { target, kind, port_index });
            }
        }
    }
    claims
}

/// What there is to say about the Service by itself.
pub(super) fn remarks(service: &Service) -> Vec<Diagnostic> {
    if !is_served(service) {
        let unset = !service.ignored && !service.headless && service.kind != ServiceType::ExternalName;
        return if unset { vec![Diagnostic::NoClusterIp { service: service.name.clone() }] } else { Vec::new() };
    }
    let lost = |kind, list: &[IpAddr]| {
        let lost = list.iter().filter(|ip| !has_family(service, **ip));
        lost.map(|ip| Diagnostic::WrongFamily { service: service.name.clone(), kind, address: *ip }).collect::<Vec<_>>()
    };
    let mut remarks = lost(FrontendType::ExternalIp, &service.external_ips);
    if service.ports.is_empty() {
        remarks.push(Diagnostic::NoPorts { service: service.name.clone() });
    }
    if service.kind == ServiceType::LoadBalancer {
        remarks.extend(lost(FrontendType::LoadBalancer, &service.load_balancer_ips));
    }
    remarks.extend(service.bad_annotations.iter().map(|BadAnnotation { name, cause }| Diagnostic::BadAnnotation {
        service: service.name.clone(),
        annotation: name.clone(),
        cause: cause.clone(),
    }));
    for port in service.ports.iter().filter(|p| p.protocol == Protocol::Sctp) {
        remarks.push(Diagnostic::NotCarried {
            service: service.name.clone(),
            port_name: port.name.to_string(),
            port: port.port,
            protocol: port.protocol,
            target: None,
        });
    }
    remarks
}

/// What the datapath drops although it is listed: SCTP to another port than the one that it was sent to, as its checksum
/// covers the ports (RFC 9260 6.8).
pub(super) fn dropped(service: &Service, frontends: &[Frontend]) -> BTreeSet<Diagnostic> {
    let sctp = frontends.iter().filter(|frontend| frontend.protocol == Protocol::Sctp);
    let remapped = sctp.flat_map(|frontend| {
        let other = frontend.backends.iter().map(|backend| backend.port).filter(|port| *port != frontend.port);
        other.map(move |target| Diagnostic::NotCarried {
            service: service.name.clone(),
            port_name: frontend.port_name.as_deref().unwrap_or_default().to_owned(),
            port: frontend.port,
            protocol: frontend.protocol,
            target: Some(target),
        })
    });
    remapped.collect()
}

/// One Service with all that its plan depends on.
pub(super) struct Input<'a> {
    pub(super) service: &'a Service,
    /// Its endpoints, wherever they come from.
    pub(super) groups: &'a [EndpointGroup],
    /// This node.
    pub(super) here: Here<'a>,
    /// Whether source ranges hold for node ports, too.
    pub(super) node_port_source_ranges: bool,
    /// Whether cluster IPs are open to the outside.
    pub(super) external_cluster_ips: bool,
    /// For a Service that does not choose its own.
    pub(super) algorithm: Algorithm,
}

impl Input<'_> {
    /// The frontends of the claims that the Service won, in document order.
    pub(super) fn frontends(&self, won: &[Claim]) -> Vec<Frontend> {
        let mut sets: BTreeMap<(u32, bool), Categories> = BTreeMap::new();
        let mut frontends = Vec::new();
        for Claim { target, kind, port_index } in won {
            let port = &self.service.ports[*port_index as usize];
            let v4 = target.address.is_ipv4();
            let set =
                sets.entry((*port_index, v4)).or_insert_with(|| Categories::of(&self.candidates(port, v4), self.here));
            for scope in [Scope::External, Scope::Internal] {
                frontends.push(self.frontend(*target, *kind, port, scope, set));
            }
        }
        frontends.sort_by(Frontend::document_order);
        frontends
    }

    fn frontend(
        &self,
        Target { address, port: number, protocol }: Target,
        kind: FrontendType,
        port: &ServicePort,
        scope: Scope,
        set: &Categories,
    ) -> Frontend {
        let service = self.service;
        let chosen = set.by(self.policy(kind, scope));
        let action = match (kind, scope) {
            (FrontendType::ClusterIp, Scope::External) if !self.external_cluster_ips => Action::Drop,
            _ if !set.any => Action::Reject,
            _ if chosen.backends.is_empty() => Action::Drop,
            _ => Action::Forward,
        };
        let (backends, draining) = match action {
            Action::Forward => (chosen.backends.clone(), chosen.draining.clone()),
            Action::Reject | Action::Drop => Default::default(),
        };
        let restricted = !service.source_ranges.is_empty() && self.source_ranges_hold(kind, scope);
        let same_family = service.source_ranges.iter().filter(|r| r.addr().is_ipv4() == address.is_ipv4());
        Frontend {
            address,
            port: number,
            protocol,
            scope,
            service: Some(service.name.clone()),
            port_name: Some(port.name.clone()),
            kind,
            action,
            algorithm: service.algorithm.unwrap_or(self.algorithm),
            affinity_seconds: service.affinity_seconds,
            source_ranges: if restricted { same_family.copied().collect() } else { Vec::new() },
            has_source_ranges: restricted,
            backends,
            draining,
        }
    }

    /// The internal policy decides only what the cluster IP does to inside traffic, the external one only what comes from outside to the
    /// other addresses. From inside, those take the short cut to any endpoint.
    fn policy(&self, kind: FrontendType, scope: Scope) -> Policy {
        match (kind, scope) {
            (FrontendType::ClusterIp, Scope::Internal) => self.service.internal_policy,
            // Where it is open at all.
            (FrontendType::ClusterIp, Scope::External) => Policy::Cluster,
            (FrontendType::LoadBalancer | FrontendType::ExternalIp | FrontendType::NodePort, Scope::External) => {
                self.service.external_policy
            }
            (FrontendType::LoadBalancer | FrontendType::ExternalIp | FrontendType::NodePort, Scope::Internal) => {
                Policy::Cluster
            }
        }
    }

    fn source_ranges_hold(&self, kind: FrontendType, scope: Scope) -> bool {
        match (kind, scope) {
            (FrontendType::LoadBalancer, Scope::Internal | Scope::External) => true,
            (FrontendType::ExternalIp, Scope::External) => true,
            (FrontendType::NodePort, Scope::External) => self.node_port_source_ranges,
            (FrontendType::ClusterIp, Scope::Internal | Scope::External)
            | (FrontendType::ExternalIp | FrontendType::NodePort, Scope::Internal) => false,
        }
    }

    /// The port's endpoints of one family, each backend once. A group's port is this one's if name and protocol agree;
    /// which target port that is may differ from group to group (named target ports).
    fn candidates(&self, port: &ServicePort, v4: bool) -> Vec<Candidate<'_>> {
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for group in self.groups {
            for target in group.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol) {
                candidates.reserve(group.endpoints.len());
                for endpoint in group.endpoints.iter().filter(|e| e.address.is_ipv4() == v4) {
                    candidates.push(Candidate {
                        endpoint,
                        port: target.port,
                        weight: self.service.weights.of(endpoint),
                    });
                }
            }
        }
        // Stable, so that of equal copies the first one stays.
        candidates.sort_by_key(Candidate::socket);
        candidates.dedup_by(|later, first| {
            let same = later.socket() == first.socket();
            if same && later.rank(self.here) > first.rank(self.here) {
                *first = *later;
            }
            same
        });
        candidates
    }

    /// The health check port of a load balancer that wants to know which nodes have endpoints of their own. Endpoints
    /// are counted by address, as kube-proxy does (`LocalReadyEndpoints`); where a dual-stack Service counts in both
    /// families, a pod has an address in each, so the larger count is the number of pods.
    pub(super) fn health_check(&self) -> Option<HealthCheck> {
        let Service { name, kind, external_policy, health_check_node_port, ports, .. } = self.service;
        if !is_served(self.service) || *kind != ServiceType::LoadBalancer || *external_policy != Policy::Local {
            return None;
        }
        let port = (*health_check_node_port)?;
        let count = |v4: bool| {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for service_port in ports {
                let categories = Categories::of(&self.candidates(service_port, v4), self.here);
                addresses.extend(categories.local_ready().map(|b| b.address));
            }
            addresses.sort_unstable();
            addresses.dedup();
            addresses.len()
        };
        let families =
            [true, false].into_iter().filter(|v4| self.service.cluster_ips.iter().any(|ip| ip.is_ipv4() == *v4));
        Some(HealthCheck { service: name.clone(), port, local_endpoints: families.map(count).max().unwrap_or(0) })
    }
}

/// The remark on a claim of `loser` that one of `owner` has come before.
pub(super) fn taken(loser: &ServiceName, claim: &Claim, owner: &ServiceName, as_kind: FrontendType) -> Diagnostic {
    let Claim { target: Target { address, port, protocol }, kind, .. } = *claim;
    let wanted = Place { kind, address, port, protocol };
    Diagnostic::Taken { loser: loser.clone(), wanted, owner: owner.clone(), as_kind }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
