//! [`Tables`] in memory: hash and LRU maps, arrays of a fixed length, a clock and a random source that a test sets.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
};

use zerocopy::IntoBytes as _;

use super::{
    Contents,
    lru::LruMap,
    recycling::{Random, Recycler, Recycling, read},
    table::Table,
};
use crate::{
    abi::{
        Addr, AddrInfo, AffinityEntry, AffinityKey, Backend, Config, Counter, Dev, Flow, RangeKey, ServiceKey,
        ServiceRef, ServiceState, SkipKey, SockEntry, SockKey, Tuple,
    },
    datapath::{FlowTable, Tables},
};

/// Elements of every array map; indexes at or above it are not there.
pub const ARRAY_LEN: u32 = 1024;

/// All maps of one agent.
#[derive(Debug)]
pub struct MemTables {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    services: LruMap<ServiceKey, ServiceRef>,
    states: HashMap<u32, ServiceState>,
    slots: HashMap<u32, u32>,
    backends: HashMap<u32, Backend>,
    flows: LruMap<Tuple, Flow>,
    embryos: LruMap<Tuple, Flow>,
    frags: LruMap<Tuple, Flow>,
    socks: LruMap<SockKey, SockEntry>,
    affinity: LruMap<AffinityKey, AffinityEntry>,
    ranges: Vec<(u32, RangeKey)>,
    addrs: HashMap<Addr, AddrInfo>,
    pod_nets: Vec<(u32, Addr)>,
    may_answer: bool,
    marks: u32,
    devs: HashMap<u32, Dev>,
    config: Config,
    counters: Vec<u64>,
    connections: BTreeMap<u32, u64>,
    random: Random,
    script: VecDeque<u32>,
    now: u32,
    refusing: BTreeSet<Table>,
    recycler: Option<Recycler>,
    skips: BTreeSet<SkipKey>,
    cgroups: Vec<u64>,
}

impl Inner {
    fn table(&mut self, table: FlowTable) -> &mut LruMap<Tuple, Flow> {
        match table {
            FlowTable::Flows => &mut self.flows,
            FlowTable::Embryos => &mut self.embryos,
            FlowTable::Frags => &mut self.frags,
        }
    }
}

impl Default for MemTables {
    fn default() -> Self {
        Self::new()
    }
}

