//! Type, sizes and flags of every map: what a pinned map is checked against. It makes no map and opens none.

use lb_common::abi::{
    Addr, AddrInfo, AffinityEntry, AffinityKey, Backend, BackendCell, Config, Dev, Flow, FlowFilter, RangeKey,
    ServiceKey, ServiceRef, ServiceState, SkipKey, SockEntry, SockKey, Tuple, map,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `source_ranges`.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct RangeEntry {
    /// Bits of `key` that count: 32 for the service index, then 128 for a whole address.
    pub prefix_len: u32,
    /// Service index and address.
    pub key: RangeKey,
}

impl RangeEntry {
    /// The entry of a range, with `prefix_len` as the address family counts it.
    #[must_use]
    pub fn new(index: u32, addr: Addr, prefix_len: u8) -> Self {
        let mapped = if addr.is_v4() { 96 } else { 0 };
        Self { prefix_len: 32 + mapped + u32::from(prefix_len), key: RangeKey { service: index, addr } }
    }

    /// The entry that lets the node's own sockets in, whose source address nobody knows when they connect: the address
    /// `0.0.0.0` or `::`, whole, which no packet bears.
    #[must_use]
    pub fn node_itself(index: u32, v4: bool) -> Self {
        if v4 { Self::new(index, Addr::v4([0; 4]), 32) } else { Self::new(index, Addr::UNSPECIFIED, 128) }
    }

    /// Whether this is one of [`Self::node_itself`].
    #[must_use]
    pub fn is_node_itself(&self) -> bool {
        [true, false].into_iter().any(|v4| *self == Self::node_itself(self.key.service, v4))
    }

    /// Prefix length as the address family counts it; `None` if the entry is none of ours.
    #[must_use]
    pub fn family_prefix_len(&self) -> Option<u8> {
        let mapped = if self.key.addr.is_v4() { 96 } else { 0 };
        u8::try_from(self.prefix_len.checked_sub(32 + mapped)?).ok()
    }
}

/// Key of `pod_nets`: a network of pods on other nodes.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct PodNet {
    /// Bits of the mapped address that count: an IPv4 /24 has 96 + 24.
    pub prefix_len: u32,
    /// First address.
    pub addr: Addr,
}

impl PodNet {
    /// The entry of a network, with `prefix_len` as the address family counts it.
    #[must_use]
    pub fn new(addr: Addr, prefix_len: u8) -> Self {
        let mapped = if addr.is_v4() { 96 } else { 0 };
        Self { prefix_len: mapped + u32::from(prefix_len), addr }
    }
}

/// The kernel's map types that we use, by `enum bpf_map_type`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`, preallocated.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie = 11,
}

/// `BPF_F_NO_PREALLOC`: a trie cannot be preallocated.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE` (Linux 5.5).
const MMAPABLE: u32 = 1 << 10;

/// What a map must look like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// One of [`map::ALL`].
    pub name: &'static str,
    /// Type.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value; of one CPU's value in a per-CPU map.
    pub value_size: u32,
    /// `BPF_F_…` flags.
    pub flags: u32,
}

const fn of<K, V>(name: &'static str, kind: MapKind, flags: u32) -> Shape {
    Shape { name, kind, key_size: size_of::<K>() as u32, value_size: size_of::<V>() as u32, flags }
}

