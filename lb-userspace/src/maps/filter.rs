//! Making `flow_filter` anew from what is in the flow tables. Programs only ever set bytes, so it fills; this is the only
//! place that empties one.
//!
//! Of the two filters one is asked. Programs mark both, before they insert. So the other one can be made anew at any time:
//!
//! 1. wait until no program runs that still asks it: the turn before may have been just now, by an agent that is gone;
//! 2. empty it;
//! 3. wait until no program runs that had marked it before that and may not have inserted yet;
//! 4. mark what is in the tables: all that is not marked since the second step;
//! 5. have it asked.
//!
//! Only the last step changes what programs do. Whoever dies before leaves a filter that nobody asks.

use lb_common::{
    abi::{FILTER_LEN, FlowFilter, Tuple, filter_place, reading},
    datapath::FlowTable,
};

use super::store::StoreError;

/// `flow_filter` and the tables that it stands before.
pub trait FilterMaps {
    /// Which filter is asked, one of [`reading`].
    fn reading(&self) -> u32;
    /// Has programs ask this filter; whoever does sees everything that was written to it before.
    fn ask(&mut self, filter: u32);
    /// Places that this filter holds.
    fn used(&self, filter: u32) -> usize;
    /// Empties this filter.
    fn clear(&mut self, filter: u32);
    /// Puts a place into this filter.
    fn mark(&mut self, filter: u32, place: u32);
    /// Shows the key of every entry that stands in the table from the call to its end; of others some.
    ///
    /// # Errors
    /// If the kernel refuses, or cannot do so.
    fn each_key(&self, table: FlowTable, show: &mut dyn FnMut(&Tuple)) -> Result<(), StoreError>;
    /// As [`super::MapStore::grace_period`].
    ///
    /// # Errors
    /// If the kernel offers no way to wait.
    fn grace_period(&mut self) -> Result<(), StoreError>;
}

/// What a look at the filter shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wear {
    /// It is not asked. To be made anew once all programs that write to the flow tables are known to mark it.
    Unasked,
    /// It holds so many places, and making it anew would gain too little.
    Good(usize),
    /// It holds so many places, most of them in vain.
    Worn(usize),
}

/// Looks at the filter that is asked. `kept`: places that were left when it was last made anew.
pub fn wear(maps: &impl FilterMaps, kept: usize) -> Wear {
    let asked = maps.reading();
    if asked == reading::NONE {
        return Wear::Unasked;
    }
    let used = maps.used(asked);
    // Of the packets without a flow a quarter is looked up in vain, and an eighth less would be: what stands in the tables
    // stays.
    if used > FILTER_LEN / 4 && used > kept + FILTER_LEN / 8 { Wear::Worn(used) } else { Wear::Good(used) }
}

/// Makes the filter anew and gives the places that it then holds.
///
/// # Errors
/// If the kernel refuses to wait or to read the tables. The filter that is asked is as good as before.
pub fn renew(maps: &mut impl FilterMaps) -> Result<usize, StoreError> {
    let spare = FlowFilter::spare(maps.reading());
    maps.grace_period()?;
    maps.clear(spare);
    maps.grace_period()?;
    let mut found = vec![false; FILTER_LEN];
    for table in [FlowTable::Flows, FlowTable::Embryos] {
        maps.each_key(table, &mut |key| found[filter_place(key) as usize] = true)?;
    }
    for (place, _) in (0..).zip(found).filter(|(_, found)| *found) {
        maps.mark(spare, place);
    }
    maps.ask(spare);
    Ok(maps.used(spare))
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