impl MemTables {
    /// Empty, at time 1,000,000, seeded with 1.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: RefCell::new(Inner {
                services: LruMap::new(),
                states: HashMap::new(),
                slots: HashMap::new(),
                backends: HashMap::new(),
                flows: LruMap::new(),
                embryos: LruMap::new(),
                frags: LruMap::new(),
                socks: LruMap::new(),
                affinity: LruMap::new(),
                ranges: Vec::new(),
                addrs: HashMap::new(),
                pod_nets: Vec::new(),
                may_answer: true,
                marks: 0,
                devs: HashMap::new(),
                config: Config::default(),
                counters: vec![0; Counter::ALL.len()],
                connections: BTreeMap::new(),
                random: Random(1),
                script: VecDeque::new(),
                now: 1_000_000,
                refusing: BTreeSet::new(),
                recycler: None,
                skips: BTreeSet::new(),
                cgroups: Vec::new(),
            }),
        }
    }

    /// Filled with `contents`.
    #[must_use]
    pub fn with(contents: &Contents) -> Self {
        let tables = Self::new();
        tables.fill(contents);
        tables
    }

    /// Opts these out, and calls from the last of these cgroups, whose ids start at the root's.
    pub fn opt_out(&self, skips: &[SkipKey], cgroups: &[u64]) {
        let mut inner = self.inner.borrow_mut();
        inner.skips.extend(skips);
        inner.cgroups = cgroups.to_vec();
    }

    /// Adds or replaces what `contents` holds.
    pub fn fill(&self, contents: &Contents) {
        let Contents {
            services,
            states,
            slots,
            backends,
            flows,
            affinity,
            socks,
            ranges,
            addrs,
            pod_nets,
            devs,
            config,
            marks,
        } = contents;
        for (table, key, flow) in flows {
            assert!(self.insert_flow(*table, key, flow), "{table:?} takes entries");
        }
        let mut inner = self.inner.borrow_mut();
        services.iter().for_each(|(key, value)| inner.services.insert(*key, *value));
        inner.states.extend(states.iter().copied());
        inner.slots.extend(slots.iter().copied());
        inner.backends.extend(backends.iter().copied());
        affinity.iter().for_each(|(key, value)| inner.affinity.insert(*key, *value));
        socks.iter().for_each(|(key, value)| inner.socks.insert(*key, *value));
        inner.ranges.extend(ranges);
        inner.addrs.extend(addrs.iter().copied());
        inner.pod_nets.extend(pod_nets);
        inner.devs.extend(devs.iter().copied());
        inner.config = *config;
        inner.marks = *marks;
    }

    /// Sets the clock, in ticks.
    pub fn set_now(&self, now: u32) {
        self.inner.borrow_mut().now = now;
    }

    /// Sets the seed of [`Tables::random`].
    pub fn seed(&self, seed: u64) {
        self.inner.borrow_mut().random = Random(seed);
    }

    /// The next words of [`Tables::random`], before seeded ones follow.
    pub fn script_random(&self, words: &[u32]) {
        self.inner.borrow_mut().script.extend(words);
    }

    /// Gives an LRU table a capacity.
    pub fn limit(&self, table: Table, capacity: usize) {
        let mut inner = self.inner.borrow_mut();
        match table {
            Table::Flows => inner.flows.limit(capacity),
            Table::Embryos => inner.embryos.limit(capacity),
            Table::Frags => inner.frags.limit(capacity),
            Table::Socks => inner.socks.limit(capacity),
            Table::Affinity => inner.affinity.limit(capacity),
        }
    }

    /// The table takes no more entries.
    pub fn refuse(&self, table: Table) {
        self.inner.borrow_mut().refusing.insert(table);
    }

    /// Whether packets may still be answered in this tick.
    pub fn set_may_answer(&self, may: bool) {
        self.inner.borrow_mut().may_answer = may;
    }

    /// Look-ups of hashes meet recycled elements from now on; `None`: no longer.
    pub fn recycle(&self, rule: Option<Recycling>) {
        self.inner.borrow_mut().recycler = rule.map(Recycler::new);
    }

    /// How many look-ups met a recycled element.
    #[must_use]
    pub fn misreads(&self) -> u64 {
        self.inner.borrow().recycler.map_or(0, |recycler| recycler.lies)
    }

    /// Puts a frontend in or, with `None`, takes it away.
    pub fn set_service(&self, key: ServiceKey, value: Option<ServiceRef>) {
        let mut inner = self.inner.borrow_mut();
        match value {
            Some(value) => inner.services.insert(key, value),
            None => drop(inner.services.remove(&key)),
        }
    }

    /// Says what an address is, by [`crate::abi::addr_flag`] bits.
    pub fn set_addr(&self, addr: Addr, flags: u32) {
        self.inner.borrow_mut().addrs.insert(addr, AddrInfo { flags });
    }

    /// Writes an element of `svc_state`.
    pub fn set_state(&self, index: u32, state: ServiceState) {
        self.inner.borrow_mut().states.insert(index, state);
    }

    /// Writes an element of `slots`.
    pub fn set_slot(&self, slot: u32, backend: u32) {
        self.inner.borrow_mut().slots.insert(slot, backend);
    }

    /// Writes an element of `backends`.
    pub fn set_backend(&self, id: u32, backend: Backend) {
        self.inner.borrow_mut().backends.insert(id, backend);
    }

    /// A counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.inner.borrow().counters[counter as usize]
    }

    /// All counters by index.
    #[must_use]
    pub fn counters(&self) -> Vec<u64> {
        self.inner.borrow().counters.clone()
    }

    /// Connections by backend id, those without any left out.
    #[must_use]
    pub fn connections(&self) -> BTreeMap<u32, u64> {
        self.inner.borrow().connections.clone()
    }

    /// All flow entries, by table and key.
    #[must_use]
    pub fn flow_entries(&self) -> Vec<(FlowTable, Tuple, Flow)> {
        let mut inner = self.inner.borrow_mut();
        let mut all = Vec::new();
        for table in [FlowTable::Flows, FlowTable::Embryos, FlowTable::Frags] {
            let mut entries = inner.table(table).entries();
            entries.sort_by_key(|(key, _)| key.as_bytes().to_vec());
            all.extend(entries.into_iter().map(|(key, flow)| (table, key, flow)));
        }
        all
    }

    /// All entries of `affinity`, by key.
    #[must_use]
    pub fn affinity_entries(&self) -> Vec<(AffinityKey, AffinityEntry)> {
        let mut all = self.inner.borrow().affinity.entries();
        all.sort_by_key(|(key, _)| key.as_bytes().to_vec());
        all
    }

    /// All entries of `sock_revnat`, by key.
    #[must_use]
    pub fn sock_entries(&self) -> Vec<(SockKey, SockEntry)> {
        let mut all = self.inner.borrow().socks.entries();
        all.sort_by_key(|(key, _)| key.as_bytes().to_vec());
        all
    }

    /// As if the LRU had evicted the entry; false if there was none.
    pub fn evict(&self, table: FlowTable, key: &Tuple) -> bool {
        self.inner.borrow_mut().table(table).remove(key)
    }
}

/// An element of an array: zero until written, nothing beyond the end.
fn element<V: Copy + Default>(map: &HashMap<u32, V>, index: u32) -> Option<V> {
    (index < ARRAY_LEN).then(|| map.get(&index).copied().unwrap_or_default())
}

fn store<V: Copy>(from: Option<V>, into: &mut V) -> bool {
    from.map(|value| *into = value).is_some()
}

