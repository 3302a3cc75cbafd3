//! The only door to the tables. It says what can be read and written, one element at a time or in batches; it decides
//! nothing and knows no order of writes.

use std::io;

use lb_common::{
    abi::{
        Addr, AddrInfo, AffinityEntry, AffinityKey, Backend, BackendCounter, Config, Dev, Flow, ServiceKey, ServiceRef,
        ServiceState, SkipKey, SockEntry, SockKey, StateWord, Tuple,
    },
    datapath::FlowTable,
};
use thiserror::Error;

use super::{
    capacity::Capacities,
    shape::{PodNet, RangeEntry},
};

/// Why a table could not be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The map takes no further entry.
    #[error("map {map} is full")]
    Full {
        /// Its name.
        map: &'static str,
    },
    /// The kernel refused the operation.
    #[error("cannot {operation} map {map}: {source}")]
    Io {
        /// Its name.
        map: &'static str,
        /// What was tried, as in "cannot … map".
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The end of an RCU grace period could not be awaited.
    #[error("cannot wait for running BPF programs to end: {0}")]
    Grace(#[source] io::Error),
}

/// A batch that ended early: the items before `done` are written, the item `done` is not, those behind were not tried.
#[derive(Debug, Error)]
#[error("item {done} of a batch: {source}")]
pub struct BatchError {
    /// Items that are written.
    pub done: usize,
    /// Why the next one is not.
    pub source: StoreError,
}

/// The pinned maps, or a model of them.
///
/// Writes are visible to BPF programs in program order. Batches stop at the first item that fails. Deleting what is
/// missing is success. `svc_state` and `slots` are memory: writing them cannot fail and costs no system call.
pub trait MapStore {
    /// Sizes of the maps.
    fn capacities(&self) -> Capacities;

    /// All frontends, in no order. Frontends that come or go meanwhile may or may not be among them.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn services(&self) -> Result<Vec<(ServiceKey, ServiceRef)>, StoreError>;
    /// One frontend.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn service(&self, key: &ServiceKey) -> Result<Option<ServiceRef>, StoreError>;
    /// Inserts or replaces frontends.
    ///
    /// # Errors
    /// At the first item that fails, see [`BatchError`].
    fn put_services(&mut self, items: &[(ServiceKey, ServiceRef)]) -> Result<(), BatchError>;
    /// Deletes frontends.
    ///
    /// # Errors
    /// At the first item that fails, see [`BatchError`].
    fn delete_services(&mut self, keys: &[ServiceKey]) -> Result<(), BatchError>;

    /// State of a backend set, its commit word read first (acquire); `None` beyond the map.
    fn state(&self, index: u32) -> Option<ServiceState>;
    /// Writes everything of a state but its commit word.
    ///
    /// # Panics
    /// Beyond the map.
    fn put_state(&mut self, index: u32, state: &ServiceState);
    /// One release store of the commit word: readers that see it see all writes before it.
    ///
    /// # Panics
    /// Beyond the map.
    fn commit(&mut self, index: u32, word: StateWord);
    /// Backend ids in `len` slots from `offset`; `None` if some are beyond the map.
    fn slots(&self, offset: u32, len: u32) -> Option<Vec<u32>>;
    /// Writes slots from `offset`.
    ///
    /// # Panics
    /// Beyond the map.
    fn put_slots(&mut self, offset: u32, ids: &[u32]);

    /// All backends that were ever written (generation not 0), those that are gone included, by id.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn backends(&self) -> Result<Vec<(u32, Backend)>, StoreError>;
    /// One backend; `None` beyond the map or if never written.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn backend(&self, id: u32) -> Result<Option<Backend>, StoreError>;
    /// Writes backends.
    ///
    /// # Errors
    /// At the first item that fails, see [`BatchError`].
    fn put_backends(&mut self, items: &[(u32, Backend)]) -> Result<(), BatchError>;

    /// All source ranges, in no order.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn source_ranges(&self) -> Result<Vec<RangeEntry>, StoreError>;
    /// Inserts source ranges.
    ///
    /// # Errors
    /// At the first item that fails, see [`BatchError`].
    fn put_source_ranges(&mut self, items: &[RangeEntry]) -> Result<(), BatchError>;
    /// Deletes source ranges.
    ///
    /// # Errors
    /// At the first item that fails, see [`BatchError`].
    fn delete_source_ranges(&mut self, items: &[RangeEntry]) -> Result<(), BatchError>;

    /// What destination addresses are to us, in no order.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn addrs(&self) -> Result<Vec<(Addr, AddrInfo)>, StoreError>;
    /// Inserts or replaces addresses.
    ///
    /// # Errors
    /// At the first item that fails, see [`BatchError`].
    fn put_addrs(&mut self, items: &[(Addr, AddrInfo)]) -> Result<(), BatchError>;
    /// Deletes addresses.
    ///
    /// # Errors
    /// At the first item that fails, see [`BatchError`].
    fn delete_addrs(&mut self, addrs: &[Addr]) -> Result<(), BatchError>;

    /// Networks of other nodes' pods, in no order.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn pod_nets(&self) -> Result<Vec<PodNet>, StoreError>;
    /// Inserts a network.
    ///
    /// # Errors
    /// If the map is full or the kernel refuses.
    fn put_pod_net(&mut self, net: PodNet) -> Result<(), StoreError>;
    /// Deletes a network.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn delete_pod_net(&mut self, net: PodNet) -> Result<(), StoreError>;

    /// The devices, by interface index, in no order.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn devs(&self) -> Result<Vec<(u32, Dev)>, StoreError>;
    /// Inserts or replaces a device.
    ///
    /// # Errors
    /// If the map is full or the kernel refuses.
    fn put_dev(&mut self, ifindex: u32, dev: Dev) -> Result<(), StoreError>;
    /// Deletes a device.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn delete_dev(&mut self, ifindex: u32) -> Result<(), StoreError>;

    /// The run-time configuration.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn config(&self) -> Result<Config, StoreError>;
    /// Replaces the run-time configuration.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn put_config(&mut self, config: Config) -> Result<(), StoreError>;

    /// A snapshot of a flow table; entries that move meanwhile may be missing, or be there for another key (see
    /// `Flow::is_for`).
    ///
    /// # Errors
    /// If the kernel refuses.
    fn flows(&self, table: FlowTable) -> Result<Vec<(Tuple, Flow)>, StoreError> {
        let mut flows = Vec::new();
        self.each_flow(table, &mut |key, flow| flows.push((*key, *flow)))?;
        Ok(flows)
    }

    /// As [`Self::flows`], one after another, however many there are.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn each_flow(&self, table: FlowTable, show: &mut dyn FnMut(&Tuple, &Flow)) -> Result<(), StoreError>;

    /// A snapshot of what the socket hooks remember.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn sock_revnat(&self) -> Result<Vec<(SockKey, SockEntry)>, StoreError>;
    /// One entry of it, which may belong to another key (see `SockEntry::is_for`).
    ///
    /// # Errors
    /// If the kernel refuses.
    fn sock(&self, key: &SockKey) -> Result<Option<SockEntry>, StoreError>;
    /// Whose sockets are left to the packet path, in no order.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn skips(&self) -> Result<Vec<SkipKey>, StoreError>;
    /// Leaves one more.
    ///
    /// # Errors
    /// If the map is full or the kernel refuses.
    fn put_skip(&mut self, key: SkipKey) -> Result<(), StoreError>;
    /// Leaves one less.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn delete_skip(&mut self, key: SkipKey) -> Result<(), StoreError>;
    /// A snapshot of session affinity.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn affinity(&self) -> Result<Vec<(AffinityKey, AffinityEntry)>, StoreError>;
    /// Counters summed over the CPUs, in the order of `Counter::ALL`.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn counters(&self) -> Result<Vec<u64>, StoreError>;
    /// What was counted by backend id, summed over the CPUs, for the latest backend of each that was counted for; without
    /// those that never were.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn backend_counters(&self) -> Result<Vec<(u32, BackendCounter)>, StoreError>;

    /// Waits until every BPF program that runs now has ended (an RCU grace period): what was unreachable before the
    /// call is unused after it. Takes milliseconds.
    ///
    /// # Errors
    /// If the kernel offers no way to wait.
    fn grace_period(&mut self) -> Result<(), StoreError>;
}

/// Writes all items, going on behind each that fails; gives those that failed, by position.
pub(super) fn write_each<T>(
    items: &[T],
    mut write: impl FnMut(&[T]) -> Result<(), BatchError>,
) -> Vec<(usize, StoreError)> {
    let mut failed = Vec::new();
    let mut start = 0;
    while start < items.len() {
        match write(&items[start..]) {
            Ok(()) => break,
            Err(BatchError { done, source }) => {
                failed.push((start + done, source));
                start += done + 1;
            }
        }
    }
    failed
}
