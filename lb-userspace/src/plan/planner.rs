//! The planner: objects in, changes of the desired state out, at a cost that follows the change.
//!
//! Work is put off until somebody asks: a burst of objects plans each touched Service once.

mod batches;
mod settle;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use foldhash::quality::RandomState;

use super::{
    api_server::{self, LastEndpoints},
    claims::{Claim, Claims},
    diagnostic::Diagnostic,
    frontends,
    node_port_addresses::NodePortAddresses,
    notices::{News, Notices},
    state::{Algorithm, Frontend, HealthCheck, ServiceChange, ServiceName, State},
};
use crate::model::{Change, EndpointGroup, Index, Kind, Object, ObjectRef, Shared, Uid};

/// What a plan depends on besides objects.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PlanConfig {
    /// `--node-name`; `""`: nothing is local.
    pub node_name: String,
    /// `--node-address`: in place of the Node object's addresses, loopback allowed. Unspecified addresses are dropped.
    pub node_addresses: Option<Vec<IpAddr>>,
    /// `--zone`: in place of the Node object's label.
    pub zone: Option<String>,
    /// `--source-ranges-nodeport`: source ranges hold for node ports, too.
    pub node_port_source_ranges: bool,
    /// `--nodeport-addresses`; `None`: on all that the node is known by.
    pub node_port_addresses: Option<NodePortAddresses>,
    /// `--allow-external-cluster-ip`: cluster IPs answer what comes from outside, too.
    pub external_cluster_ips: bool,
    /// `--algorithm`: of Services without the annotation.
    pub algorithm: Algorithm,
}

/// What is kept of a Service's plan: a sum over its frontends, as others have another one, near enough to certain. Its lowest bit
/// says whether there are source ranges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Planned(u64);

impl Planned {
    fn new(sum: u64, has_source_ranges: bool) -> Self {
        Self(sum & !1 | u64::from(has_source_ranges))
    }

    const fn has_source_ranges(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Desired state for one node.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    config: PlanConfig,
    index: Index,
    claims: Claims,
    /// Services that have frontends, as last planned. The frontends themselves are in the maps, and can be planned again:
    /// all of them at once are more than a small node has memory for.
    planned: HashMap<ServiceName, Planned, RandomState>,
    sums: RandomState,
    notices: Notices,
    /// Addresses of the node's links, for ranges of `--nodeport-addresses`.
    local_addresses: Vec<IpAddr>,
    /// As last used for planning.
    node_addresses: Vec<IpAddr>,
    /// As last used for planning.
    zone: Option<String>,
    /// Services whose own objects changed, and what they wanted when `claims` was last brought up to date; `None`: as now.
    dirty: HashMap<ServiceName, Option<Box<[Claim]>>, RandomState>,
    /// Services whose claims are decided and that are to be planned, the next one last.
    waiting: Vec<ServiceName>,
    /// Whether this node's addresses or zone may have changed.
    node_dirty: bool,
    /// Services whose frontends differ from what [`Self::take_changes`] last told, with these.
    changed: BTreeMap<ServiceName, Vec<Frontend>>,
    /// Whether the addresses of other nodes may differ from what [`Self::peers_told`] last heard of.
    peers_dirty: bool,
    /// Whether node ports, and so health checks, listen on other addresses than [`Self::take_listeners_changed`] last told.
    listen_addresses_changed: bool,
    plans: u64,
    reads: u64,
    /// Of the API server's own Service.
    api_server: LastEndpoints,
}

impl Planner {
    /// A planner that knows no object.
    #[must_use]
    pub fn new(config: PlanConfig) -> Self {
        Self { config, node_dirty: true, peers_dirty: true, ..Self::default() }
    }

    /// An object appeared or changed.
    pub fn upsert(&mut self, object: Object) {
        let before = match &object {
            Object::Service(service) => Some(self.wanted_by(&service.name)),
            Object::EndpointSlice(_) | Object::Endpoints(_) | Object::Node(_) => None,
        };
        let change = self.index.upsert(object);
        self.note(change, before);
    }

    /// An object is gone. One that was never there is ignored.
    pub fn remove(&mut self, key: &ObjectRef) {
        if api_server::is_api_server(key) {
            self.api_server.forget();
        }
        let before = (key.kind == Kind::Service).then(|| self.wanted_by(&ServiceName::new(&key.namespace, &key.name)));
        let change = self.index.remove(key);
        self.note(change, before);
    }

    /// Removes every object that `keep` refuses: what a confirmed full list no longer holds. Gives how many there were.
    pub fn retain(&mut self, keep: impl Fn(&ObjectRef) -> bool) -> usize {
        let gone: Vec<_> = self.index.keys().filter(|key| !keep(key)).collect();
        for key in &gone {
            self.remove(key);
        }
        if !keep(&api_server::key()) {
            self.api_server.forget();
        }
        gone.len()
    }

