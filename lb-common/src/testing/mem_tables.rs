//! [`Tables`](crate::datapath::Tables) in memory: hash and LRU maps, arrays of a fixed length, a clock and a random source that a test sets.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
};

mod lookups;

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{
    Contents,
    lru::LruMap,
    recycling::{Random, Recycler, Recycling},
    table::Table,
};
use crate::{
    abi::{
        Addr, AddrInfo, AffinityEntry, AffinityKey, Backend, BackendCell, BackendCounter, Config, Counter, Dev, Flow,
        FlowFilter, RangeKey, ServiceKey, ServiceRef, ServiceState, SkipKey, SockEntry, SockKey, Tuple, reading,
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
    filter: Box<FlowFilter>,
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
    backend_cells: BTreeMap<u32, BackendCell>,
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

/// Without flows, and asked.
fn empty_filter() -> Box<FlowFilter> {
    let mut filter = Box::new(FlowFilter::new_zeroed());
    filter.reading = reading::FIRST;
    filter
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
                filter: empty_filter(),
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
                backend_cells: BTreeMap::new(),
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

    /// The filter of flow keys: a test may do as the agent does.
    pub fn with_filter<R>(&self, change: impl FnOnce(&mut FlowFilter) -> R) -> R {
        change(&mut self.inner.borrow_mut().filter)
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

    /// Connections and packets by backend id, those without any left out.
    #[must_use]
    pub fn backend_counters(&self) -> BTreeMap<u32, BackendCounter> {
        let inner = self.inner.borrow();
        inner.backend_cells.iter().map(|(id, cell)| (*id, BackendCounter::sum([*cell]))).collect()
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
