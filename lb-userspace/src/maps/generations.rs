//! Generations of backend ids: what tells the owners of an id apart. Knows no map.

/// The last generation of each backend id that was ever used.
#[derive(Debug, Default)]
pub(super) struct Generations(Vec<u32>);

impl Generations {
    /// The generation of an id; 0: it was never used.
    pub(super) fn of(&self, id: u32) -> u32 {
        self.0.get(id as usize).copied().unwrap_or(0)
    }

    /// Generation for the next endpoint that gets `id`, or for the time in which nobody has it. Never 0.
    pub(super) fn next(&mut self, id: u32) -> u32 {
        let next = self.of(id).wrapping_add(1).max(1);
        self.set(id, next);
        next
    }

    /// The generation that `id` is found to have.
    pub(super) fn set(&mut self, id: u32, generation: u32) {
        let at = id as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] = generation;
    }

    /// Whether no id was ever used.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_never_0_and_never_the_last_one() {
        let mut generations = Generations::default();
        assert!(generations.is_empty());
        assert_eq!((generations.of(3), generations.next(3), generations.next(3), generations.of(2)), (0, 1, 2, 0));
        generations.set(3, u32::MAX);
        assert_eq!((generations.next(3), generations.of(3)), (1, 1));
    }
}
