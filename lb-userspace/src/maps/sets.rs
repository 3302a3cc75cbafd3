//! The first half of an apply: backends and backend sets are written where no reader looks yet. Nothing here changes
//! what a new connection gets; a set that is to change waits for its commit in `frontends`.

use std::{
    collections::{HashMap, HashSet},
    iter::repeat_n,
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::abi::{Backend, ServiceState, StateWord, backend_state, service_flag};

use super::{
    backends::Whose,
    content::{RunContent, slots_sum},
    error::Cause,
    identity::set_identity,
    jobs::{Job, Pending, SetJob},
    maglev::{MaglevBackend, maglev_table},
    runs::Run,
    shape::RangeEntry,
    store::{MapStore, StoreError, write_each},
    table::{SetRecord, Tables, full},
    wanted::{CLASSES, WantedEndpoint, WantedPort, WantedSet},
    weights::repeats,
};

/// Where a write of a batch belongs.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) job: usize,
    pub(super) port: usize,
}

/// An even generation says that the set is whole; while it is odd, something around its commit word is being changed.
pub(super) const fn is_open(word: StateWord) -> bool {
    word.generation() & 1 == 1
}

/// `word` with the next even generation after `previous`.
pub(super) const fn closed_after(word: StateWord, previous: StateWord) -> StateWord {
    with_generation(word, (previous.generation() | 1).wrapping_add(1))
}

/// `word` with an odd generation after `previous`.
pub(super) const fn open_after(word: StateWord, previous: StateWord) -> StateWord {
    with_generation(word, (previous.generation() | 1).wrapping_add(2))
}

const fn with_generation(word: StateWord, generation: u8) -> StateWord {
    StateWord::new(word.offset(), word.count(), word.action(), generation)
}

/// Why the kernel refused, in the words of this map's size where that is it.
impl<S: MapStore> Tables<S> {
    pub(super) fn cause(&self, error: StoreError) -> Cause {
        match error {
            StoreError::Full { map } => full(map, &self.capacities, None),
            error @ (StoreError::Io { .. } | StoreError::Grace(_)) => Cause::Store(error),
        }
    }

    /// Writes new backends, and those whose state gets better; notes those whose state gets worse for later.
    pub(super) fn write_backends(&mut self, jobs: &mut [Job]) {
        let mut writes: Vec<(u32, Backend)> = Vec::new();
        let mut places: Vec<(Place, Option<WantedEndpoint>)> = Vec::new();
        for (job_at, job) in jobs.iter_mut().enumerate() {
            for port_at in 0..job.ports.len() {
                let place = Place { job: job_at, port: port_at };
                let new = self.plan_live_backends(job, place, &mut writes, &mut places);
                if let Err(cause) = self.ensure_ids(new.len()) {
                    job.fail_port(port_at, cause);
                    continue;
                }
                let WantedPort { identity, protocol, .. } = job.ports[port_at].wanted;
                for wanted in new {
                    let Some(id) = self.ids.allocate() else { break };
                    let (addr, port) = wanted.endpoint;
                    let mut value = Backend::new(addr, port, protocol.number(), identity);
                    value.generation = self.generations.next(id);
                    value.state = wanted.state;
                    value.weight = wanted.weight;
                    value.flags = wanted.flags;
                    writes.push((id, value));
                    places.push((place, Some(wanted)));
                }
            }
        }
        let mut failed: HashMap<usize, StoreError> =
            write_each(&writes, |items| self.store.put_backends(items)).into_iter().collect();
        for (at, ((id, value), (place, new))) in writes.into_iter().zip(places).enumerate() {
            let job = &mut jobs[place.job];
            let outcome = failed.remove(&at);
            let record = self.ports.entry(job.ports[place.port].wanted.identity).or_default();
            match (outcome, new) {
                (None, Some(WantedEndpoint { zone, .. })) => {
                    record.backends.insert(id, &value, zone.as_ref(), &self.generations);
                    job.outcome.backends_added += 1;
                }
                (None, None) => {
                    record.backends.update(&value);
                    job.outcome.backends_changed += 1;
                }
                (Some(error), new) => {
                    if new.is_some() {
                        self.ids.free(id);
                    }
                    let cause = self.cause(error);
                    if !job.ports[place.port].failed {
                        job.fail_port(place.port, cause);
                    }
                }
            }
        }
    }

