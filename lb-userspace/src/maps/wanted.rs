//! The wanted backend sets of one service port, from its frontends. Pure: it reads no map and hands out no index.
//!
//! Frontends share a set when they have the same answer, so that one store commits an endpoint change for all of them.
//! Frontends that have different sets by now keep them even while their answers are equal: moving a frontend to
//! another set replaces a hash element, and readers should see that as rarely as possible. Sets never span families.

use std::sync::Arc;

use foldhash::HashMap;
use ipnet::IpNet;
use lb_common::abi::{
    Port, ServiceKey, action, backend_flag, backend_state, frontend, scope as key_scope, service_flag,
};

use super::backends::Endpoint;
use crate::plan::state::{Action, Algorithm, Backend, BackendState, Frontend, FrontendType, Protocol, Scope};

/// An endpoint of the port, with what its frontends say of it together.
#[derive(Clone, Debug)]
pub(super) struct WantedEndpoint {
    pub(super) endpoint: Endpoint,
    /// One of [`backend_state`].
    pub(super) state: u8,
    /// [`backend_flag`] bits.
    pub(super) flags: u8,
    /// The largest weight that a frontend gives it.
    pub(super) weight: u16,
    pub(super) zone: Option<Arc<str>>,
    /// Of its backend, once it has one.
    pub(super) id: Option<u32>,
}

/// A backend set. Endpoints are positions in [`WantedPort::endpoints`].
#[derive(Clone, Debug)]
pub(super) struct WantedSet {
    /// The set that its first frontend leads to now.
    pub(super) current: Option<u32>,
    /// Where to start looking for a discriminator, if it is new.
    pub(super) class: u32,
    /// [`action`] value and flag.
    pub(super) action: u8,
    /// [`service_flag`] bits.
    pub(super) flags: u8,
    pub(super) affinity_seconds: u32,
    pub(super) selectable: Vec<(usize, u16)>,
    pub(super) idle: Vec<usize>,
    pub(super) draining: Vec<usize>,
    pub(super) ranges: Vec<IpNet>,
}

/// A frontend: its key, the position of its set, and its [`frontend`] bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantedKey {
    pub(super) key: ServiceKey,
    pub(super) set: usize,
    pub(super) bits: u8,
}

/// Everything that is wanted of one service port. Without keys: nothing.
#[derive(Clone, Debug)]
pub(super) struct WantedPort {
    pub(super) name: Arc<str>,
    pub(super) protocol: Protocol,
    pub(super) identity: u64,
    pub(super) endpoints: Vec<WantedEndpoint>,
    pub(super) sets: Vec<WantedSet>,
    pub(super) keys: Vec<WantedKey>,
    /// Keys that came twice with different contents.
    pub(super) contradictions: Vec<ServiceKey>,
}

/// How many classes of frontends there are: discriminators of sets of the same class are this far apart.
pub(super) const CLASSES: u32 = 6;

/// A class has one answer in every plan: inside traffic to the cluster IP; what takes any node's endpoints, which is
/// inside traffic to other addresses and outside traffic to an open cluster IP; outside traffic to other addresses; each
/// by family. The least class of a set gives its discriminator.
fn class(f: &Frontend) -> u32 {
    let kind = match (f.kind, f.scope) {
        (FrontendType::ClusterIp, Scope::Internal) => 0,
        (FrontendType::LoadBalancer | FrontendType::ExternalIp | FrontendType::NodePort, Scope::Internal)
        | (FrontendType::ClusterIp, Scope::External) => 1,
        (FrontendType::LoadBalancer | FrontendType::ExternalIp | FrontendType::NodePort, Scope::External) => 2,
    };
    2 * kind + u32::from(f.address.is_ipv6())
}

/// A cluster IP seen from outside. It needs no answer of its own.
fn is_closed(f: &Frontend) -> bool {
    (f.kind, f.scope, f.action) == (FrontendType::ClusterIp, Scope::External, Action::Drop)
        && f.backends.is_empty()
        && f.draining.is_empty()
}

