//! The maps, and the core's `Tables` over them. Sizes here are placeholders: the loader sets them.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::btf_map,
};
use lb_common::{
    abi::{
        Addr, AddrInfo, AffinityEntry, AffinityKey, Answers, Backend, BackendCell, Config, Counter, Dev, FILTER_LEN,
        Flow, FlowFilter, RangeKey, ServiceKey, ServiceRef, ServiceState, SkipKey, SockEntry, SockKey, StateWord,
        TICK_SHIFT, Tuple, reading,
    },
    datapath::{FlowTable, SCRATCH_WORDS, Scratch, Tables},
};

use crate::globals::HAS_COARSE_CLOCK;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "services")]
static SERVICES: HashMap<ServiceKey, ServiceRef, 1024> = HashMap::new();
#[btf_map(name = "svc_state")]
static SVC_STATE: Array<ServiceState, 1024, MMAPABLE> = Array::new();
#[btf_map(name = "slots")]
static SLOTS: Array<u32, 1024, MMAPABLE> = Array::new();
#[btf_map(name = "backends")]
static BACKENDS: Array<Backend, 1024> = Array::new();
#[btf_map(name = "flows")]
static FLOWS: LruHashMap<Tuple, Flow, 1024> = LruHashMap::new();
#[btf_map(name = "embryos")]
static EMBRYOS: LruHashMap<Tuple, Flow, 1024> = LruHashMap::new();
#[btf_map(name = "frags")]
static FRAGS: LruHashMap<Tuple, Flow, 1024> = LruHashMap::new();
#[btf_map(name = "flow_filter")]
static FLOW_FILTER: Array<FlowFilter, 1, MMAPABLE> = Array::new();
#[btf_map(name = "sock_revnat")]
static SOCK_REVNAT: LruHashMap<SockKey, SockEntry, 1024> = LruHashMap::new();
#[btf_map(name = "skips")]
static SKIPS: HashMap<SkipKey, u32, 512, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "affinity")]
static AFFINITY: LruHashMap<AffinityKey, AffinityEntry, 1024> = LruHashMap::new();
#[btf_map(name = "source_ranges")]
static SOURCE_RANGES: LpmTrie<RangeKey, u32, 1024> = LpmTrie::new();
#[btf_map(name = "addrs")]
static ADDRS: HashMap<Addr, AddrInfo, 64> = HashMap::new();
#[btf_map(name = "pod_nets")]
static POD_NETS: LpmTrie<Addr, u32, 64> = LpmTrie::new();
#[btf_map(name = "answers")]
static ANSWERS: PerCpuArray<Answers, 1> = PerCpuArray::new();
#[btf_map(name = "devs")]
static DEVS: HashMap<u32, Dev, 64> = HashMap::new();
#[btf_map(name = "config")]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map(name = "marks")]
static MARKS: Array<u32, 1> = Array::new();
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<[u64; SCRATCH_WORDS], 1> = PerCpuArray::new();
#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<u64, { Counter::ALL.len() }> = PerCpuArray::new();
#[btf_map(name = "svc_counters")]
static SVC_COUNTERS: PerCpuArray<BackendCell, 1024> = PerCpuArray::new();

/// Refusals that one processor sends in a tick (1.07 s), at most: Linux's `icmp_msgs_per_sec`.
const ANSWERS_PER_TICK: u32 = 1000;

/// Prefix length of a whole address, in bits.
const WHOLE_ADDR: u32 = 8 * size_of::<Addr>() as u32;

/// Prefix length of a whole source-range key, in bits.
const WHOLE_RANGE: u32 = 8 * size_of::<RangeKey>() as u32;

/// This processor's working memory. Programs on one processor run one after another on these hooks, as they all run with
/// bottom halves off; so it is nobody else's until the program ends.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    let ptr = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: as long and as aligned as a `Scratch`, for which all bits zero, and whatever it was left as, are valid.
    Some(unsafe { &mut *ptr.cast() })
}

/// The pinned maps of this agent.
pub(crate) struct Kernel;

impl Kernel {
    #[inline(always)]
    fn flows(table: FlowTable) -> &'static LruHashMap<Tuple, Flow, 1024> {
        match table {
            FlowTable::Flows => &FLOWS,
            FlowTable::Embryos => &EMBRYOS,
            FlowTable::Frags => &FRAGS,
        }
    }

    #[inline(always)]
    fn backend_cell(backend: u32) -> Option<&'static mut BackendCell> {
        let ptr = SVC_COUNTERS.get_ptr_mut(backend)?;
        // SAFETY: this CPU's own value. A socket call may be interrupted by a packet that counts for the same backend: then
        // one of the two is lost.
        Some(unsafe { &mut *ptr })
    }
}

