//! Every packet case through the programs that the kernel verified and compiled: verdict, packet, counters, flow and
//! affinity entries. Needs root and the BPF object.

mod bpf_packets_support;

use bpf_packets_support::{Kernel, Run, netns, raw, tables, tables::now};
use lb_common::{
    abi::{Counter, Flow, Tuple, proto},
    datapath::{FlowTable, Scratch, Verdict, xdp},
    testing::{
        Action, Case, DEV_CLIENT, DEV_SERVER, DEV_UPLINK, Hook, L4Sum, MAC, MemTables, Observed, VecPacket, World,
        cases, describe, malformed, route, test_run_answers, test_run_is_foreign, test_run_takes,
    },
};

/// What the XDP program returns (include/uapi/linux/bpf.h).
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

#[test]
fn every_packet_case_holds_in_the_kernel() {
    if !tables::routes_tell_mtu() {
        eprintln!(
            "not shown here: the MTU of flows to local pods. Routes tell it since Linux 5.12 (e1850ea9bd9e), and packets \
             too large for a pod are not answered before"
        );
    }
    let (ran, wrong) = netns::in_node(|| {
        let mut kernel = Kernel::load();
        let cases: Vec<Case> = cases::all().into_iter().filter(Case::runs_in_kernel).collect();
        let wrong: Vec<String> = cases.iter().filter_map(|case| check(&mut kernel, case).err()).collect();
        (cases.len(), wrong)
    });
    assert!(ran >= 2400, "only {ran} cases can run in the kernel");
    assert!(wrong.is_empty(), "{} of {ran} cases fail:\n{}", wrong.len(), wrong.join("\n"));
}

fn check(kernel: &mut Kernel, case: &Case) -> Result<(), String> {
    // Time that goes on between filling the tables and the packet is another case than the one that was written down.
    loop {
        let filled = now();
        let outcome = check_at(kernel, case, filled);
        if outcome.is_ok() || now() == filled {
            return outcome;
        }
    }
}

fn check_at(kernel: &mut Kernel, case: &Case, filled: u32) -> Result<(), String> {
    kernel.tables.reset(&case.world.contents(filled));
    if case.silenced {
        kernel.tables.silence();
    }
    let mut run = kernel.run(case.hook, &case.packet.build());
    if let Verdict::Redirect(_) = case.verdict {
        without_added_header(&mut run, case.hook);
    }
    let missed = kernel.tables.missed();
    if !missed.is_empty() {
        return Err(format!("{}: the filter lacks {missed:?}", case.name));
    }
    let observed = Observed {
        verdict: None,
        action: run.action,
        packet: run.packet,
        counters: kernel.tables.counters(),
        backends: kernel.tables.backend_counters(),
        flows: kernel.tables.flow_entries(),
        affinity: kernel.tables.affinity_entries(),
    };
    case.check(&observed, filled, now())
}

/// A packet without link-layer header that is redirected gets one, for the helper to fill in: it must be empty. The type
/// in it is what the test run took for one, so nothing is known of that.
fn without_added_header(run: &mut Run, hook: Hook) {
    if hook.l2_len() == 0 && run.action == Action::Redirect && run.packet.starts_with(&[0; 12]) {
        run.packet.drain(..14);
    }
}

/// XDP's program and the host's core must agree on each case of an uplink: verdict, bytes, counters and flows. What the
/// core does there is compared with tc in `lb-common`.
#[test]
fn xdp_does_in_the_kernel_what_it_does_on_the_host() {
    const NEIGHBOUR: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
    if !raw::runs_xdp_for_a_device() {
        eprintln!(
            "not shown here: XDP. A test run names no device before Linux 5.15 (ec94670fcb3b), and without one every \
             frame passes"
        );
        return;
    }
    let (ran, sent, wrong) = netns::in_node(|| {
        let mut kernel = Kernel::without_programs(&[]);
        netns::neighbours(NEIGHBOUR);
        kernel.attach_xdp(DEV_UPLINK);
        let ends = [NEIGHBOUR, MAC].concat().try_into().expect("two addresses");
        // A frame has no merged segments, and its checksums are whole.
        let whole = |case: &Case| case.packet.l4_sum != L4Sum::Partial && case.gso_size == 0;
        let cases: Vec<Case> =
            cases::all().into_iter().filter(|case| case.hook == Hook::Uplink && whole(case)).collect();
        let results: Vec<_> = cases.iter().map(|case| check_xdp(&mut kernel, case, ends)).collect();
        let sent = results.iter().filter(|result| **result == Ok(xdp::Verdict::Transmit)).count();
        (cases.len(), sent, results.into_iter().filter_map(Result::err).collect::<Vec<_>>())
    });
    eprintln!("{ran} cases, {sent} of them sent on");
    assert!(wrong.is_empty(), "{} of {ran} cases fail:\n{}", wrong.len(), wrong.join("\n"));
    assert!(ran >= 1000 && sent >= 100, "of {ran} cases XDP sent {sent} on, so little was shown");
}

