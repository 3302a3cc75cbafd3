//! Hands out the indexes of an array map. It never touches the map, and does not know about grace periods: what is
//! freed here can be handed out at once.

use std::collections::VecDeque;

/// Free and used indexes below a capacity.
#[derive(Debug)]
pub(super) struct Ids {
    capacity: u32,
    /// Everything from here on was never used.
    next: u32,
    /// Freed ones, reused in the order in which they were freed, so that stale references have the longest time to die.
    freed: VecDeque<u32>,
}

impl Ids {
    /// All below `capacity` are free but those of `used`, which is in ascending order.
    pub(super) fn new(capacity: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let mut ids = Self { capacity, next: 0, freed: VecDeque::new() };
        for id in used {
            ids.freed.extend(ids.next..id);
            ids.next = id + 1;
        }
        ids
    }

    pub(super) fn allocate(&mut self) -> Option<u32> {
        if let Some(id) = self.freed.pop_front() {
            return Some(id);
        }
        let id = (self.next < self.capacity).then_some(self.next)?;
        self.next += 1;
        Some(id)
    }

    pub(super) fn free(&mut self, id: u32) {
        debug_assert!(id < self.next && !self.freed.contains(&id), "id {id} was not in use");
        self.freed.push_back(id);
    }

    /// How many can be allocated.
    pub(super) fn available(&self) -> usize {
        (self.capacity - self.next) as usize + self.freed.len()
    }

    /// How many are in use.
    pub(super) fn used(&self) -> usize {
        self.next as usize - self.freed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_between_used_ids_are_free() {
        let mut ids = Ids::new(6, [1, 3]);
        assert_eq!((ids.available(), ids.used()), (4, 2));
        let all: Vec<u32> = std::iter::from_fn(|| ids.allocate()).collect();
        assert_eq!(all, [0, 2, 4, 5]);
        ids.free(3);
        ids.free(0);
        assert_eq!((ids.allocate(), ids.allocate(), ids.allocate()), (Some(3), Some(0), None));
    }
}
