//! What the maps of [`super::MemStore`] hold, and how the kernel's hash reuses its elements. Readers in tests walk it step by
//! step, as a BPF program does.

use std::collections::{HashMap, HashSet};

use lb_common::abi::{
    Addr, AddrInfo, AffinityEntry, AffinityKey, Backend, BackendCounter, Config, Counter, Dev, Flow, ServiceKey,
    ServiceRef, ServiceState, SkipKey, SockEntry, SockKey, Tuple, map,
};

use super::{
    capacity::{Capacities, SKIPS},
    shape::{PodNet, RangeEntry},
    store::StoreError,
};

/// A preallocated hash: a deleted or replaced element is filled for the next key at once, whoever still stands on it.
#[derive(Clone, Debug)]
pub struct RecyclingHash {
    elements: Vec<(ServiceKey, ServiceRef)>,
    linked: HashMap<ServiceKey, usize>,
    /// Last in, first out, as the kernel's.
    free: Vec<usize>,
    /// An element in hand for replacing one while the map is full.
    extra: usize,
}

impl RecyclingHash {
    fn new(capacity: usize) -> Self {
        Self {
            elements: vec![Default::default(); capacity + 1],
            linked: HashMap::new(),
            free: (0..capacity).rev().collect(),
            extra: capacity,
        }
    }

    /// The element of a key.
    #[must_use]
    pub fn find(&self, key: &ServiceKey) -> Option<usize> {
        self.linked.get(key).copied()
    }

    /// The value that stands in an element now, whosever it is.
    #[must_use]
    pub fn value(&self, element: usize) -> ServiceRef {
        self.elements[element].1
    }

    /// All entries, in no order.
    pub fn entries(&self) -> impl Iterator<Item = (ServiceKey, ServiceRef)> {
        self.linked.values().map(|at| self.elements[*at])
    }

    pub(super) fn fill(&mut self, key: ServiceKey, value: ServiceRef) -> Result<usize, StoreError> {
        let at = if self.linked.contains_key(&key) {
            self.extra
        } else {
            self.free.pop().ok_or(StoreError::Full { map: map::SERVICES })?
        };
        self.elements[at] = (key, value);
        Ok(at)
    }

    pub(super) fn link(&mut self, at: usize) {
        let (key, _) = self.elements[at];
        if let Some(old) = self.linked.insert(key, at) {
            self.extra = old;
        }
    }

    pub(super) fn delete(&mut self, key: &ServiceKey) {
        self.free.extend(self.linked.remove(key));
    }
}

/// All tables. Arrays have their full length; hashes grow up to their capacity.
#[derive(Clone, Debug)]
pub struct Contents {
    pub(super) capacities: Capacities,
    /// `services`.
    pub services: RecyclingHash,
    /// `svc_state`.
    pub svc_state: Vec<ServiceState>,
    /// `slots`.
    pub slots: Vec<u32>,
    /// `backends`.
    pub backends: Vec<Backend>,
    /// `source_ranges`.
    pub source_ranges: HashSet<RangeEntry>,
    /// `addrs`.
    pub addrs: HashMap<Addr, AddrInfo>,
    /// `pod_nets`.
    pub pod_nets: HashMap<PodNet, u32>,
    /// `devs`.
    pub devs: HashMap<u32, Dev>,
    /// `config`.
    pub config: Config,
    /// `flows`.
    pub flows: HashMap<Tuple, Flow>,
    /// `embryos`.
    pub embryos: HashMap<Tuple, Flow>,
    /// `frags`.
    pub frags: HashMap<Tuple, Flow>,
    /// `skips`.
    pub skips: HashMap<SkipKey, u32>,
    /// `sock_revnat`.
    pub sock_revnat: HashMap<SockKey, SockEntry>,
    /// `affinity`.
    pub affinity: HashMap<AffinityKey, AffinityEntry>,
    /// `counters`, summed.
    pub counters: Vec<u64>,
    /// `svc_counters`, summed.
    pub backend_counters: Vec<BackendCounter>,
}

impl Contents {
    pub(super) fn new(capacities: Capacities) -> Self {
        Self {
            capacities,
            services: RecyclingHash::new(capacities.services as usize),
            svc_state: vec![ServiceState::default(); capacities.svc_state as usize],
            slots: vec![0; capacities.slots as usize],
            backends: vec![Backend::default(); capacities.backends as usize],
            source_ranges: HashSet::new(),
            addrs: HashMap::new(),
            pod_nets: HashMap::new(),
            devs: HashMap::new(),
            config: Config::default(),
            flows: HashMap::new(),
            embryos: HashMap::new(),
            frags: HashMap::new(),
            skips: HashMap::new(),
            sock_revnat: HashMap::new(),
            affinity: HashMap::new(),
            counters: vec![0; Counter::ALL.len()],
            backend_counters: vec![BackendCounter::default(); capacities.backends as usize],
        }
    }

    /// Replaces or inserts a frontend, as one step: for tests that damage the maps.
    ///
    /// # Errors
    /// If the map is full.
    pub fn put_service(&mut self, key: ServiceKey, value: ServiceRef) -> Result<(), StoreError> {
        let at = self.services.fill(key, value)?;
        self.services.link(at);
        Ok(())
    }

    pub(super) fn put_range(&mut self, entry: RangeEntry) -> Result<(), StoreError> {
        let full = self.source_ranges.len() >= self.capacities.source_ranges as usize;
        if full && !self.source_ranges.contains(&entry) {
            return Err(StoreError::Full { map: map::SOURCE_RANGES });
        }
        self.source_ranges.insert(entry);
        Ok(())
    }

    pub(super) fn put_addr(&mut self, addr: Addr, value: AddrInfo) -> Result<(), StoreError> {
        put(&mut self.addrs, self.capacities.addrs, map::ADDRS, addr, value)
    }

    pub(super) fn put_pod_net(&mut self, net: PodNet) -> Result<(), StoreError> {
        put(&mut self.pod_nets, self.capacities.pod_nets, map::POD_NETS, net, 1)
    }

    pub(super) fn put_skip(&mut self, key: SkipKey) -> Result<(), StoreError> {
        put(&mut self.skips, SKIPS, map::SKIPS, key, 1)
    }

    pub(super) fn put_dev(&mut self, ifindex: u32, dev: Dev) -> Result<(), StoreError> {
        put(&mut self.devs, self.capacities.devs, map::DEVS, ifindex, dev)
    }
}

fn put<K: Eq + std::hash::Hash, V>(
    table: &mut HashMap<K, V>,
    capacity: u32,
    map: &'static str,
    key: K,
    value: V,
) -> Result<(), StoreError> {
    if table.len() >= capacity as usize && !table.contains_key(&key) {
        return Err(StoreError::Full { map });
    }
    table.insert(key, value);
    Ok(())
}
