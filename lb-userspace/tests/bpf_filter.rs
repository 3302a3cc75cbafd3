//! The filter in front of the flows in the kernel: the real programs open flows on every CPU, in tables that push others out
//! all the time, while the filter is made anew as fast as that goes. No flow is missed. Needs root and the BPF object.

mod bpf_packets_support;

use std::{
    os::fd::BorrowedFd,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use berrylb::maps::{BpfFilter, FilterMaps as _, Wear, renew, wear};
use bpf_packets_support::{Kernel, netns, raw::test_run, tables::now};
use lb_common::{
    abi::{Addr, FILTER_LEN, Port, Tuple, filter_place, map, proto, reading},
    testing::{DEV_CLIENT, Hook, Net, PacketSpec, World, dissect},
};
use nix::{
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
};

const INGRESS: Hook = Hook::PodIngress(DEV_CLIENT);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// How long the filter is made anew under the programs.
const TIME: Duration = Duration::from_secs(3);
/// Entries of each table of flows: so few that all of it turns over between two turns of the filter.
const ROOM: u32 = 2048;

/// A client and the service; no two numbers below 2^30 have the same tuple.
fn tuple(number: u32) -> Tuple {
    let [_, b, c, d] = (number / 16_384).to_be_bytes();
    let client = Addr::v4([11, b, c, d]);
    Tuple::new(client, Port::new(32_768 + (number % 16_384) as u16), Net::V4.vip(), Port::new(8080), proto::TCP)
}

/// Whether the packet is translated.
fn is_translated(program: BorrowedFd<'_>, tuple: Tuple, flags: u8) -> bool {
    let packet = PacketSpec::new(tuple).flags(flags).build();
    let run = test_run(program, &packet, DEV_CLIENT, 1).expect("a test run");
    let after = dissect(&run.packet, 14).expect("a whole packet").tuple;
    // What has no flow is answered by a reset, from whom it was to.
    after != tuple && after != tuple.reversed()
}

/// A kernel whose maps are pinned in a folder that only this thread, and threads that it starts, can see.
fn with_kernel(test: impl FnOnce(Kernel, BpfFilter) + Send + 'static) {
    let dir = tempfile::Builder::new().prefix("berrylb-filter").tempdir().expect("a folder");
    netns::in_node(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare: this test needs root");
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private mounts");
        mount(Some("bpffs"), dir.path(), Some("bpf"), MsFlags::empty(), nothing).expect("a bpffs");
        let mut kernel = kernel(dir.path());
        kernel.tables.reset(&World::tcp(Net::V4).contents(now()));
        let filter = BpfFilter::open(dir.path()).expect("the maps that were just pinned");
        test(kernel, filter);
        umount(dir.path()).expect("the bpffs, which is this test's own");
    });
}

fn kernel(folder: &Path) -> Kernel {
    let mut kernel = Kernel::pinned(&[(map::FLOWS, ROOM), (map::EMBRYOS, ROOM)], folder);
    kernel.load_for(INGRESS);
    kernel
}

#[test]
fn no_flow_is_missed_while_the_filter_is_made_anew() {
    with_kernel(|mut kernel, mut filter| {
        let (opened, lost, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let evicted = AtomicU64::new(0);
        let (program, tables) = kernel.parts(INGRESS);
        let tables = &*tables;
        let mut turns = 0_u32;
        thread::scope(|scope| {
            let cpus = thread::available_parallelism().map_or(1, usize::from) as u32;
            for cpu in 0..cpus {
                let (opened, lost, evicted, stop) = (&opened, &lost, &evicted, &stop);
                scope.spawn(move || {
                    for number in (cpu..).step_by(cpus as usize).take_while(|_| !stop.load(Ordering::Relaxed)) {
                        assert!(is_translated(program, tuple(number), SYN), "an opening packet");
                        opened.fetch_add(1, Ordering::Relaxed);
                        if !is_translated(program, tuple(number), ACK) {
                            // Who was not given the processor for long finds that others have pushed its flow out.
                            let missed = tables.has_flow(&tuple(number));
                            (if missed { lost } else { evicted }).fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let start = Instant::now();
            while start.elapsed() < TIME {
                let before = filter.reading();
                let used = renew(&mut filter).expect("made anew");
                assert_ne!(filter.reading(), before);
                assert!(used <= FILTER_LEN, "{used} places");
                turns += 1;
            }
            stop.store(true, Ordering::Relaxed);
        });
        let (opened, lost, evicted) = (opened.into_inner(), lost.into_inner(), evicted.into_inner());
        eprintln!(
            "{opened} flows opened, {lost} missed and {evicted} pushed out at once, while the filter was made anew {turns} times"
        );
        assert!(opened > 5_000 && turns > 20, "too little happened");
        assert_eq!(lost, 0, "flows that are there are found");
        assert!(evicted < opened / 1000, "nearly all are found just after they were opened");
        assert_eq!(tables.missed(), []);
    });
}

#[test]
fn it_wears_out_and_is_made_anew() {
    with_kernel(|mut kernel, mut filter| {
        let (program, tables) = kernel.parts(INGRESS);
        tables.set_reading(reading::NONE);
        assert_eq!(wear(&filter, 0), Wear::Unasked);
        assert!(renew(&mut filter).expect("made anew") < 16, "of the flows that were there from the start");
        // Each flow has two keys; most that come push others out.
        let openings = FILTER_LEN as u32 / 4;
        for number in 0..openings {
            assert!(is_translated(program, tuple(number), SYN));
        }
        let Wear::Worn(used) = wear(&filter, 0) else { panic!("{:?}", wear(&filter, 0)) };
        let before = filter.reading();
        let left = renew(&mut filter).expect("made anew");
        let entries = tables.flow_entries().len();
        eprintln!("{used} of {FILTER_LEN} places before, {left} after, of {entries} entries");
        assert!(left <= entries && left > entries / 2 && entries <= ROOM as usize, "those of the entries");
        assert!(filter.reading() != before && filter.reading() != reading::NONE);
        assert_eq!(wear(&filter, left), Wear::Good(left));
        assert_eq!(tables.missed(), []);

        // Programs do ask it: what they are not told of they do not find.
        let last = tuple(openings - 1);
        assert!(is_translated(program, last, ACK));
        let asked = filter.reading();
        filter.clear(asked);
        assert!(!is_translated(program, last, ACK));
        filter.mark(asked, filter_place(&last));
        assert!(is_translated(program, last, ACK));
        filter.clear(asked);
        filter.ask(reading::NONE);
        assert!(is_translated(program, last, ACK), "without one, every packet is looked for");
    });
}
