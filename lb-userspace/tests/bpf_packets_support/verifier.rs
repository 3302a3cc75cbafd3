//! What the verifier of this kernel says of each program by itself. It loads the linked instructions without the loader
//! between, as that keeps the log to itself where all is well, and kernels before 5.16 tell the figures nowhere else.

use std::{
    collections::HashSet,
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::Map;
use aya_obj::{
    Object, ProgramSection,
    generated::{bpf_attach_type, bpf_attr, bpf_prog_type},
};

use super::{maps, object, raw, stack};

/// `BPF_LOG_LEVEL1` and `BPF_LOG_STATS`.
const STEPS: u32 = 1;
const FIGURES: u32 = 4;
/// The longest log that all kernels give, in bytes.
const LOG_MAX: usize = u32::MAX as usize >> 8;
/// What is shown of a log.
const LAST_LINES: usize = 30;

/// What became of a program.
pub(crate) struct Judged {
    /// Its name.
    pub(crate) name: String,
    /// Instructions that the verifier walked through; or why it refused the program, the last lines of its log.
    pub(crate) verified: Result<u32, String>,
    /// Depths of the frames of the deepest chain of calls.
    pub(crate) frames: Vec<u32>,
}

/// Has every program of the object verified, in order of name, with globals as the agent would set them.
pub(crate) fn judge_all() -> Vec<Judged> {
    let bpf = maps(&[], None);
    let bytes = object();
    let mut object = Object::parse(&bytes).unwrap_or_else(|error| panic!("the BPF object: {error}"));
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let layout = object.maps.clone();
    let places = layout.iter().map(|(name, map)| {
        let made = bpf.map(name).unwrap_or_else(|| panic!("no map {name} was made"));
        (name.as_str(), descriptor(name, made), map)
    });
    object.relocate_maps(places, &sections).unwrap_or_else(|error| panic!("the BPF object: {error}"));
    object.relocate_calls(&sections).unwrap_or_else(|error| panic!("the BPF object: {error}"));

    let mut judged: Vec<Judged> = object.programs.iter().map(|(name, program)| judge(&object, name, program)).collect();
    judged.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    judged
}

fn descriptor(name: &str, map: &Map) -> i32 {
    let (Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::LpmTrie(data)
    | Map::RingBuf(data)) = map
    else {
        panic!("map {name} is of a kind that this test does not know: {map:?}")
    };
    data.fd().as_fd().as_raw_fd()
}

fn judge(object: &Object, name: &str, program: &aya_obj::Program) -> Judged {
    let instructions = &object.functions[&program.function_key()].instructions;
    let (kind, attach) = if let ProgramSection::CgroupSockAddr { attach_type } = &program.section {
        (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Some(bpf_attach_type::from(*attach_type)))
    } else if matches!(program.section, ProgramSection::Xdp { .. }) {
        (bpf_prog_type::BPF_PROG_TYPE_XDP, None)
    } else {
        assert!(matches!(program.section, ProgramSection::SchedClassifier), "{name}: {:?}", program.section);
        (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, None)
    };
    let load = |level, log: &mut [u8]| {
        // SAFETY: a union of plain integers, for which all bits zero is what the kernel calls unset.
        let mut attr: bpf_attr = unsafe { mem::zeroed() };
        // SAFETY: this command's member of the union, all of whose bits are integers.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = kind as u32;
        load.expected_attach_type = attach.map_or(0, |attach| attach as u32);
        load.insns = instructions.as_ptr() as u64;
        load.insn_cnt = instructions.len() as u32;
        load.license = program.license.as_ptr() as u64;
        load.log_level = level;
        load.log_size = log.len() as u32;
        load.log_buf = log.as_mut_ptr() as u64;
        raw::program(&mut attr)
    };
    let mut log = vec![0; 4096];
    let verified = match load(FIGURES, &mut log) {
        Ok(_loaded) => processed(&text(&log)).ok_or_else(|| format!("loaded, but told no figures: {}", text(&log))),
        Err(_) => {
            let mut log = vec![0; LOG_MAX];
            let error = load(STEPS | FIGURES, &mut log).err().unwrap_or_else(|| io::Error::other("not a second time"));
            let text = text(&log);
            let lines: Vec<&str> = text.lines().collect();
            Err(format!("{error}\n{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")))
        }
    };
    Judged { name: name.to_owned(), verified, frames: stack::deepest(instructions) }
}

fn text(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    String::from_utf8_lossy(&log[..end]).into_owned()
}

/// The number in "processed 1427 insns (limit 1000000) …".
fn processed(log: &str) -> Option<u32> {
    let line = log.lines().find_map(|line| line.strip_prefix("processed "))?;
    line.split_whitespace().next()?.parse().ok()
}
