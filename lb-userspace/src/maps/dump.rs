//! From map contents back to the state document. It reads the maps only, beside a running agent or without one, and
//! never shows a backend set that is half of one change and half of the next.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    thread,
    time::Duration,
};

use ipnet::IpNet;
use lb_common::abi::{
    Addr, Backend as MapBackend, ServiceKey, ServiceRef, ServiceState, action, addr_flag, backend_flag, backend_state,
    frontend, scope as key_scope, service_flag,
};
use thiserror::Error;

use super::{
    content::RunContent,
    names::{NameIndex, Names},
    sets::is_open,
    store::{MapStore, StoreError},
};
use crate::plan::state::{
    Action, Algorithm, Backend, BackendState, Frontend, FrontendType, HealthCheck, Protocol, Scope, State,
};

/// Readings of the maps before giving up on a quiet moment; each reads anew only what has changed.
const TRIES: usize = 200;
const PAUSE: Duration = Duration::from_millis(2);
/// Equal readings of a set that is being changed until it is taken for one whose agent was killed meanwhile.
const ABANDONED: usize = 50;

/// Why there is no dump.
#[derive(Debug, Error)]
pub enum DumpError {
    /// A table could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent writes faster than the maps can be read.
    #[error("the maps kept changing while they were read: try again when fewer Services change")]
    Changing,
}

/// The state that the maps hold, in document order. `names` come from the agent, as do `node` and `health_checks`;
/// without names `service`, `portName` and `zone` are null.
///
/// # Errors
/// If the maps cannot be read, or never stand still.
pub fn dump(
    store: &impl MapStore,
    names: Option<&Names>,
    node: &str,
    health_checks: Vec<HealthCheck>,
) -> Result<State, DumpError> {
    let names = names.map(NameIndex::new).unwrap_or_default();
    let snapshot = Snapshot::take(store)?;
    let mut frontends = Vec::new();
    for (key, found) in &snapshot.services {
        let Some(set) = snapshot.sets.get(&found.index()) else { continue };
        for address in snapshot.addresses(key, *found) {
            frontends.extend(frontend_of(address, key, *found, set, &names));
        }
    }
    Ok(State::new(node.to_owned(), frontends, health_checks))
}

/// A backend set as it was at one moment.
struct SetView {
    state: ServiceState,
    members: BTreeSet<u32>,
    idle: Vec<u32>,
    draining: Vec<u32>,
    backends: HashMap<u32, MapBackend>,
    ranges: Vec<IpNet>,
    /// How often it was found like this while a change was under way.
    seen_open: usize,
}

#[derive(Default)]
struct Snapshot {
    services: Vec<(ServiceKey, ServiceRef)>,
    keys: HashSet<ServiceKey>,
    node_addrs: Vec<Addr>,
    sets: HashMap<u32, SetView>,
}

impl Snapshot {
    /// Reads until nothing changes from the start of a reading to its end.
    fn take(store: &impl MapStore) -> Result<Self, DumpError> {
        let mut snapshot = Self::default();
        for _ in 0..TRIES {
            if snapshot.refresh(store)? {
                return Ok(snapshot);
            }
            thread::sleep(PAUSE);
        }
        Err(DumpError::Changing)
    }

    /// Reads what has changed since the last time; gives whether everything in the snapshot was so at one moment.
    fn refresh(&mut self, store: &impl MapStore) -> Result<bool, StoreError> {
        self.services = sorted_services(store)?;
        self.node_addrs = sorted_addresses(store)?;
        self.keys = self.services.iter().map(|(key, _)| *key).collect();
        let indexes: HashSet<u32> = self.services.iter().map(|(_, found)| found.index()).collect();
        self.sets.retain(|index, _| indexes.contains(index));
        // A frontend that leads beyond the map is shown by `verify`, not here.
        let states = indexes.into_iter().filter_map(|index| store.state(index).map(|state| (index, state)));
        let changed: Vec<(u32, ServiceState)> =
            states.filter(|(index, state)| self.sets.get(index).is_none_or(|view| view.state != *state)).collect();
        if !changed.is_empty() {
            let mut ranges: HashMap<u32, Vec<IpNet>> = HashMap::new();
            for entry in store.source_ranges()?.into_iter().filter(|entry| !entry.is_node_itself()) {
                let net = entry.family_prefix_len().and_then(|len| IpNet::new(entry.key.addr.into(), len).ok());
                ranges.entry(entry.key.service).or_default().extend(net);
            }
            let backends: HashMap<u32, MapBackend> = store.backends()?.into_iter().collect();
            for (index, state) in changed {
                let ranges = ranges.remove(&index).unwrap_or_default();
                self.sets.insert(index, SetView::read(store, state, ranges, &backends));
            }
        }
        let mut still = true;
        for (index, view) in &mut self.sets {
            if store.state(*index) != Some(view.state) {
                still = false;
            } else if is_open(view.state.word) && view.seen_open < ABANDONED {
                view.seen_open += 1;
                still = false;
            }
        }
        Ok(still && sorted_services(store)? == self.services && sorted_addresses(store)? == self.node_addrs)
    }