    /// Sorts a port's endpoints: those that have no id yet are returned, changes of the others go to `writes` or wait.
    fn plan_live_backends(
        &mut self,
        job: &mut Job,
        place: Place,
        writes: &mut Vec<(u32, Backend)>,
        places: &mut Vec<(Place, Option<WantedEndpoint>)>,
    ) -> Vec<WantedEndpoint> {
        let port = &mut job.ports[place.port];
        let Some(record) = self.ports.get_mut(&port.wanted.identity) else { return Vec::new() };
        let whose = Whose { service: port.wanted.identity, generations: &self.generations };
        let mut new: Vec<WantedEndpoint> = Vec::new();
        let mut touched = false;
        for wanted in &port.wanted.endpoints {
            let Some(at) = record.backends.find(wanted.endpoint) else {
                new.push(wanted.clone());
                continue;
            };
            record.backends.set_zone(at, wanted.zone.as_ref());
            let (id, now) = (record.backends.id(at), record.backends.value(at, whose));
            let mut value = now;
            value.state = wanted.state;
            value.weight = wanted.weight;
            value.flags = wanted.flags;
            if value == now {
                continue;
            }
            touched = true;
            if now.state == backend_state::ACTIVE && value.state != backend_state::ACTIVE {
                port.lowered.push((id, value));
            } else {
                writes.push((id, value));
                places.push((place, None));
            }
        }
        let v4 = new.iter().filter(|wanted| wanted.endpoint.0.is_v4()).count();
        record.backends.reserve(v4, new.len() - v4);
        if touched {
            // Their backends are not written in the same instant as their words.
            for index in &record.sets {
                begin(&mut self.store, *index);
            }
        }
        new
    }

    /// Makes new sets, and prepares changed ones.
    pub(super) fn write_sets(&mut self, jobs: &mut [Job]) {
        let mut ranges: Vec<RangeEntry> = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        for (job_at, job) in jobs.iter_mut().enumerate() {
            for port_at in 0..job.ports.len() {
                if job.ports[port_at].failed {
                    continue;
                }
                if let Err(cause) = self.make_sets(job, port_at, &mut ranges) {
                    job.fail_port(port_at, cause);
                    self.abandon(job, port_at);
                }
                places.resize(ranges.len(), Place { job: job_at, port: port_at });
            }
        }
        let mut failed: HashMap<usize, StoreError> =
            write_each(&ranges, |items| self.store.put_source_ranges(items)).into_iter().collect();
        for (at, (entry, place)) in ranges.into_iter().zip(places).enumerate() {
            match failed.remove(&at) {
                None => {
                    if let Some(set) = self.sets.get_mut(entry.key.service)
                        && !set.ranges.contains(&entry)
                    {
                        set.ranges.push(entry);
                    }
                }
                Some(error) => {
                    let cause = self.cause(error);
                    let job = &mut jobs[place.job];
                    if !job.ports[place.port].failed {
                        job.fail_port(place.port, cause);
                        self.abandon(job, place.port);
                    }
                }
            }
        }
    }

    /// Gives back the runs of changes that will not be committed. No reader has seen them.
    pub(super) fn abandon(&mut self, job: &mut Job, port_at: usize) {
        for set in &mut job.ports[port_at].sets {
            if let Some(pending) = set.pending.take()
                && self.sets.get(set.index).is_some_and(|record| record.run != pending.run)
            {
                self.runs.free(pending.run);
            }
        }
    }

