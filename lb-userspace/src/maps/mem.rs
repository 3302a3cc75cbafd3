//! A model of the kernel's maps in memory, for tests: with the kernel's capacities and its reuse of hash elements, with
//! faults on demand, an agent that is killed at any write, and an observer that sees the maps between every two writes.
//! It never waits and knows no clock.

use std::io;

use lb_common::{
    abi::{
        Addr, AddrInfo, AffinityEntry, AffinityKey, Backend, BackendCounter, Config, Counter, Dev, Flow, ServiceKey,
        ServiceRef, ServiceState, SkipKey, SockEntry, SockKey, StateWord, Tuple, map,
    },
    datapath::FlowTable,
};

use super::{
    capacity::Capacities,
    contents::Contents,
    shape::{PodNet, RangeEntry},
    store::{BatchError, MapStore, StoreError},
};

/// Which fallible writes fail. Memory-mapped ones never do.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Faults {
    /// None.
    #[default]
    None,
    /// Each n-th.
    Every(u64),
    /// So many percent of them, chosen by the seed.
    Percent {
        /// 0 to 100.
        percent: u64,
        /// Equal seeds choose equally.
        seed: u64,
    },
}

/// What an observer is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// One write, or one step of it, has become visible.
    Write,
    /// A grace period ends: every reader that began before it has to be done.
    Grace,
}

/// Looks at the maps after each event.
pub type Observer = Box<dyn FnMut(Event, &Contents) + Send>;

/// The maps in memory. A clone is a snapshot without observer.
pub struct MemStore {
    pub(super) contents: Contents,
    faults: Faults,
    /// Fallible writes so far.
    attempts: u64,
    /// All writes so far.
    writes: u64,
    killed_after: Option<u64>,
    observer: Option<Observer>,
}

impl Clone for MemStore {
    fn clone(&self) -> Self {
        let Self { contents, faults, attempts, writes, killed_after, observer: _ } = self;
        Self {
            contents: contents.clone(),
            faults: *faults,
            attempts: *attempts,
            writes: *writes,
            killed_after: *killed_after,
            observer: None,
        }
    }
}

impl MemStore {
    /// Empty maps of these sizes.
    #[must_use]
    pub fn new(capacities: Capacities) -> Self {
        let contents = Contents::new(capacities);
        Self { contents, faults: Faults::None, attempts: 0, writes: 0, killed_after: None, observer: None }
    }

    /// From now on these writes fail.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// From now on the observer is called; it replaces any before it.
    pub fn observe(&mut self, observer: Observer) {
        self.observer = Some(observer);
    }

    /// After `writes` more writes nothing changes any more, as if the agent had been killed.
    pub fn kill_after(&mut self, writes: u64) {
        self.killed_after = Some(self.writes + writes);
    }

    /// Whether a write has come after [`Self::kill_after`] ran out.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.killed_after.is_some_and(|end| self.writes > end)
    }

    /// As another process finds the maps: nothing fails any more, and nobody observes.
    pub fn restart(&mut self) {
        self.faults = Faults::None;
        self.killed_after = None;
        self.observer = None;
    }

    /// Writes so far: one for each element.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// What the maps hold.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// What the maps hold, to be damaged by tests or filled as the datapath would.
    pub fn contents_mut(&mut self) -> &mut Contents {
        &mut self.contents
    }

    fn notify(&mut self, event: Event) {
        if let Some(mut observer) = self.observer.take() {
            observer(event, &self.contents);
            self.observer = Some(observer);
        }
    }

    /// Counts a write; false if the agent is dead.
    fn begin(&mut self) -> bool {
        if self.killed_after.is_some_and(|end| self.writes >= end) {
            self.writes = self.writes.saturating_add(1);
            return false;
        }
        self.writes += 1;
        true
    }

    /// A write that cannot fail.
    fn store(&mut self, write: impl FnOnce(&mut Contents)) {
        if self.begin() {
            write(&mut self.contents);
            self.notify(Event::Write);
        }
    }

    /// A write in as many steps as readers can see, each given the contents; any step may refuse.
    fn try_store<const N: usize>(
        &mut self,
        map: &'static str,
        operation: &'static str,
        mut step: impl FnMut(usize, &mut Contents) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.attempts += 1;
        let fault = match self.faults {
            Faults::None => false,
            Faults::Every(n) => self.attempts.is_multiple_of(n),
            Faults::Percent { percent, seed } => splitmix(seed ^ self.attempts) % 100 < percent,
        };
        let dead = !self.begin();
        if fault || dead {
            let source = io::Error::other(if dead { "the agent was killed" } else { "injected fault" });
            return Err(StoreError::Io { map, operation, source });
        }
        for n in 0..N {
            step(n, &mut self.contents)?;
            self.notify(Event::Write);
        }
        Ok(())
    }
}