    /// What the API server's own Service had before this planner, by objects of then: its backends are kept as if they
    /// had been planned. Nothing happens if it has had some since.
    pub fn remember_api_server(&mut self, before: Vec<Object>) {
        let name = api_server::name();
        let mut index = Index::default();
        before.into_iter().filter(api_server::is_of).for_each(|object| {
            index.upsert(object);
        });
        let groups = index.service(&name).map(|service| index.groups(&service)).unwrap_or_default();
        self.remember_api_server_groups(groups);
    }

    /// As [`Self::remember_api_server`], by the endpoints of then.
    pub fn remember_api_server_groups(&mut self, groups: Vec<EndpointGroup>) {
        if self.api_server.remember(groups) {
            self.dirty.entry(api_server::name()).or_default();
        }
    }

    /// Grows with each object that comes, goes, or changes.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.index.version()
    }

    /// All objects, in no order; they stay as they are whatever comes after. Where the API server's own Service is served by
    /// kept backends, slices that hold them stand in for its own, which hold none.
    #[must_use]
    pub fn shared_objects(&self) -> Vec<Shared> {
        let mut all = self.index.shared();
        let groups = self.index.service(&api_server::name()).map(|service| self.index.groups(&service));
        if let Some(slices) = groups.and_then(|groups| self.api_server.slices_instead_of(&groups)) {
            all.retain(|shared| !api_server::is_slice_of(shared));
            all.extend(slices.into_iter().map(|slice| Shared::EndpointSlice(slice.into())));
        }
        all
    }

    /// Replaces `--node-address`; `None`: the Node object's addresses count.
    pub fn set_node_addresses(&mut self, addresses: Option<Vec<IpAddr>>) {
        let changed = addresses != self.config.node_addresses;
        self.node_dirty |= changed;
        self.peers_dirty |= changed;
        self.config.node_addresses = addresses;
    }