/// Copies a value with one load for each word (of eight bytes where it is aligned so), so that what is checked later is what is used: the compiler may not
/// read the map again.
///
/// # Safety
/// `from` is valid for reads, and `T` is plain data whose size is a multiple of its alignment of at least four bytes.
#[inline(always)]
pub(crate) unsafe fn copy_once<T>(from: *const T, into: &mut T) {
    const { assert!(align_of::<T>() >= 4) };
    if const { align_of::<T>() >= 8 } {
        // SAFETY: `T` is as aligned as eight bytes, so its size is a multiple of them.
        unsafe { copy_words::<u64>(from.cast(), core::ptr::from_mut(into).cast(), size_of::<T>() / 8) };
    } else {
        // SAFETY: as above, for four.
        unsafe { copy_words::<u32>(from.cast(), core::ptr::from_mut(into).cast(), size_of::<T>() / 4) };
    }
}

/// # Safety
/// `count` words can be read from `from` and written to `into`.
#[inline(always)]
unsafe fn copy_words<W>(from: *const W, into: *mut W, count: usize) {
    let mut i = 0;
    while i < count {
        // SAFETY: the caller vouches for this many words.
        unsafe { into.add(i).write(from.add(i).read_volatile()) };
        i += 1;
    }
}

impl Tables for Kernel {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceRef> {
        let word = SERVICES.get_ptr(key)?.cast::<u64>();
        // SAFETY: a live map value of eight bytes, aligned to eight; one load, so never half of another's.
        Some(ServiceRef::from_word(unsafe { word.read_volatile() }))
    }

    #[inline(always)]
    fn state(&self, index: u32) -> Option<ServiceState> {
        let ptr = SVC_STATE.get_ptr(index)?;
        // SAFETY: a live map value. Its first word is the commit word and is read with one load; the rest belongs to
        // the service as long as the index does.
        unsafe {
            let word = StateWord::from_word(ptr.cast::<u64>().read_volatile());
            let mut state = ptr.read();
            state.word = word;
            Some(state)
        }
    }

