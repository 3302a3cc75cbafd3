//! A map with the types of its keys and values: single operations, and batches where the kernel has them for this kind
//! of map. It knows no table of ours.

use std::{collections::HashMap, hash::Hash, io, marker::PhantomData};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    store::{BatchError, StoreError},
    sys::{Batch, RawMap},
};

/// What keys and values are: bytes without padding, of which any are valid.
pub(super) trait Plain: Copy + FromBytes + IntoBytes + Immutable {}

impl<T: Copy + FromBytes + IntoBytes + Immutable> Plain for T {}

/// Elements that are read at once, to begin with.
const READ_AT_ONCE: usize = 1024;

/// A map of `K` to `V`. Of a per-CPU map `V` is one CPU's value, and only [`Self::raw_entries`] and [`Self::each_raw`] read it.
pub(super) struct Table<K, V> {
    map: &'static str,
    raw: RawMap,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain + Eq + Hash, V: Plain> Table<K, V> {
    /// The sizes of `raw` have been checked.
    pub(super) fn new(map: &'static str, raw: RawMap) -> Self {
        Self { map, raw, types: PhantomData }
    }

    pub(super) fn raw(&self) -> &RawMap {
        &self.raw
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, StoreError> {
        let mut value = V::new_zeroed();
        let found = self.raw.lookup(key.as_bytes(), value.as_mut_bytes()).map_err(|e| self.error("read", e))?;
        Ok(found.then_some(value))
    }

    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), StoreError> {
        self.raw.update(key.as_bytes(), value.as_bytes()).map_err(|e| self.error("update", e))
    }

    pub(super) fn delete(&self, key: &K) -> Result<(), StoreError> {
        self.raw.delete(key.as_bytes()).map(drop).map_err(|e| self.error("delete from", e))
    }

    pub(super) fn put_all<'a>(&self, items: impl ExactSizeIterator<Item = (&'a K, &'a [u8])>) -> Result<(), BatchError>
    where
        K: 'a,
    {
        let count = items.len();
        let mut keys = Vec::with_capacity(count * self.raw.key_bytes());
        let mut values = Vec::with_capacity(count * self.raw.value_bytes());
        for (key, value) in items {
            keys.extend_from_slice(key.as_bytes());
            values.extend_from_slice(value);
        }
        // One element costs less by itself.
        let batch = if count > 1 { self.raw.update_batch(&keys, &values, count) } else { Batch::Unsupported };
        match batch {
            Batch::Done => Ok(()),
            Batch::Stopped(done, error) => Err(BatchError { done, source: self.error("update", error) }),
            Batch::Unsupported => {
                let keys = keys.chunks_exact(self.raw.key_bytes());
                for (done, (key, value)) in keys.zip(values.chunks_exact(self.raw.value_bytes())).enumerate() {
                    let put = self.raw.update(key, value).map_err(|e| self.error("update", e));
                    put.map_err(|source| BatchError { done, source })?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn delete_all(&self, items: &[K]) -> Result<(), BatchError> {
        let mut start = 0;
        while start < items.len() {
            let rest = &items[start..];
            let batch =
                if rest.len() > 1 { self.raw.delete_batch(rest.as_bytes(), rest.len()) } else { Batch::Unsupported };
            match batch {
                Batch::Done => return Ok(()),
                // What is missing is deleted.
                Batch::Stopped(done, error) if error.raw_os_error() == Some(libc::ENOENT) => start += done + 1,
                Batch::Stopped(done, error) => {
                    return Err(BatchError { done: start + done, source: self.error("delete from", error) });
                }
                Batch::Unsupported => {
                    for (done, key) in rest.iter().enumerate() {
                        self.delete(key).map_err(|source| BatchError { done: start + done, source })?;
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// All elements, each key once.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, StoreError> {
        let read = |bytes: &[u8]| V::read_from_bytes(bytes).unwrap_or_else(|_| V::new_zeroed());
        Ok(self.raw_entries()?.map(|(key, value)| (key, read(&value))).collect())
    }

    /// All elements, each key once, with the bytes of their values: of a per-CPU map all CPUs'.
    pub(super) fn raw_entries(&self) -> Result<impl Iterator<Item = (K, Vec<u8>)>, StoreError> {
        let mut entries = HashMap::new();
        let by_batch = self.walk_by_batch(&mut |key, value| {
            entries.insert(key, value.to_vec());
        });
        let entries = match by_batch {
            Ok(true) => Ok(entries),
            Ok(false) => self.entries_by_key(),
            Err(error) => Err(error),
        };
        entries.map(HashMap::into_iter).map_err(|e| self.error("read", e))
    }

    /// Shows each element once, and keeps none where the kernel reads this kind of map in batches.
    pub(super) fn each(&self, show: &mut dyn FnMut(&K, &V)) -> Result<(), StoreError> {
        let read = |bytes: &[u8]| V::read_from_bytes(bytes).unwrap_or_else(|_| V::new_zeroed());
        self.each_raw(&mut |key, value| show(&key, &read(value)))
    }

    /// Shows the key of every element that is there from the call to its end, in the kernel's batches: of each bucket it
    /// reads all elements under the bucket's lock. A walk from key to key may miss some.
    pub(super) fn each_key_for_sure(&self, show: &mut dyn FnMut(&K)) -> Result<(), StoreError> {
        match self.walk_by_batch(&mut |key, _| show(&key)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.error("read all of", io::ErrorKind::Unsupported.into())),
            Err(error) => Err(self.error("read", error)),
        }
    }

    /// As [`Self::each`], with the bytes of values: of a per-CPU map all CPUs'.
    pub(super) fn each_raw(&self, show: &mut dyn FnMut(K, &[u8])) -> Result<(), StoreError> {
        let walked = match self.walk_by_batch(show) {
            Ok(true) => Ok(()),
            Ok(false) => self.entries_by_key().map(|entries| entries.iter().for_each(|(key, value)| show(*key, value))),
            Err(error) => Err(error),
        };
        walked.map_err(|e| self.error("read", e))
    }

    /// Whether the kernel has batches for this map. The key of an element tells its bucket, which is read at once.
    fn walk_by_batch(&self, show: &mut dyn FnMut(K, &[u8])) -> io::Result<bool> {
        let mut room = READ_AT_ONCE.min(self.raw.info().max_entries as usize);
        let mut from: Option<Vec<u8>> = None;
        let mut to = vec![0; self.raw.place_bytes()];
        loop {
            let mut keys = vec![0; room * self.raw.key_bytes()];
            let mut values = vec![0; room * self.raw.value_bytes()];
            let (count, more) = match self.raw.lookup_batch(from.as_deref(), &mut to, &mut keys, &mut values) {
                Ok(Some(read)) => read,
                Ok(None) => return Ok(false),
                // A bucket with more elements than there was room for; or elements that went meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let keys = keys.chunks_exact(self.raw.key_bytes()).take(count);
            for (key, value) in keys.zip(values.chunks_exact(self.raw.value_bytes())) {
                show(self.key(key)?, value);
            }
            if !more {
                return Ok(true);
            }
            from = Some(to.clone());
        }
    }

    fn entries_by_key(&self) -> io::Result<HashMap<K, Vec<u8>>> {
        let mut entries = HashMap::new();
        let mut value = vec![0; self.raw.value_bytes()];
        let mut next = vec![0; self.raw.key_bytes()];
        let mut more = self.raw.next_key(None, &mut next)?;
        // A key that goes meanwhile starts the walk again; this bounds how often.
        let mut steps = 4 * u64::from(self.raw.info().max_entries) + 16;
        while more && steps > 0 {
            steps -= 1;
            if self.raw.lookup(&next, &mut value)? {
                entries.insert(self.key(&next)?, value.clone());
            }
            let key = next.clone();
            more = self.raw.next_key(Some(&key), &mut next)?;
        }
        Ok(entries)
    }

    fn key(&self, bytes: &[u8]) -> io::Result<K> {
        K::read_from_bytes(bytes).map_err(|_| io::Error::other(format!("a key of map {} has no valid size", self.map)))
    }

    fn error(&self, operation: &'static str, source: io::Error) -> StoreError {
        match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => StoreError::Full { map: self.map },
            _ => StoreError::Io { map: self.map, operation, source },
        }
    }
}
