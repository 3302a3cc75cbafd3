//! Random clusters for the tests of the maps: Services, endpoints and policies as a plan sees them, and the changes
//! from one cluster to the next. This file knows nothing of maps; `suite` and `agent` do.

pub(crate) mod agent;
mod suite;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use berrylb::plan::state::{
    Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope, ServiceChange, ServiceName,
    State,
};
use ipnet::IpNet;
pub(crate) use suite::{SMALL, check, check_empty, dumped, node_addresses, settle, small};

/// A small generator of numbers: equal seeds give equal clusters.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[derive(Clone)]
struct Endpoint {
    address: IpAddr,
    local: bool,
    terminating: bool,
    weight: u16,
    zone: Option<Arc<str>>,
}

#[derive(Clone)]
struct Port {
    name: Arc<str>,
    protocol: Protocol,
    number: u16,
    target: u16,
    node_port: Option<u16>,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone)]
struct Spec {
    cluster_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    internal_local: bool,
    external_local: bool,
    /// Cluster IPs answer the outside, too. Never changes, as it is a flag of the agent.
    open: bool,
    algorithm: Algorithm,
    affinity: Option<u32>,
    source_ranges: Vec<IpNet>,
    ports: Vec<Port>,
}

/// A cluster as one node sees it.
#[derive(Clone)]
pub(crate) struct Cluster {
    specs: BTreeMap<usize, Spec>,
    pub(crate) node_addresses: Vec<IpAddr>,
    services: usize,
    endpoints: u64,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(i: usize) -> ServiceName {
    ServiceName::new(["default", "kube-system"][i % 2], &format!("svc-{i}"))
}

impl Cluster {
    /// An empty cluster that will have up to so many Services, each port with up to so many endpoints a family.
    pub(crate) fn new(services: usize, endpoints: u64) -> Self {
        let node_addresses = vec![ip("192.168.7.2"), ip("10.9.0.1"), ip("fd00:7::2"), ip("127.0.0.1")];
        Self { specs: BTreeMap::new(), node_addresses, services, endpoints }
    }

    /// Changes something, anywhere.
    pub(crate) fn step(&mut self, rng: &mut Rng) {
        let at = rng.below(self.services as u64) as usize;
        match rng.below(10) {
            0 => drop(self.specs.remove(&at)),
            1 => drop(self.specs.insert(at, spec(at, self.endpoints, rng))),
            2 if rng.one_in(3) => self.toggle_node_address(),
            2..=4 => {
                let endpoints = self.endpoints;
                let spec = self.specs.entry(at).or_insert_with(|| spec(at, endpoints, rng));
                policies(spec, rng);
            }
            _ => {
                let max = self.endpoints;
                let spec = self.specs.entry(at).or_insert_with(|| spec(at, max, rng));
                let port = rng.below(spec.ports.len() as u64) as usize;
                let families = families(spec);
                change_endpoints(&mut spec.ports[port].endpoints, max, families, rng);
            }
        }
    }

    pub(crate) fn fill(&mut self, rng: &mut Rng) {
        for at in 0..self.services {
            self.specs.insert(at, spec(at, self.endpoints, rng));
        }
    }

