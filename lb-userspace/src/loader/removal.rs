//! That somebody took a loaded datapath away, as `berrylb cleanup` does with an agent running: how it is noticed, and
//! that nothing stays which was attached meanwhile. It never puts anything in its place.

use super::{
    cleanup::{Removed, cleanup},
    datapath::Datapath,
    error::Result,
    verify::exists,
};

impl Datapath {
    /// Whether the folder of this datapath's links is gone, or its `--bpffs` folder is another one by now. Nothing can be
    /// pinned any more then, and nobody but a new start can mend it.
    ///
    /// # Errors
    /// When the folders cannot be looked at.
    pub fn is_taken_away(&self) -> Result<bool> {
        Ok(!(self.lock().is_at(self.layout().root())? && exists(&self.layout().links())?))
    }

    /// Takes away what was attached while the rest was taken away. A folder that another agent has made since is its own,
    /// and is left alone.
    ///
    /// # Errors
    /// As [`cleanup`].
    pub fn take_rest_away(&self) -> Result<Removed> {
        let root = self.layout().root();
        if exists(root)? && !self.lock().is_at(root)? { Ok(Removed::default()) } else { cleanup(root) }
    }
}
