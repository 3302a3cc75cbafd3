//! A start that fails leaves the folder as it found it: tables that it made are empty, but have sizes that the next start
//! would have to keep, and would be taken for what an earlier run wrote. It never touches what was there before.

use std::{collections::BTreeSet, fs};

use lb_common::abi::map;

use super::{error::Result, layout::Layout, pins};

/// Takes away what was pinned since it was made, unless it is told that all went well.
#[derive(Debug)]
pub(super) struct Undo {
    layout: Layout,
    before: BTreeSet<String>,
    armed: bool,
}

impl Undo {
    /// To be made before the first pin; the folder need not be there.
    pub(super) fn new(layout: &Layout) -> Result<Self> {
        let before = pins::names(layout.version())?.into_iter().collect();
        Ok(Self { layout: layout.clone(), before, armed: true })
    }

    /// What was made stays.
    pub(super) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        for name in map::ALL.into_iter().filter(|name| !self.before.contains(*name)) {
            if let Err(error) = pins::unpin(&self.layout.map(name)) {
                // The error that ends the start is on its way; this one would hide it.
                tracing::warn!("a table of a start that failed stays pinned: {error}");
            }
        }
        if self.before.is_empty() {
            for folder in [&self.layout.links(), self.layout.version()] {
                if let Err(error) = fs::remove_dir(folder) {
                    tracing::warn!("{} of a start that failed stays: {error}", folder.display());
                }
            }
        }
    }
}
