//! How full the maps are: those of Services by the books, those that programs fill by counting.

use lb_common::{
    abi::{map, role},
    datapath::{self, FlowTable},
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

/// What [`count_usage`] found.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Entries of each table; a flow has two.
    pub usage: Vec<Usage>,
    /// Flows of the packet path that are not over, by state: `established` have been answered, `opening` have not.
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
        let ranges = self.sets.iter().map(|(_, set)| set.ranges.len()).sum();
        [
            Usage::new(map::SERVICES, self.frontends.len(), sizes.services),
            Usage::new(map::SVC_STATE, self.indexes.used(), sizes.svc_state),
            Usage::new(map::SLOTS, self.runs.used() as usize, sizes.slots),
            Usage::new(map::BACKENDS, self.ids.used(), sizes.backends),
            Usage::new(map::SOURCE_RANGES, ranges, sizes.source_ranges),
            Usage::new(map::ADDRS, self.addresses.len(), sizes.addrs),
        ]
    }
}

/// Counts the entries of the tables that programs fill at `now`, in ticks: about 0.2 µs for each, a batch at a time.
///
/// # Errors
/// If the kernel refuses to read.
pub fn count_usage(store: &impl MapStore, now: u32) -> Result<Counted, StoreError> {
    let sizes = store.capacities();
    let mut frags = 0;
    store.each_flow(FlowTable::Frags, &mut |_, _| frags += 1)?;
    let mut counted = Counted {
        usage: vec![
            Usage::new(map::FRAGS, frags, sizes.frags),
            Usage::new(map::SOCK_REVNAT, store.sock_revnat()?.len(), sizes.sock_revnat),
            Usage::new(map::AFFINITY, store.affinity()?.len(), sizes.affinity),
            Usage::new(map::SKIPS, store.skips()?.len(), SKIPS),
            Usage::new(map::POD_NETS, store.pod_nets()?.len(), sizes.pod_nets),
            Usage::new(map::DEVS, store.devs()?.len(), sizes.devs),
        ],
        flows: Vec::new(),
    };
    let tables = [
        (map::FLOWS, FlowTable::Flows, sizes.flows, "established"),
        (map::EMBRYOS, FlowTable::Embryos, sizes.embryos, "opening"),
    ];
    for (map, table, size, state) in tables {
        let (mut entries, mut flows) = (0, 0);
        store.each_flow(table, &mut |key, flow| {
            entries += 1;
            // Of the two entries of a flow, one is for the way to the backend. What is over stays until its place is needed.
            let counts = flow.is_for(key) && flow.role & role::FORWARD != 0 && !datapath::is_over(flow, table, now);
            flows += u64::from(counts);
        })?;
        counted.flows.push((state, flows));
        counted.usage.push(Usage::new(map, entries, size));
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Addr, Flow, Port, Tuple, flow_state, proto, ticks};

    use super::*;
    use crate::maps::{Capacities, MemStore};

    fn addr(last: u8) -> Addr {
        Addr::v4([10, 0, 0, last])
    }

    /// A flow is two entries, and half of one that was overwritten is none.
    #[test]
    fn flows_are_counted_once() {
        let mut store = MemStore::new(Capacities::DEFAULT);
        let tuple = |from, to| Tuple::new(addr(from), Port::new(1), addr(to), Port::new(2), proto::TCP);
        for (client, role) in [(1, role::FORWARD), (2, role::FORWARD | role::ROUTED), (3, 0), (4, 0), (5, 0)] {
            let key = tuple(client, 100);
            let mut flow = Flow::default();
            (flow.to, flow.role) = (tuple(client, 200), role);
            flow.reseal(&key);
            store.contents.flows.insert(key, flow);
        }
        let mut torn = Flow::default();
        torn.role = role::FORWARD;
        store.contents.embryos.insert(tuple(6, 100), torn);
        let counted = count_usage(&store, 0).unwrap();
        assert_eq!(counted.flows, [("established", 2), ("opening", 0)]);
        let used = |map| counted.usage.iter().find(|usage| usage.map == map).map(|usage| (usage.used, usage.capacity));
        assert_eq!(used(map::FLOWS), Some((5, Capacities::DEFAULT.flows)));
        assert_eq!(used(map::EMBRYOS), Some((1, Capacities::DEFAULT.embryos)));
        assert_eq!(used(map::AFFINITY), Some((0, Capacities::DEFAULT.affinity)));
    }

    /// An LRU keeps what is over until it needs the place: that is an entry, and no connection.
    #[test]
    fn what_is_over_is_an_entry_and_no_flow() {
        let now = ticks(100_000);
        let mut store = MemStore::new(Capacities::DEFAULT);
        let mut put = |last, table, proto, state, idle| {
            let tuple = |to| Tuple::new(addr(last), Port::new(1), addr(to), Port::new(2), proto);
            let mut flow = Flow::default();
            (flow.to, flow.role, flow.state, flow.seen) = (tuple(200), role::FORWARD, state, now - ticks(idle));
            flow.reseal(&tuple(100));
            let contents = &mut store.contents;
            let flows = if table == map::FLOWS { &mut contents.flows } else { &mut contents.embryos };
            flows.insert(tuple(100), flow);
        };
        put(1, map::FLOWS, proto::TCP, flow_state::ESTABLISHED, 86_400);
        put(2, map::FLOWS, proto::TCP, flow_state::CLOSING, 60);
        put(3, map::FLOWS, proto::TCP, flow_state::CLOSING, 304);
        put(4, map::FLOWS, proto::UDP, flow_state::ESTABLISHED, 120);
        put(5, map::FLOWS, proto::UDP, flow_state::ESTABLISHED, 186);
        put(6, map::EMBRYOS, proto::UDP, flow_state::REPLIED, 30);
        put(7, map::EMBRYOS, proto::UDP, flow_state::REPLIED, 35);
        put(8, map::EMBRYOS, proto::TCP, flow_state::NEW, 300);
        let counted = count_usage(&store, now).unwrap();
        assert_eq!(counted.flows, [("established", 3), ("opening", 2)]);
        let used = |map| counted.usage.iter().find(|usage| usage.map == map).map(|usage| usage.used);
        assert_eq!((used(map::FLOWS), used(map::EMBRYOS)), (Some(5), Some(3)));
    }
}
