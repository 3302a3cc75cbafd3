//! The maps of the loaded programs, filled from a case's tables and read back.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, lpm_trie::Key},
    util::nr_cpus,
};
use berrylb::loader::{Feature, Probe};
use lb_common::{
    abi::{
        Addr, AddrInfo, AffinityEntry, AffinityKey, Answers, Backend, BackendCell, BackendCounter, Config, Counter,
        Dev, Flow, FlowFilter, RangeKey, ServiceKey, ServiceRef, ServiceState, TICK_SHIFT, Tuple, filter_place, map,
        reading, role,
    },
    datapath::FlowTable,
    testing::Contents,
};
use nix::time::{ClockId, clock_gettime};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

/// A map key or value of the ABI.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub T);

// SAFETY: the ABI's types are `repr(C)` without padding (`IntoBytes`) and valid for any bytes (`FromBytes`).
unsafe impl<T: IntoBytes + FromBytes + Immutable + Copy + 'static> Pod for Plain<T> {}

type Hash<K, V> = HashMap<MapData, Plain<K>, Plain<V>>;

/// All maps that packets meet.
pub(crate) struct KernelTables {
    /// `services`.
    pub(crate) services: Hash<ServiceKey, ServiceRef>,
    /// `svc_state`.
    pub(crate) states: Array<MapData, Plain<ServiceState>>,
    /// `slots`.
    pub(crate) slots: Array<MapData, u32>,
    /// `backends`.
    pub(crate) backends: Array<MapData, Plain<Backend>>,
    /// `flows`.
    pub(crate) flows: Hash<Tuple, Flow>,
    /// `embryos`.
    pub(crate) embryos: Hash<Tuple, Flow>,
    frags: Hash<Tuple, Flow>,
    filter: Array<MapData, Plain<FlowFilter>>,
    affinity: Hash<AffinityKey, AffinityEntry>,
    ranges: LpmTrie<MapData, Plain<RangeKey>, u32>,
    addrs: Hash<Addr, AddrInfo>,
    pod_nets: LpmTrie<MapData, Plain<Addr>, u32>,
    answers: PerCpuArray<MapData, Plain<Answers>>,
    devs: Hash<u32, Dev>,
    config: Array<MapData, Plain<Config>>,
    marks: Array<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
    backend_counters: PerCpuArray<MapData, Plain<BackendCell>>,
    /// Indexes of the three arrays that hold something.
    written: [Vec<u32>; 3],
}

fn take<T: TryFrom<Map>>(bpf: &mut Ebpf, name: &str) -> T
where
    T::Error: core::fmt::Debug,
{
    let map = bpf.take_map(name).unwrap_or_else(|| panic!("the object has no map {name}"));
    T::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error:?}"))
}

/// Deletes every key.
fn clear<K: Pod + Copy, V: Pod>(map: &mut HashMap<MapData, K, V>) {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>().expect("keys of a map");
    for key in keys {
        map.remove(&key).expect("a key that was just listed");
    }
}

/// A filter of these flows, the first one; the other one is empty.
fn filter_of(flows: &[(FlowTable, Tuple, Flow)]) -> FlowFilter {
    let mut filter = FlowFilter::new_zeroed();
    filter.reading = reading::FIRST;
    for (_, key, _) in flows.iter().filter(|(table, ..)| table.is_filtered()) {
        filter.places[0][filter_place(key) as usize] = 1;
    }
    filter
}

fn fill<K: Copy, V: Copy>(map: &mut Hash<K, V>, entries: impl IntoIterator<Item = impl Borrow<(K, V)>>)
where
    Plain<K>: Pod,
    Plain<V>: Pod,
{
    for entry in entries {
        let (key, value) = *entry.borrow();
        map.insert(Plain(key), Plain(value), 0).expect("room in the map");
    }
}

impl KernelTables {
    pub(super) fn take(bpf: &mut Ebpf) -> Self {
        Self {
            services: take(bpf, map::SERVICES),
            states: take(bpf, map::SVC_STATE),
            slots: take(bpf, map::SLOTS),
            backends: take(bpf, map::BACKENDS),
            flows: take(bpf, map::FLOWS),
            embryos: take(bpf, map::EMBRYOS),
            frags: take(bpf, map::FRAGS),
            filter: take(bpf, map::FLOW_FILTER),
            affinity: take(bpf, map::AFFINITY),
            ranges: take(bpf, map::SOURCE_RANGES),
            addrs: take(bpf, map::ADDRS),
            pod_nets: take(bpf, map::POD_NETS),
            answers: take(bpf, "answers"),
            devs: take(bpf, map::DEVS),
            config: take(bpf, map::CONFIG),
            marks: take(bpf, map::MARKS),
            counters: take(bpf, map::COUNTERS),
            backend_counters: take(bpf, map::SVC_COUNTERS),
            written: Default::default(),
        }
    }