    /// Gives every port as many IPv4 endpoints as there may be, and every Service so many source ranges.
    pub(crate) fn crowd(&mut self, ranges: u8) {
        for (at, spec) in &mut self.specs {
            spec.cluster_ips = vec![ip(&format!("10.96.0.{}", at + 1))];
            spec.load_balancer_ips = vec![ip(&format!("198.51.100.{}", at + 1))];
            spec.source_ranges = (0..ranges).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect();
            for port in &mut spec.ports {
                let all = (1..=self.endpoints).map(|n| ip(&format!("10.244.{}.{}", n >> 8, n & 255)));
                let endpoint = |address| Endpoint { address, local: false, terminating: false, weight: 1, zone: None };
                port.endpoints = all.map(endpoint).collect();
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.specs.clear();
    }

    fn toggle_node_address(&mut self) {
        let other = ip("10.9.0.2");
        if self.node_addresses.contains(&other) {
            self.node_addresses.retain(|a| *a != other);
        } else {
            self.node_addresses.push(other);
        }
    }

    /// Everything that is wanted, by Service. An address, port and protocol goes to one Service only.
    pub(crate) fn wanted(&self) -> BTreeMap<ServiceName, ServiceChange> {
        let mut claimed = HashSet::new();
        let mut wanted = BTreeMap::new();
        for (at, spec) in &self.specs {
            let frontends = spec.frontends(&name(*at), &self.node_addresses, &mut claimed);
            wanted.insert(name(*at), ServiceChange { service: name(*at), frontends });
        }
        wanted
    }

    /// The changes that lead from `before` to this cluster.
    pub(crate) fn changes(&self, before: &BTreeMap<ServiceName, ServiceChange>) -> Vec<ServiceChange> {
        let after = self.wanted();
        let names: BTreeSet<&ServiceName> = before.keys().chain(after.keys()).collect();
        let changed = names.into_iter().filter(|name| before.get(name) != after.get(name));
        changed.map(|name| after.get(name).cloned().unwrap_or_else(|| gone(name))).collect()
    }

    pub(crate) fn state(&self) -> State {
        let frontends = self.wanted().into_values().flat_map(|change| change.frontends).collect();
        State::new("node".to_owned(), frontends, Vec::new())
    }

    pub(crate) fn names(&self) -> HashSet<ServiceName> {
        self.specs.keys().map(|at| name(*at)).collect()
    }
}

/// The change that takes a Service away.
pub(crate) fn gone(name: &ServiceName) -> ServiceChange {
    ServiceChange { service: name.clone(), frontends: Vec::new() }
}

fn spec(at: usize, endpoints: u64, rng: &mut Rng) -> Spec {
    let mut cluster_ips = vec![ip(&format!("10.96.0.{}", at + 1)), ip(&format!("fd00:96::{:x}", at + 1))];
    match rng.below(4) {
        0 => drop(cluster_ips.remove(0)),
        1 => {}
        _ => cluster_ips.truncate(1),
    }
    let mut spec = Spec {
        cluster_ips,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        internal_local: false,
        external_local: false,
        open: at % 2 == 1,
        algorithm: Algorithm::Random,
        affinity: None,
        source_ranges: Vec::new(),
        ports: Vec::new(),
    };
    let families = families(&spec);
    for (i, (name, protocol)) in
        [("http", Protocol::Tcp), ("dns", Protocol::Udp), ("sig", Protocol::Sctp)].into_iter().enumerate()
    {
        if i > 0 && rng.one_in(2) {
            continue;
        }
        let mut port = Port {
            name: name.into(),
            protocol,
            number: 80 + i as u16,
            target: 8080 + i as u16,
            node_port: rng.one_in(2).then_some(30_000 + (at * 3 + i) as u16),
            endpoints: Vec::new(),
        };
        for _ in 0..3 {
            change_endpoints(&mut port.endpoints, endpoints, families, rng);
        }
        spec.ports.push(port);
    }
    policies(&mut spec, rng);
    spec
}

fn families(spec: &Spec) -> (bool, bool) {
    (spec.cluster_ips.iter().any(IpAddr::is_ipv4), spec.cluster_ips.iter().any(IpAddr::is_ipv6))
}

fn policies(spec: &mut Spec, rng: &mut Rng) {
    match rng.below(7) {
        0 => spec.internal_local = rng.one_in(3),
        1 => spec.external_local = rng.one_in(2),
        2 => spec.algorithm = if rng.one_in(3) { Algorithm::Maglev } else { Algorithm::Random },
        3 => spec.affinity = rng.one_in(2).then(|| 60 + rng.below(3) as u32),
        4 => {
            let all = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/0"];
            spec.source_ranges = all.iter().filter(|_| rng.one_in(3)).map(|net| net.parse().unwrap()).collect();
        }
        5 => {
            // Few addresses, so that Services contend for them and one takes over another's.
            let all = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "192.168.7.2"];
            spec.external_ips = all.iter().filter(|_| rng.one_in(3)).map(|a| ip(a)).collect();
        }
        _ => {
            let all = ["192.0.2.1", "198.51.100.1", "2001:db8::2"];
            spec.load_balancer_ips = all.iter().filter(|_| rng.one_in(2)).map(|a| ip(a)).collect();
        }
    }
}

fn change_endpoints(endpoints: &mut Vec<Endpoint>, max: u64, (v4, v6): (bool, bool), rng: &mut Rng) {
    for _ in 0..=rng.below(3) {
        let n = rng.below(max) + 1;
        let v6 = v6 && (!v4 || rng.one_in(3));
        let address = if v6 { ip(&format!("fd00:244::{n:x}")) } else { ip(&format!("10.244.{}.{}", n >> 8, n & 255)) };
        endpoints.retain(|e| e.address != address);
        if rng.one_in(4) {
            continue;
        }
        let weight = if rng.one_in(6) { rng.below(4) as u16 } else { 1 };
        let zone = rng.one_in(2).then(|| Arc::from(["a", "b"][rng.below(2) as usize]));
        endpoints.push(Endpoint { address, local: rng.one_in(2), terminating: rng.one_in(4), weight, zone });
    }
    if rng.one_in(8) {
        endpoints.clear();
    }
}

impl Spec {
    fn frontends(
        &self,
        service: &ServiceName,
        node_addresses: &[IpAddr],
        claimed: &mut HashSet<(IpAddr, u16, Protocol)>,
    ) -> Vec<Frontend> {
        let mut frontends = Vec::new();
        for port in &self.ports {
            for (kind, addresses, number) in [
                (FrontendType::ClusterIp, &self.cluster_ips[..], Some(port.number)),
                (FrontendType::LoadBalancer, &self.load_balancer_ips, Some(port.number)),
                (FrontendType::ExternalIp, &self.external_ips, Some(port.number)),
                (FrontendType::NodePort, node_addresses, port.node_port),
            ] {
                let Some(number) = number else { continue };
                for address in addresses {
                    let served = self.cluster_ips.iter().any(|c| c.is_ipv4() == address.is_ipv4());
                    if served && claimed.insert((*address, number, port.protocol)) {
                        let at = (kind, *address, number);
                        frontends
                            .extend([Scope::Internal, Scope::External].map(|s| self.frontend(service, port, at, s)));
                    }
                }
            }
        }
        frontends
    }

