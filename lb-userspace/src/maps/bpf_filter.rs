//! The kernel's `flow_filter`, as memory, and the tables behind it. It holds no state but descriptors and mappings, and
//! decides nothing.

use std::{
    io,
    path::Path,
    sync::atomic::{Ordering, fence},
};

use lb_common::{
    abi::{FILTER_LEN, Flow, FlowFilter, Tuple, map},
    datapath::FlowTable,
};

use super::{
    bpf_open::Opener, filter::FilterMaps, grace::Grace, mmap::Mmap, open_error::OpenError, store::StoreError,
    typed::Table,
};

/// The filter of one agent in the kernel.
pub struct BpfFilter {
    filter: Mmap,
    flows: Table<Tuple, Flow>,
    embryos: Table<Tuple, Flow>,
}

impl BpfFilter {
    /// Opens the maps that are pinned in the folder `dir`, as [`super::BpfStore::open`] does.
    ///
    /// # Errors
    /// If one is missing, is not as the ABI wants it, or cannot be opened.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let open = Opener::new(dir, false)?;
        let filter = open.raw(map::FLOW_FILTER, Some(1))?;
        Ok(Self {
            filter: open.mmap(map::FLOW_FILTER, &filter)?,
            flows: open.table(map::FLOWS)?,
            embryos: open.table(map::EMBRYOS)?,
        })
    }

    /// Words of the map's value that are this filter, all of it.
    fn words(filter: u32) -> std::ops::Range<usize> {
        let start = FlowFilter::byte(filter, 0) / 8;
        start..start + FILTER_LEN / 8
    }
}

impl FilterMaps for BpfFilter {
    fn reading(&self) -> u32 {
        // The value's first word.
        self.filter.half(0)
    }

    fn ask(&mut self, filter: u32) {
        fence(Ordering::Release);
        self.filter.set_half(0, filter);
    }

    fn used(&self, filter: u32) -> usize {
        let used = |at| self.filter.word(at).to_ne_bytes().into_iter().filter(|byte| *byte != 0).count();
        Self::words(filter).map(used).sum()
    }

    fn clear(&mut self, filter: u32) {
        Self::words(filter).for_each(|at| self.filter.set_word(at, 0));
    }

    fn mark(&mut self, filter: u32, place: u32) {
        self.filter.set_byte(FlowFilter::byte(filter, place), 1);
    }

    fn each_key(&self, table: FlowTable, show: &mut dyn FnMut(&Tuple)) -> Result<(), StoreError> {
        match table {
            FlowTable::Flows => self.flows.each_key_for_sure(show),
            FlowTable::Embryos => self.embryos.each_key_for_sure(show),
            FlowTable::Frags => Err(StoreError::Io {
                map: map::FRAGS,
                operation: "filter",
                source: io::Error::from(io::ErrorKind::Unsupported),
            }),
        }
    }

    fn grace_period(&mut self) -> Result<(), StoreError> {
        // Chosen for each wait: another thread may do the next one.
        Grace::choose().and_then(|mut grace| grace.wait()).map_err(StoreError::Grace)
    }
}
