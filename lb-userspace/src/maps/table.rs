//! The agent's picture of the maps: who holds which index, id and slot, and what waits for a grace period before its
//! place is used again. Changes of services are made by `apply`; this file holds the records and the allocators.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use foldhash::HashMap;

use lb_common::abi::{ServiceKey, ServiceRef, ServiceState, StateWord, map};
use smallvec::SmallVec;

use super::{
    addresses::Addresses,
    backends::{Backends, Whose},
    capacity::Capacities,
    dense::Dense,
    error::Cause,
    generations::Generations,
    identity::{Fnv, Identify},
    ids::Ids,
    maglev::MaglevSize,
    runs::{Run, Runs},
    shape::RangeEntry,
    store::{MapStore, StoreError},
};
use crate::plan::state::{Protocol, ServiceName};

/// Whose port it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PortName {
    pub(super) service: ServiceName,
    pub(super) name: Arc<str>,
    pub(super) protocol: Protocol,
}

/// A service port.
#[derive(Debug, Default)]
pub(super) struct PortRecord {
    /// `None`: adopted, and no apply has claimed it yet.
    pub(super) owner: Option<PortName>,
    /// Indexes of its backend sets.
    pub(super) sets: SmallVec<[u32; 4]>,
    pub(super) backends: Backends,
}

/// A backend set, by its index. What is in its slots and state is in the map only; of the slots there is a sum, by which
/// `verify` tells that somebody else wrote there.
#[derive(Debug, Default)]
pub(super) struct SetRecord {
    pub(super) identity: u64,
    /// `None`: adopted without backends, and no apply has claimed it yet.
    pub(super) port: Option<u64>,
    /// The run that its commit word points to.
    pub(super) run: Run,
    /// [`super::content::slots_sum`] of what was written there.
    pub(super) slots: u64,
    /// Frontends that lead to it, each once: an address has two, and most sets have one address.
    pub(super) keys: SmallVec<[ServiceKey; 2]>,
    /// Each once.
    pub(super) ranges: Vec<RangeEntry>,
    /// Made by an apply, and no frontend has led to it so far.
    pub(super) unseen: bool,
}

/// What nothing leads to any more, but running programs may still hold.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    pub(super) indexes: Vec<u32>,
    pub(super) backends: Vec<u32>,
    pub(super) runs: Vec<Run>,
}

impl Limbo {
    fn is_empty(&self) -> bool {
        let Self { indexes, backends, runs } = self;
        indexes.is_empty() && backends.is_empty() && runs.is_empty()
    }

    fn append(&mut self, other: Self) {
        let Self { indexes, backends, runs } = other;
        self.indexes.extend(indexes);
        self.backends.extend(backends);
        self.runs.extend(runs);
    }
}

/// Stands for places that were freed and wait for a grace period beside the tables.
#[derive(Debug)]
#[must_use = "the places stay unused until they are handed back"]
pub struct Freed {
    wait: u64,
}

/// The maps with everything that is needed to change them.
pub struct Tables<S> {
    pub(super) store: S,
    pub(super) hash: Arc<dyn Identify + Send + Sync>,
    pub(super) capacities: Capacities,
    pub(super) maglev_size: MaglevSize,
    pub(super) frontends: HashMap<ServiceKey, ServiceRef>,
    /// By index.
    pub(super) sets: Dense<SetRecord>,
    pub(super) set_by_identity: HashMap<u64, u32>,
    /// No more adopted sets than this have no port yet.
    pub(super) nameless: usize,
    pub(super) ports: HashMap<u64, Box<PortRecord>>,
    /// Identities of the ports of each Service.
    pub(super) services: HashMap<ServiceName, SmallVec<[u64; 2]>>,
    pub(super) addresses: Addresses,
    /// See [`Tables::set_own_addresses`].
    pub(super) own_addresses: Vec<IpAddr>,
    pub(super) indexes: Ids,
    pub(super) ids: Ids,
    pub(super) generations: Generations,
    pub(super) runs: Runs,
    pub(super) limbo: Limbo,
    /// What a [`Freed`] stands for.
    pub(super) waiting: Limbo,
    /// Number of the wait under way: a [`Freed`] of another one stands for nothing any more.
    pub(super) wait: u64,
    /// UDP endpoints of backends that were let go, until somebody asks.
    pub(super) retired_udp: HashSet<SocketAddr>,
}

impl<S: MapStore> Tables<S> {
    /// Tables over maps that are known to be empty. Over maps that an earlier agent may have filled use
    /// [`Tables::adopt`], which costs nothing more when they are empty.
    pub fn new(store: S) -> Self {
        let capacities = store.capacities();
        Self {
            store,
            hash: Arc::new(Fnv),
            capacities,
            maglev_size: MaglevSize::DEFAULT,
            frontends: HashMap::default(),
            sets: Dense::default(),
            set_by_identity: HashMap::default(),
            nameless: 0,
            ports: HashMap::default(),
            services: HashMap::default(),
            addresses: Addresses::default(),
            own_addresses: Vec::new(),
            indexes: Ids::new(capacities.svc_state, []),
            ids: Ids::new(capacities.backends, []),
            generations: Generations::default(),
            runs: Runs::new(capacities.slots),
            limbo: Limbo::default(),
            waiting: Limbo::default(),
            wait: 0,
            retired_udp: HashSet::new(),
        }
    }

