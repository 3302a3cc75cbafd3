//! What the datapath costs: instructions that the verifier walked, compiled code, locked memory. Read-only.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use lb_common::abi::map;

use super::{
    datapath::Datapath,
    error::{Error, Result, chain},
    layout::Layout,
    sys,
};

/// One loaded program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProgramStats {
    /// Name in the object.
    pub name: String,
    /// Id in the kernel.
    pub id: u32,
    /// Instructions that the verifier walked through (Linux 5.16).
    pub verified_instructions: Option<u32>,
    /// Bytes after the verifier's rewriting.
    pub translated_bytes: Option<u32>,
    /// Bytes of machine code; 0 without a JIT.
    pub jited_bytes: u32,
    /// Locked memory in bytes.
    pub locked_bytes: u32,
}

/// One pinned table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MapStats {
    /// Name.
    pub name: &'static str,
    /// Id in the kernel.
    pub id: u32,
    /// Entries that it can hold.
    pub max_entries: u32,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value; on one CPU for a per-CPU table.
    pub value_bytes: u32,
    /// Locked memory in bytes, as the kernel accounts it.
    pub locked_bytes: u64,
}

impl Datapath {
    /// Figures of the loaded programs, in order of name.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn program_stats(&self) -> Result<Vec<ProgramStats>> {
        let mut stats = Vec::new();
        for (name, program) in self.ebpf().programs() {
            // Not loaded: a socket program that --socket-lb does not ask for, or XDP that no device wants.
            if program.fd().is_err() {
                continue;
            }
            let failed =
                |error: aya::programs::ProgramError| Error::Program { program: name.to_owned(), cause: chain(&error) };
            let info = program.info().map_err(failed)?;
            stats.push(ProgramStats {
                name: name.to_owned(),
                id: info.id(),
                verified_instructions: info.verified_instruction_count(),
                translated_bytes: info.size_translated(),
                jited_bytes: info.size_jitted(),
                locked_bytes: info.memory_locked().map_err(failed)?,
            });
        }
        stats.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(stats)
    }

    /// Figures of the tables.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn map_stats(&self) -> Result<Vec<MapStats>> {
        pinned_maps(self.layout())
    }
}

/// Figures of the tables that are pinned in a folder, agent or not, in the order of [`map::ALL`].
///
/// # Errors
/// When the kernel does not tell.
pub fn pinned_maps(layout: &Layout) -> Result<Vec<MapStats>> {
    let stats = map::ALL.into_iter().filter_map(|name| pinned_map(layout, name).transpose());
    stats.collect()
}

/// Figures of one table; `None` if it is not pinned.
pub(super) fn pinned_map(layout: &Layout, name: &'static str) -> Result<Option<MapStats>> {
    let path = layout.map(name);
    let what = || format!("read about map {}", path.display());
    let Some(fd) = sys::get_pinned(&path).map_err(Error::kernel(what()))? else { return Ok(None) };
    let info = sys::map_info(fd.as_fd()).map_err(Error::kernel(what()))?;
    Ok(Some(MapStats {
        name,
        id: info.id,
        max_entries: info.max_entries,
        key_bytes: info.key_size,
        value_bytes: info.value_size,
        locked_bytes: locked(&fd).ok_or_else(|| {
            Error::setup(format!("{}: fdinfo has no memlock line", what()), "mount a proc file system on /proc")
        })?,
    }))
}

/// `memlock` of proc(5)'s fdinfo: since Linux 6.4 what the map really uses, before that an upper bound.
fn locked(fd: &OwnedFd) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:")).and_then(|bytes| bytes.trim().parse().ok())
}