    /// The addresses that a frontend stands for: its own, or for a node port those of the node that no frontend of
    /// their own has this port on.
    fn addresses(&self, key: &ServiceKey, found: ServiceRef) -> Vec<IpAddr> {
        if found.bits() & frontend::TYPE_MASK != frontend::NODE_PORT {
            return vec![key.addr.into()];
        }
        let family = self.node_addrs.iter().copied().filter(|addr| addr.is_v4() == key.addr.is_v4());
        family.filter(|addr| !self.keys.contains(&ServiceKey { addr: *addr, ..*key })).map(IpAddr::from).collect()
    }
}

fn sorted_services(store: &impl MapStore) -> Result<Vec<(ServiceKey, ServiceRef)>, StoreError> {
    let mut services = store.services()?;
    services.sort_unstable_by_key(|(key, _)| (key.addr.octets(), key.port.get(), key.proto, key.scope));
    Ok(services)
}

/// The addresses that node ports listen on.
/// What of an address tells whether its NodePorts are listed.
const LISTED: u32 = addr_flag::NODE | addr_flag::IMPLIED;

fn sorted_addresses(store: &impl MapStore) -> Result<Vec<Addr>, StoreError> {
    let node = store.addrs()?.into_iter().filter(|(_, info)| info.flags & LISTED == addr_flag::NODE);
    let mut addresses: Vec<Addr> = node.map(|(addr, _)| addr).collect();
    addresses.sort_unstable_by_key(|addr| addr.octets());
    Ok(addresses)
}

impl SetView {
    /// `state` was read first and `all` the backends thereafter: if the state is still the same when everything has
    /// been read, all of it belongs together.
    fn read(store: &impl MapStore, state: ServiceState, ranges: Vec<IpNet>, all: &HashMap<u32, MapBackend>) -> Self {
        let len = u32::from(state.word.count()) + u32::from(state.draining);
        let slots = store.slots(state.word.offset(), len).unwrap_or_default();
        let content = RunContent::from_slots(&slots, state.word.count());
        let members = content.members();
        let ids = members.iter().chain(&content.idle).chain(&content.draining);
        let listed = ids.filter_map(|id| all.get(id).map(|backend| (*id, *backend)));
        let backends = listed.filter(|(_, backend)| backend.state != backend_state::GONE).collect();
        let RunContent { idle, draining, .. } = content;
        Self { state, members, idle, draining, backends, ranges, seen_open: 0 }
    }

    fn backend(&self, id: u32, names: &NameIndex<'_>) -> Option<Backend> {
        let backend = self.backends.get(&id)?;
        Some(Backend {
            address: backend.addr.into(),
            port: backend.port.get(),
            state: if backend.state == backend_state::TERMINATING {
                BackendState::Terminating
            } else {
                BackendState::Active
            },
            local: backend.flags & backend_flag::LOCAL != 0,
            weight: backend.weight,
            zone: names.zone(id, backend.generation).map(Arc::from),
        })
    }
}

fn frontend_of(
    address: IpAddr,
    key: &ServiceKey,
    found: ServiceRef,
    set: &SetView,
    names: &NameIndex<'_>,
) -> Option<Frontend> {
    let SetView { state, members, idle, ranges, .. } = set;
    let bits = found.bits();
    let closed = bits & frontend::CLOSED != 0;
    let has_source_ranges = bits & frontend::RANGES != 0;
    let name = names.set(found.index(), state.identity);
    let (mut backends, mut draining) = (Vec::new(), Vec::new());
    if !closed {
        backends = members.iter().chain(idle).filter_map(|id| set.backend(*id, names)).collect();
        draining = set.draining.iter().filter_map(|id| set.backend(*id, names)).collect();
    }
    Some(Frontend {
        address,
        port: key.port.get(),
        protocol: Protocol::from_number(key.proto)?,
        scope: if key.scope == key_scope::INTERNAL { Scope::Internal } else { Scope::External },
        port_name: name.as_ref().map(|(_, port)| Arc::from(*port)),
        service: name.map(|(service, _)| service),
        kind: match bits & frontend::TYPE_MASK {
            frontend::NODE_PORT => FrontendType::NodePort,
            frontend::EXTERNAL_IP => FrontendType::ExternalIp,
            frontend::LOAD_BALANCER => FrontendType::LoadBalancer,
            _ => FrontendType::ClusterIp,
        },
        action: match state.word.action() & action::MASK {
            _ if closed => Action::Drop,
            action::FORWARD => Action::Forward,
            action::REJECT => Action::Reject,
            _ => Action::Drop,
        },
        algorithm: if state.flags & service_flag::MAGLEV == 0 { Algorithm::Random } else { Algorithm::Maglev },
        affinity_seconds: (state.affinity_seconds != 0).then_some(state.affinity_seconds),
        source_ranges: if has_source_ranges {
            ranges.iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4()).copied().collect()
        } else {
            Vec::new()
        },
        has_source_ranges,
        backends,
        draining,
    })
}
