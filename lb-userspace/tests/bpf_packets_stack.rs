//! The BPF stack that each program's deepest chain of calls takes, counted as the pickiest kernel counts it. Reads the
//! object only: no root, no kernel.
//!
//! Kernels before 6.6 round each frame up to 32 bytes and count a frame for functions without one
//! (`check_max_stack_depth` in kernel/bpf/verifier.c); newer ones, with a JIT, round to 16. A program may fit here and
//! be refused there.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::PathBuf,
};

use aya_obj::{Object, generated::bpf_insn};

/// `MAX_BPF_STACK`, in bytes.
const STACK: u32 = 512;

const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL`, in the source register of a call.
const OWN_FUNCTION: u8 = 1;
const FRAME_POINTER: u8 = 10;

#[test]
fn every_chain_of_calls_fits_on_old_kernels_too() {
    let path = std::env::var_os("BERRYLB_BPF_OBJECT")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/berrylb.o")), PathBuf::from);
    let bytes = fs::read(&path).unwrap_or_else(|error| {
        panic!("BPF object {}: {error}. Next step: `cargo xtask build-ebpf` builds it", path.display())
    });
    let mut object = Object::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let names: BTreeMap<(usize, u64), String> =
        object.functions.iter().map(|(key, function)| (*key, function.name.clone())).collect();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).unwrap_or_else(|error| panic!("{}: {error}", path.display()));

    assert!(!object.programs.is_empty(), "{} holds no program", path.display());
    let mut too_deep = Vec::new();
    for (name, program) in &object.programs {
        let function = &object.functions[&program.function_key()];
        let chain = Frames::of(&function.instructions).deepest(0);
        let text = format!("{name}: {} bytes in frames of {:?}", chain.iter().map(|d| counted(*d)).sum::<u32>(), chain);
        eprintln!("{text}");
        if chain.iter().map(|depth| counted(*depth)).sum::<u32>() > STACK {
            too_deep.push(text);
        }
    }
    assert!(too_deep.is_empty(), "more than {STACK} bytes of BPF stack:\n{}\n({names:?})", too_deep.join("\n"));
}

/// What a frame counts on kernels before 6.6.
const fn counted(depth: u32) -> u32 {
    let depth = if depth == 0 { 1 } else { depth };
    depth.next_multiple_of(32)
}

/// Functions of a linked program: by first instruction, the depth of the frame and the functions called.
struct Frames(BTreeMap<usize, (u32, BTreeSet<usize>)>);

impl Frames {
    fn of(instructions: &[bpf_insn]) -> Self {
        let callee = |at: usize| {
            let insn = &instructions[at];
            (insn.code == CALL && insn.src_reg() == OWN_FUNCTION)
                .then(|| usize::try_from(at as i64 + 1 + i64::from(insn.imm)).expect("a call inside the program"))
        };
        let mut frames = BTreeMap::from([(0, (0, BTreeSet::new()))]);
        frames.extend((0..instructions.len()).filter_map(callee).map(|start| (start, (0, BTreeSet::new()))));
        let starts: Vec<usize> = frames.keys().copied().collect();
        for (i, start) in starts.iter().enumerate() {
            let end = starts.get(i + 1).copied().unwrap_or(instructions.len());
            let frame = frames.get_mut(start).expect("just listed");
            frame.0 = depth(&instructions[*start..end]);
            frame.1.extend((*start..end).filter_map(callee));
        }
        Self(frames)
    }

    /// Depths along the deepest chain from a function on.
    fn deepest(&self, function: usize) -> Vec<u32> {
        let (depth, callees) = &self.0[&function];
        let below = callees
            .iter()
            .map(|callee| self.deepest(*callee))
            .max_by_key(|chain| chain.iter().map(|depth| counted(*depth)).sum::<u32>());
        [vec![*depth], below.unwrap_or_default()].concat()
    }
}

/// The deepest byte below the frame pointer that a function reaches: by loads and stores at a fixed offset, or by an
/// address that it computes (`rX = r10`, then `rX += -n`), which is how LLVM addresses its frame.
fn depth(instructions: &[bpf_insn]) -> u32 {
    const CLASS: u8 = 0x07;
    const MOV64_REG: u8 = 0xbf;
    const ADD64_IMM: u8 = 0x07;
    let mut deepest = 0;
    // Registers that hold the frame pointer plus something.
    let mut copies = [false; 11];
    for insn in instructions {
        let (dst, src) = (insn.dst_reg(), insn.src_reg());
        // Loads (1), stores of a constant (2) and of a register (3).
        let base = match insn.code & CLASS {
            1 => src,
            2 | 3 => dst,
            _ => 0,
        };
        if base == FRAME_POINTER {
            deepest = deepest.max(u32::from(insn.off.unsigned_abs()));
        }
        if insn.code == MOV64_REG {
            copies[usize::from(dst)] = src == FRAME_POINTER;
        } else if insn.code == ADD64_IMM && copies[usize::from(dst)] && insn.imm < 0 {
            deepest = deepest.max(insn.imm.unsigned_abs());
            copies[usize::from(dst)] = false;
        }
    }
    deepest.next_multiple_of(8)
}

#[test]
fn old_kernels_count_whole_32_bytes_for_every_frame() {
    assert_eq!([0, 1, 32, 33, 208].map(counted), [32, 32, 32, 64, 224]);
}
