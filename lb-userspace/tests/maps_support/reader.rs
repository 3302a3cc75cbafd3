//! A BPF program that looks a service up step by step as the datapath does it, assembled here so that tests of the maps
//! stand on nothing else, and the few system calls to run it. It counts what it ends with in `counters`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};
use lb_common::abi::map;

/// What a lookup ended with; counted in `counters`, which nobody else uses here.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    /// At a backend of its own service.
    Own = 0,
    /// At another service's backend.
    Foreign = 1,
    /// There is no such frontend now.
    Miss = 2,
    /// A hash element was another key's by the time its value was read.
    Recycled = 3,
    /// Twice in a row.
    RecycledTwice = 4,
    /// Its backend set is empty.
    Empty = 5,
    /// An index, slot or id beyond its map.
    Beyond = 6,
}

/// A small assembler: instructions by what they do, jumps by label.
#[derive(Default)]
struct Program {
    code: Vec<bpf_insn>,
    jumps: Vec<(usize, &'static str)>,
    labels: Vec<(&'static str, usize)>,
}

impl Program {
    fn op(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        let mut insn = bpf_insn { code, _bitfield_align_1: [], _bitfield_1: Default::default(), off, imm };
        insn.set_dst_reg(dst);
        insn.set_src_reg(src);
        self.code.push(insn);
    }

    fn mov(&mut self, dst: u8, src: u8) {
        self.op(0xbf, dst, src, 0, 0);
    }

    fn mov_low_half(&mut self, dst: u8, src: u8) {
        self.op(0xbc, dst, src, 0, 0);
    }

    fn set(&mut self, dst: u8, value: i32) {
        self.op(0xb7, dst, 0, 0, value);
    }

    fn add(&mut self, dst: u8, src: u8) {
        self.op(0x0f, dst, src, 0, 0);
    }

    fn add_number(&mut self, dst: u8, value: i32) {
        self.op(0x07, dst, 0, 0, value);
    }

    fn shift_right_and_mask(&mut self, dst: u8, shift: i32, mask: i32) {
        self.op(0x77, dst, 0, 0, shift);
        self.op(0x57, dst, 0, 0, mask);
    }

    fn modulo(&mut self, dst: u8, src: u8) {
        self.op(0x9c, dst, src, 0, 0);
    }

    fn load_u32(&mut self, dst: u8, src: u8, off: i16) {
        self.op(0x61, dst, src, off, 0);
    }

    fn load_u64(&mut self, dst: u8, src: u8, off: i16) {
        self.op(0x79, dst, src, off, 0);
    }

    fn store_u32(&mut self, dst: u8, off: i16, src: u8) {
        self.op(0x63, dst, src, off, 0);
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, imm: i32, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.op(code, dst, src, 0, imm);
    }

    fn jump_if_zero(&mut self, dst: u8, label: &'static str) {
        self.jump(0x15, dst, 0, 0, label);
    }

    fn label(&mut self, label: &'static str) {
        self.labels.push((label, self.code.len()));
    }

    fn call(&mut self, helper: i32) {
        self.op(0x85, 0, 0, 0, helper);
    }

    /// `bpf_map_lookup_elem` of the key at `key` on the stack.
    fn look_up(&mut self, map: &OwnedFd, key: i32) {
        // BPF_LD_IMM64 with BPF_PSEUDO_MAP_FD.
        self.op(0x18, 1, 1, 0, map.as_raw_fd());
        self.op(0, 0, 0, 0, 0);
        self.mov(2, 10);
        self.add_number(2, key);
        self.call(1);
    }

    /// Stays where it is for so many turns, each a read of the clock (`bpf_ktime_get_ns`, some 20 ns); keeps r6 to r9.
    fn dwell(&mut self, turns: i32, label: &'static str) {
        if turns > 0 {
            self.op(0x7a, 10, 0, -40, turns);
            self.label(label);
            self.call(5);
            self.load_u64(1, 10, -40);
            self.add_number(1, -1);
            self.op(0x7b, 10, 1, -40, 0);
            self.jump(0x55, 1, 0, 0, label);
        }
    }

    fn count(&mut self, counters: &OwnedFd, count: Count, over: &'static str) {
        self.op(0x62, 10, 0, -32, count as i32);
        self.look_up(counters, -32);
        self.jump_if_zero(0, over);
        self.set(1, 1);
        self.op(0xdb, 0, 1, 0, 0);
        self.label(over);
    }

    fn end(&mut self) {
        self.set(0, 1);
        self.op(0x95, 0, 0, 0, 0);
    }

    fn finish(mut self) -> Vec<bpf_insn> {
        for (at, label) in &self.jumps {
            let (_, to) = self.labels.iter().find(|(name, _)| name == label).expect("every label is set");
            self.code[*at].off = i16::try_from(*to as i64 - *at as i64 - 1).expect("a short program");
        }
        self.code
    }
}

/// The maps that a lookup passes, by name below a folder.
struct Maps {
    services: OwnedFd,
    svc_state: OwnedFd,
    slots: OwnedFd,
    backends: OwnedFd,
    counters: OwnedFd,
}

/// A loaded program that looks one frontend up, over the maps pinned in `folder`. Input packet: key (20 bytes), its tag (u32), the identity of its service port (u64). `dwell` is how long it stands on
/// what it has found before it reads on: as if it had been interrupted there.
pub(crate) fn reader(folder: &Path, dwell: i32) -> OwnedFd {
    let map = |name: &str| pinned(&folder.join(name));
    let maps = &Maps {
        services: map(map::SERVICES),
        svc_state: map(map::SVC_STATE),
        slots: map(map::SLOTS),
        backends: map(map::BACKENDS),
        counters: map(map::COUNTERS),
    };
    const KEY: i32 = -24;
    const INDEX: i32 = -28;
    let mut p = Program::default();
    // `data` and `data_end` of `struct __sk_buff`.
    p.load_u32(6, 1, 76);
    p.load_u32(2, 1, 80);
    p.mov(3, 6);
    p.add_number(3, 32);
    p.jump(0x2d, 3, 2, 0, "out");
    for word in 0..5 {
        p.load_u32(4, 6, 4 * word);
        p.store_u32(10, KEY as i16 + 4 * word, 4);
    }
    p.load_u32(9, 6, 20);
    p.load_u64(8, 6, 24);
    p.set(7, 0);

    p.label("again");
    p.look_up(&maps.services, KEY);
    p.jump_if_zero(0, "miss");
    p.mov(6, 0);
    p.dwell(dwell, "on the element");
    p.load_u64(1, 6, 0);
    p.mov(2, 1);
    p.shift_right_and_mask(2, 32, 0x00ff_ffff);
    p.jump(0x1d, 2, 9, 0, "tagged");
    p.jump(0x55, 7, 0, 0, "twice");
    p.set(7, 1);
    p.count(&maps.counters, Count::Recycled, "over recycled");
    p.jump(0x05, 0, 0, 0, "again");

    p.label("tagged");
    p.store_u32(10, INDEX as i16, 1);
    p.dwell(dwell, "on the index");
    p.look_up(&maps.svc_state, INDEX);
    p.jump_if_zero(0, "beyond");
    p.load_u64(7, 0, 0);
    p.dwell(dwell, "on the word");
    p.mov(6, 7);
    p.shift_right_and_mask(6, 32, 0xffff);
    p.jump_if_zero(6, "empty");
    // bpf_get_prandom_u32.
    p.call(7);
    p.modulo(0, 6);
    p.mov_low_half(1, 7);
    p.add(1, 0);
    p.store_u32(10, INDEX as i16, 1);
    p.look_up(&maps.slots, INDEX);
    p.jump_if_zero(0, "beyond");
    p.load_u32(1, 0, 0);
    p.store_u32(10, INDEX as i16, 1);
    p.dwell(dwell, "on the id");
    p.look_up(&maps.backends, INDEX);
    p.jump_if_zero(0, "beyond");
    p.load_u64(1, 0, 16);
    p.jump(0x5d, 1, 8, 0, "foreign");
    p.count(&maps.counters, Count::Own, "over own");
    p.end();

    for (label, count, over) in [
        ("foreign", Count::Foreign, "over foreign"),
        ("miss", Count::Miss, "over miss"),
        ("twice", Count::RecycledTwice, "over twice"),
        ("empty", Count::Empty, "over empty"),
        ("beyond", Count::Beyond, "over beyond"),
    ] {
        p.label(label);
        p.count(&maps.counters, count, over);
        p.end();
    }
    p.label("out");
    p.set(0, 0);
    p.op(0x95, 0, 0, 0, 0);
    load(&p.finish())
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers.
    unsafe { std::mem::zeroed() }
}

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: every pointer inside `attr` was made from a reference that its caller holds until this returns.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd as u32, &raw mut *attr, size_of::<bpf_attr>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(ret).map_err(io::Error::other) }
}

