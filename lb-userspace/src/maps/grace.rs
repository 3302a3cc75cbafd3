//! Waiting until every BPF program that runs now has ended.
//!
//! `membarrier(MEMBARRIER_CMD_GLOBAL)` (Linux 4.3) is `synchronize_rcu()` with two exceptions: it refuses with EINVAL
//! on kernels that run with `nohz_full=`, and it does nothing while only one CPU is online, although on preemptible
//! kernels a program can be preempted there, too. For those there is a second way: replacing an element of an array of
//! maps waits for running programs by itself (kernel commit 1ae80cf31938, Linux 5.0). Neither waits for sleepable
//! programs; we have none.

use std::io;

use super::sys::{self, RawMap};

/// `MEMBARRIER_CMD_GLOBAL`.
const GLOBAL: libc::c_int = 1;

/// A way to wait, chosen once. Each thread that waits has its own.
#[derive(Debug)]
pub struct Grace(Way);

#[derive(Debug)]
enum Way {
    Membarrier,
    /// An array of maps with one element, and the map in it.
    ArrayOfMaps {
        outer: RawMap,
        inner: RawMap,
    },
}

impl Grace {
    /// The way that works on this machine as it is now.
    ///
    /// # Errors
    /// If neither works.
    pub fn choose() -> io::Result<Self> {
        let membarrier = cpus_online()? > 1 && sys::membarrier(GLOBAL).is_ok();
        Ok(Self(if membarrier { Way::Membarrier } else { Way::array_of_maps()? }))
    }

    /// Waits until every BPF program that runs at the call has ended.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn wait(&mut self) -> io::Result<()> {
        if matches!(self.0, Way::Membarrier) && cpus_online()? < 2 {
            // CPUs can be switched off while we run.
            self.0 = Way::array_of_maps()?;
        }
        match &self.0 {
            Way::Membarrier => sys::membarrier(GLOBAL),
            Way::ArrayOfMaps { outer, inner } => outer.update(&0_u32.to_ne_bytes(), &inner.fd_bytes()),
        }
    }
}

impl Way {
    fn array_of_maps() -> io::Result<Self> {
        let inner = RawMap::create_array(None)?;
        let outer = RawMap::create_array(Some(&inner))?;
        Ok(Self::ArrayOfMaps { outer, inner })
    }
}

fn cpus_online() -> io::Result<usize> {
    // SAFETY: takes a number and gives one.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Both ways take about as long as RCU does; one that returned at once would not have waited.
    #[test]
    fn both_ways_wait() {
        let Ok(mut other) = Way::array_of_maps().map(Grace) else {
            assert!(!sys::may_use_bpf(), "root can make an array of maps");
            return;
        };
        let mut chosen = Grace::choose().expect("one way works");
        for way in [&mut chosen, &mut other] {
            let start = Instant::now();
            for _ in 0..10 {
                way.wait().expect("the wait ends");
            }
            assert!(start.elapsed().as_micros() > 1000, "ten grace periods took {:?}", start.elapsed());
        }
    }
}
