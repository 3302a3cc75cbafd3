//! The datapath's programs in the kernel, for tests that run packets through them by `BPF_PROG_TEST_RUN`: loading,
//! maps filled from a case's tables, one run. It attaches nothing.
#![expect(dead_code, reason = "each test that includes this uses its own part of it")]

pub(crate) mod interrupts;
pub(crate) mod netns;
pub(crate) mod raw;
pub(crate) mod stack;
pub(crate) mod tables;
pub(crate) mod verifier;

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode, tc},
};
use berrylb::loader::{Feature, Probe, host};
use lb_common::{
    abi::{global, map, program},
    testing::{ARRAY_LEN, Action, Hook},
};

use tables::KernelTables;

/// The programs and their maps.
pub(crate) struct Kernel {
    /// The maps.
    pub(crate) tables: KernelTables,
    bpf: Ebpf,
}

/// What a run brought.
pub(crate) struct Run {
    /// The program's return value.
    pub(crate) action: Action,
    /// The packet after.
    pub(crate) packet: Vec<u8>,
    /// Time that it took, in nanoseconds.
    pub(crate) nanos: u32,
}

/// The object under test: `BERRYLB_BPF_OBJECT`, else what the build leaves.
pub(crate) fn object() -> Vec<u8> {
    let path = std::env::var_os("BERRYLB_BPF_OBJECT")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/berrylb.o")), PathBuf::from);
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "BPF object {}: {error}. Next step: `cargo xtask build-ebpf` builds it; BERRYLB_BPF_OBJECT names another",
            path.display()
        )
    })
}

impl Kernel {
    /// Loads the object with maps just large enough for the cases, and without logging.
    pub(crate) fn load() -> Self {
        Self::with_sizes(&[])
    }