pub(super) fn key(f: &Frontend) -> ServiceKey {
    let (port, proto) = (Port::new(f.port), f.protocol.number());
    let scope = match f.scope {
        Scope::Internal => key_scope::INTERNAL,
        Scope::External => key_scope::EXTERNAL,
    };
    match f.kind {
        FrontendType::NodePort => ServiceKey::node_port(f.address.is_ipv4(), port, proto, scope),
        FrontendType::ClusterIp | FrontendType::LoadBalancer | FrontendType::ExternalIp => {
            ServiceKey { addr: f.address.into(), port, proto, scope }
        }
    }
}

const fn type_bits(kind: FrontendType) -> u8 {
    match kind {
        FrontendType::ClusterIp => frontend::CLUSTER_IP,
        FrontendType::NodePort => frontend::NODE_PORT,
        FrontendType::ExternalIp => frontend::EXTERNAL_IP,
        FrontendType::LoadBalancer => frontend::LOAD_BALANCER,
    }
}

fn bits(f: &Frontend) -> u8 {
    let closed = if is_closed(f) { frontend::CLOSED } else { 0 };
    let ranges = if f.has_source_ranges { frontend::RANGES } else { 0 };
    type_bits(f.kind) | closed | ranges
}

fn same_affinity(a: &Frontend, b: &Frontend) -> bool {
    a.algorithm == b.algorithm && a.affinity_seconds == b.affinity_seconds
}

fn same_answer(a: &Frontend, b: &Frontend) -> bool {
    a.action == b.action && same_affinity(a, b) && a.backends == b.backends && a.draining == b.draining
}

/// A set in the making: what its first frontend says is true of all.
struct Group<'a> {
    first: &'a Frontend,
    ranges: Option<&'a [IpNet]>,
    current: Option<u32>,
}

impl Group<'_> {
    fn takes(&self, f: &Frontend) -> bool {
        self.first.address.is_ipv4() == f.address.is_ipv4()
            && (!f.has_source_ranges || self.ranges.is_none_or(|ranges| ranges == f.source_ranges))
    }
}

impl WantedPort {
    /// The wanted sets of the port `identity`. `current` gives the set that a key leads to now, if it is one of this
    /// port.
    pub(super) fn new(
        (name, protocol, identity): (Arc<str>, Protocol, u64),
        frontends: &[&Frontend],
        current: impl Fn(&ServiceKey) -> Option<u32>,
    ) -> Self {
        let mut ordered: Vec<&Frontend> = frontends.to_vec();
        ordered.sort_by_key(|f| (is_closed(f), class(f)));
        let mut wanted = Self {
            name,
            protocol,
            identity,
            endpoints: Vec::new(),
            sets: Vec::new(),
            keys: Vec::new(),
            contradictions: Vec::new(),
        };
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut seen: HashMap<ServiceKey, &Frontend> = HashMap::default();
        for f in ordered {
            let key = key(f);
            if let Some(first) = seen.get(&key) {
                let equal = same_answer(first, f) && bits(first) == bits(f) && first.source_ranges == f.source_ranges;
                if !equal {
                    wanted.contradictions.push(key);
                }
                continue;
            }
            seen.insert(key, f);
            let now = current(&key);
            let set = choose(&groups, f, now).unwrap_or_else(|| {
                groups.push(Group { first: f, ranges: None, current: None });
                groups.len() - 1
            });
            if groups[set].current.is_none() && !groups.iter().any(|group| group.current == now) {
                groups[set].current = now;
            }
            if f.has_source_ranges {
                groups[set].ranges = Some(&f.source_ranges);
            }
            wanted.keys.push(WantedKey { key, set, bits: bits(f) });
        }
        let mut positions = Positions::default();
        for group in groups {
            let set = wanted.set(&group, &mut positions);
            wanted.sets.push(set);
        }
        wanted
    }

    /// Whether every endpoint stands in a slot. A Maglev table may have none for one of little weight.
    pub(super) fn uses_all(&self) -> bool {
        self.sets.iter().all(|set| set.flags & service_flag::MAGLEV == 0)
    }

