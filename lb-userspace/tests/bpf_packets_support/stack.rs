//! The BPF stack of a linked program, counted as the pickiest kernel counts it.
//!
//! Kernels before 6.6 round each frame up to 32 bytes and count a frame for functions without one
//! (`check_max_stack_depth` in kernel/bpf/verifier.c); newer ones, with a JIT, round to 16. A program may fit here and
//! be refused there.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::generated::bpf_insn;

const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL`, in the source register of a call.
const OWN_FUNCTION: u8 = 1;
const FRAME_POINTER: u8 = 10;

/// Depths of the frames of a program's deepest chain of calls. Calls must be relocated.
pub(crate) fn deepest(instructions: &[bpf_insn]) -> Vec<u32> {
    Frames::of(instructions).deepest(0)
}

/// What a chain of frames takes.
pub(crate) fn sum(frames: &[u32]) -> u32 {
    frames.iter().map(|depth| counted(*depth)).sum()
}

/// What a frame counts on kernels before 6.6.
pub(crate) const fn counted(depth: u32) -> u32 {
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
        let below = callees.iter().map(|callee| self.deepest(*callee)).max_by_key(|chain| sum(chain));
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