    #[inline(always)]
    fn slot(&self, slot: u32) -> Option<u32> {
        SLOTS.get(slot).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend> {
        BACKENDS.get(id).copied()
    }

    #[inline(always)]
    fn flow(&self, table: FlowTable, key: &Tuple, into: &mut Flow) -> bool {
        let Some(ptr) = Self::flows(table).get_ptr(key) else { return false };
        // SAFETY: a live map value; that it may change meanwhile is what `Flow::check` is for.
        unsafe { copy_once(ptr, into) };
        true
    }

    #[inline(always)]
    fn in_filter(&self, place: u32) -> bool {
        // An array's first element is always there; said like this, the verifier has no way more to go.
        let Some(ptr) = FLOW_FILTER.get_ptr(0) else { return false };
        // SAFETY: a live map value; the agent and other processors change it meanwhile, so each is one load. The byte
        // lies within the value for any words.
        unsafe {
            let reading = (&raw const (*ptr).reading).read_volatile();
            let byte = ptr
                .cast::<u8>()
                .add(FlowFilter::byte(reading, 0))
                .add(place as usize & (FILTER_LEN - 1))
                .read_volatile();
            FlowFilter::lets_pass(reading, byte)
        }
    }

    #[inline(always)]
    fn mark_filter(&self, place: u32) {
        let Some(ptr) = FLOW_FILTER.get_ptr_mut(0) else { return };
        for filter in [reading::FIRST, reading::SECOND] {
            // SAFETY: as above; each is one store, and nobody stores anything else there but the agent, before it looks
            // for what is in the tables.
            unsafe { ptr.cast::<u8>().add(FlowFilter::byte(filter, place)).write_volatile(1) };
        }
    }

    #[inline(always)]
    fn put_flow(&self, table: FlowTable, key: &Tuple, flow: &Flow) -> bool {
        Self::flows(table).insert(key, flow, 0).is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, table: FlowTable, key: &Tuple) {
        // Removing what is gone is what was wanted.
        let _gone = Self::flows(table).remove(key);
    }

    #[inline(always)]
    fn touch_flow(&self, table: FlowTable, key: &Tuple, state: u8, seen: u32) -> bool {
        let Some(ptr) = Self::flows(table).get_ptr_mut(key) else { return false };
        // SAFETY: a live map value; both fields are outside the check word, and each is one store.
        unsafe {
            (&raw mut (*ptr).state).write_volatile(state);
            (&raw mut (*ptr).seen).write_volatile(seen);
        }
        true
    }

    #[inline(always)]
    fn sock(&self, key: &SockKey, into: &mut SockEntry) -> bool {
        let Some(ptr) = SOCK_REVNAT.get_ptr(key) else { return false };
        // SAFETY: a live map value; that it may change meanwhile is what `SockEntry::check` is for.
        unsafe { copy_once(ptr, into) };
        true
    }

    #[inline(always)]
    fn insert_sock(&self, key: &SockKey, entry: &SockEntry) -> bool {
        SOCK_REVNAT.insert(key, entry, 0).is_ok()
    }

    #[inline(always)]
    fn remove_sock(&self, key: &SockKey) {
        // Removing what is gone is what was wanted.
        let _gone = SOCK_REVNAT.remove(key);
    }

    #[inline(always)]
    fn is_skipped(&self, key: &SkipKey) -> bool {
        SKIPS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn ancestor_cgroup(&self, level: u32) -> u64 {
        // SAFETY: a helper with a plain argument. It asks for the calling task's cgroup: the socket's own is not to be
        // had in these hooks.
        unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry> {
        let ptr = AFFINITY.get_ptr(key)?;
        let mut entry = AffinityEntry::default();
        // SAFETY: a live map value; that it may change meanwhile is what `AffinityEntry::check` is for.
        unsafe { copy_once(ptr, &mut entry) };
        Some(entry)
    }

    #[inline(always)]
    fn insert_affinity(&self, key: &AffinityKey, entry: &AffinityEntry) -> bool {
        AFFINITY.insert(key, entry, 0).is_ok()
    }

    #[inline(always)]
    fn in_ranges(&self, service: u32, source: Addr) -> bool {
        SOURCE_RANGES.get(&Key::new(WHOLE_RANGE, RangeKey { service, addr: source })).is_some()
    }

    #[inline(always)]
    fn addr(&self, addr: &Addr) -> u32 {
        // SAFETY: a live map value of one word.
        unsafe { ADDRS.get(addr) }.map_or(0, |info| info.flags)
    }

    #[inline(always)]
    fn in_pod_nets(&self, addr: &Addr) -> bool {
        POD_NETS.get(&Key::new(WHOLE_ADDR, *addr)).is_some()
    }

    #[inline(always)]
    fn may_answer(&self) -> bool {
        let now = self.now();
        let Some(ptr) = ANSWERS.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's own value.
        let answers = unsafe { &mut *ptr };
        if answers.tick != now {
            *answers = Answers { tick: now, sent: 0 };
        }
        answers.sent += 1;
        answers.sent <= ANSWERS_PER_TICK
    }

    #[inline(always)]
    fn dev(&self, ifindex: u32) -> Option<Dev> {
        // SAFETY: a live map value; it is replaced as a whole and rarely.
        unsafe { DEVS.get(ifindex) }.copied()
    }

    #[inline(always)]
    fn local_path(&self) -> u32 {
        CONFIG.get(0).map_or(0, |config| config.local_path)
    }

    #[inline(always)]
    fn forwarding(&self) -> u32 {
        CONFIG.get(0).map_or(0, |config| config.forwarding)
    }

    #[inline(always)]
    fn grace_until(&self) -> u32 {
        CONFIG.get(0).map_or(0, |config| config.grace_until)
    }

    #[inline(always)]
    fn pod_source(&self, v4: bool) -> Addr {
        let Some(config) = CONFIG.get(0) else { return Addr::UNSPECIFIED };
        let source = if v4 { &config.pod_source_v4 } else { &config.pod_source_v6 };
        *source
    }

    #[inline(always)]
    fn marks(&self) -> u32 {
        MARKS.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn set_marks(&self, bits: u32) {
        if let Some(ptr) = MARKS.get_ptr_mut(0) {
            // SAFETY: a live map value of one word. Two processors that set different bits at once may lose one, for
            // as long as it takes the next such flow to open.
            unsafe {
                let now = ptr.read_volatile();
                if now & bits != bits {
                    ptr.write_volatile(now | bits);
                }
            }
        }
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(ptr) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: this CPU's own value.
            unsafe { *ptr += 1 };
        }
    }

    #[inline(always)]
    fn count_connection(&self, backend: u32, generation: u32) {
        if let Some(cell) = Self::backend_cell(backend) {
            cell.count_connection(generation);
        }
    }

    #[inline(always)]
    fn count_packet(&self, backend: u32, generation: u32, forward: bool, bytes: u32) {
        if let Some(cell) = Self::backend_cell(backend) {
            cell.count_packet(generation, forward, bytes);
        }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: helpers without arguments; the loader says which of them this kernel has.
        let ns = unsafe { if HAS_COARSE_CLOCK.load() != 0 { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() } };
        (ns >> TICK_SHIFT) as u32
    }
}
