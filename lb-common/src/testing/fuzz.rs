//! What a fuzzer feeds: bytes become a short sequence of packets and clock steps on tables with every kind of service.
//! The fuzz targets and the replay of their corpus call the same functions, which panic on a violation.

use std::{collections::HashMap, sync::OnceLock};

use super::{Contents, DEV_CLIENT, DEV_SERVER, Hook, MemTables, VecPacket, World, check_answer, fixture::route};
use crate::{
    abi::{Counter, role},
    datapath::{FlowTable, Scratch, Verdict},
};

/// Ticks at which a sequence starts: past every flow's age, far from a wrap.
const START: u32 = 1_000;

/// One packet: the first byte is the hook, the rest the packet.
///
/// # Panics
/// If the core breaks a rule that holds for any packet.
pub fn one_packet(data: &[u8]) {
    let Some((hook, bytes)) = data.split_first() else { return };
    step(&tables(), &mut Scratch::default(), *hook, bytes);
}

/// Packets in a row on the same tables: each is a hook byte, a byte of clock steps, a length byte and that many bytes.
///
/// # Panics
/// If the core breaks a rule that holds for any sequence.
pub fn sequence(data: &[u8]) {
    let (tables, mut scratch) = (tables(), Scratch::default());
    let mut now = START;
    let mut rest = data;
    while let [hook, ticks, len, behind @ ..] = rest {
        let (bytes, next) = behind.split_at(behind.len().min(usize::from(*len)));
        now += u32::from(*ticks);
        tables.set_now(now);
        step(&tables, &mut scratch, *hook, bytes);
        rest = next;
    }
}

fn tables() -> MemTables {
    static CONTENTS: OnceLock<Contents> = OnceLock::new();
    let tables = MemTables::with(CONTENTS.get_or_init(|| World::everything().contents(START)));
    tables.set_now(START);
    tables
}

const HOOKS: [Hook; 8] = [
    Hook::PodIngress(DEV_CLIENT),
    Hook::PodIngress(DEV_SERVER),
    Hook::PodEgress,
    Hook::Uplink,
    Hook::UplinkL3,
    Hook::UplinkOut,
    Hook::UplinkL3Out,
    Hook::Overlay,
];

fn step(tables: &MemTables, scratch: &mut Scratch, hook: u8, bytes: &[u8]) {
    let hook = HOOKS[usize::from(hook) % HOOKS.len()];
    let before = tables.counters();
    let packets_before = packets_and_bytes(tables);
    let mut packet = VecPacket::new(bytes.to_vec(), route);
    let verdict = hook.run_after(&mut packet, tables, scratch);
    let counted = |counter: Counter| tables.counter(counter) - before[counter as usize];
    let answered = counted(Counter::Answered) == 1;
    match verdict {
        Verdict::Pass => assert_eq!(packet.bytes, bytes, "what passes is untouched"),
        Verdict::Bounce if answered => {
            assert!(hook.is_ingress(), "only who sends into the node is answered");
            check_answer(bytes, &packet.bytes, hook.l2_len())
                .unwrap_or_else(|wrong| panic!("{wrong}: {:02x?} answers {bytes:02x?}", packet.bytes));
        }
        Verdict::Bounce => assert!(matches!(hook, Hook::PodIngress(_)), "only a pod is its own backend"),
        Verdict::Redirect(ifindex) | Verdict::HandOver(ifindex) => {
            assert!(hook.is_ingress() && ifindex != 0, "only what comes in passes the stack by");
        }
        Verdict::Stack => {}
        Verdict::Drop(reason) => {
            assert_eq!(counted(reason), 1, "a drop is counted once");
            assert_ne!(reason, Counter::DropInternal, "tables are consistent and packets writable: {bytes:02x?}");
        }
    }
    assert!(!answered || verdict == Verdict::Bounce, "an answer goes back");
    let goes_on =
        !answered && !matches!(verdict, Verdict::Pass | Verdict::Drop(_)) && counted(Counter::IcmpErrors) == 0;
    // What takes the stack may be the node's own, which is no backend's.
    let may_be_none = !goes_on || verdict == Verdict::Stack;
    let (packets, sum) = packets_and_bytes(tables);
    match (packets - packets_before.0, sum - packets_before.1) {
        (0, 0) => assert!(may_be_none, "what goes on is counted: {bytes:02x?}"),
        one => {
            assert_eq!((one, goes_on), ((1, (bytes.len() - hook.l2_len()) as u64), true), "once, and what goes on only")
        }
    }
    if !answered && !matches!(verdict, Verdict::Drop(_) | Verdict::HandOver(_)) {
        assert_eq!(packet.bytes.len(), bytes.len(), "translating changes no length");
    }
    if verdict != Verdict::Pass || tables.counters() != before {
        check_flows(tables);
    }
}

/// Of all backends, both ways.
fn packets_and_bytes(tables: &MemTables) -> (u64, u64) {
    let counters = tables.backend_counters();
    let traffic = counters.values().flat_map(|counter| [counter.to, counter.from]);
    traffic.fold((0, 0), |(packets, bytes), t| (packets + t.packets, bytes + t.bytes))
}

/// What holds for the flow tables at any time, as long as nothing was evicted.
///
/// # Panics
/// If it does not hold.
pub fn check_flows(tables: &MemTables) {
    let entries = tables.flow_entries();
    let by_key: HashMap<_, _> = entries.iter().map(|(table, key, flow)| ((*table, *key), flow)).collect();
    for (table, key, flow) in &entries {
        assert!(flow.is_for(key), "an entry is sealed for its key");
        if *table == FlowTable::Frags {
            continue;
        }
        let Some(mate) = by_key.get(&(*table, flow.to.reversed())) else {
            assert!(*table == FlowTable::Embryos, "no direction stands alone: {key:?}");
            continue;
        };
        assert_eq!(mate.to, key.reversed(), "each direction undoes the other: {key:?}");
        assert_eq!((flow.role ^ mate.role, flow.role & role::FORWARD ^ mate.role & role::FORWARD), (role::FORWARD, 1));
        assert_eq!((flow.oif, flow.mtu), (mate.mate_oif, mate.mate_mtu), "each knows the other's way: {key:?}");
        assert_eq!((flow.service, flow.identity), (mate.service, mate.identity), "one service: {key:?}");
        assert_eq!(flow.backend, mate.backend, "one backend: {key:?}");
    }
}
