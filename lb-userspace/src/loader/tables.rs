//! Map definitions: those of the object against those that an earlier run pinned. aya reuses a pinned map without a
//! look at it, so this looks. It never reads or writes an element.
//!
//! The rule for sizes: **a pinned table keeps the size that it was made with.** Tables are adopted with what they hold,
//! flows and services refer to each other by number, and programs of the earlier run use them until they are replaced;
//! a table made anew would cut connections or leave a moment without services. So a changed `--max-…` is reported
//! ([`KeptSize`]) and takes effect after `berrylb cleanup` or a reboot. Any other difference is refused. The one
//! exception is `counters`, whose length belongs to the build and whose loss harms nobody: it is made anew.

use std::{fmt, os::fd::AsFd as _, path::Path};

use aya_obj::{Map, Object};
use lb_common::abi::map;

use super::{
    error::{Error, Result, chain},
    layout::Layout,
    pins, sys,
};

/// A table that kept the size of an earlier run although another was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeptSize {
    /// Map name.
    pub map: &'static str,
    /// Entries it has.
    pub pinned: u32,
    /// Entries that were asked for.
    pub wanted: u32,
}

impl fmt::Display for KeptSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, pinned, wanted } = self;
        write!(
            f,
            "table {map} keeps its {pinned} entries although {wanted} are asked for, as it is in use. Next step: \
             nothing, or `berrylb cleanup` (interrupts traffic) and a new start"
        )
    }
}

/// Sizes that the maps will have.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// For every pinned map of the ABI.
    pub(super) entries: Vec<(&'static str, u32)>,
    /// Those that were not as asked for.
    pub(super) kept: Vec<KeptSize>,
}

/// Compares the object's maps with the pinned ones and settles their sizes.
///
/// # Errors
/// [`Error::Object`] if the object is not ours, [`Error::MapMismatch`] if a pinned map does not fit it.
pub(super) fn settle(object: &[u8], layout: &Layout, asked: &[(&'static str, u32)]) -> Result<Sizes> {
    let object = Object::parse(object).map_err(|error| Error::Object(chain(&error)))?;
    if let Some((unknown, _)) = asked.iter().find(|(name, _)| !map::ALL.contains(name)) {
        return Err(Error::Object(format!("a size is asked for map {unknown}, which does not exist")));
    }
    let mut sizes = Sizes::default();
    for name in map::ALL {
        let Some(definition) = object.maps.get(name) else {
            return Err(Error::Object(format!("it holds no map {name}: it does not belong to this build")));
        };
        let given = asked.iter().find(|(asked, _)| *asked == name).map(|(_, entries)| *entries);
        let wanted = given.unwrap_or_else(|| definition.max_entries());
        let entries = match pinned(layout, name, definition)? {
            None => wanted,
            Some(pinned) if pinned == wanted => wanted,
            Some(_) if name == map::COUNTERS => {
                pins::unpin(&layout.map(name))?;
                wanted
            }
            Some(pinned) if given.is_some() => {
                sizes.kept.push(KeptSize { map: name, pinned, wanted });
                pinned
            }
            Some(pinned) => {
                return Err(mismatch(layout, name, format!("{pinned} entries"), format!("{wanted} entries")));
            }
        };
        sizes.entries.push((name, entries));
    }
    Ok(sizes)
}

/// Entries of the map that is pinned under this name, once all else about it fits.
fn pinned(layout: &Layout, name: &str, definition: &Map) -> Result<Option<u32>> {
    let path = layout.map(name);
    let what = || format!("open pinned map {}", path.display());
    let Some(fd) = sys::get_pinned(&path).map_err(Error::kernel(what()))? else { return Ok(None) };
    if !pins::is_kind(&fd, "map").map_err(Error::kernel(what()))? {
        return Err(mismatch(layout, name, "something that is not a map".to_owned(), "a map".to_owned()));
    }
    let info = sys::map_info(fd.as_fd()).map_err(Error::kernel(what()))?;
    let found = Shape { kind: info.map_type, key: info.key_size, value: info.value_size, flags: info.flags };
    let wanted = Shape {
        kind: definition.map_type(),
        key: definition.key_size(),
        value: definition.value_size(),
        flags: definition.map_flags(),
    };
    if found != wanted {
        return Err(mismatch(layout, name, found.to_string(), wanted.to_string()));
    }
    Ok(Some(info.max_entries))
}

fn mismatch(layout: &Layout, name: &str, found: String, wanted: String) -> Error {
    let bpffs = layout.root().to_owned();
    Error::MapMismatch { map: name.to_owned(), path: layout.map(name), bpffs, found, wanted }
}

#[derive(Eq, PartialEq)]
struct Shape {
    kind: u32,
    key: u32,
    value: u32,
    flags: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key, value, flags } = self;
        write!(f, "type {kind}, key {key} bytes, value {value} bytes, flags {flags:#x}")
    }
}

/// Whether a folder holds maps of an earlier run.
pub(super) fn any_pinned(folder: &Path) -> Result<bool> {
    Ok(pins::names(folder)?.iter().any(|name| map::ALL.contains(&name.as_str())))
}
