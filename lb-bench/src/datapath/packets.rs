//! What single packets and programs cost, beside what connections cost: the test `bpf_perf`'s figures, which come from the
//! packet cases that the correctness tests know, and what the kernel says of the programs when the loader has loaded them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use berrylb::loader::{Datapath, DatapathOptions, object};
use lb_lab::{Host as _, Lab, LabConfig};
use serde::{Deserialize, Serialize};

use super::figures::Middle;

/// Times of test runs in nanoseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Packets {
    /// Services in the table.
    pub(super) services: u32,
    /// An empty classifier.
    pub(super) empty_tc: f64,
    /// An empty XDP program.
    pub(super) empty_xdp: f64,
    pub(super) packets: Vec<Packet>,
}

/// A kind of packet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Packet {
    pub(super) name: String,
    /// Above the empty program.
    pub(super) nanos: Middle,
}

/// A program as the kernel has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Program {
    pub(super) name: String,
    /// Instructions that the verifier walked through; kernels before 5.16 do not tell.
    pub(super) verified_instructions: Option<u32>,
    /// Bytes of machine code.
    pub(super) jited_bytes: u32,
}

/// # Errors
/// The file is not there, or holds something else.
pub(super) fn read(path: &Path) -> Result<Packets> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no figures of bpf_perf", path.display()))
}

/// Loads the programs with plain options, in a lab of their own, and takes them away again.
///
/// # Errors
/// Not root, or the kernel takes one of them not.
pub(super) fn programs() -> Result<Vec<Program>> {
    let config =
        LabConfig { nodes: vec!["programs".into()], service_gateway: 0, masquerade: false, ..LabConfig::default() };
    let lab = Lab::new(LabConfig { bridge_netfilter: false, ..config })?;
    let node = lab.node("programs");
    let load = || {
        let datapath = Datapath::load(object::bytes()?, &DatapathOptions::new(node.bpffs()))?;
        Ok(datapath.program_stats()?)
    };
    let stats = node.netns().enter(load).context("load the programs")?;
    let program = |stats: berrylb::loader::ProgramStats| Program {
        name: stats.name,
        verified_instructions: stats.verified_instructions,
        jited_bytes: stats.jited_bytes,
    };
    Ok(stats.into_iter().map(program).collect())
}
