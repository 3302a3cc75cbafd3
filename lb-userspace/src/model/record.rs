//! What the index keeps of one Service, in one piece of memory: the packed Service, and its packed slices, which come and go by
//! themselves. With tens of thousands of Services, what each allocation costs beside its content would be most of all.

use std::ops::Range;

use super::bytes::{length_of_count, number, put_count, take_slice};

/// An object as it is kept: first its head, which tells it from the others of its Service and says where it ends itself, and then
/// its content.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// The length of the head.
    pub(super) head: usize,
}

impl Piece {
    /// Begins another one in the same memory.
    pub(super) fn begin(&mut self, put_head: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.clear();
        put_head(&mut self.bytes);
        self.head = self.bytes.len();
    }
}

/// Pieces, in the order of their bytes, each behind its length.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Record(Box<[u8]>);

/// What became of a piece that was put into a record.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Put {
    /// There was none with this head.
    Added,
    /// It is in place of this one.
    Replaced(Box<[u8]>),
    /// It was there.
    Equal,
}

impl Record {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All pieces.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.places().map(|(_, piece)| piece)
    }

    /// The content of the piece with this head.
    pub(super) fn get(&self, head: &[u8]) -> Option<&[u8]> {
        self.pieces().find_map(|piece| piece.strip_prefix(head))
    }

    /// Puts a piece in, in place of the one with the same head.
    pub(super) fn put(&mut self, piece: &Piece) -> Put {
        let Piece { bytes, head } = piece;
        let head = &bytes[..*head];
        let mut old: Option<Box<[u8]>> = None;
        let mut at = self.0.len()..self.0.len();
        for (place, there) in self.places() {
            if there == bytes {
                return Put::Equal;
            }
            if there.starts_with(head) {
                (at, old) = (place, Some(there.into()));
                break;
            }
            if there > head {
                at = place.start..place.start;
                break;
            }
        }
        if old.as_ref().is_some_and(|old| old.len() == bytes.len()) {
            // As when an endpoint gets ready.
            self.0[at.end - bytes.len()..at.end].copy_from_slice(bytes);
            return old.map_or(Put::Added, Put::Replaced);
        }
        let (before, behind) = (&self.0[..at.start], &self.0[at.end..]);
        let length = before.len() + length_of_count(bytes.len()) + bytes.len() + behind.len();
        let mut all = Vec::with_capacity(length);
        all.extend_from_slice(before);
        put_count(bytes.len(), &mut all);
        all.extend_from_slice(bytes);
        all.extend_from_slice(behind);
        self.0 = all.into();
        old.map_or(Put::Added, Put::Replaced)
    }

    /// Takes the piece with this head out.
    pub(super) fn remove(&mut self, head: &[u8]) -> Option<Box<[u8]>> {
        let (place, piece) = self.places().find(|(_, piece)| piece.starts_with(head))?;
        let piece = piece.into();
        self.0 = [&self.0[..place.start], &self.0[place.end..]].concat().into();
        Some(piece)
    }

    /// All pieces, each with the place that it and its length take.
    fn places(&self) -> impl Iterator<Item = (Range<usize>, &[u8])> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let start = self.0.len() - rest.len();
            let length = (!rest.is_empty()).then(|| number(&mut rest))?;
            let piece = take_slice(&mut rest, length as usize);
            Some((start..self.0.len() - rest.len(), piece))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of two bytes and a length that may need more than one byte, against a map.
        #[test]
        fn pieces_are_kept_in_order(
            steps in prop::collection::vec((0_u8..6, prop::option::of((0_usize..300, any::<u8>()))), 0..60),
        ) {
            let mut record = Record::default();
            let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
            for (key, content) in steps {
                match content {
                    Some((length, byte)) => {
                        let bytes = [vec![key], vec![byte; length]].concat();
                        let put = record.put(&Piece { bytes: bytes.clone(), head: 1 });
                        let expected = match model.insert(key, bytes.clone()) {
                            None => Put::Added,
                            Some(old) if old == bytes => Put::Equal,
                            Some(old) => Put::Replaced(old.into()),
                        };
                        prop_assert_eq!(put, expected);
                    }
                    None => prop_assert_eq!(record.remove(&[key]), model.remove(&key).map(Into::into)),
                }
                prop_assert!(record.pieces().eq(model.values()));
                prop_assert_eq!(record.is_empty(), model.is_empty());
                for key in 0..6 {
                    prop_assert_eq!(record.get(&[key]), model.get(&key).map(|bytes| &bytes[1..]));
                }
            }
        }
    }
}