fn check_xdp(kernel: &mut Kernel, case: &Case, ends: [u8; 12]) -> Result<xdp::Verdict, String> {
    // A flow's first packet of a tick is another case.
    loop {
        let filled = now();
        let outcome = check_xdp_at(kernel, case, ends, filled);
        if outcome.is_ok() || now() == filled {
            return outcome;
        }
    }
}

fn check_xdp_at(kernel: &mut Kernel, case: &Case, ends: [u8; 12], filled: u32) -> Result<xdp::Verdict, String> {
    let contents = case.world.contents(filled);
    kernel.tables.reset(&contents);
    let tables = MemTables::with(&contents);
    tables.set_now(filled);
    let mut packet = case.packet.packet();
    packet.ends = Some(ends);
    let verdict = xdp::ingress(&mut packet, &tables, case.hook.link(), &mut Scratch::default());
    if let xdp::Verdict::Drop(reason) = verdict {
        return Err(format!("{}: dropped for {}", case.name, reason.name()));
    }
    let run = raw::test_run_xdp(kernel.xdp(), &case.packet.build(), DEV_UPLINK, 1)
        .unwrap_or_else(|error| panic!("{}: test run: {error}", case.name));
    let wanted = if verdict == xdp::Verdict::Transmit { XDP_TX } else { XDP_PASS };
    if run.retval != wanted {
        return Err(format!("{}: the program returned {}, not {wanted}", case.name, run.retval));
    }
    if run.packet != packet.bytes {
        return Err(format!("{}: {}\n  host {}", case.name, describe(&run.packet, 14), describe(&packet.bytes, 14)));
    }
    if kernel.tables.counters() != tables.counters() {
        return Err(format!("{}: counters {:?}", case.name, kernel.tables.counters()));
    }
    let (found, wanted) = (kernel.tables.backend_counters(), tables.backend_counters());
    if found != wanted {
        return Err(format!("{}: counted by backend {found:?}, host {wanted:?}", case.name));
    }
    if unseen(kernel.tables.flow_entries()) != unseen(tables.flow_entries()) {
        return Err(format!("{}: flow entries", case.name));
    }
    Ok(verdict)
}

/// Entries without the time of their last packet, which is another tick's now and then.
fn unseen(mut flows: Vec<(FlowTable, Tuple, Flow)>) -> Vec<(FlowTable, Tuple, Flow)> {
    flows.iter_mut().for_each(|(_, _, flow)| flow.seen = 0);
    flows
}

