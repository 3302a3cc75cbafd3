//! The kernel's maps, by their pins. It opens and checks what the loader has made; it loads nothing, and holds no state
//! but descriptors and mappings.

use std::{fs, io, path::Path};

use lb_common::{
    abi::{
        Addr, AddrInfo, AffinityEntry, AffinityKey, Backend, BackendCell, BackendCounter, Config, Counter, Dev, Flow,
        ServiceKey, ServiceRef, ServiceState, SkipKey, SockEntry, SockKey, StateWord, Tuple, map,
    },
    datapath::FlowTable,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    bpf_open::Opener,
    capacity::Capacities,
    grace::Grace,
    mmap::Mmap,
    open_error::OpenError,
    shape::{PodNet, RangeEntry, SHAPES, Shape},
    store::{BatchError, MapStore, StoreError},
    sys::{MapInfo, RawMap},
    typed::Table,
};

/// Words of a [`ServiceState`], and of a slot: array elements are 8 bytes apart at least.
const STATE_WORDS: usize = size_of::<ServiceState>() / 8;

/// The maps of one agent in the kernel.
pub struct BpfStore {
    capacities: Capacities,
    services: Table<ServiceKey, ServiceRef>,
    svc_state: Mmap,
    slots: Mmap,
    backends: Table<u32, Backend>,
    flows: Table<Tuple, Flow>,
    embryos: Table<Tuple, Flow>,
    frags: Table<Tuple, Flow>,
    sock_revnat: Table<SockKey, SockEntry>,
    skips: Table<SkipKey, u32>,
    affinity: Table<AffinityKey, AffinityEntry>,
    source_ranges: Table<RangeEntry, u32>,
    addrs: Table<Addr, AddrInfo>,
    pod_nets: Table<PodNet, u32>,
    devs: Table<u32, Dev>,
    config: Table<u32, Config>,
    counters: Table<u32, u64>,
    svc_counters: Table<u32, BackendCell>,
    grace: Option<Grace>,
}

impl BpfStore {
    /// Opens the maps that are pinned in the folder `dir`, one ABI version's (`<bpffs>/v5`).
    ///
    /// # Errors
    /// If one is missing, is not as the ABI wants it, or cannot be opened.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        Self::open_as(dir, false)
    }

    /// The same for looking only; writes fail, and those to memory-mapped maps panic.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_read_only(dir: &Path) -> Result<Self, OpenError> {
        Self::open_as(dir, true)
    }

    fn open_as(dir: &Path, read_only: bool) -> Result<Self, OpenError> {
        let open = Opener::new(dir, read_only)?;
        let services = open.raw(map::SERVICES, None)?;
        let svc_state = open.raw(map::SVC_STATE, None)?;
        let slots = open.raw(map::SLOTS, None)?;
        let backends = open.raw(map::BACKENDS, None)?;
        let entries = |raw: &RawMap| raw.info().max_entries;
        let fixed = |name| Capacities::DEFAULT.of(name);
        let skips = open.raw(map::SKIPS, fixed(map::SKIPS))?;
        let config = open.raw(map::CONFIG, fixed(map::CONFIG))?;
        // Checked here; of these the store reads nothing.
        open.raw(map::MARKS, fixed(map::MARKS))?;
        open.raw(map::FLOW_FILTER, fixed(map::FLOW_FILTER))?;
        let counters = open.raw(map::COUNTERS, fixed(map::COUNTERS))?;
        let svc_counters = open.raw(map::SVC_COUNTERS, Some(entries(&backends)))?;
        let flows = open.table(map::FLOWS)?;
        let embryos = open.table(map::EMBRYOS)?;
        let frags = open.table(map::FRAGS)?;
        let sock_revnat = open.table(map::SOCK_REVNAT)?;
        let affinity = open.table(map::AFFINITY)?;
        let source_ranges = open.table(map::SOURCE_RANGES)?;
        let addrs = open.table(map::ADDRS)?;
        let pod_nets = open.table(map::POD_NETS)?;
        let devs = open.table(map::DEVS)?;
        let capacities = Capacities {
            services: entries(&services),
            svc_state: entries(&svc_state),
            slots: entries(&slots),
            backends: entries(&backends),
            flows: entries(flows.raw()),
            embryos: entries(embryos.raw()),
            frags: entries(frags.raw()),
            sock_revnat: entries(sock_revnat.raw()),
            affinity: entries(affinity.raw()),
            source_ranges: entries(source_ranges.raw()),
            addrs: entries(addrs.raw()),
            pod_nets: entries(pod_nets.raw()),
            devs: entries(devs.raw()),
        };
        Ok(Self {
            capacities,
            services: Table::new(map::SERVICES, services),
            svc_state: open.mmap(map::SVC_STATE, &svc_state)?,
            slots: open.mmap(map::SLOTS, &slots)?,
            backends: Table::new(map::BACKENDS, backends),
            flows,
            embryos,
            frags,
            sock_revnat,
            skips: Table::new(map::SKIPS, skips),
            affinity,
            source_ranges,
            addrs,
            pod_nets,
            devs,
            config: Table::new(map::CONFIG, config),
            counters: Table::new(map::COUNTERS, counters),
            svc_counters: Table::new(map::SVC_COUNTERS, svc_counters),
            grace: None,
        })
    }

    fn sum(value: &[u8]) -> u64 {
        value.chunks_exact(8).map(|cpu| u64::from_ne_bytes(cpu.try_into().unwrap_or_default())).sum()
    }
}

