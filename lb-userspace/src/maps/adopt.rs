//! Takes over the maps that an earlier agent left, wherever it was cut off: reads everything back into the records and
//! removes what no order of writes could have left whole. It never touches what serves traffic; what is served and no
//! longer wanted goes with the first applies and `prune`.

use std::{collections::BTreeMap, sync::Arc};

use foldhash::{HashMap, HashSet};

use lb_common::abi::{Backend, ServiceKey, ServiceState, backend_state};
use smallvec::SmallVec;

use super::{
    content::slots_sum,
    ids::Ids,
    runs::Run,
    sets::is_open,
    shape::RangeEntry,
    store::{MapStore, StoreError},
    table::{SetRecord, Tables, clear_state},
};

/// What was found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Adopted {
    /// Frontends that are served.
    pub frontends: usize,
    /// Backend sets that they lead to.
    pub sets: usize,
    /// Backends.
    pub backends: usize,
    /// Frontends that led nowhere; deleted.
    pub broken_frontends: usize,
    /// Backend sets that no frontend leads to; deleted.
    pub unfinished_sets: usize,
    /// Source ranges of no backend set; deleted.
    pub stale_ranges: usize,
}

impl<S: MapStore> Tables<S> {
    /// Reads the maps. Afterwards the same state applied writes nothing, and equal backends keep their ids and
    /// generations, so that no connection is cut.
    ///
    /// # Errors
    /// If the maps cannot be read, or what is broken cannot be deleted.
    pub fn adopt(store: S) -> Result<(Self, Adopted), StoreError> {
        let mut tables = Self::new(store);
        let mut adopted = Adopted::default();
        tables.adopt_frontends(&mut adopted)?;
        tables.adopt_backends(&mut adopted)?;
        tables.adopt_ranges(&mut adopted)?;
        tables.adopt_addresses()?;
        tables.adopt_indexes(&mut adopted)?;
        tables.nameless = tables.sets.iter().filter(|(_, set)| set.port.is_none()).count();
        Ok((tables, adopted))
    }

    /// Goes on from `found`, the same maps adopted anew, and keeps what no map tells. Everything that is wanted is to be
    /// applied then, as after any adoption.
    pub fn go_on_from(&mut self, found: Self) {
        *self = Self {
            hash: Arc::clone(&self.hash),
            maglev_size: self.maglev_size,
            own_addresses: std::mem::take(&mut self.own_addresses),
            retired_udp: std::mem::take(&mut self.retired_udp),
            // The adoption has waited for a grace period itself: what is being waited for is free already.
            wait: self.wait + 1,
            ..found
        };
    }

    /// Frontends, and the sets that they lead to. One that leads to a free index is deleted before the index can go to
    /// another service.
    fn adopt_frontends(&mut self, adopted: &mut Adopted) -> Result<(), StoreError> {
        let mut by_index: BTreeMap<u32, SmallVec<[ServiceKey; 2]>> = BTreeMap::new();
        let mut broken: Vec<ServiceKey> = Vec::new();
        for (key, found) in self.store.services()? {
            if found.tag() == key.tag() {
                by_index.entry(found.index()).or_default().push(key);
                self.frontends.insert(key, found);
            } else {
                broken.push(key);
            }
        }
        for (index, keys) in by_index {
            let state = self.store.state(index).filter(|state| state.identity != 0);
            let run = state.as_ref().map(run_of).filter(|run| self.runs.reserve(*run));
            let (Some(state), Some(run)) = (state, run) else {
                for key in &keys {
                    self.frontends.remove(key);
                }
                broken.extend(keys);
                continue;
            };
            let slots = slots_sum(&self.store.slots(run.offset, run.len).unwrap_or_default());
            let record = SetRecord { identity: state.identity, run, slots, keys, ..SetRecord::default() };
            self.sets.insert(index, record);
            self.set_by_identity.entry(state.identity).or_insert(index);
        }
        self.store.delete_services(&broken).map_err(|error| error.source)?;
        for (key, reference) in &self.frontends {
            self.addresses.add(key, *reference);
        }
        adopted.broken_frontends = broken.len();
        adopted.frontends = self.frontends.len();
        adopted.sets = self.sets.len();
        Ok(())
    }

