//! What a fuzzer feeds: bytes become a short sequence of packets and clock steps on tables with every kind of service.
//! The fuzz targets and the replay of their corpus call the same functions, which panic on a violation.

use super::{DEV_CLIENT, DEV_SERVER, Hook, MemTables, VecPacket, World, fixture::route};
use crate::{
    abi::Counter,
    datapath::{FlowTable, Verdict},
};

/// Ticks at which a sequence starts: past every flow's age, far from a wrap.
const START: u32 = 1_000;

/// One packet: the first byte is the hook, the rest the packet.
///
/// # Panics
/// If the core breaks a rule that holds for any packet.
pub fn one_packet(data: &[u8]) {
    let Some((hook, bytes)) = data.split_first() else { return };
    let tables = tables();
    step(&tables, *hook, bytes);
}

/// Packets in a row on the same tables: each is a hook byte, a byte of clock steps, a length byte and that many bytes.
///
/// # Panics
/// If the core breaks a rule that holds for any sequence.
pub fn sequence(data: &[u8]) {
    let tables = tables();
    let mut now = START;
    let mut rest = data;
    while let [hook, ticks, len, behind @ ..] = rest {
        let (bytes, next) = behind.split_at(behind.len().min(usize::from(*len)));
        now += u32::from(*ticks);
        tables.set_now(now);
        step(&tables, *hook, bytes);
        rest = next;
    }
}

fn tables() -> MemTables {
    let tables = MemTables::with(&World::everything().contents(START));
    tables.set_now(START);
    tables
}

const HOOKS: [Hook; 5] =
    [Hook::PodIngress(DEV_CLIENT), Hook::PodIngress(DEV_SERVER), Hook::PodEgress, Hook::Uplink, Hook::UplinkL3];

fn step(tables: &MemTables, hook: u8, bytes: &[u8]) {
    let hook = HOOKS[usize::from(hook) % HOOKS.len()];
    let before = tables.counters();
    let mut packet = VecPacket::new(bytes.to_vec(), route);
    let verdict = hook.run(&mut packet, tables);
    assert_eq!(packet.bytes.len(), bytes.len(), "no hook changes a length");
    match verdict {
        Verdict::Pass => assert_eq!(packet.bytes, bytes, "what passes is untouched"),
        Verdict::Stack | Verdict::Redirect(_) | Verdict::Bounce => {
            assert!(!matches!(hook, Hook::Uplink | Hook::UplinkL3), "nothing is translated from outside");
        }
        Verdict::Drop(reason) => {
            let at = reason as usize;
            assert_eq!(tables.counters()[at], before[at] + 1, "a drop is counted once");
            assert_ne!(reason, Counter::DropInternal, "tables are consistent and packets writable: {bytes:02x?}");
        }
    }
    for (table, key, flow) in tables.flow_entries() {
        assert!(flow.is_for(&key), "an entry is sealed for its key");
        let mate = flow.to.reversed();
        let found = tables.flow_entries().into_iter().any(|(other, other_key, _)| other == table && other_key == mate);
        assert!(found || table == FlowTable::Embryos, "no direction stands alone: {key:?}");
    }
}