/// Makes and pins the maps that are missing in `dir`, without BTF. For benches and tests: the agent's maps come from the
/// loader.
///
/// # Errors
/// If the folder or a map cannot be made.
pub fn create_pinned(dir: &Path, capacities: &Capacities) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for Shape { name, kind, key_size, value_size, flags } in SHAPES {
        let path = dir.join(name);
        if !path.exists() {
            let info = MapInfo {
                map_type: kind as u32,
                id: 0,
                key_size,
                value_size,
                max_entries: capacities.of(name).unwrap_or(1),
                map_flags: flags,
            };
            let context = |e: io::Error| io::Error::new(e.kind(), format!("map {name} at {}: {e}", path.display()));
            RawMap::create_pinned(&path, name, &info).map_err(context)?;
        }
    }
    Ok(())
}

impl MapStore for BpfStore {
    fn capacities(&self) -> Capacities {
        self.capacities
    }

    fn services(&self) -> Result<Vec<(ServiceKey, ServiceRef)>, StoreError> {
        self.services.entries()
    }

    fn service(&self, key: &ServiceKey) -> Result<Option<ServiceRef>, StoreError> {
        self.services.get(key)
    }

    fn put_services(&mut self, items: &[(ServiceKey, ServiceRef)]) -> Result<(), BatchError> {
        self.services.put_all(items.iter().map(|(key, value)| (key, value.as_bytes())))
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Result<(), BatchError> {
        self.services.delete_all(keys)
    }

    fn state(&self, index: u32) -> Option<ServiceState> {
        let start = index as usize * STATE_WORDS;
        if start + STATE_WORDS > self.svc_state.words() {
            return None;
        }
        let words: [u64; STATE_WORDS] = std::array::from_fn(|at| self.svc_state.word(start + at));
        Some(zerocopy::transmute!(words))
    }

    fn put_state(&mut self, index: u32, state: &ServiceState) {
        let words: [u64; STATE_WORDS] = zerocopy::transmute!(*state);
        let start = index as usize * STATE_WORDS;
        for (at, word) in words.into_iter().enumerate().skip(1) {
            self.svc_state.set_word(start + at, word);
        }
    }

    fn commit(&mut self, index: u32, word: StateWord) {
        self.svc_state.set_word(index as usize * STATE_WORDS, word.to_word());
    }

    fn slots(&self, offset: u32, len: u32) -> Option<Vec<u32>> {
        let end = offset.checked_add(len).filter(|end| *end as usize <= self.slots.words())?;
        Some((offset..end).map(|at| self.slots.half(at as usize)).collect())
    }

    fn put_slots(&mut self, offset: u32, ids: &[u32]) {
        for (at, id) in ids.iter().enumerate() {
            self.slots.set_half(offset as usize + at, *id);
        }
    }

    fn backends(&self) -> Result<Vec<(u32, Backend)>, StoreError> {
        let mut backends = self.backends.entries()?;
        backends.retain(|(_, backend)| backend.generation != 0);
        backends.sort_unstable_by_key(|(id, _)| *id);
        Ok(backends)
    }

    fn backend(&self, id: u32) -> Result<Option<Backend>, StoreError> {
        Ok(self.backends.get(&id)?.filter(|backend| backend.generation != 0))
    }

    fn put_backends(&mut self, items: &[(u32, Backend)]) -> Result<(), BatchError> {
        self.backends.put_all(items.iter().map(|(id, backend)| (id, backend.as_bytes())))
    }

    fn source_ranges(&self) -> Result<Vec<RangeEntry>, StoreError> {
        Ok(self.source_ranges.entries()?.into_iter().map(|(entry, _)| entry).collect())
    }

    fn put_source_ranges(&mut self, items: &[RangeEntry]) -> Result<(), BatchError> {
        let allowed = 1_u32.to_ne_bytes();
        self.source_ranges.put_all(items.iter().map(|entry| (entry, &allowed[..])))
    }

    fn delete_source_ranges(&mut self, items: &[RangeEntry]) -> Result<(), BatchError> {
        self.source_ranges.delete_all(items)
    }

    fn addrs(&self) -> Result<Vec<(Addr, AddrInfo)>, StoreError> {
        self.addrs.entries()
    }

    fn put_addrs(&mut self, items: &[(Addr, AddrInfo)]) -> Result<(), BatchError> {
        self.addrs.put_all(items.iter().map(|(addr, value)| (addr, value.as_bytes())))
    }

    fn delete_addrs(&mut self, addrs: &[Addr]) -> Result<(), BatchError> {
        self.addrs.delete_all(addrs)
    }

    fn pod_nets(&self) -> Result<Vec<PodNet>, StoreError> {
        Ok(self.pod_nets.entries()?.into_iter().map(|(net, _)| net).collect())
    }

    fn put_pod_net(&mut self, net: PodNet) -> Result<(), StoreError> {
        self.pod_nets.put(&net, &1)
    }

    fn delete_pod_net(&mut self, net: PodNet) -> Result<(), StoreError> {
        self.pod_nets.delete(&net)
    }

    fn devs(&self) -> Result<Vec<(u32, Dev)>, StoreError> {
        self.devs.entries()
    }

    fn put_dev(&mut self, ifindex: u32, dev: Dev) -> Result<(), StoreError> {
        self.devs.put(&ifindex, &dev)
    }

    fn delete_dev(&mut self, ifindex: u32) -> Result<(), StoreError> {
        self.devs.delete(&ifindex)
    }

    fn config(&self) -> Result<Config, StoreError> {
        Ok(self.config.get(&0)?.unwrap_or_default())
    }

    fn put_config(&mut self, config: Config) -> Result<(), StoreError> {
        self.config.put(&0, &config)
    }

    fn each_flow(&self, table: FlowTable, show: &mut dyn FnMut(&Tuple, &Flow)) -> Result<(), StoreError> {
        match table {
            FlowTable::Flows => self.flows.each(show),
            FlowTable::Embryos => self.embryos.each(show),
            FlowTable::Frags => self.frags.each(show),
        }
    }

    fn sock_revnat(&self) -> Result<Vec<(SockKey, SockEntry)>, StoreError> {
        self.sock_revnat.entries()
    }

    fn sock(&self, key: &SockKey) -> Result<Option<SockEntry>, StoreError> {
        self.sock_revnat.get(key)
    }

    fn skips(&self) -> Result<Vec<SkipKey>, StoreError> {
        Ok(self.skips.entries()?.into_iter().map(|(key, _)| key).collect())
    }

    fn put_skip(&mut self, key: SkipKey) -> Result<(), StoreError> {
        self.skips.put(&key, &1)
    }

    fn delete_skip(&mut self, key: SkipKey) -> Result<(), StoreError> {
        self.skips.delete(&key)
    }

    fn affinity(&self) -> Result<Vec<(AffinityKey, AffinityEntry)>, StoreError> {
        self.affinity.entries()
    }

    fn counters(&self) -> Result<Vec<u64>, StoreError> {
        let mut sums = vec![0; Counter::ALL.len()];
        for (at, value) in self.counters.raw_entries()? {
            if let Some(sum) = sums.get_mut(at as usize) {
                *sum = Self::sum(&value);
            }
        }
        Ok(sums)
    }

    fn backend_counters(&self) -> Result<Vec<(u32, BackendCounter)>, StoreError> {
        let read = |bytes: &[u8]| BackendCell::read_from_bytes(bytes).unwrap_or_default();
        let mut sums: Vec<(u32, BackendCounter)> = Vec::new();
        // Each CPU's value is as long as a multiple of eight bytes, as the type is anyway. Most ids were never counted for.
        self.svc_counters.each_raw(&mut |id, value| {
            let sum = BackendCounter::sum(value.chunks_exact(size_of::<BackendCell>()).map(read));
            if sum != BackendCounter::default() {
                sums.push((id, sum));
            }
        })?;
        sums.sort_unstable_by_key(|(id, _)| *id);
        Ok(sums)
    }

    fn grace_period(&mut self) -> Result<(), StoreError> {
        if self.grace.is_none() {
            self.grace = Some(Grace::choose().map_err(StoreError::Grace)?);
        }
        self.grace.as_mut().map_or(Ok(()), Grace::wait).map_err(StoreError::Grace)
    }
}