    /// As [`Self::load`], with other sizes for these maps.
    pub(crate) fn with_sizes(sizes: &[(&'static str, u32)]) -> Self {
        let mut kernel = Self::without_programs(sizes);
        program::TC.into_iter().for_each(|name| kernel.load_program(name));
        kernel
    }

    /// The maps alone: loading all programs takes an emulated machine its time, so who needs few loads those.
    pub(crate) fn without_programs(sizes: &[(&'static str, u32)]) -> Self {
        let mut bpf = maps(sizes, None);
        let tables = KernelTables::take(&mut bpf);
        Self { tables, bpf }
    }

    /// As [`Self::without_programs`], with the maps pinned in this folder.
    pub(crate) fn pinned(sizes: &[(&'static str, u32)], folder: &Path) -> Self {
        let mut bpf = maps(sizes, Some(folder));
        let tables = KernelTables::take(&mut bpf);
        Self { tables, bpf }
    }

    /// Loads the program of a hook, unless it is loaded.
    pub(crate) fn load_for(&mut self, hook: Hook) {
        let loaded = self.bpf.program(name(hook)).is_some_and(|program| program.fd().is_ok());
        if !loaded {
            self.load_program(name(hook));
        }
    }

    fn load_program(&mut self, name: &str) {
        let program = self.bpf.program_mut(name).unwrap_or_else(|| panic!("the object has no program {name}"));
        let program: &mut SchedClassifier =
            program.try_into().unwrap_or_else(|error| panic!("program {name}: {error}"));
        program.load().unwrap_or_else(|error| panic!("load program {name}: {error:?}"));
    }

    /// Loads the XDP program and attaches it to a device's driver, without which the kernel runs it for no device.
    pub(crate) fn attach_xdp(&mut self, ifindex: u32) {
        let xdp = self.bpf.program_mut(program::UPLINK_XDP).expect("the object has an XDP program");
        let xdp: &mut Xdp = xdp.try_into().expect("it is one");
        xdp.load().unwrap_or_else(|error| panic!("load the XDP program: {error:?}"));
        xdp.attach_to_if_index(ifindex, XdpMode::Driver).unwrap_or_else(|error| panic!("attach it: {error:?}"));
    }

    /// Attaches the program of a hook to the device that it is on.
    pub(crate) fn attach(&mut self, hook: Hook, device: &str) {
        let program = self.bpf.program_mut(name(hook)).expect("a program of this hook");
        let program: &mut SchedClassifier = program.try_into().expect("a classifier");
        match tc::qdisc_add_clsact(device) {
            Ok(()) => {}
            Err(error) => panic!("a clsact qdisc on {device}: {error}"),
        }
        let side = if hook.is_ingress() { TcAttachType::Ingress } else { TcAttachType::Egress };
        program.attach(device, side).unwrap_or_else(|error| panic!("attach to {device}: {error}"));
    }

    /// The XDP program, once it is loaded.
    pub(crate) fn xdp(&self) -> BorrowedFd<'_> {
        named(&self.bpf, program::UPLINK_XDP)
    }

    /// The program of a hook and the tables, to be used at once.
    pub(crate) fn parts(&mut self, hook: Hook) -> (BorrowedFd<'_>, &mut KernelTables) {
        (program(&self.bpf, hook), &mut self.tables)
    }

    /// The program of a hook.
    pub(crate) fn program(&self, hook: Hook) -> BorrowedFd<'_> {
        program(&self.bpf, hook)
    }

    /// Runs the program of a hook on a packet, once.
    pub(crate) fn run(&self, hook: Hook, packet: &[u8]) -> Run {
        let raw = raw::test_run(self.program(hook), packet, hook.ifindex(), 1)
            .unwrap_or_else(|error| panic!("test run of {hook:?} on {} bytes: {error}", packet.len()));
        let action = match raw.retval {
            -1 => Action::Next,
            2 => Action::Shot,
            7 => Action::Redirect,
            other => panic!("{hook:?} returned {other}, which is no action of ours"),
        };
        Run { action, packet: raw.packet, nanos: raw.nanos }
    }
}

/// The object's maps in the kernel, with these sizes, pinned if there is a folder; none of its programs is loaded yet.
fn maps(sizes: &[(&'static str, u32)], folder: Option<&Path>) -> Ebpf {
    // As the agent does: on an old kernel the programs do without.
    let probe = Probe::run();
    let has = |feature| u8::from(probe.has(feature));
    let (set_retval, coarse_clock) = (has(Feature::SetRetval), has(Feature::CoarseClock));
    if coarse_clock == 0 {
        host::raise_memory_limit().unwrap_or_else(|error| panic!("{error}"));
    }
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .override_global(global::LOG_LEVEL, &0_u8, false)
        .override_global(global::HAS_SET_RETVAL, &set_retval, true)
        .override_global(global::HAS_COARSE_CLOCK, &coarse_clock, true)
        // As by default, where time is measured as well; how packets get to a pod is not to be seen here.
        .override_global(global::DELIVERS, &0_u8, true);
    for name in [map::SVC_STATE, map::SLOTS, map::BACKENDS, map::SVC_COUNTERS] {
        loader.map_max_entries(name, ARRAY_LEN);
    }
    for (name, entries) in sizes {
        loader.map_max_entries(name, *entries);
    }
    for (name, folder) in map::ALL.into_iter().flat_map(|name| folder.map(|folder| (name, folder))) {
        loader.map_pin_path(name, folder.join(name));
    }
    loader.load(&object()).unwrap_or_else(|error| {
        panic!("load the BPF object: {error:?}. Next step: run the test as root, on a kernel with BPF")
    })
}

fn program(bpf: &Ebpf, hook: Hook) -> BorrowedFd<'_> {
    named(bpf, name(hook))
}

const fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::PodIngress(_) => program::POD_INGRESS,
        Hook::PodEgress => program::POD_EGRESS,
        Hook::Uplink | Hook::Overlay => program::UPLINK_INGRESS,
        Hook::UplinkL3 => program::UPLINK_L3,
        Hook::UplinkOut | Hook::OverlayOut => program::UPLINK_EGRESS,
        Hook::UplinkL3Out => program::UPLINK_L3_OUT,
    }
}

fn named<'a>(bpf: &'a Ebpf, name: &str) -> BorrowedFd<'a> {
    let program = bpf.program(name).unwrap_or_else(|| panic!("the object has no program {name}"));
    program.fd().unwrap_or_else(|error| panic!("program {name}: {error}")).as_fd()
}
