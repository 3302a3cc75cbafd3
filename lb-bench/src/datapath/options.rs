//! What is measured, and for how long: the command line of `datapath`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{modes::Mode, scenarios::Extent};

/// What the nodes do with traffic apart from Services.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cluster {
    /// Nothing: no netfilter, except on nodes that rules serve
    Plain,
    /// flannel's masquerading and bridge-nf-call-iptables=1 on all nodes: netfilter and conntrack see direct access as well
    Flannel,
}

impl Cluster {
    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Plain => "nodes without netfilter, but for those that rules serve",
            Self::Flannel => "nodes with flannel's masquerading and bridge-nf-call-iptables=1",
        }
    }
}

/// What is measured, and for how long.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: sudo berrylb-bench datapath --quick --only crr/pod --berrylb target/release/berrylb")]
pub(crate) struct Options {
    /// The berrylb program
    #[arg(long, value_name = "FILE")]
    berrylb: PathBuf,
    /// A kube-proxy program, to be measured in its iptables and nftables modes as well
    #[arg(long, value_name = "FILE")]
    pub(super) kube_proxy: Option<PathBuf>,
    /// Fewer scenarios, rounds and Services: within three minutes
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose names hold one of these, such as crr/pod/cluster-ip/local/ipv4
    #[arg(long, value_name = "TEXT,…", value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// Only these modes, and direct
    #[arg(long, value_name = "MODE,…", value_delimiter = ',')]
    modes: Vec<Mode>,
    /// Show where the time of an operation goes, by parts of the kernel and of berrylb, for the scenarios of --only. Needs
    /// the program `perf`
    #[arg(long, requires = "only", conflicts_with_all = ["json", "html", "plots", "compare", "packets"])]
    pub(super) profile: bool,
    /// Name the scenarios, and measure nothing
    #[arg(long)]
    pub(super) list: bool,
    /// What else the nodes do with traffic
    #[arg(long, value_enum, default_value = "plain")]
    pub(super) cluster: Cluster,
    /// Numbers of Services for the scale, up to 50,000; rules are made for up to 10,000. Default: 1,1000,10000,50000, with
    /// --quick 1,1000
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=50_000))]
    services: Vec<u32>,
    /// Turns of every mode in each pass. Default: 40, with --quick 20
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Milliseconds of a turn. Default: 10, with --quick 5
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=1000))]
    slice: Option<u64>,
    /// Passes through all scenarios, each with new processes. Default: 4, with --quick 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    passes: Option<u32>,
    /// Processor that everything is measured on. Default: the last one
    #[arg(long, value_name = "N")]
    processor: Option<usize>,
    /// Also write all figures to this file
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Also write a page with tables and plots to this file; it needs no other
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Also write the plots into this folder, as SVG
    #[arg(long, value_name = "FOLDER")]
    pub(super) plots: Option<PathBuf>,
    /// Compare with the figures in this file, and fail where a ratio is worse beyond the noise of both
    #[arg(long, value_name = "FILE")]
    pub(super) compare: Option<PathBuf>,
    /// Figures of single packets, as the test `bpf_perf` writes them, to be shown beside
    #[arg(long, value_name = "FILE")]
    pub(super) packets: Option<PathBuf>,
}

impl Options {
    fn or_default<T>(&self, given: Option<T>, quick: T, full: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }

    pub(super) fn berrylb(&self) -> &Path {
        &self.berrylb
    }

    pub(super) const fn quick(&self) -> bool {
        self.quick
    }

    pub(super) fn rounds(&self) -> u32 {
        self.or_default(self.rounds, 20, 40)
    }

    /// Milliseconds.
    pub(super) fn slice(&self) -> u64 {
        self.or_default(self.slice, 5, 10)
    }

    pub(super) fn passes(&self) -> u32 {
        self.or_default(self.passes, 3, 4)
    }

    /// # Errors
    /// There is no such processor.
    pub(super) fn processor(&self) -> Result<usize> {
        let count = std::thread::available_parallelism().context("count processors")?.get();
        match self.processor {
            Some(processor) if processor >= count => {
                bail!("--processor {processor}: this machine has {count}, counted from 0")
            }
            Some(processor) => Ok(processor),
            None => Ok(count - 1),
        }
    }

    pub(super) fn wants(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| scenario.contains(text))
    }

    pub(super) fn has(&self, mode: Mode) -> bool {
        mode == Mode::Direct || self.modes.is_empty() || self.modes.contains(&mode)
    }

    pub(super) fn extent(&self) -> Extent {
        let full: &[u32] = if self.quick { &[1, 1000] } else { &[1, 1000, 10_000, 50_000] };
        let mut services = if self.services.is_empty() { full.to_vec() } else { self.services.clone() };
        services.sort_unstable();
        services.dedup();
        Extent { quick: self.quick, services, rules_max: 10_000 }
    }
}