fn pinned(path: &Path) -> OwnedFd {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).expect("a pinned map");
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn load(code: &[bpf_insn]) -> OwnedFd {
    let load = |log: &mut [u8]| {
        let mut attr = zeroed();
        // SAFETY: writing plain integers into a zeroed union member.
        let program = unsafe { &mut attr.__bindgen_anon_3 };
        program.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
        program.insn_cnt = u32::try_from(code.len()).expect("short");
        program.insns = code.as_ptr() as u64;
        program.license = c"GPL".as_ptr() as u64;
        if !log.is_empty() {
            program.log_buf = log.as_mut_ptr() as u64;
            program.log_size = u32::try_from(log.len()).expect("small");
            program.log_level = 1;
        }
        bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)
    };
    let fd = load(&mut []).unwrap_or_else(|error| {
        let mut log = vec![0_u8; 1 << 16];
        let again = load(&mut log).err();
        panic!("{error}, {again:?}\n{}", String::from_utf8_lossy(&log).trim_end_matches('\0'));
    });
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Runs a lookup `repeat` times (`BPF_PROG_TEST_RUN`).
pub(crate) fn test_run(program: &OwnedFd, packet: &[u8], repeat: u32) {
    let mut attr = zeroed();
    // SAFETY: writing plain integers into a zeroed union member.
    let test = unsafe { &mut attr.test };
    test.prog_fd = program.as_raw_fd() as u32;
    test.data_in = packet.as_ptr() as u64;
    test.data_size_in = u32::try_from(packet.len()).expect("small");
    test.repeat = repeat;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).expect("it runs");
    // SAFETY: the kernel wrote the return value.
    assert_eq!(unsafe { attr.test.retval }, 1, "the program did not take the packet");
}