/// Some devices sum up what they receive, and the stack checks that sum instead of the packet: so it has to follow each
/// change of what the stack gets.
#[test]
fn the_sum_that_a_device_made_stays_that_of_the_packet() {
    let (ran, wrong) = netns::in_node(|| {
        let mut kernel = Kernel::without_programs(&[]);
        // What is redirected loses its sum: bpf_redirect_neigh exchanges the link-layer header behind its back.
        let for_the_stack = |case: &Case| matches!(case.verdict, Verdict::Stack | Verdict::Pass);
        // Nobody checks SCTP, or datagrams without a checksum, by it.
        let summed = |case: &Case| case.packet.l4_sum == L4Sum::Good && case.packet.tuple.proto != proto::SCTP;
        // Without a link-layer header a test run does not know where the IP header is.
        let on_ingress = |case: &Case| case.hook.is_ingress() && case.hook.l2_len() != 0 && case.runs_in_kernel();
        let all = cases::all().into_iter();
        let cases: Vec<Case> =
            all.filter(|case| for_the_stack(case) && summed(case) && on_ingress(case) && case.out.is_some()).collect();
        let mut wrong = Vec::new();
        for case in &cases {
            kernel.load_for(case.hook);
            kernel.tables.reset(&case.world.contents(now()));
            match raw::test_run_summed(kernel.program(case.hook), &case.packet.build(), case.hook.ifindex()) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return (None, wrong),
                Err(error) => wrong.push(format!("{}: {error}", case.name)),
            }
        }
        (Some(cases.len()), wrong)
    });
    let Some(ran) = ran else {
        eprintln!("not shown here: the device's sum. A test run makes no such packet before Linux 6.18");
        return;
    };
    assert!(ran >= 100, "only {ran} cases go on to the stack");
    assert!(wrong.is_empty(), "{} of {ran} cases fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// What an ICMP error quotes is read, too, where the driver left it in pages.
#[test]
fn icmp_errors_are_translated_also_where_only_their_headers_lie_in_one_piece() {
    let (ran, wrong) = netns::in_node(|| {
        let mut kernel = Kernel::without_programs(&[]);
        kernel.load_for(Hook::Uplink);
        netns::uplink_mtu(9000);
        kernel.attach(Hook::Uplink, "up0");
        let all = cases::all().into_iter();
        let cases: Vec<Case> =
            all.filter(|case| case.hook == Hook::Uplink && case.counters == [Counter::IcmpErrors]).collect();
        let mut wrong = Vec::new();
        for case in &cases {
            let mut packet = case.packet.clone();
            packet.payload.resize(5000, 0);
            kernel.tables.reset(&case.world.contents(now()));
            let headers = if packet.tuple.src.is_v4() { 14 + 20 + 8 } else { 14 + 40 + 8 };
            raw::send_in_pieces(netns::DEV_UPLINK_PEER, &packet.build(), headers)
                .unwrap_or_else(|error| panic!("send {}: {error}", case.name));
            if !translated_soon(&kernel) {
                wrong.push(case.name.clone());
            }
        }
        (cases.len(), wrong)
    });
    assert!(ran >= 40, "only {ran} cases");
    assert!(wrong.is_empty(), "{} of {ran} are not translated:\n{}", wrong.len(), wrong.join("\n"));
}

fn translated_soon(kernel: &Kernel) -> bool {
    // At once on an idle machine; others have five seconds.
    (0..1000).any(|_| {
        let counters = kernel.tables.counters();
        if counters[Counter::IcmpErrors as usize] == 1 {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        false
    })
}

/// Damaged packets per program: 10,000, or as many as `BERRYLB_MALFORMED` says, for emulated machines.
fn malformed_wanted() -> u64 {
    let wanted = std::env::var("BERRYLB_MALFORMED").ok();
    wanted.map_or(10_000, |count| count.parse().expect("BERRYLB_MALFORMED is a number"))
}

/// The kernel and the host core must agree on each of them: verdict, bytes, counters and flows.
#[test]
fn malformed_packets_get_the_same_verdict_in_the_kernel() {
    let hooks = [
        Hook::PodIngress(DEV_CLIENT),
        Hook::PodIngress(DEV_SERVER),
        Hook::PodEgress,
        Hook::Uplink,
        Hook::UplinkL3,
        Hook::UplinkOut,
        Hook::UplinkL3Out,
        Hook::Overlay,
    ];
    let wrong = netns::in_node(move || {
        let mut kernel = Kernel::load();
        hooks.map(|hook| malformed_on(&mut kernel, hook))
    });
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} differ; the first:\n{}", wrong.len(), wrong[..wrong.len().min(3)].join("\n"));
}

fn malformed_on(kernel: &mut Kernel, hook: Hook) -> Vec<String> {
    let world = World::everything();
    let (mut wrong, mut seed, mut ran, mut touched) = (Vec::new(), 0, 0, 0);
    let mut contents = world.contents(now());
    kernel.tables.reset(&contents);
    let wanted = malformed_wanted();
    while ran < wanted {
        seed += 1;
        let bytes = malformed(seed, hook.l2_len() != 0);
        if !test_run_takes(&bytes) || test_run_is_foreign(&bytes, hook) {
            continue;
        }
        let tables = MemTables::with(&contents);
        tables.set_now(now());
        let mut packet = VecPacket::new(bytes.clone(), route);
        let verdict = hook.run(&mut packet, &tables);
        let action = Action::from(verdict);
        if !test_run_answers(hook) && tables.counter(Counter::Answered) != 0 {
            continue;
        }
        if [Counter::PortCollision, Counter::HostRemapped].into_iter().any(|counter| tables.counter(counter) != 0) {
            // A port at random.
            continue;
        }
        let mut run = kernel.run(hook, &bytes);
        if let Verdict::Redirect(_) = verdict {
            without_added_header(&mut run, hook);
        }
        ran += 1;
        let mut differs = Vec::new();
        if run.action != action {
            differs.push(format!("the kernel says {:?}, the host {action:?}", run.action));
        }
        if run.packet != packet.bytes {
            let l2_len = hook.l2_len();
            differs.push(format!(
                "kernel {}\n  host {}",
                describe(&run.packet, l2_len),
                describe(&packet.bytes, l2_len)
            ));
        }
        if kernel.tables.counters() != tables.counters() {
            differs.push(format!("counters {:?}, host {:?}", kernel.tables.counters(), tables.counters()));
        }
        if kernel.tables.backend_counters() != tables.backend_counters() {
            let (found, wanted) = (kernel.tables.backend_counters(), tables.backend_counters());
            differs.push(format!("counted by backend {found:?}, host {wanted:?}"));
        }
        let counted = tables.counters().iter().any(|count| *count != 0);
        if counted || packet.bytes != bytes || tables.flow_entries() != MemTables::with(&contents).flow_entries() {
            touched += 1;
            if unseen(kernel.tables.flow_entries()) != unseen(tables.flow_entries()) {
                differs.push("flow entries".into());
            }
            contents = world.contents(now());
            kernel.tables.reset_flows(&contents);
            kernel.tables.reset_counters();
        }
        if !differs.is_empty() {
            let text = differs.join("\n  ");
            wrong.push(format!("{hook:?}, seed {seed}: {}\n  {text}", describe(&bytes, hook.l2_len())));
        }
    }
    eprintln!(
        "{hook:?}: {ran} packets of seeds 1 to {seed}, {touched} of them translated, dropped or noted, {} wrong",
        wrong.len()
    );
    let enough = if matches!(hook, Hook::PodIngress(_)) { ran / 10 } else { ran / 50 };
    assert!(touched >= enough, "{hook:?}: only {touched} of {ran} packets met a service, so little was shown");
    wrong
}
