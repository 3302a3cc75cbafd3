//! What stands in a run of slots: the one place that knows its order, for writing and for reading it back.
//!
//! ```text
//! │ selectable ids, each as often as its weight │ ids of weight 0, then IDLE_END │ draining ids │
//! └─ StateWord::count ──────────────────────────┴─ ServiceState::draining ──────────────────────┘
//! ```
//! The part of weight 0 is there only if it is not empty. The datapath reads the first part only.

/// Ends the ids of weight 0. No backend has this id.
pub const IDLE_END: u32 = u32::MAX;

/// The ids in a run, by what they mean.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunContent {
    /// Ids with the number of their slots.
    pub selectable: Vec<(u32, u16)>,
    /// Backends that are listed with weight 0.
    pub idle: Vec<u32>,
    /// Backends that take no new connections but still exist.
    pub draining: Vec<u32>,
}

impl RunContent {
    /// The slots, and how many of them are selectable and how many stand behind; `None` if either is beyond 65,535.
    #[must_use]
    pub fn to_slots(&self) -> Option<(Vec<u32>, u16, u16)> {
        let mut slots = Vec::new();
        for (id, weight) in &self.selectable {
            slots.extend(std::iter::repeat_n(*id, usize::from(*weight)));
            if slots.len() > usize::from(u16::MAX) {
                return None;
            }
        }
        let count = u16::try_from(slots.len()).ok()?;
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
        let mut content = Self::default();
        for id in selectable {
            match content.selectable.last_mut() {
                Some((last, weight)) if last == id => *weight += 1,
                _ => content.selectable.push((*id, 1)),
            }
        }
        let end = behind.iter().position(|id| *id == IDLE_END);
        if let Some(end) = end {
            content.idle = behind[..end].to_vec();
        }
        content.draining = behind[end.map_or(0, |end| end + 1)..].to_vec();
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_back() {
        let content = RunContent { selectable: vec![(4, 1), (9, 3)], idle: vec![7], draining: vec![1, 2] };
        let (slots, count, behind) = content.to_slots().unwrap();
        assert_eq!(slots, [4, 9, 9, 9, 7, IDLE_END, 1, 2]);
        assert_eq!((count, behind), (4, 4));
        assert_eq!(RunContent::from_slots(&slots, count), content);
    }

    #[test]
    fn a_run_has_an_end() {
        let weights = |last| RunContent { selectable: vec![(1, u16::MAX), (2, last)], ..RunContent::default() };
        assert_eq!(weights(0).to_slots().map(|(slots, ..)| slots.len()), Some(65_535));
        assert_eq!(weights(1).to_slots(), None);
    }
}
