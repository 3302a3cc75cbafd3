//! What every program of the object costs where it is loaded: instructions that the verifier walks through, and the BPF
//! stack of the deepest chain of calls. `cargo xtask vm` shows these lines for kernels other than this machine's.

mod bpf_packets_support;

use std::collections::{BTreeMap, HashSet};

use aya_obj::Object;
use bpf_packets_support::{object, stack, verifier};

/// `MAX_BPF_STACK`, in bytes.
const STACK: u32 = 512;

/// Instructions that the verifier may walk through for a program, by the start of its name: what it takes on Linux 6.18,
/// and on 5.10 (`pod_ingress`: 114,210 there) and 6.1, and some more. A kernel refuses a program beyond a million, and all
/// of it is time at each start.
const VERIFIED: [(&str, u32, u32); 10] = [
    ("pod_ingress", 90_000, 250_000),
    ("pod_egress", 50_000, 50_000),
    ("uplink_ingress", 130_000, 250_000),
    ("uplink_l3_out", 50_000, 50_000),
    ("uplink_l3", 90_000, 250_000),
    ("uplink_egress", 50_000, 50_000),
    ("uplink_xdp", 10_000, 10_000),
    ("connect", 10_000, 10_000),
    ("sendmsg", 10_000, 10_000),
    ("", 1000, 1000),
];

/// Whether this kernel's verifier drops as many equal states as that of Linux 6.18.
fn drops_equal_states() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split('.').map(|number| number.trim().parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) > (Some(6), Some(12))
}

/// Needs root.
#[test]
fn this_kernel_takes_every_program_and_none_costs_more_than_it_may() {
    let (mut wrong, new_verifier) = (Vec::new(), drops_equal_states());
    for judged in verifier::judge_all() {
        let name = &judged.name;
        let bound = VERIFIED.iter().find(|(start, ..)| name.starts_with(start));
        let bound = bound.map_or(0, |(_, new, old)| if new_verifier { *new } else { *old });
        match judged.verified {
            Ok(count) => {
                let stack = stack::sum(&judged.frames);
                eprintln!("program {name}: loaded, {count} instructions of {bound} verified, {stack} bytes of stack");
                if count > bound {
                    wrong.push(format!("{name} takes {count} verified instructions, more than {bound}"));
                }
            }
            Err(why) => {
                eprintln!("program {name}: REFUSED, {why}");
                wrong.push(format!("{name} does not load"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Reads the object only: no root, no kernel.
#[test]
fn every_chain_of_calls_fits_on_old_kernels_too() {
    let bytes = object();
    let mut object = Object::parse(&bytes).unwrap_or_else(|error| panic!("the BPF object: {error}"));
    let names: BTreeMap<(usize, u64), String> =
        object.functions.iter().map(|(key, function)| (*key, function.name.clone())).collect();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).unwrap_or_else(|error| panic!("the BPF object: {error}"));

    assert!(!object.programs.is_empty(), "the object holds no program");
    let mut too_deep = Vec::new();
    for (name, program) in &object.programs {
        let chain = stack::deepest(&object.functions[&program.function_key()].instructions);
        let text = format!("{name}: {} bytes in frames of {chain:?}", stack::sum(&chain));
        eprintln!("{text}");
        if stack::sum(&chain) > STACK {
            too_deep.push(text);
        }
    }
    assert!(too_deep.is_empty(), "more than {STACK} bytes of BPF stack:\n{}\n({names:?})", too_deep.join("\n"));
}

#[test]
fn old_kernels_count_whole_32_bytes_for_every_frame() {
    assert_eq!([0, 1, 32, 33, 208].map(stack::counted), [32, 32, 32, 64, 224]);
}
