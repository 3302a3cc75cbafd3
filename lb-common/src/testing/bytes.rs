//! Copies between typed map values and their bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A value out of its bytes; panics if their number is wrong, which is a mistake of the test.
pub(super) fn from_bytes<T: FromBytes>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).unwrap_or_else(|_| panic!("{} bytes are no {}", bytes.len(), core::any::type_name::<T>()))
}

/// Each 4-byte word of the result comes from `a` or, where `pick` says so, from `b`: what a reader may see of a value
/// that is overwritten under its eyes.
pub(super) fn mixture<T: FromBytes + IntoBytes + Immutable>(a: &T, b: &T, mut pick: impl FnMut() -> bool) -> T {
    let mut mixed = a.as_bytes().to_vec();
    for (word, other) in mixed.chunks_mut(4).zip(b.as_bytes().chunks(4)) {
        if pick() {
            word.copy_from_slice(other);
        }
    }
    from_bytes(&mixed)
}