    /// Replaces the addresses of the node's links, which ranges of `--nodeport-addresses` choose from as well.
    pub fn set_local_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.node_dirty |= addresses != self.local_addresses;
        self.local_addresses = addresses;
    }

    /// [`Self::peers_changed`] from now on, whatever was told: the maps have to be written again.
    pub const fn tell_peers_again(&mut self) {
        self.peers_dirty = true;
    }

    /// Whether [`Self::peer_addresses`] may say something else than when [`Self::peers_told`] was last called.
    #[must_use]
    pub const fn peers_changed(&self) -> bool {
        self.peers_dirty
    }

    /// Whoever needs the addresses of other nodes has them.
    pub const fn peers_told(&mut self) {
        self.peers_dirty = false;
    }

    /// Addresses of other nodes, by their Node objects, in order. Looks at all of them.
    #[must_use]
    pub fn peer_addresses(&self) -> Vec<IpAddr> {
        let own = self.own_addresses();
        let others = self.index.nodes().filter(|node| *node.name != *self.config.node_name);
        let all: BTreeSet<IpAddr> = others.flat_map(|node| node.addresses.iter().copied()).collect();
        all.into_iter().filter(|ip| !own.contains(ip)).collect()
    }

    /// The addresses that the node is known by, in order of preference: those given, else those of its Node object.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        match (&self.config.node_addresses, self.index.node(&self.config.node_name)) {
            (Some(given), _) => given.clone(),
            (None, Some(node)) => node.addresses.iter().copied().filter(|a| !a.is_loopback()).collect(),
            (None, None) => Vec::new(),
        }
    }

    /// How many Node objects there are, none of them with this node's name. `None` where that tells nothing: one has the
    /// name, there is no Node object at all, or no name was given.
    #[must_use]
    pub fn nodes_without_ours(&self) -> Option<usize> {
        let name = &*self.config.node_name;
        let unknown = !name.is_empty() && self.index.node(name).is_none();
        unknown.then(|| self.index.nodes().count()).filter(|nodes| *nodes > 0)
    }

    /// The addresses that node ports listen on, sorted. Never an unspecified one; loopback only by configuration.
    #[must_use]
    pub fn node_addresses(&self) -> Vec<IpAddr> {
        let own = self.own_addresses();
        let mut addresses = match &self.config.node_port_addresses {
            Some(choice) => choice.choose(&own, &self.local_addresses),
            None => own,
        };
        addresses.retain(|a| !a.is_unspecified());
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The Services whose frontends changed since the last call, in order of name, each with its whole new state.
    pub fn take_changes(&mut self) -> Vec<ServiceChange> {
        self.take_some_changes(usize::MAX)
    }

    /// As [`Self::take_changes`], but plans only this many Services at a time until there is a change. Calls in a row, up to
    /// one that gives none, give what that gives at once, and never hold the plans of a whole cluster in memory.
    pub fn take_some_changes(&mut self, services: usize) -> Vec<ServiceChange> {
        self.settle_claims();
        loop {
            self.plan_waiting(services.max(1));
            if !self.changed.is_empty() || self.waiting.is_empty() {
                break;
            }
        }
        self.reads += self.changed.len() as u64;
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed.map(|(service, frontends)| ServiceChange { service, frontends }).collect()
    }

    /// Every Service with its whole state, in order of name: what brings maps of any content to the plan.
    pub fn all(&mut self) -> Vec<ServiceChange> {
        self.settle();
        self.again(|_| true)
    }

    /// As [`Self::all`], but only those with source ranges, and of these not those that no change has told of so far.
    pub fn restricted(&mut self) -> Vec<ServiceChange> {
        self.settle_claims();
        self.again(|planned| planned.has_source_ranges())
    }

    /// The Services that have frontends, in no order.
    pub fn served(&mut self) -> impl Iterator<Item = &ServiceName> {
        self.settle();
        self.planned.keys()
    }

    /// Plans Services once more, which gives the same as the last time.
    fn again(&mut self, which: impl Fn(&Planned) -> bool) -> Vec<ServiceChange> {
        let names = self.planned.iter().filter(|(_, planned)| which(planned)).map(|(name, _)| name.clone());
        let mut names: Vec<ServiceName> = names.collect();
        names.sort_unstable();
        let change = |service| ServiceChange { frontends: self.plan(&service).0, service };
        names.into_iter().map(change).collect()
    }

    /// Whether this Service is to be planned anew: an object of it changed, and nobody has asked since.
    #[must_use]
    pub fn is_changing(&self, service: &ServiceName) -> bool {
        self.dirty.contains_key(service) || self.waiting.binary_search_by(|waiting| service.cmp(waiting)).is_ok()
    }

    /// The whole state.
    pub fn state(&mut self) -> State {
        let health_checks = self.health_checks();
        self.reads += self.planned.len() as u64;
        let frontends = self.all().into_iter().flat_map(|change| change.frontends).collect();
        State::new(self.config.node_name.clone(), frontends, health_checks)
    }

    /// The health check ports, in order of Service.
    pub fn health_checks(&mut self) -> Vec<HealthCheck> {
        self.settle();
        let checks = self.notices.health_checks();
        self.reads += checks.len() as u64;
        checks.cloned().collect()
    }

    /// The health check that answers at this port.
    pub fn health_check_at(&mut self, port: u16) -> Option<HealthCheck> {
        self.settle();
        self.notices.health_check_at(port).cloned()
    }

    /// Whether a health check port or an address that they listen on came or went since the last call.
    pub fn take_listeners_changed(&mut self) -> bool {
        self.settle();
        let addresses_changed = std::mem::take(&mut self.listen_addresses_changed);
        self.notices.take_ports_changed() | addresses_changed
    }

    /// How many times a Service was planned so far: the work that changes have cost.
    #[must_use]
    pub const fn plans(&self) -> u64 {
        self.plans
    }

    /// How many times the plan of a Service was read so far: the work that telling has cost.
    #[must_use]
    pub const fn reads(&self) -> u64 {
        self.reads
    }

    /// What an operator should know, in order of kind and Service.
    pub fn diagnostics(&mut self) -> Vec<Diagnostic> {
        self.settle();
        self.reads += self.planned.len() as u64;
        self.notices.remarks()
    }

    /// How [`Self::diagnostics`] differ from those at the last call.
    pub fn take_news(&mut self) -> News {
        self.settle();
        let news = self.notices.take_news();
        self.reads += (news.new.len() + news.gone.len()) as u64;
        news
    }

    /// Those of [`Self::diagnostics`] that are about this one Service, in order.
    pub fn diagnostics_of(&mut self, service: &ServiceName) -> Vec<Diagnostic> {
        self.settle();
        self.notices.remarks_of(service)
    }

    /// `metadata.uid` of a Service; `None` if there is no such Service, or it has none.
    #[must_use]
    pub fn uid(&self, service: &ServiceName) -> Option<Uid> {
        self.index.service(service)?.uid
    }

    /// `before`: what a Service that changed itself wanted.
    fn note(&mut self, change: Change, mut before: Option<Box<[Claim]>>) {
        match change {
            Change::None => {}
            Change::Services(names) => {
                for name in names {
                    let known = self.dirty.entry(name).or_default();
                    *known = known.take().or_else(|| before.take());
                }
            }
            Change::Node(name) => {
                self.node_dirty |= *name == *self.config.node_name;
                self.peers_dirty = true;
            }
        }
    }

    /// What a Service wants by its object, at the addresses that the node was last known by.
    fn wanted_by(&self, service: &ServiceName) -> Box<[Claim]> {
        self.index
            .service(service)
            .map(|service| frontends::claims(&service, &self.node_addresses))
            .unwrap_or_default()
            .into()
    }

    fn zone_now(&self) -> Option<String> {
        let label = || self.index.node(&self.config.node_name).and_then(|n| n.zone.as_deref().map(str::to_owned));
        self.config.zone.clone().or_else(label).filter(|z| !z.is_empty())
    }
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