impl Tables for MemTables {
    fn service(&self, key: &ServiceKey) -> Option<ServiceRef> {
        let inner = &mut *self.inner.borrow_mut();
        read(&mut inner.recycler, &mut inner.services, key)
    }

    fn state(&self, index: u32) -> Option<ServiceState> {
        element(&self.inner.borrow().states, index)
    }

    fn slot(&self, slot: u32) -> Option<u32> {
        element(&self.inner.borrow().slots, slot)
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        element(&self.inner.borrow().backends, id)
    }

    fn flow(&self, table: FlowTable, key: &Tuple, into: &mut Flow) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        let found = match table {
            FlowTable::Flows => read(&mut inner.recycler, &mut inner.flows, key),
            FlowTable::Embryos => read(&mut inner.recycler, &mut inner.embryos, key),
            FlowTable::Frags => read(&mut inner.recycler, &mut inner.frags, key),
        };
        store(found, into)
    }

    fn insert_flow(&self, table: FlowTable, key: &Tuple, flow: &Flow) -> bool {
        let mut inner = self.inner.borrow_mut();
        if inner.refusing.contains(&table.into()) {
            return false;
        }
        inner.table(table).insert(*key, *flow);
        true
    }

    fn remove_flow(&self, table: FlowTable, key: &Tuple) {
        self.inner.borrow_mut().table(table).remove(key);
    }

    fn touch_flow(&self, table: FlowTable, key: &Tuple, state: u8, seen: u32) -> bool {
        self.inner.borrow_mut().table(table).update(key, |flow| {
            flow.state = state;
            flow.seen = seen;
        })
    }

    fn sock(&self, key: &SockKey, into: &mut SockEntry) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        store(read(&mut inner.recycler, &mut inner.socks, key), into)
    }

    fn insert_sock(&self, key: &SockKey, entry: &SockEntry) -> bool {
        let mut inner = self.inner.borrow_mut();
        let takes = !inner.refusing.contains(&Table::Socks);
        if takes {
            inner.socks.insert(*key, *entry);
        }
        takes
    }

    fn remove_sock(&self, key: &SockKey) {
        self.inner.borrow_mut().socks.remove(key);
    }

    fn is_skipped(&self, key: &SkipKey) -> bool {
        self.inner.borrow().skips.contains(key)
    }

    fn ancestor_cgroup(&self, level: u32) -> u64 {
        self.inner.borrow().cgroups.get(level as usize).copied().unwrap_or(0)
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry> {
        let inner = &mut *self.inner.borrow_mut();
        read(&mut inner.recycler, &mut inner.affinity, key)
    }

    fn insert_affinity(&self, key: &AffinityKey, entry: &AffinityEntry) -> bool {
        let mut inner = self.inner.borrow_mut();
        let takes = !inner.refusing.contains(&Table::Affinity);
        if takes {
            inner.affinity.insert(*key, *entry);
        }
        takes
    }

    fn in_ranges(&self, service: u32, source: Addr) -> bool {
        let key = RangeKey { service, addr: source };
        self.inner
            .borrow()
            .ranges
            .iter()
            .any(|(len, range)| same_prefix(range.as_bytes(), key.as_bytes(), *len as usize))
    }

    fn addr(&self, addr: &Addr) -> u32 {
        self.inner.borrow().addrs.get(addr).map_or(0, |info| info.flags)
    }

    fn in_pod_nets(&self, addr: &Addr) -> bool {
        let inner = self.inner.borrow();
        inner.pod_nets.iter().any(|(len, net)| same_prefix(net.as_octets(), addr.as_octets(), *len as usize))
    }

    fn may_answer(&self) -> bool {
        self.inner.borrow().may_answer
    }

    fn dev(&self, ifindex: u32) -> Option<Dev> {
        self.inner.borrow().devs.get(&ifindex).copied()
    }

    fn local_path(&self) -> u32 {
        self.inner.borrow().config.local_path
    }

    fn grace_until(&self) -> u32 {
        self.inner.borrow().config.grace_until
    }

    fn pod_source(&self, v4: bool) -> Addr {
        let config = self.inner.borrow().config;
        if v4 { config.pod_source_v4 } else { config.pod_source_v6 }
    }

    fn marks(&self) -> u32 {
        self.inner.borrow().marks
    }

    fn set_marks(&self, bits: u32) {
        self.inner.borrow_mut().marks |= bits;
    }

    fn count(&self, counter: Counter) {
        self.inner.borrow_mut().counters[counter as usize] += 1;
    }

    fn count_connection(&self, backend: u32) {
        *self.inner.borrow_mut().connections.entry(backend).or_default() += 1;
    }

    fn random(&self) -> u32 {
        let mut inner = self.inner.borrow_mut();
        inner.script.pop_front().unwrap_or_else(|| inner.random.next() as u32)
    }

    fn now(&self) -> u32 {
        self.inner.borrow().now
    }
}

fn same_prefix(a: &[u8], b: &[u8], bits: usize) -> bool {
    let whole = bits / 8;
    let rest = bits % 8;
    a[..whole] == b[..whole] && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0)
}