    /// Makes every map hold `contents` and nothing else, and all counters zero.
    pub(crate) fn reset(&mut self, contents: &Contents) {
        clear(&mut self.services);
        clear(&mut self.affinity);
        clear(&mut self.addrs);
        clear(&mut self.devs);
        let ranges: Vec<_> = self.ranges.keys().collect::<Result<_, _>>().expect("keys of source_ranges");
        ranges.iter().for_each(|key| self.ranges.remove(key).expect("a key that was just listed"));
        let nets: Vec<_> = self.pod_nets.keys().collect::<Result<_, _>>().expect("keys of pod_nets");
        nets.iter().for_each(|key| self.pod_nets.remove(key).expect("a key that was just listed"));
        let [states, slots, backends] = core::mem::take(&mut self.written);
        states.iter().for_each(|i| self.states.set(*i, Plain(ServiceState::default()), 0).expect("svc_state"));
        slots.iter().for_each(|i| self.slots.set(*i, 0, 0).expect("slots"));
        backends.iter().for_each(|i| self.backends.set(*i, Plain(Backend::default()), 0).expect("backends"));
        self.reset_flows(contents);
        self.fill(contents);
        self.reset_counters();
    }

    /// Makes the flow tables hold what `contents` holds, and the filter that is asked hold their keys and no more.
    pub(crate) fn reset_flows(&mut self, contents: &Contents) {
        clear(&mut self.flows);
        clear(&mut self.embryos);
        clear(&mut self.frags);
        for (table, key, flow) in &contents.flows {
            let map = match table {
                FlowTable::Flows => &mut self.flows,
                FlowTable::Embryos => &mut self.embryos,
                FlowTable::Frags => &mut self.frags,
            };
            map.insert(Plain(*key), Plain(*flow), 0).expect("room in the flow table");
        }
        self.filter.set(0, Plain(filter_of(&contents.flows)), 0).expect("flow_filter");
    }

    /// Adds everything but the flows; what is beyond an array's end cannot be written and is not there.
    pub(crate) fn fill(&mut self, contents: &Contents) {
        let Contents {
            services, states, slots, backends, affinity, ranges, addrs, pod_nets, devs, config, marks, ..
        } = contents;
        fill(&mut self.services, services);
        fill(&mut self.affinity, affinity);
        fill(&mut self.addrs, addrs);
        fill(&mut self.devs, devs);
        for (len, net) in pod_nets {
            self.pod_nets.insert(&Key::new(*len, Plain(*net)), 1, 0).expect("room in pod_nets");
        }
        for (len, key) in ranges {
            self.ranges.insert(&Key::new(*len, Plain(*key)), 1, 0).expect("room in source_ranges");
        }
        let len = self.states.len();
        for (index, state) in states.iter().filter(|(index, _)| *index < len) {
            self.states.set(*index, Plain(*state), 0).expect("svc_state");
            self.written[0].push(*index);
        }
        for (slot, id) in slots {
            self.slots.set(*slot, id, 0).expect("slots");
            self.written[1].push(*slot);
        }
        for (id, backend) in backends {
            self.backends.set(*id, Plain(*backend), 0).expect("backends");
            self.written[2].push(*id);
        }
        self.config.set(0, Plain(*config), 0).expect("config");
        self.marks.set(0, marks, 0).expect("marks");
    }

    /// Sets all counters to zero.
    pub(crate) fn reset_counters(&mut self) {
        let cpus = nr_cpus().expect("the number of processors");
        for index in 0..self.counters.len() {
            let zero = PerCpuValues::try_from(vec![0; cpus]).expect("a value for each processor");
            self.counters.set(index, zero, 0).expect("counters");
        }
        let zero = vec![Plain(Answers::default()); cpus];
        self.answers.set(0, PerCpuValues::try_from(zero).expect("a value for each processor"), 0).expect("answers");
        for index in self.counted() {
            let zero = vec![Plain(BackendCell::default()); cpus];
            let zero = PerCpuValues::try_from(zero).expect("a value for each processor");
            self.backend_counters.set(index, zero, 0).expect("svc_counters");
        }
    }

    /// As if every processor had answered so many packets in the present tick that it answers no more.
    pub(crate) fn silence(&mut self) {
        let cpus = nr_cpus().expect("the number of processors");
        let full = vec![Plain(Answers { tick: now(), sent: u32::MAX / 2 }); cpus];
        self.answers.set(0, PerCpuValues::try_from(full).expect("a value for each processor"), 0).expect("answers");
    }

    /// The filter in front of the flows.
    pub(crate) fn filter(&self) -> FlowFilter {
        self.filter.get(&0, 0).expect("flow_filter").0
    }