    /// Names become numbers by `hash` instead of [`Fnv`]. For tests; before the first apply.
    #[must_use]
    pub fn with_hash(mut self, hash: impl Identify + Send + Sync + 'static) -> Self {
        self.hash = Arc::new(hash);
        self
    }

    /// Maglev tables get this size instead of [`MaglevSize::DEFAULT`]. Tables of another size are rebuilt by the next
    /// apply of their Service.
    #[must_use]
    pub fn with_maglev_size(mut self, size: MaglevSize) -> Self {
        self.maglev_size = size;
        self
    }

    /// The maps.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The maps, for tables that are not services': devices, configuration, counters. Services' tables may only be
    /// changed through [`Tables::apply`].
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Gives the maps back and forgets everything else, as the end of a process does.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Services that hold something in the maps, in no order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// The UDP endpoints of backends that were let go since the last call: sockets may still be connected to them.
    #[must_use]
    pub fn take_retired_udp(&mut self) -> HashSet<SocketAddr> {
        std::mem::take(&mut self.retired_udp)
    }

    /// Addresses of the node beside those that node ports listen on: with source ranges around one of them, the node
    /// itself is let in. Gives whether they changed: Services with source ranges are then to be applied again.
    pub fn set_own_addresses(&mut self, addresses: Vec<IpAddr>) -> bool {
        let changed = self.own_addresses != addresses;
        self.own_addresses = addresses;
        changed
    }

    /// Whether [`Tables::collect`] has something to do.
    #[must_use]
    pub fn needs_collect(&self) -> bool {
        !self.limbo.is_empty()
    }

    /// Waits for one RCU grace period (milliseconds) and makes everything that was freed before it free to use again, also
    /// what waits elsewhere. An apply that runs out of room calls it by itself; off the hot path
    /// [`Tables::begin_collect`] does not wait.
    ///
    /// # Errors
    /// If the wait fails; nothing is reused then, and the next call tries again.
    pub fn collect(&mut self) -> Result<(), StoreError> {
        if self.limbo.is_empty() && self.waiting.is_empty() {
            return Ok(());
        }
        self.store.grace_period()?;
        let freed = self.begin_collect();
        self.finish_collect(freed);
        Ok(())
    }

    /// Has everything that was freed so far wait together. Once a grace period that began after this call is over (see
    /// [`super::Grace`]), hand the result to [`Tables::finish_collect`], or to [`Tables::give_up_collect`] if there was
    /// none. What waited already waits anew.
    pub fn begin_collect(&mut self) -> Freed {
        self.waiting.append(std::mem::take(&mut self.limbo));
        self.wait += 1;
        Freed { wait: self.wait }
    }

    /// Makes what was freed free to use again.
    pub fn finish_collect(&mut self, freed: Freed) {
        if freed.wait != self.wait {
            return;
        }
        let Limbo { indexes, backends, runs } = std::mem::take(&mut self.waiting);
        for index in indexes {
            clear_state(&mut self.store, index);
            self.indexes.free(index);
        }
        for run in runs {
            self.runs.free(run);
        }
        for id in backends {
            self.ids.free(id);
        }
    }

    /// Puts back what could not be collected.
    pub fn give_up_collect(&mut self, freed: Freed) {
        if freed.wait == self.wait {
            self.limbo.append(std::mem::take(&mut self.waiting));
        }
    }

    /// An index for a new backend set.
    pub(super) fn allocate_index(&mut self) -> Result<u32, Cause> {
        if let Some(index) = self.indexes.allocate() {
            return Ok(index);
        }
        self.collect().map_err(Cause::Store)?;
        self.indexes.allocate().ok_or_else(|| full(map::SVC_STATE, &self.capacities, None))
    }

    /// Makes sure that `count` backend ids can be allocated.
    pub(super) fn ensure_ids(&mut self, count: usize) -> Result<(), Cause> {
        if self.ids.available() < count {
            self.collect().map_err(Cause::Store)?;
        }
        let available = self.ids.available();
        if available < count {
            return Err(full(map::BACKENDS, &self.capacities, Some((count, available))));
        }
        Ok(())
    }

    /// What the values of a port's backends have besides what stands with each.
    pub(super) const fn whose(&self, service: u64) -> Whose<'_> {
        Whose { service, generations: &self.generations }
    }

    /// A run of `len` slots.
    pub(super) fn allocate_run(&mut self, len: usize) -> Result<Run, Cause> {
        let wanted = u32::try_from(len).unwrap_or(u32::MAX);
        if let Some(run) = self.runs.allocate(wanted) {
            return Ok(run);
        }
        self.collect().map_err(Cause::Store)?;
        let (_, longest) = self.runs.available();
        self.runs.allocate(wanted).ok_or_else(|| full(map::SLOTS, &self.capacities, Some((len, longest as usize))))
    }
}

/// Marks an index as free: its identity goes first, so that flows that still name it leave it.
pub(super) fn clear_state(store: &mut impl MapStore, index: u32) {
    store.put_state(index, &ServiceState::default());
    store.commit(index, StateWord::default());
}

/// The cause "full" of a map, with the flag that enlarges it.
pub(super) fn full(map: &'static str, capacities: &Capacities, needed: Option<(usize, usize)>) -> Cause {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Cause::Full {
        map,
        capacity: capacities.of(map).unwrap_or(0),
        flag: Capacities::flag(map).unwrap_or("its size"),
        needed: needed.map(|(needed, available)| (count(needed), count(available))),
    }
}
