//! Names that many objects share, each once in memory. Namespaces, ports, nodes and zones are named again and again; with tens of
//! thousands of objects most of the memory would be copies of few texts. Names of Services are too many to be looked for
//! here: the index has one copy of each.

use std::{cell::RefCell, sync::Arc};

use foldhash::{HashMap, HashSet};

/// Names that nobody uses any more are looked for when there are twice as many as were left the last time, and this
/// many.
const SWEEP_FROM: usize = 1024;

#[derive(Default)]
struct Shared {
    names: HashSet<Arc<str>>,
    /// How many there are when the next sweep is due.
    sweep_at: usize,
}

impl Shared {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(found) = self.names.get(name) {
            return Arc::clone(found);
        }
        if self.names.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = 2 * self.names.len();
        }
        let new: Arc<str> = name.into();
        self.names.insert(Arc::clone(&new));
        new
    }
}

thread_local! {
    static SHARED: RefCell<Shared> = RefCell::default();
}

/// The one copy of a name, among all that this thread has asked for.
#[must_use]
pub fn shared(name: &str) -> Arc<str> {
    SHARED.with_borrow_mut(|shared| shared.get(name))
}

/// Names by number, as [`Numbers`] had them at a time.
pub(super) type Names = Arc<[Arc<str>]>;

/// Names by number, for those who keep very many of them: a number stands as long as somebody has taken it.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    numbers: HashMap<Arc<str>, u32>,
    /// By number.
    names: Vec<Arc<str>>,
    /// By number: how many have taken it.
    taken: Vec<u32>,
    free: Vec<u32>,
}

impl Numbers {
    /// Takes the number of a name.
    pub(super) fn take(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            self.taken[*number as usize] += 1;
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.names.push("".into());
            self.taken.push(0);
            u32::try_from(self.names.len() - 1).expect("fewer names than bytes of memory")
        });
        self.names[number as usize] = Arc::clone(name);
        self.taken[number as usize] = 1;
        self.numbers.insert(Arc::clone(name), number);
        number
    }

    /// The names of all numbers that somebody has taken.
    pub(super) fn as_names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// As [`Self::as_names`], of now, whatever is taken and given back later.
    pub(super) fn names(&self) -> Names {
        self.names.as_slice().into()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.free.len() == self.names.len()
    }

    /// Gives a number back that was taken once.
    pub(super) fn give_back(&mut self, number: u32) {
        let taken = &mut self.taken[number as usize];
        *taken -= 1;
        if *taken == 0 {
            let name = &mut self.names[number as usize];
            self.numbers.remove(name);
            *name = "".into();
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one_and_unused_ones_go() {
        let mut shared = Shared::default();
        let kept = shared.get("kept");
        assert!(Arc::ptr_eq(&kept, &shared.get("kept")));
        for n in 0..10 * SWEEP_FROM {
            let _unused = shared.get(&n.to_string());
        }
        assert!(shared.names.len() <= SWEEP_FROM + 1, "{}", shared.names.len());
        assert!(Arc::ptr_eq(&kept, &shared.get("kept")));
    }

    #[test]
    fn a_number_stands_until_the_last_gives_it_back() {
        let mut numbers = Numbers::default();
        let [a, b, c]: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
        assert_eq!([numbers.take(&a), numbers.take(&b), numbers.take(&a)], [0, 1, 0]);
        numbers.give_back(0);
        assert_eq!(&*numbers.as_names()[0], "a");
        numbers.give_back(0);
        assert_eq!(numbers.take(&c), 0, "it is free again");
        assert_eq!((&*numbers.as_names()[0], &*numbers.as_names()[1]), ("c", "b"));
        assert_eq!(numbers.take(&a), 2);
    }
}
