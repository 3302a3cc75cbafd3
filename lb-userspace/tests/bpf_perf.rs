//! What a packet costs in the kernel: mean time of a program's run above that of an empty program, by kind of packet,
//! with 10,000 services in the table. All kinds and the empty programs take turns in one process, so that what else the
//! machine does falls on all alike; the table shows the median and the 10th and 90th percentile over the rounds.
//!
//! Every kind says what the program must do with its packet, and is held to it: the first run alone, by the counters as
//! well, and the last run of every turn. A number of something else would be worse than none.
//!
//! BERRYLB_PERF_KIND leaves only the kinds whose names hold its text, BERRYLB_PERF_RUNS sets the runs in a turn, and
//! BERRYLB_PERF_JSON names a file to write the figures to, for `cargo xtask bench datapath`.
//! It fails only where a number is far out of reach of noise: the budgets are read, not enforced, here.

mod bpf_packets_support;
mod bpf_perf_kinds;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use bpf_packets_support::{
    Kernel, netns,
    raw::{Raw, empty_classifier, empty_xdp, test_run, test_run_xdp},
    tables::now,
};
use bpf_perf_kinds::{Does, HOPS, Kind, Program, SERVICES};
use lb_common::{
    abi::{Counter, map},
    testing::{DEV_UPLINK, Hook, MAC},
};
use serde_json::json;

/// Turns that every kind takes, and runs in each: so short that most turns are not interrupted, and no more than a
/// packet has hops.
const ROUNDS: usize = 301;
const RUNS: u32 = 200;

/// Above this a kind is broken rather than slow, in nanoseconds.
const FAR_OUT: f64 = 2_000.0;

#[test]
fn nanoseconds_per_packet() {
    let (empty, kinds) = netns::in_node(measure);
    let [tc, xdp] = empty;
    eprintln!("\nnanoseconds per packet above an empty program (tc {tc:.1} ns, XDP {xdp:.1} ns), {SERVICES} services");
    eprintln!("{:<58} {:>8} {:>8} {:>8}", "percentile", "50", "10", "90");
    let mut figures = Vec::new();
    for (kind, mut nanos) in kinds {
        nanos.sort_by(f64::total_cmp);
        let [low, median, high] = [ROUNDS / 10, ROUNDS / 2, ROUNDS - ROUNDS / 10].map(|at| nanos[at]);
        figures.push(json!({"name": kind.name, "nanos": {"p10": low, "median": median, "p90": high}}));
        eprintln!("{:<58} {median:>8.1} {low:>8.1} {high:>8.1}", kind.name);
        assert!(median < FAR_OUT, "{} takes {median} ns", kind.name);
        assert!(median > 0.0, "{} takes no time, so it was not measured", kind.name);
    }
    if let Some(path) = std::env::var_os("BERRYLB_PERF_JSON") {
        let all = json!({"services": SERVICES, "emptyTc": tc, "emptyXdp": xdp, "packets": figures});
        std::fs::write(&path, format!("{all:#}\n")).expect("BERRYLB_PERF_JSON names a file that can be written");
    }
}

/// Medians of the empty programs, and each kind with its times above the empty program's of the same round.
fn measure() -> ([f64; 2], Vec<(Kind, Vec<f64>)>) {
    let mut bench = Bench::new();
    let only = std::env::var("BERRYLB_PERF_KIND").unwrap_or_default();
    let kinds = bpf_perf_kinds::all().into_iter().filter(|kind| kind.name.contains(&only));
    let mut kinds: Vec<(Kind, Vec<f64>)> = kinds.map(|kind| (kind, Vec::new())).collect();
    assert!(!kinds.is_empty(), "no kind of packet has `{only}` in its name");
    let runs =
        std::env::var("BERRYLB_PERF_RUNS").map_or(RUNS, |runs| runs.parse().expect("BERRYLB_PERF_RUNS is a number"));
    assert!(runs < u32::from(HOPS), "BERRYLB_PERF_RUNS is {runs}, but a packet has only {HOPS} hops to lose");
    kinds.iter().for_each(|(kind, _)| bench.check(kind));
    let mut empty = [Vec::new(), Vec::new()];
    let frame = kinds[0].0.packet.build();
    for round in 0..=ROUNDS {
        let nothing = bench.empty(&frame, runs);
        for (kind, nanos) in &mut kinds {
            let taken = bench.turn(kind, runs);
            // The first round warms up.
            if round > 0 {
                nanos.push(taken - nothing[usize::from(matches!(kind.program, Program::Xdp))]);
            }
        }
        empty.iter_mut().zip(nothing).for_each(|(all, nanos)| all.push(nanos));
    }
    let median = |mut nanos: Vec<f64>| {
        nanos.sort_by(f64::total_cmp);
        nanos[ROUNDS / 2]
    };
    (empty.map(median), kinds)
}