fn splitmix(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn each<T>(items: &[T], mut write: impl FnMut(&T) -> Result<(), StoreError>) -> Result<(), BatchError> {
    for (done, item) in items.iter().enumerate() {
        write(item).map_err(|source| BatchError { done, source })?;
    }
    Ok(())
}

impl MapStore for MemStore {
    fn capacities(&self) -> Capacities {
        self.contents.capacities
    }

    fn services(&self) -> Result<Vec<(ServiceKey, ServiceRef)>, StoreError> {
        Ok(self.contents.services.entries().collect())
    }

    fn service(&self, key: &ServiceKey) -> Result<Option<ServiceRef>, StoreError> {
        Ok(self.contents.services.find(key).map(|at| self.contents.services.value(at)))
    }

    fn put_services(&mut self, items: &[(ServiceKey, ServiceRef)]) -> Result<(), BatchError> {
        each(items, |(key, value)| {
            let mut made = None;
            self.try_store::<2>(map::SERVICES, "update", |step, contents| {
                match step {
                    // The element is filled before it is linked: who still stands on it sees that.
                    0 => made = Some(contents.services.fill(*key, *value)?),
                    _ => contents.services.link(made.take().expect("step 0 comes first")),
                }
                Ok(())
            })
        })
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Result<(), BatchError> {
        each(keys, |key| {
            self.try_store::<1>(map::SERVICES, "delete from", |_, contents| {
                contents.services.delete(key);
                Ok(())
            })
        })
    }

    fn state(&self, index: u32) -> Option<ServiceState> {
        self.contents.svc_state.get(index as usize).copied()
    }

    fn put_state(&mut self, index: u32, state: &ServiceState) {
        let ServiceState { identity, affinity_seconds, flags, draining, .. } = *state;
        // Two words besides the commit word, each one store.
        self.store(|contents| contents.svc_state[index as usize].identity = identity);
        self.store(|contents| {
            let slot = &mut contents.svc_state[index as usize];
            (slot.affinity_seconds, slot.flags, slot.draining) = (affinity_seconds, flags, draining);
        });
    }

    fn commit(&mut self, index: u32, word: StateWord) {
        self.store(|contents| contents.svc_state[index as usize].word = word);
    }

    fn slots(&self, offset: u32, len: u32) -> Option<Vec<u32>> {
        let start = offset as usize;
        self.contents.slots.get(start..start + len as usize).map(<[u32]>::to_vec)
    }

    fn put_slots(&mut self, offset: u32, ids: &[u32]) {
        for (at, id) in ids.iter().enumerate() {
            self.store(|contents| contents.slots[offset as usize + at] = *id);
        }
    }

    fn backends(&self) -> Result<Vec<(u32, Backend)>, StoreError> {
        Ok((0..).zip(&self.contents.backends).filter(|(_, b)| b.generation != 0).map(|(id, b)| (id, *b)).collect())
    }

    fn backend(&self, id: u32) -> Result<Option<Backend>, StoreError> {
        Ok(self.contents.backends.get(id as usize).filter(|b| b.generation != 0).copied())
    }

    fn put_backends(&mut self, items: &[(u32, Backend)]) -> Result<(), BatchError> {
        each(items, |(id, backend)| {
            self.try_store::<1>(map::BACKENDS, "update", |_, contents| {
                contents.backends[*id as usize] = *backend;
                Ok(())
            })
        })
    }

    fn source_ranges(&self) -> Result<Vec<RangeEntry>, StoreError> {
        Ok(self.contents.source_ranges.iter().copied().collect())
    }

    fn put_source_ranges(&mut self, items: &[RangeEntry]) -> Result<(), BatchError> {
        each(items, |entry| self.try_store::<1>(map::SOURCE_RANGES, "update", |_, contents| contents.put_range(*entry)))
    }

    fn delete_source_ranges(&mut self, items: &[RangeEntry]) -> Result<(), BatchError> {
        each(items, |entry| {
            self.try_store::<1>(map::SOURCE_RANGES, "delete from", |_, contents| {
                contents.source_ranges.remove(entry);
                Ok(())
            })
        })
    }

    fn addrs(&self) -> Result<Vec<(Addr, AddrInfo)>, StoreError> {
        Ok(self.contents.addrs.iter().map(|(addr, value)| (*addr, *value)).collect())
    }

    fn put_addrs(&mut self, items: &[(Addr, AddrInfo)]) -> Result<(), BatchError> {
        each(items, |(addr, value)| {
            self.try_store::<1>(map::ADDRS, "update", |_, contents| contents.put_addr(*addr, *value))
        })
    }

    fn delete_addrs(&mut self, addrs: &[Addr]) -> Result<(), BatchError> {
        each(addrs, |addr| {
            self.try_store::<1>(map::ADDRS, "delete from", |_, contents| {
                contents.addrs.remove(addr);
                Ok(())
            })
        })
    }

    fn pod_nets(&self) -> Result<Vec<PodNet>, StoreError> {
        Ok(self.contents.pod_nets.keys().copied().collect())
    }

    fn put_pod_net(&mut self, net: PodNet) -> Result<(), StoreError> {
        self.try_store::<1>(map::POD_NETS, "update", |_, contents| contents.put_pod_net(net))
    }

    fn delete_pod_net(&mut self, net: PodNet) -> Result<(), StoreError> {
        self.try_store::<1>(map::POD_NETS, "delete from", |_, contents| {
            contents.pod_nets.remove(&net);
            Ok(())
        })
    }

    fn devs(&self) -> Result<Vec<(u32, Dev)>, StoreError> {
        Ok(self.contents.devs.iter().map(|(ifindex, dev)| (*ifindex, *dev)).collect())
    }

    fn put_dev(&mut self, ifindex: u32, dev: Dev) -> Result<(), StoreError> {
        self.try_store::<1>(map::DEVS, "update", |_, contents| contents.put_dev(ifindex, dev))
    }

    fn delete_dev(&mut self, ifindex: u32) -> Result<(), StoreError> {
        self.try_store::<1>(map::DEVS, "delete from", |_, contents| {
            contents.devs.remove(&ifindex);
            Ok(())
        })
    }

    fn config(&self) -> Result<Config, StoreError> {
        Ok(self.contents.config)
    }

    fn put_config(&mut self, config: Config) -> Result<(), StoreError> {
        self.try_store::<1>(map::CONFIG, "update", |_, contents| {
            contents.config = config;
            Ok(())
        })
    }

    fn each_flow(&self, table: FlowTable, show: &mut dyn FnMut(&Tuple, &Flow)) -> Result<(), StoreError> {
        let entries = match table {
            FlowTable::Flows => &self.contents.flows,
            FlowTable::Embryos => &self.contents.embryos,
            FlowTable::Frags => &self.contents.frags,
        };
        entries.iter().for_each(|(key, flow)| show(key, flow));
        Ok(())
    }

    fn sock_revnat(&self) -> Result<Vec<(SockKey, SockEntry)>, StoreError> {
        Ok(self.contents.sock_revnat.iter().map(|(key, entry)| (*key, *entry)).collect())
    }

    fn sock(&self, key: &SockKey) -> Result<Option<SockEntry>, StoreError> {
        Ok(self.contents.sock_revnat.get(key).copied())
    }

    fn skips(&self) -> Result<Vec<SkipKey>, StoreError> {
        Ok(self.contents.skips.keys().copied().collect())
    }

    fn put_skip(&mut self, key: SkipKey) -> Result<(), StoreError> {
        self.try_store::<1>(map::SKIPS, "update", |_, contents| contents.put_skip(key))
    }

    fn delete_skip(&mut self, key: SkipKey) -> Result<(), StoreError> {
        self.try_store::<1>(map::SKIPS, "delete from", |_, contents| {
            contents.skips.remove(&key);
            Ok(())
        })
    }

    fn affinity(&self) -> Result<Vec<(AffinityKey, AffinityEntry)>, StoreError> {
        Ok(self.contents.affinity.iter().map(|(key, entry)| (*key, *entry)).collect())
    }

    fn counters(&self) -> Result<Vec<u64>, StoreError> {
        Ok(Counter::ALL.iter().map(|counter| self.contents.counters[*counter as usize]).collect())
    }

    fn backend_counters(&self) -> Result<Vec<(u32, BackendCounter)>, StoreError> {
        let counters = (0..).zip(self.contents.backend_counters.iter().copied());
        Ok(counters.filter(|(_, counter)| *counter != BackendCounter::default()).collect())
    }

    fn grace_period(&mut self) -> Result<(), StoreError> {
        if self.killed_after.is_some_and(|end| self.writes >= end) {
            return Err(StoreError::Grace(io::Error::other("the agent was killed")));
        }
        self.notify(Event::Grace);
        Ok(())
    }
}
