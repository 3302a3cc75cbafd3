//! A table by small numbers: an allocator hands out the lowest that is free, so nearly all up to the highest are in use, and a
//! hash table would take twice the room.

/// Values in a page.
const PAGE: usize = 64;

/// Values by number. Pages that were needed once stay.
#[derive(Debug)]
pub(super) struct Dense<T> {
    pages: Vec<Option<Box<[Option<T>; PAGE]>>>,
    len: usize,
}

impl<T> Default for Dense<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

const fn place(number: u32) -> (usize, usize) {
    (number as usize / PAGE, number as usize % PAGE)
}

impl<T> Dense<T> {
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (page, at) = place(number);
        self.pages.get(page)?.as_ref()?[at].as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (page, at) = place(number);
        self.pages.get_mut(page)?.as_mut()?[at].as_mut()
    }

    /// Puts a value in, in place of the one with its number.
    pub(super) fn insert(&mut self, number: u32, value: T) {
        let (page, at) = place(number);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| Box::new([const { None }; PAGE]));
        self.len += usize::from(page[at].replace(value).is_none());
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let (page, at) = place(number);
        let gone = self.pages.get_mut(page)?.as_mut()?[at].take();
        self.len -= usize::from(gone.is_some());
        gone
    }

    /// All of them, in order of number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let pages = self.pages.iter().zip((0_u32..).step_by(PAGE));
        let all = pages.flat_map(|(page, first)| page.iter().flat_map(|page| page.iter()).zip(first..));
        all.filter_map(|(value, number)| Some((number, value.as_ref()?)))
    }

    /// As [`Self::iter`], to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let pages = self.pages.iter_mut().zip((0_u32..).step_by(PAGE));
        let all = pages.flat_map(|(page, first)| page.iter_mut().flat_map(|page| page.iter_mut()).zip(first..));
        all.filter_map(|(value, number)| Some((number, value.as_mut()?)))
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u32..300, prop::option::of(any::<u8>())), 0..400)) {
            let (mut dense, mut map) = (Dense::default(), BTreeMap::new());
            for (number, value) in steps {
                match value {
                    Some(value) => {
                        dense.insert(number, value);
                        map.insert(number, value);
                    }
                    None => prop_assert_eq!(dense.remove(number), map.remove(&number)),
                }
                prop_assert_eq!((dense.get(number), dense.len()), (map.get(&number), map.len()));
            }
            dense.iter_mut().for_each(|(number, value)| *value ^= number.to_le_bytes()[0]);
            map.iter_mut().for_each(|(number, value)| *value ^= number.to_le_bytes()[0]);
            prop_assert_eq!(dense.get_mut(7).copied(), map.get(&7).copied());
            prop_assert!(dense.iter().eq(map.iter().map(|(number, value)| (*number, value))));
        }
    }
}
