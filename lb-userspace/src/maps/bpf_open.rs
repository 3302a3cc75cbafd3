//! Opening the pinned maps, each held to its shape. It makes none, and reads and writes no element.

use std::{io, path::Path};

use lb_common::abi::map;

use super::{
    mmap::Mmap,
    open_error::OpenError,
    shape::{SHAPES, Shape, shape},
    sys::{MapInfo, RawMap},
    typed::{Plain, Table},
};

/// Maps that are accessed as memory.
const MAPPED: [&str; 3] = [map::SVC_STATE, map::SLOTS, map::FLOW_FILTER];

/// Opens the pins of one folder.
pub(super) struct Opener<'a> {
    dir: &'a Path,
    read_only: bool,
    cpus: usize,
}

impl<'a> Opener<'a> {
    pub(super) fn new(dir: &'a Path, read_only: bool) -> Result<Self, OpenError> {
        let cpus = aya::util::nr_cpus();
        let cpus = cpus.map_err(|(path, error)| OpenError::Io { map: map::COUNTERS, path: path.into(), error })?;
        Ok(Self { dir, read_only, cpus })
    }

    pub(super) fn raw(&self, map: &'static str, entries: Option<u32>) -> Result<RawMap, OpenError> {
        let path = self.dir.join(map);
        // mmap(2) turns a shared mapping of a read-only descriptor into a private one, which the kernel refuses for maps:
        // those are opened for writing even to be only read, and mapped read-only.
        let read_only = self.read_only && !MAPPED.contains(&map);
        let raw = RawMap::open(&path, read_only, self.cpus).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                let others = SHAPES.iter().any(|shape| self.dir.join(shape.name).exists());
                if others { OpenError::Lost { path: path.clone() } } else { OpenError::Missing { path: path.clone() } }
            } else {
                OpenError::Io { map, path: path.clone(), error }
            }
        })?;
        let Shape { kind, key_size, value_size, flags, .. } = *shape(map);
        let MapInfo { map_type, id: _, key_size: found_key, value_size: found_value, max_entries, map_flags } =
            *raw.info();
        for (what, found, wanted) in [
            ("type", map_type, kind as u32),
            ("key size", found_key, key_size),
            ("value size", found_value, value_size),
            ("max_entries", max_entries, entries.unwrap_or(max_entries)),
            ("flags", map_flags & flags, flags),
        ] {
            if found != wanted {
                return Err(OpenError::Wrong { map, path, what, found, wanted });
            }
        }
        Ok(raw)
    }

    pub(super) fn table<K, V>(&self, map: &'static str) -> Result<Table<K, V>, OpenError>
    where
        K: Plain + Eq + std::hash::Hash,
        V: Plain,
    {
        Ok(Table::new(map, self.raw(map, None)?))
    }

    pub(super) fn mmap(&self, map: &'static str, raw: &RawMap) -> Result<Mmap, OpenError> {
        let bytes = raw.info().max_entries as usize * shape(map).stride();
        Mmap::new(raw.fd(), bytes, !self.read_only).map_err(|error| OpenError::Io {
            map,
            path: self.dir.join(map),
            error,
        })
    }
}
