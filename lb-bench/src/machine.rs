//! What the figures were measured on, and by what.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The machine and the time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    /// As the kernel names the first processor.
    pub(crate) processor: String,
    /// Processors that are online.
    pub(crate) processors: usize,
    /// `uname -r`.
    pub(crate) kernel: String,
    /// UTC, RFC 3339.
    pub(crate) date: String,
}

impl Machine {
    /// This one, now.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn here() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let named =
            |key: &str| cpuinfo.lines().find_map(|line| Some(line.strip_prefix(key)?.split_once(':')?.1.trim()));
        // arm64 kernels tell only numbers here.
        let processor = named("model name").or_else(|| named("CPU part")).unwrap_or("unknown").to_owned();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's version")?;
        Ok(Self {
            processor,
            processors: std::thread::available_parallelism().context("count processors")?.get(),
            kernel: kernel.trim().to_owned(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        })
    }
}

/// Bytes of a file.
///
/// # Errors
/// It is not there.
pub(crate) fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.len())
}