    /// Backends, by the port that they carry, and through them the ports of the sets. Those that stand in no run stay
    /// with their port: an apply that was cut off before its commit will want them again.
    fn adopt_backends(&mut self, adopted: &mut Adopted) -> Result<(), StoreError> {
        let slots: HashMap<u32, Vec<u32>> = self
            .sets
            .iter()
            .map(|(index, set)| (index, self.store.slots(set.run.offset, set.run.len).unwrap_or_default()))
            .collect();
        let used: HashSet<u32> = slots.values().flatten().copied().collect();
        let mut live: HashMap<u32, u64> = HashMap::default();
        let mut doubles: Vec<(u32, Backend)> = Vec::new();
        for (id, value) in self.store.backends()? {
            self.generations.set(id, value.generation);
            if value.state == backend_state::GONE {
                continue;
            }
            live.insert(id, value.service);
            let record = self.ports.entry(value.service).or_default();
            if let Some((other, known)) = record.backends.insert(id, &value, None, &self.generations) {
                let double = if used.contains(&other) {
                    record.backends.insert(other, &known, None, &self.generations)
                } else {
                    Some((other, known))
                };
                doubles.extend(double);
            }
        }
        for (id, value) in &mut doubles {
            value.state = backend_state::GONE;
            value.generation = self.generations.next(*id);
            live.remove(id);
        }
        self.store.put_backends(&doubles).map_err(|error| error.source)?;
        for (index, set) in self.sets.iter_mut() {
            set.port = slots[&index].iter().find_map(|id| live.get(id)).copied();
            if let Some(port) = set.port {
                self.ports.entry(port).or_default().sets.push(index);
            }
        }
        let mut in_use: Vec<u32> = live.into_keys().collect();
        in_use.sort_unstable();
        adopted.backends = in_use.len();
        self.ids = Ids::new(self.capacities.backends, in_use);
        Ok(())
    }

    fn adopt_ranges(&mut self, adopted: &mut Adopted) -> Result<(), StoreError> {
        let mut stale: Vec<RangeEntry> = Vec::new();
        for entry in self.store.source_ranges()? {
            match self.sets.get_mut(entry.key.service) {
                Some(set) => {
                    set.ranges.push(entry);
                }
                None => stale.push(entry),
            }
        }
        self.store.delete_source_ranges(&stale).map_err(|error| error.source)?;
        adopted.stale_ranges = stale.len();
        Ok(())
    }

    /// Frees the indexes that no frontend leads to. What the earlier agent had let go of may still be held by running
    /// programs: one grace period covers it all.
    fn adopt_indexes(&mut self, adopted: &mut Adopted) -> Result<(), StoreError> {
        let unfinished: Vec<u32> = (0..self.capacities.svc_state)
            .filter(|index| self.sets.get(*index).is_none())
            .filter(|index| self.store.state(*index).is_some_and(|state| state != ServiceState::default()))
            .collect();
        if !(unfinished.is_empty() && self.generations.is_empty() && self.frontends.is_empty()) {
            self.store.grace_period()?;
        }
        for index in &unfinished {
            clear_state(&mut self.store, *index);
        }
        adopted.unfinished_sets = unfinished.len();
        let in_use: Vec<u32> = self.sets.iter().map(|(index, _)| index).collect();
        self.indexes = Ids::new(self.capacities.svc_state, in_use);
        Ok(())
    }
}

/// The run that a state's word points to. While a change was under way, only the selectable part is sure to be its own;
/// the rest is not read by the datapath, and the next apply writes the set anew.
pub(super) fn run_of(state: &ServiceState) -> Run {
    let behind = if is_open(state.word) { 0 } else { state.draining };
    let len = u32::from(state.word.count()) + u32::from(behind);
    if len == 0 { Run::default() } else { Run { offset: state.word.offset(), len } }
}