/// All maps, in the order of [`map::ALL`].
pub const SHAPES: [Shape; 19] = [
    of::<ServiceKey, ServiceRef>(map::SERVICES, MapKind::Hash, 0),
    of::<u32, ServiceState>(map::SVC_STATE, MapKind::Array, MMAPABLE),
    of::<u32, u32>(map::SLOTS, MapKind::Array, MMAPABLE),
    of::<u32, Backend>(map::BACKENDS, MapKind::Array, 0),
    of::<Tuple, Flow>(map::FLOWS, MapKind::LruHash, 0),
    of::<Tuple, Flow>(map::EMBRYOS, MapKind::LruHash, 0),
    of::<Tuple, Flow>(map::FRAGS, MapKind::LruHash, 0),
    of::<u32, FlowFilter>(map::FLOW_FILTER, MapKind::Array, MMAPABLE),
    of::<SockKey, SockEntry>(map::SOCK_REVNAT, MapKind::LruHash, 0),
    of::<SkipKey, u32>(map::SKIPS, MapKind::Hash, NO_PREALLOC),
    of::<AffinityKey, AffinityEntry>(map::AFFINITY, MapKind::LruHash, 0),
    of::<RangeEntry, u32>(map::SOURCE_RANGES, MapKind::LpmTrie, NO_PREALLOC),
    of::<Addr, AddrInfo>(map::ADDRS, MapKind::Hash, 0),
    of::<PodNet, u32>(map::POD_NETS, MapKind::LpmTrie, NO_PREALLOC),
    of::<u32, Dev>(map::DEVS, MapKind::Hash, 0),
    of::<u32, Config>(map::CONFIG, MapKind::Array, 0),
    of::<u32, u32>(map::MARKS, MapKind::Array, 0),
    of::<u32, u64>(map::COUNTERS, MapKind::PerCpuArray, 0),
    of::<u32, BackendCell>(map::SVC_COUNTERS, MapKind::PerCpuArray, 0),
];

/// The shape of the map `name`.
///
/// # Panics
/// If there is no map of that name.
#[must_use]
pub fn shape(name: &str) -> &'static Shape {
    let found = SHAPES.iter().find(|shape| shape.name == name);
    found.unwrap_or_else(|| panic!("no map is called {name}"))
}

impl Shape {
    /// Bytes from one element of an array to the next.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.value_size.next_multiple_of(8) as usize
    }

    /// Bytes of kernel memory for `entries` entries on a machine with `cpus` possible CPUs: `htab_map_mem_usage`,
    /// `array_map_mem_usage` and `trie_mem_usage` of Linux 6.4 and later; the trie is taken as full.
    #[must_use]
    pub const fn memory(&self, entries: u64, cpus: u64) -> u64 {
        // `struct htab_elem` before its key; `struct bucket`; `struct lpm_trie_node` before its data.
        const ELEMENT: u64 = 48;
        const BUCKET: u64 = 16;
        const TRIE_NODE: u64 = 40;
        // The map's own struct, spin locks and statistics included: about this much for each type.
        const HEAD: u64 = 512;
        let key = (self.key_size as u64).next_multiple_of(8);
        let value = (self.value_size as u64).next_multiple_of(8);
        let body = match self.kind {
            MapKind::Hash => (ELEMENT + key + value) * (entries + cpus) + 8 * cpus,
            MapKind::LruHash => (ELEMENT + key + value) * entries,
            MapKind::Array => value * entries,
            MapKind::PerCpuArray => (value * cpus + 8) * entries,
            MapKind::LpmTrie => (TRIE_NODE + self.key_size as u64 + self.value_size as u64) * entries,
        };
        let buckets = match self.kind {
            MapKind::Hash | MapKind::LruHash => BUCKET * entries.next_power_of_two(),
            MapKind::Array | MapKind::PerCpuArray | MapKind::LpmTrie => 0,
        };
        HEAD + body + buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shape_for_each_map_in_order() {
        assert_eq!(SHAPES.map(|shape| shape.name), map::ALL);
        for shape in SHAPES {
            assert!(shape.name.len() <= 15, "{} is longer than the kernel keeps", shape.name);
        }
    }

    #[test]
    fn a_range_counts_its_prefix_from_the_service_index() {
        let entry = RangeEntry::new(7, Addr::v4([10, 1, 0, 0]), 16);
        assert_eq!(entry.prefix_len, 32 + 96 + 16);
        assert_eq!(entry.family_prefix_len(), Some(16));
        let entry = RangeEntry::new(7, Addr::v6([0xfd; 16]), 64);
        assert_eq!((entry.prefix_len, entry.family_prefix_len()), (96, Some(64)));
    }
}
