//! [`Tables`] over the maps in memory.

use std::collections::HashMap;

use zerocopy::IntoBytes as _;

use super::{ARRAY_LEN, MemTables};
use crate::{
    abi::{
        Addr, AffinityEntry, AffinityKey, Backend, BackendCell, Counter, Dev, Flow, FlowFilter, RangeKey, ServiceKey,
        ServiceRef, ServiceState, SkipKey, SockEntry, SockKey, Tuple,
    },
    datapath::{FlowTable, Tables},
    testing::{recycling::read, table::Table},
};

/// An element of an array: zero until written, nothing beyond the end.
fn element<V: Copy + Default>(map: &HashMap<u32, V>, index: u32) -> Option<V> {
    (index < ARRAY_LEN).then(|| map.get(&index).copied().unwrap_or_default())
}

impl MemTables {
    fn count_for(&self, backend: u32, count: impl FnOnce(&mut BackendCell)) {
        if backend < ARRAY_LEN {
            count(self.inner.borrow_mut().backend_cells.entry(backend).or_default());
        }
    }
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

    fn in_filter(&self, place: u32) -> bool {
        let filter = &self.inner.borrow().filter;
        FlowFilter::lets_pass(filter.reading, filter.as_bytes()[FlowFilter::byte(filter.reading, place)])
    }

    fn mark_filter(&self, place: u32) {
        let filter = &mut self.inner.borrow_mut().filter;
        filter.places.iter_mut().for_each(|places| places[place as usize] = 1);
    }

    fn put_flow(&self, table: FlowTable, key: &Tuple, flow: &Flow) -> bool {
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

    fn forwarding(&self) -> u32 {
        self.inner.borrow().config.forwarding
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

    fn count_connection(&self, backend: u32, generation: u32) {
        self.count_for(backend, |cell| cell.count_connection(generation));
    }

    fn count_packet(&self, backend: u32, generation: u32, forward: bool, bytes: u32) {
        self.count_for(backend, |cell| cell.count_packet(generation, forward, bytes));
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