/// The programs with filled tables.
struct Bench {
    kernel: Kernel,
    empty_tc: OwnedFd,
    empty_xdp: OwnedFd,
}

impl Bench {
    fn new() -> Self {
        let arrays = [map::SVC_STATE, map::SLOTS, map::BACKENDS, map::SVC_COUNTERS, map::SERVICES];
        let mut sizes = arrays.map(|name| (name, 4 * SERVICES)).to_vec();
        sizes.extend([(map::FLOWS, 65_536), (map::EMBRYOS, 65_536)]);
        let mut kernel = Kernel::with_sizes(&sizes);
        kernel.tables.reset(&bpf_perf_kinds::contents(now()));
        // XDP leaves to tc whose neighbour is not known, and frames that are not to this device. So that a frame that was
        // sent on can be sent on again, all neighbours have this device's own address.
        netns::neighbours(MAC);
        kernel.attach_xdp(DEV_UPLINK);
        Self {
            kernel,
            empty_tc: empty_classifier().expect("an empty program loads"),
            empty_xdp: empty_xdp().expect("an empty program loads"),
        }
    }

    /// Mean times of the empty programs, tc and XDP.
    fn empty(&self, frame: &[u8], runs: u32) -> [f64; 2] {
        let tc = test_run(self.empty_tc.as_fd(), frame, 0, runs);
        let xdp = test_run_xdp(self.empty_xdp.as_fd(), frame, DEV_UPLINK, runs);
        [tc, xdp].map(|run| f64::from(run.expect("a test run").nanos))
    }

    fn run(&mut self, kind: &Kind, frame: &[u8], runs: u32) -> Raw {
        self.kernel.tables.set_marks(kind.marks);
        let run = match kind.program {
            Program::Tc(hook) => test_run(self.kernel.program(hook), frame, hook.ifindex(), runs),
            Program::Xdp => self.run_xdp(frame, runs),
        };
        run.unwrap_or_else(|error| panic!("{}: test run: {error}", kind.name))
    }

    /// XDP leaves a flow's first packet of each tick to tc: so that one is tc's here as well, and a turn that goes on into
    /// the next tick is none.
    fn run_xdp(&self, frame: &[u8], runs: u32) -> io::Result<Raw> {
        loop {
            let tick = now();
            test_run(self.kernel.program(Hook::Uplink), frame, DEV_UPLINK, 1)?;
            let run = test_run_xdp(self.kernel.xdp(), frame, DEV_UPLINK, runs);
            if now() == tick {
                return run;
            }
        }
    }

    /// Mean time of a turn's runs, the last of which did what the kind says.
    fn turn(&mut self, kind: &Kind, runs: u32) -> f64 {
        let run = self.run(kind, &kind.packet.build(), runs);
        assert_eq!(run.retval, kind.retval(), "{}: return value of run {runs}", kind.name);
        assert_eq!(run.packet, kind.after(runs), "{}: the packet after {runs} runs", kind.name);
        f64::from(run.nanos)
    }

    /// Holds one run to what the kind says.
    fn check(&mut self, kind: &Kind) {
        self.kernel.tables.reset_counters();
        self.turn(kind, 1);
        let counters = self.kernel.tables.counters();
        let counted: Vec<Counter> =
            Counter::ALL.iter().copied().filter(|counter| counters[*counter as usize] != 0).collect();
        assert_eq!(counted, kind.counts(), "{}: counters", kind.name);
        if let Does::Pass(other) = &kind.does {
            let frame = other.build();
            let run = self.run(kind, &frame, 1);
            let left_alone = run.retval == kind.retval() && run.packet == frame;
            assert!(!left_alone, "{}: what has to be translated or dropped passes as well", kind.name);
        }
    }
}