    fn make_sets(&mut self, job: &mut Job, port_at: usize, ranges: &mut Vec<RangeEntry>) -> Result<(), Cause> {
        for set_at in 0..job.ports[port_at].wanted.sets.len() {
            let mut made = match self.make_set(job, port_at, set_at) {
                Err(cause) if job.choose_at_random(port_at, set_at, &cause) => {
                    let made = self.make_set(job, port_at, set_at)?;
                    job.fall_back(port_at, cause);
                    made
                }
                made => made?,
            };
            self.compare_ranges(&mut made, &job.ports[port_at].wanted.sets[set_at].ranges, ranges);
            made.open = self.store.state(made.index).is_some_and(|state| is_open(state.word));
            job.ports[port_at].sets.push(made);
        }
        Ok(())
    }

    /// Notes which entries of a set's source ranges are to go, and adds those that are to come to `ranges`.
    fn compare_ranges(&mut self, made: &mut SetJob, wanted: &[IpNet], ranges: &mut Vec<RangeEntry>) {
        let now = self.sets.get(made.index).map(|record| &*record.ranges).unwrap_or_default();
        if wanted.is_empty() && now.is_empty() {
            return;
        }
        let mut entries: Vec<RangeEntry> =
            wanted.iter().map(|net| RangeEntry::new(made.index, net.addr().into(), net.prefix_len())).collect();
        // The node is let in if one of its addresses is, as behind kube-proxy.
        let own = self.addresses.own().map(IpAddr::from).chain(self.own_addresses.iter().copied());
        let own = own.filter(|own| wanted.iter().any(|net| net.contains(own)));
        let families: HashSet<bool> = own.map(|own| own.is_ipv4()).collect();
        entries.extend(families.into_iter().map(|v4| RangeEntry::node_itself(made.index, v4)));
        made.stale_ranges = now.iter().filter(|entry| !entries.contains(entry)).copied().collect();
        let before = ranges.len();
        ranges.extend(entries.into_iter().filter(|entry| !now.contains(entry)));
        if !made.fresh && (ranges.len() > before || !made.stale_ranges.is_empty()) {
            begin(&mut self.store, made.index);
        }
    }

    fn make_set(&mut self, job: &mut Job, port_at: usize, set_at: usize) -> Result<SetJob, Cause> {
        let wanted = &job.ports[port_at].wanted;
        let set = &wanted.sets[set_at];
        let (slots, count, behind) = self.slots_of(wanted, set)?;
        if let Some(index) = set.current {
            return self.prepare_set(index, set, &slots, count, behind);
        }
        let made = self.new_set(wanted.identity, set, &slots, count, behind)?;
        job.outcome.sets_committed += 1;
        Ok(made)
    }

    /// The slots of a wanted set, and how many are selectable and how many stand behind.
    fn slots_of(&self, port: &WantedPort, set: &WantedSet) -> Result<(Vec<u32>, u16, u16), Cause> {
        let backends = self.ports.get(&port.identity).map(|record| &record.backends);
        let id = |at: &usize| {
            let id = backends.and_then(|known| Some(known.id(known.find(port.endpoints[*at].endpoint)?)));
            id.expect("every endpoint of a port that did not fail has an id")
        };
        let ids: Vec<u32> = set.selectable.iter().map(|(at, _)| id(at)).collect();
        let drawn = if set.flags & service_flag::MAGLEV == 0 { random(set) } else { self.maglev(port, set)? };
        let content = RunContent {
            selectable: drawn.into_iter().map(|at| ids[at]).collect(),
            idle: set.idle.iter().map(id).collect(),
            draining: set.draining.iter().map(id).collect(),
        };
        let endpoints = set.selectable.len() + set.idle.len() + set.draining.len();
        content.to_slots().ok_or(Cause::TooManySlots { endpoints })
    }

    /// A Maglev table, as positions in [`WantedSet::selectable`].
    fn maglev(&self, port: &WantedPort, set: &WantedSet) -> Result<Vec<usize>, Cause> {
        let backends: Vec<MaglevBackend> = set
            .selectable
            .iter()
            .map(|(at, weight)| {
                let (addr, port) = port.endpoints[*at].endpoint;
                MaglevBackend { addr, port, weight: *weight }
            })
            .collect();
        let size = self.maglev_size;
        let table = maglev_table(size, &backends);
        let table = table.ok_or(Cause::SmallTable { endpoints: backends.len(), size: size.get() })?;
        Ok(table.into_iter().map(usize::from).collect())
    }

