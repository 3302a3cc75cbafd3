//! How full the maps are: those of Services by the books, those that programs fill by counting.

use lb_common::{
    abi::{Flow, Tuple, map, role},
    datapath::FlowTable,
};

use super::{
    capacity::SKIPS,
    store::{MapStore, StoreError},
    table::Tables,
};

/// How full a map is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Name of the map.
    pub map: &'static str,
    /// Entries in use, those that wait for a grace period included.
    pub used: u32,
    /// Its size.
    pub capacity: u32,
}

/// The largest table that is counted for a scrape.
pub const COUNTED: u32 = 1 << 16;

/// What [`Tables::count_usage`] found.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Entries of each table; a flow has two.
    pub usage: Vec<Usage>,
    /// Flows of the packet path by state: `established` have been answered, `opening` have not.
    pub flows: Vec<(&'static str, u64)>,
}

impl Usage {
    fn new(map: &'static str, used: usize, capacity: u32) -> Self {
        Self { map, used: u32::try_from(used).unwrap_or(u32::MAX), capacity }
    }
}

impl<S: MapStore> Tables<S> {
    /// How full the Services' tables are.
    pub fn usage(&self) -> [Usage; 6] {
        let sizes = &self.capacities;
        let ranges = self.sets.values().map(|set| set.ranges.len()).sum();
        [
            Usage::new(map::SERVICES, self.frontends.len(), sizes.services),
            Usage::new(map::SVC_STATE, self.indexes.used(), sizes.svc_state),
            Usage::new(map::SLOTS, self.runs.used() as usize, sizes.slots),
            Usage::new(map::BACKENDS, self.ids.used(), sizes.backends),
            Usage::new(map::SOURCE_RANGES, ranges, sizes.source_ranges),
            Usage::new(map::ADDRS, self.addresses.len(), sizes.addrs),
        ]
    }

    /// Counts the entries of the other tables: milliseconds at the default sizes. Those of the programs make room by
    /// themselves. Left out are tables of more than [`COUNTED`] entries, as whoever waits for the count does nothing else.
    ///
    /// # Errors
    /// If the kernel refuses to read.
    pub fn count_usage(&self) -> Result<Counted, StoreError> {
        let (store, sizes) = (&self.store, &self.capacities);
        let mut counted = Counted::default();
        let mut count = |map, size, read: &dyn Fn() -> Result<usize, StoreError>| -> Result<(), StoreError> {
            if size <= COUNTED {
                counted.usage.push(Usage::new(map, read()?, size));
            }
            Ok(())
        };
        count(map::FRAGS, sizes.frags, &|| Ok(store.flows(FlowTable::Frags)?.len()))?;
        count(map::SOCK_REVNAT, sizes.sock_revnat, &|| Ok(store.sock_revnat()?.len()))?;
        count(map::AFFINITY, sizes.affinity, &|| Ok(store.affinity()?.len()))?;
        count(map::SKIPS, SKIPS, &|| Ok(store.skips()?.len()))?;
        count(map::POD_NETS, sizes.pod_nets, &|| Ok(store.pod_nets()?.len()))?;
        count(map::DEVS, sizes.devs, &|| Ok(store.devs()?.len()))?;
        let flows = [
            (map::FLOWS, FlowTable::Flows, sizes.flows, "established"),
            (map::EMBRYOS, FlowTable::Embryos, sizes.embryos, "opening"),
        ];
        for (map, table, size, state) in flows.into_iter().filter(|(_, _, size, _)| *size <= COUNTED) {
            let entries = store.flows(table)?;
            // Of the two entries of a flow, one is for the way to the backend.
            let forward = |(key, flow): &&(Tuple, Flow)| flow.is_for(key) && flow.role & role::FORWARD != 0;
            counted.flows.push((state, entries.iter().filter(forward).map(|_| 1_u64).sum()));
            counted.usage.push(Usage::new(map, entries.len(), size));
        }
        Ok(counted)
    }
}