    fn frontend(
        &self,
        service: &ServiceName,
        port: &Port,
        (kind, address, number): (FrontendType, IpAddr, u16),
        scope: Scope,
    ) -> Frontend {
        let local = match (kind, scope) {
            (FrontendType::ClusterIp, Scope::Internal) => self.internal_local,
            (FrontendType::ClusterIp, Scope::External) => false,
            (_, Scope::External) => self.external_local,
            (_, Scope::Internal) => false,
        };
        let family = || port.endpoints.iter().filter(|e| e.address.is_ipv4() == address.is_ipv4());
        let here = |e: &&Endpoint| !local || e.local;
        let state = |e: &Endpoint| if e.terminating { BackendState::Terminating } else { BackendState::Active };
        let list = |terminating| {
            let chosen = family().filter(here).filter(move |e| e.terminating == terminating);
            chosen.map(|e| e.backend(port.target, state(e))).collect::<Vec<_>>()
        };
        let (mut backends, mut draining) = (list(false), list(true));
        if backends.is_empty() {
            backends = std::mem::take(&mut draining);
        }
        let action = match (kind, scope) {
            (FrontendType::ClusterIp, Scope::External) if !self.open => Action::Drop,
            _ if family().next().is_none() => Action::Reject,
            _ if backends.is_empty() => Action::Drop,
            _ => Action::Forward,
        };
        if action != Action::Forward {
            backends.clear();
            draining.clear();
        }
        let restricted = !self.source_ranges.is_empty()
            && match (kind, scope) {
                (FrontendType::LoadBalancer, _) | (FrontendType::ExternalIp, Scope::External) => true,
                (FrontendType::ClusterIp | FrontendType::NodePort | FrontendType::ExternalIp, _) => false,
            };
        let ranges = self.source_ranges.iter().filter(|r| restricted && r.addr().is_ipv4() == address.is_ipv4());
        let mut frontend = Frontend {
            address,
            port: number,
            protocol: port.protocol,
            scope,
            service: Some(service.clone()),
            port_name: Some(Arc::clone(&port.name)),
            kind,
            action,
            algorithm: self.algorithm,
            affinity_seconds: self.affinity,
            source_ranges: ranges.copied().collect(),
            has_source_ranges: restricted,
            backends,
            draining,
        };
        // In document order, as a plan gives them.
        frontend.source_ranges.sort_by_key(|r| (r.addr(), r.prefix_len()));
        frontend.backends.sort_by_key(|b| b.address);
        frontend.draining.sort_by_key(|b| b.address);
        frontend
    }
}

impl Endpoint {
    fn backend(&self, port: u16, state: BackendState) -> Backend {
        let Self { address, local, weight, zone, .. } = self;
        Backend { address: *address, port, state, local: *local, weight: *weight, zone: zone.clone() }
    }
}
