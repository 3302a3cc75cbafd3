//! The datapath's programs in the kernel, for tests that run packets through them by `BPF_PROG_TEST_RUN`: loading,
//! maps filled from a case's tables, one run. It attaches nothing and pins nothing.

pub(crate) mod netns;
pub(crate) mod tables;

use std::path::PathBuf;

use aya::{EbpfLoader, TestRun as _, TestRunOptions, programs::SchedClassifier};
use lb_common::{
    abi::program,
    testing::{ARRAY_LEN, Action, Hook},
};

use tables::KernelTables;

/// The programs and their maps.
pub(crate) struct Kernel {
    /// The maps.
    pub(crate) tables: KernelTables,
    bpf: aya::Ebpf,
}

/// What a run brought.
pub(crate) struct Run {
    /// The program's return value.
    pub(crate) action: Action,
    /// The packet after.
    pub(crate) packet: Vec<u8>,
}

/// Largest packet that a test run takes, in bytes.
const PACKET_MAX: usize = 4096;

/// The object under test: `BERRYLB_BPF_OBJECT`, else what the build leaves.
fn object() -> Vec<u8> {
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
    /// Loads the object with small maps and no logging.
    pub(crate) fn load() -> Self {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for name in ["svc_state", "slots", "backends", "svc_counters"] {
            loader.map_max_entries(name, ARRAY_LEN);
        }
        let mut bpf = loader.load(&object()).unwrap_or_else(|error| {
            panic!("load the BPF object: {error:?}. Next step: run the test as root, on a kernel with BPF")
        });
        for name in program::TC {
            classifier(&mut bpf, name).load().unwrap_or_else(|error| panic!("load program {name}: {error:?}"));
        }
        let tables = KernelTables::take(&mut bpf);
        Self { tables, bpf }
    }

    /// Runs the program of a hook on a packet, once.
    pub(crate) fn run(&mut self, hook: Hook, packet: &[u8]) -> Run {
        run(classifier(&mut self.bpf, program_of(hook)), hook, packet)
    }
}

fn program_of(hook: Hook) -> &'static str {
    match hook {
        Hook::PodIngress(_) => program::POD_INGRESS,
        Hook::PodEgress => program::POD_EGRESS,
        Hook::Uplink => program::UPLINK_INGRESS,
        Hook::UplinkL3 => program::UPLINK_L3,
    }
}

fn classifier<'a>(bpf: &'a mut aya::Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = bpf.program_mut(name).unwrap_or_else(|| panic!("the object has no program {name}"));
    program.try_into().unwrap_or_else(|error| panic!("program {name}: {error}"))
}

/// Offset of `ifindex` in `struct __sk_buff` (include/uapi/linux/bpf.h), and the bytes up to its end.
const IFINDEX_AT: usize = 40;

fn run(program: &SchedClassifier, hook: Hook, packet: &[u8]) -> Run {
    let mut context = [0; IFINDEX_AT + 4];
    if let Hook::PodIngress(ifindex) = hook {
        context[IFINDEX_AT..].copy_from_slice(&ifindex.to_ne_bytes());
    }
    let mut out = vec![0; PACKET_MAX];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        })
        .unwrap_or_else(|error| panic!("test run of {hook:?} on {} bytes: {error:?}", packet.len()));
    out.truncate(result.data_size_out as usize);
    let action = match result.return_value as i32 {
        -1 => Action::Next,
        2 => Action::Shot,
        7 => Action::Redirect,
        other => panic!("{hook:?} returned {other}, which is no action of ours"),
    };
    Run { action, packet: out }
}