    fn set(&mut self, group: &Group<'_>, positions: &mut Positions) -> WantedSet {
        let f = group.first;
        let (mut selectable, mut idle) = (Vec::new(), Vec::new());
        for backend in &f.backends {
            let at = self.endpoint(backend, positions);
            if backend.weight == 0 {
                idle.push(at);
            } else {
                selectable.push((at, backend.weight));
            }
        }
        let draining = f.draining.iter().map(|backend| self.endpoint(backend, positions)).collect();
        let fallback = f.backends.iter().any(|b| b.state == BackendState::Terminating);
        let action = match f.action {
            Action::Forward if fallback => action::FORWARD | action::TERMINATING,
            Action::Forward => action::FORWARD,
            Action::Reject => action::REJECT,
            Action::Drop => action::DROP,
        };
        let flags = match f.algorithm {
            Algorithm::Random => 0,
            Algorithm::Maglev => service_flag::MAGLEV,
        };
        WantedSet {
            current: group.current,
            class: class(f),
            action,
            flags,
            affinity_seconds: f.affinity_seconds.unwrap_or(0),
            selectable,
            idle,
            draining,
            ranges: group.ranges.map(<[IpNet]>::to_vec).unwrap_or_default(),
        }
    }

    fn endpoint(&mut self, backend: &Backend, positions: &mut Positions) -> usize {
        let endpoint = (backend.address.into(), Port::new(backend.port));
        let state = match backend.state {
            BackendState::Active => backend_state::ACTIVE,
            BackendState::Terminating => backend_state::TERMINATING,
        };
        let flags = if backend.local { backend_flag::LOCAL } else { 0 };
        let at = positions.find(endpoint, &self.endpoints).unwrap_or_else(|| {
            let zone = backend.zone.clone();
            self.endpoints.push(WantedEndpoint { endpoint, state, flags, weight: backend.weight, zone, id: None });
            self.endpoints.len() - 1
        });
        let known = &mut self.endpoints[at];
        // ACTIVE is the lesser value: an endpoint that any frontend sends new connections to is usable.
        known.state = known.state.min(state);
        known.weight = known.weight.max(backend.weight);
        at
    }
}

/// Where endpoints stand in [`WantedPort::endpoints`]. A plan lists them in order, and most ports have one set: as long as
/// each is behind those before it, nothing has to be looked up.
#[derive(Default)]
struct Positions {
    /// Those at the front, once one was out of order.
    known: HashMap<Endpoint, usize>,
    looked_up: bool,
}

impl Positions {
    /// The place of an endpoint; none if it is new, and will stand at the end.
    fn find(&mut self, endpoint: Endpoint, endpoints: &[WantedEndpoint]) -> Option<usize> {
        let order = |(addr, port): Endpoint| (addr.octets(), port.get());
        if !self.looked_up {
            if endpoints.last().is_none_or(|last| order(last.endpoint) < order(endpoint)) {
                return None;
            }
            self.looked_up = true;
        }
        let noted = self.known.len();
        self.known.extend(endpoints.iter().zip(0..).skip(noted).map(|(known, at)| (known.endpoint, at)));
        self.known.get(&endpoint).copied()
    }
}

/// The group that a frontend, which leads to the set `now`, may join.
fn choose(groups: &[Group<'_>], f: &Frontend, now: Option<u32>) -> Option<usize> {
    let closed = is_closed(f);
    let fits = |group: &Group<'_>| {
        group.takes(f) && if closed { same_affinity(group.first, f) } else { same_answer(group.first, f) }
    };
    if now.is_some()
        && let Some(at) = groups.iter().position(|group| group.current == now && fits(group))
    {
        return Some(at);
    }
    // A frontend leaves its set for another only if it has to: because its set goes on with another answer.
    let free = closed || now.is_none() || groups.iter().any(|group| group.current == now);
    groups.iter().position(|group| fits(group) && (free || group.current.is_none()))
}
