//! Every packet case through the programs that the kernel verified and compiled: verdict, packet, counters, flow and
//! affinity entries. Needs root and the BPF object.

mod bpf_packets_support;

use bpf_packets_support::{Kernel, netns, tables::now};
use lb_common::{
    abi::Flow,
    testing::{
        Action, Case, DEV_CLIENT, DEV_SERVER, Hook, MemTables, Observed, VecPacket, World, cases, describe, malformed,
        route, test_run_takes,
    },
};

#[test]
fn every_packet_case_holds_in_the_kernel() {
    let (ran, wrong) = netns::in_node(|| {
        let mut kernel = Kernel::load();
        let cases: Vec<Case> = cases::all().into_iter().filter(Case::runs_in_kernel).collect();
        let wrong: Vec<String> = cases.iter().filter_map(|case| check(&mut kernel, case).err()).collect();
        (cases.len(), wrong)
    });
    assert!(ran >= 100, "only {ran} cases can run in the kernel");
    assert!(wrong.is_empty(), "{} of {ran} cases fail:\n{}", wrong.len(), wrong.join("\n"));
}

fn check(kernel: &mut Kernel, case: &Case) -> Result<(), String> {
    let filled = now();
    kernel.tables.reset(&case.world.contents(filled));
    let run = kernel.run(case.hook, &case.packet.build());
    let observed = Observed {
        verdict: None,
        action: run.action,
        packet: run.packet,
        counters: kernel.tables.counters(),
        connections: kernel.tables.connections(),
        flows: kernel.tables.flow_entries(),
        affinity: kernel.tables.affinity_entries(),
    };
    case.check(&observed, filled, now())
}

/// Damaged packets per program.
const MALFORMED: u64 = 10_000;

/// The kernel and the host core must agree on each of them: verdict, bytes, counters and flows.
#[test]
fn malformed_packets_get_the_same_verdict_in_the_kernel() {
    let hooks =
        [Hook::PodIngress(DEV_CLIENT), Hook::PodIngress(DEV_SERVER), Hook::PodEgress, Hook::Uplink, Hook::UplinkL3];
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
    while ran < MALFORMED {
        seed += 1;
        let bytes = malformed(seed, hook.l2_len() != 0);
        if !test_run_takes(&bytes) {
            continue;
        }
        ran += 1;
        let tables = MemTables::with(&contents);
        tables.set_now(now());
        let mut packet = VecPacket::new(bytes.clone(), route);
        let action = Action::from(hook.run(&mut packet, &tables));
        let run = kernel.run(hook, &bytes);
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
        let counted = tables.counters().iter().any(|count| *count != 0);
        if counted || packet.bytes != bytes || tables.flow_entries() != MemTables::with(&contents).flow_entries() {
            touched += 1;
            let unseen = |mut flows: Vec<(_, _, Flow)>| {
                flows.iter_mut().for_each(|(_, _, flow)| flow.seen = 0);
                flows
            };
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