    /// Keys in the tables that the filter that is asked lacks.
    pub(crate) fn missed(&self) -> Vec<Tuple> {
        let mut filter = self.filter();
        let asked = filter.reading;
        let places = filter.places_mut(asked);
        let entries = self.flow_entries().into_iter().filter(|(table, ..)| table.is_filtered());
        entries.map(|(_, key, _)| key).filter(|key| places[filter_place(key) as usize] == 0).collect()
    }

    /// Whether `flows` or `embryos` holds this key.
    pub(crate) fn has_flow(&self, key: &Tuple) -> bool {
        [&self.flows, &self.embryos].into_iter().any(|map| map.get(&Plain(*key), 0).is_ok())
    }

    /// Which filter is asked, one of [`reading`].
    pub(crate) fn set_reading(&mut self, asked: u32) {
        let mut filter = self.filter();
        filter.reading = asked;
        self.filter.set(0, Plain(filter), 0).expect("flow_filter");
    }

    /// As if this had happened since the maps were made ([`lb_common::abi::mark`]).
    pub(crate) fn set_marks(&mut self, marks: u32) {
        self.marks.set(0, marks, 0).expect("marks");
    }

    /// All counters by index.
    pub(crate) fn counters(&self) -> Vec<u64> {
        let sum = |index: u32| self.counters.get(&index, 0).expect("counters").iter().sum();
        (0..Counter::ALL.len() as u32).map(sum).collect()
    }

    /// What was counted by backend id, those for which nothing was left out.
    pub(crate) fn backend_counters(&self) -> BTreeMap<u32, BackendCounter> {
        let sum = |index: u32| {
            let values = self.backend_counters.get(&index, 0).expect("svc_counters");
            BackendCounter::sum(values.iter().map(|value| value.0))
        };
        let all = self.counted().into_iter().map(|index| (index, sum(index)));
        all.filter(|(_, sum)| *sum != BackendCounter::default()).collect()
    }

    /// Ids that may be counted for: of the backends that were filled in, and what a flow of no Service bears.
    fn counted(&self) -> BTreeSet<u32> {
        self.written[2].iter().copied().chain([0]).collect()
    }

    /// All flow entries, by table and key.
    pub(crate) fn flow_entries(&self) -> Vec<(FlowTable, Tuple, Flow)> {
        let mut all = Vec::new();
        for (table, map) in
            [(FlowTable::Flows, &self.flows), (FlowTable::Embryos, &self.embryos), (FlowTable::Frags, &self.frags)]
        {
            let mut entries: Vec<(Tuple, Flow)> = map
                .iter()
                .map(|entry| entry.map(|(key, flow)| (key.0, self.with_mtu(&key.0, flow.0))))
                .collect::<Result<_, _>>()
                .expect("flows");
            entries.sort_by_key(|(key, _)| key.as_bytes().to_vec());
            all.extend(entries.into_iter().map(|(key, flow)| (table, key, flow)));
        }
        all
    }

    /// The flow as it would be if routes told the MTU, which is 1500 on all the cases' devices that `devs` may lack.
    fn with_mtu(&self, key: &Tuple, mut flow: Flow) -> Flow {
        if !routes_tell_mtu() && flow.is_for(key) && flow.role & role::ROUTED != 0 {
            let forward = flow.role & role::FORWARD != 0;
            let (oif, mtu) = if forward { (flow.oif, &mut flow.mtu) } else { (flow.mate_oif, &mut flow.mate_mtu) };
            if *mtu == 0 && self.devs.get(&Plain(oif), 0).is_err() {
                *mtu = 1500;
            }
            flow.reseal(key);
        }
        flow
    }

    /// All entries of `affinity`.
    pub(crate) fn affinity_entries(&self) -> Vec<(AffinityKey, AffinityEntry)> {
        let entries = self.affinity.iter().map(|entry| entry.map(|(key, value)| (key.0, value.0)));
        entries.collect::<Result<_, _>>().expect("affinity")
    }
}

/// Whether routes tell the MTU of their way. Before Linux 5.12 (e1850ea9bd9e) they do not, and a flow has the one of its
/// device in `devs`, or none where that does not hold the device, such as the bridge of the pods.
pub(crate) fn routes_tell_mtu() -> bool {
    static TOLD: LazyLock<bool> = LazyLock::new(|| {
        let release = Probe::run().release;
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(5), Some(12))
    });
    *TOLD
}

/// The programs' clock, in ticks: the coarse one where they have it.
pub(crate) fn now() -> u32 {
    static CLOCK: LazyLock<ClockId> = LazyLock::new(|| {
        let coarse = Probe::run().has(Feature::CoarseClock);
        if coarse { ClockId::CLOCK_MONOTONIC_COARSE } else { ClockId::CLOCK_MONOTONIC }
    });
    let time = clock_gettime(*CLOCK).expect("the programs' clock");
    let nanos = time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64;
    (nanos >> TICK_SHIFT) as u32
}