    fn new_set(
        &mut self,
        port: u64,
        wanted: &WantedSet,
        slots: &[u32],
        count: u16,
        behind: u16,
    ) -> Result<SetJob, Cause> {
        let index = self.allocate_index()?;
        let run = match self.allocate_run(slots.len()) {
            Ok(run) => run,
            Err(cause) => {
                self.indexes.free(index);
                return Err(cause);
            }
        };
        let identity = self.unused_identity(port, wanted.class);
        let word = StateWord::new(run.offset, count, wanted.action, 0);
        self.store.put_slots(run.offset, slots);
        self.store.put_state(index, &ServiceState::new(word, identity, wanted.affinity_seconds, wanted.flags, behind));
        self.store.commit(index, word);
        let sum = slots_sum(slots);
        let record = SetRecord { identity, port: Some(port), run, slots: sum, unseen: true, ..SetRecord::default() };
        self.sets.insert(index, record);
        self.set_by_identity.insert(identity, index);
        self.ports.entry(port).or_default().sets.push(index);
        Ok(SetJob { index, fresh: true, pending: None, stale_ranges: Vec::new(), open: false })
    }

    /// The first identity of the class that no living set has.
    fn unused_identity(&self, port: u64, class: u32) -> u64 {
        (class..)
            .step_by(CLASSES as usize)
            .map(|discriminator| set_identity(&*self.hash, port, discriminator))
            .find(|identity| !self.set_by_identity.contains_key(identity))
            .expect("there are more identities than indexes")
    }

    fn prepare_set(
        &mut self,
        index: u32,
        wanted: &WantedSet,
        slots: &[u32],
        count: u16,
        behind: u16,
    ) -> Result<SetJob, Cause> {
        let Run { offset, len } = self.sets.get(index).map(|set| set.run).unwrap_or_default();
        let now = self.store.state(index).unwrap_or_default();
        let same_slots = self.store.slots(offset, len).as_deref() == Some(slots);
        let run = if same_slots { Run { offset, len } } else { self.allocate_run(slots.len())? };
        let word = StateWord::new(run.offset, count, wanted.action, 0);
        let state = ServiceState::new(word, now.identity, wanted.affinity_seconds, wanted.flags, behind);
        if !same_slots {
            self.store.put_slots(run.offset, slots);
        }
        let mut job = SetJob { index, fresh: false, pending: None, stale_ranges: Vec::new(), open: false };
        if with_generation(now.word, 0) == word && same_rest(&now, &state) && !is_open(now.word) {
            return Ok(job);
        }
        if !same_rest(&now, &state) {
            begin(&mut self.store, index);
        }
        job.pending = Some(Pending { run, slots: slots_sum(slots), word, state });
        Ok(job)
    }
}

/// Slots for random choice, as positions in [`WantedSet::selectable`]: each as often as its weight asks.
fn random(set: &WantedSet) -> Vec<usize> {
    if set.selectable.iter().all(|(_, weight)| *weight == 1) {
        return (0..set.selectable.len()).collect();
    }
    let weights: Vec<u16> = set.selectable.iter().map(|(_, weight)| *weight).collect();
    let slots = repeats(&weights).into_iter().enumerate();
    slots.flat_map(|(at, slots)| repeat_n(at, usize::from(slots))).collect()
}

/// Whether two states agree in everything but their commit words.
pub(super) fn same_rest(a: &ServiceState, b: &ServiceState) -> bool {
    let rest = |s: &ServiceState| (s.identity, s.affinity_seconds, s.flags, s.draining);
    rest(a) == rest(b)
}

/// Makes the generation of a set odd, if it is not: `dump` waits until it is even again.
pub(super) fn begin(store: &mut impl MapStore, index: u32) {
    if let Some(state) = store.state(index)
        && !is_open(state.word)
    {
        store.commit(index, with_generation(state.word, state.word.generation() | 1));
    }
}
