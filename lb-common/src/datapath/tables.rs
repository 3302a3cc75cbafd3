//! What the core needs of the maps and the clock.

use crate::abi::{
    Addr, AffinityEntry, AffinityKey, Backend, Counter, Dev, Flow, ServiceKey, ServiceRef, ServiceState, SkipKey,
    SockEntry, SockKey, Tuple, filter_place,
};

/// The tables of flows.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum FlowTable {
    /// Flows that were established.
    #[default]
    Flows,
    /// Flows that are not established so far.
    Embryos,
    /// Datagrams whose first fragment was translated; see [`crate::abi::map::FRAGS`].
    Frags,
}

impl FlowTable {
    /// Whether `flow_filter` says which keys are not in it. Fragments are rare enough to be looked up.
    #[inline(always)]
    #[must_use]
    pub const fn is_filtered(self) -> bool {
        !matches!(self, Self::Frags)
    }
}

/// The maps, read and written as one copy per call. `svc_state`'s word and a `ServiceRef` are each one atomic access.
pub trait Tables {
    /// Looks up `services`.
    fn service(&self, key: &ServiceKey) -> Option<ServiceRef>;
    /// Looks up `svc_state`.
    fn state(&self, index: u32) -> Option<ServiceState>;
    /// Looks up `slots`.
    fn slot(&self, slot: u32) -> Option<u32>;
    /// Looks up `backends`.
    fn backend(&self, id: u32) -> Option<Backend>;
    /// Looks up a flow table and copies the entry; false if there is none. It may belong to another key by now: see
    /// [`Flow::is_for`]. Into a place of the caller's, as a BPF stack has room for few.
    fn flow(&self, table: FlowTable, key: &Tuple, into: &mut Flow) -> bool;
    /// Inserts or replaces, and nothing else: [`Self::insert_flow`] is what is to be called. False if the table takes no
    /// entry.
    fn put_flow(&self, table: FlowTable, key: &Tuple, flow: &Flow) -> bool;
    /// Whether the filter that is asked holds this place ([`filter_place`]); true as well if none is asked.
    fn in_filter(&self, place: u32) -> bool;
    /// Puts a place into both filters.
    fn mark_filter(&self, place: u32);
    /// Inserts or replaces; false if the table takes no entry. Where the filter stands in front of the table, it holds the
    /// key before the table does.
    #[inline(always)]
    fn insert_flow(&self, table: FlowTable, key: &Tuple, flow: &Flow) -> bool {
        if table.is_filtered() {
            self.mark_filter(filter_place(key));
        }
        self.put_flow(table, key, flow)
    }
    /// Removes, if there.
    fn remove_flow(&self, table: FlowTable, key: &Tuple);
    /// Sets `state` and `seen` in place; false if there is no such entry.
    fn touch_flow(&self, table: FlowTable, key: &Tuple, state: u8, seen: u32) -> bool;
    /// Looks up `sock_revnat`, as [`Self::flow`]; see [`SockEntry::is_for`].
    fn sock(&self, key: &SockKey, into: &mut SockEntry) -> bool;
    /// Inserts or replaces; false if the table takes no entry.
    fn insert_sock(&self, key: &SockKey, entry: &SockEntry) -> bool;
    /// Removes, if there.
    fn remove_sock(&self, key: &SockKey);
    /// Whether `skips` holds this.
    fn is_skipped(&self, key: &SkipKey) -> bool;
    /// Id of the cgroup at this level above the caller's, or the caller's own; 0: it has none at this level.
    fn ancestor_cgroup(&self, level: u32) -> u64;
    /// Looks up `affinity`.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry>;
    /// Inserts or replaces; false if the table takes no entry.
    fn insert_affinity(&self, key: &AffinityKey, entry: &AffinityEntry) -> bool;
    /// Whether `source_ranges` covers this source for this service index.
    fn in_ranges(&self, service: u32, source: Addr) -> bool;
    /// Looks up `addrs`: [`crate::abi::addr_flag`] bits; 0 if the address is not there.
    fn addr(&self, addr: &Addr) -> u32;
    /// Whether `pod_nets` covers this address.
    fn in_pod_nets(&self, addr: &Addr) -> bool;
    /// Whether one more packet may be answered by a reset or an ICMP error now; counts it, if so.
    fn may_answer(&self) -> bool;
    /// Looks up `devs`.
    fn dev(&self, ifindex: u32) -> Option<Dev>;
    /// Reads [`crate::abi::Config::local_path`].
    fn local_path(&self) -> u32;
    /// Reads [`crate::abi::Config::forwarding`].
    fn forwarding(&self) -> u32;
    /// Reads [`crate::abi::Config::grace_until`].
    fn grace_until(&self) -> u32;
    /// Reads [`crate::abi::Config::pod_source_v4`] or the one of IPv6.
    fn pod_source(&self, v4: bool) -> Addr;
    /// Reads `marks`: [`crate::abi::mark`] bits.
    fn marks(&self) -> u32;
    /// Sets bits of `marks`.
    fn set_marks(&self, bits: u32);
    /// Adds one to a counter.
    fn count(&self, counter: Counter);
    /// Adds one connection to a backend of this generation.
    fn count_connection(&self, backend: u32, generation: u32);
    /// Adds one packet of so many bytes, on its way to a backend of this generation (`forward`) or from it.
    fn count_packet(&self, backend: u32, generation: u32, forward: bool, bytes: u32);
    /// A random word.
    fn random(&self) -> u32;
    /// Monotonic time in ticks of 2^30 ns.
    fn now(&self) -> u32;
}
