//! What stands in a run of slots: the one place that knows its order, for writing and for reading it back.
//!
//! ```text
//! │ ids that selection draws from │ ids of weight 0, then IDLE_END │ draining ids │
//! └─ StateWord::count ────────────┴─ ServiceState::draining ──────────────────────┘
//! ```
//! The part of weight 0 is there only if it is not empty. The datapath reads the first part only: each id repeated by its
//! weight, or a Maglev table. The weights themselves stand with the backends.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// Ends the ids of weight 0. No backend has this id.
pub const IDLE_END: u32 = u32::MAX;

/// The slots of a run, by what they mean.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunContent {
    /// What selection draws from, slot by slot.
    pub selectable: Vec<u32>,
    /// Backends that are listed with weight 0.
    pub idle: Vec<u32>,
    /// Backends that take no new connections but still exist.
    pub draining: Vec<u32>,
}

impl RunContent {
    /// The slots, and how many of them are selectable and how many stand behind; `None` if either is beyond 65,535.
    #[must_use]
    pub fn to_slots(&self) -> Option<(Vec<u32>, u16, u16)> {
        let count = u16::try_from(self.selectable.len()).ok()?;
        let mut slots = self.selectable.clone();
        if !self.idle.is_empty() {
            slots.extend_from_slice(&self.idle);
            slots.push(IDLE_END);
        }
        slots.extend_from_slice(&self.draining);
        let behind = u16::try_from(slots.len() - usize::from(count)).ok()?;
        Some((slots, count, behind))
    }

    /// Reads the slots of a run of which `count` are selectable.
    #[must_use]
    pub fn from_slots(slots: &[u32], count: u16) -> Self {
        let (selectable, behind) = slots.split_at(usize::from(count).min(slots.len()));
        let end = behind.iter().position(|id| *id == IDLE_END);
        Self {
            selectable: selectable.to_vec(),
            idle: end.map(|end| behind[..end].to_vec()).unwrap_or_default(),
            draining: behind[end.map_or(0, |end| end + 1)..].to_vec(),
        }
    }

    /// The ids that selection draws from, each once.
    #[must_use]
    pub fn members(&self) -> BTreeSet<u32> {
        self.selectable.iter().copied().collect()
    }
}

/// A sum over slots: other slots have another one, near enough to certain.
pub(super) fn slots_sum(slots: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    slots.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_back() {
        let content = RunContent { selectable: vec![4, 9, 9, 4], idle: vec![7], draining: vec![1, 2] };
        let (slots, count, behind) = content.to_slots().unwrap();
        assert_eq!(slots, [4, 9, 9, 4, 7, IDLE_END, 1, 2]);
        assert_eq!((count, behind), (4, 4));
        assert_eq!(RunContent::from_slots(&slots, count), content);
        assert_eq!(content.members(), BTreeSet::from([4, 9]));
    }

    #[test]
    fn a_run_has_an_end() {
        let content = |len| RunContent { selectable: vec![1; len], ..RunContent::default() };
        assert_eq!(content(65_535).to_slots().map(|(slots, ..)| slots.len()), Some(65_535));
        assert_eq!(content(65_536).to_slots(), None);
    }
}
