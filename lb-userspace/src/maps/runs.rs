//! Hands out contiguous runs of slots: best fit, neighbours joined when freed. It never touches the map, and does not
//! know about grace periods.

use std::collections::{BTreeMap, BTreeSet};

/// A run of slots. An empty one stands nowhere and is always free to have.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Run {
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// The free runs below a capacity.
#[derive(Debug)]
pub(super) struct Runs {
    capacity: u32,
    free: u32,
    by_offset: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
}

impl Runs {
    pub(super) fn new(capacity: u32) -> Self {
        let mut runs = Self { capacity, free: 0, by_offset: BTreeMap::new(), by_len: BTreeSet::new() };
        runs.insert(0, capacity);
        runs
    }

    /// The smallest free run that is long enough, from its start.
    pub(super) fn allocate(&mut self, len: u32) -> Option<Run> {
        if len == 0 {
            return Some(Run::default());
        }
        let &(found, offset) = self.by_len.range((len, 0)..).next()?;
        self.remove(offset, found);
        self.insert(offset + len, found - len);
        Some(Run { offset, len })
    }

    /// Takes one certain run; false if part of it is in use or beyond the end.
    pub(super) fn reserve(&mut self, Run { offset, len }: Run) -> bool {
        if len == 0 {
            return true;
        }
        let Some((&start, &found)) = self.by_offset.range(..=offset).next_back() else { return false };
        let (Some(end), free_end) = (offset.checked_add(len), start + found) else { return false };
        if end > free_end {
            return false;
        }
        self.remove(start, found);
        self.insert(start, offset - start);
        self.insert(end, free_end - end);
        true
    }

    pub(super) fn free(&mut self, Run { offset, len }: Run) {
        if len == 0 {
            return;
        }
        let (mut start, mut end) = (offset, offset + len);
        debug_assert!(end <= self.capacity, "run {offset}+{len} is beyond the end");
        if let Some((&before, &found)) = self.by_offset.range(..offset).next_back() {
            debug_assert!(before + found <= offset, "run {offset}+{len} is free already");
            if before + found == offset {
                self.remove(before, found);
                start = before;
            }
        }
        if let Some((&after, &found)) = self.by_offset.range(offset..).next() {
            debug_assert!(after >= end, "run {offset}+{len} is free already");
            if after == end {
                self.remove(after, found);
                end = after + found;
            }
        }
        self.insert(start, end - start);
    }

    /// Free slots in all, and in the longest run.
    pub(super) fn available(&self) -> (u32, u32) {
        (self.free, self.by_len.last().map_or(0, |(len, _)| *len))
    }

    pub(super) fn used(&self) -> u32 {
        self.capacity - self.free
    }

    fn insert(&mut self, offset: u32, len: u32) {
        if len > 0 {
            self.by_offset.insert(offset, len);
            self.by_len.insert((len, offset));
            self.free += len;
        }
    }

    fn remove(&mut self, offset: u32, len: u32) {
        self.by_offset.remove(&offset);
        self.by_len.remove(&(len, offset));
        self.free -= len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_join() {
        let mut runs = Runs::new(30);
        let all: Vec<Run> = (0..3).map(|_| runs.allocate(10).unwrap()).collect();
        assert_eq!(runs.allocate(1), None);
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]] {
            for i in order {
                runs.free(all[i]);
            }
            assert_eq!(runs.available(), (30, 30), "freed in order {order:?}");
            let whole = runs.allocate(30).unwrap();
            runs.free(whole);
            for run in &all {
                assert!(runs.reserve(*run));
            }
        }
    }

    /// A service that grows by one endpoint at a time needs a longer run each time, while the old one is still in use.
    #[test]
    fn growth_does_not_use_up_the_table() {
        let mut runs = Runs::new(1000);
        let mut held = [Run::default(); 8];
        for len in 1..=100 {
            for run in &mut held {
                let longer =
                    runs.allocate(len).unwrap_or_else(|| panic!("no run of {len}: {:?} free", runs.available()));
                runs.free(std::mem::replace(run, longer));
            }
        }
        assert_eq!(runs.used(), 800);
        assert_eq!(runs.allocate(201), None);
    }

    #[test]
    fn fragments_are_too_short_until_they_join() {
        let mut runs = Runs::new(100);
        let ones: Vec<Run> = (0..100).map(|_| runs.allocate(1).unwrap()).collect();
        ones.iter().step_by(2).for_each(|run| runs.free(*run));
        assert_eq!(runs.available(), (50, 1));
        assert_eq!(runs.allocate(2), None);
        runs.free(ones[1]);
        assert_eq!(runs.allocate(3), Some(Run { offset: 0, len: 3 }));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_space_comes_back(steps in prop::collection::vec((any::<bool>(), 0_u32..40), 1..200)) {
            let mut runs = Runs::new(256);
            let mut held: Vec<Run> = Vec::new();
            for (take, n) in steps {
                if take {
                    if let Some(run) = runs.allocate(n) {
                        prop_assert_eq!(run.len, n);
                        held.push(run);
                    } else {
                        prop_assert!(runs.available().1 < n);
                    }
                } else if !held.is_empty() {
                    let run = held.swap_remove(n as usize % held.len());
                    runs.free(run);
                }
                let mut taken = [false; 256];
                for run in &held {
                    for slot in &mut taken[run.offset as usize..(run.offset + run.len) as usize] {
                        prop_assert!(!*slot);
                        *slot = true;
                    }
                }
                prop_assert_eq!(runs.used() as usize, taken.iter().filter(|t| **t).count());
            }
            for run in held {
                runs.free(run);
            }
            prop_assert_eq!(runs.available(), (256, 256));
        }
    }
}
