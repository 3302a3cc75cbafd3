//! The flow tables in the kernel when there are as many connections as they have room for, and more: what part of all
//! packets is translated, in both directions, how fast, what floods of openings do to connections that are there, and
//! that no connection stays with one direction only. Needs root and the BPF object; packets go through
//! `BPF_PROG_TEST_RUN`.

mod bpf_packets_support;

use std::{collections::HashSet, ops::Range, thread, time::Duration};

use aya::util::nr_cpus;
use bpf_packets_support::{
    Kernel, netns,
    tables::{Plain, now},
};
use lb_common::{
    abi::{Addr, Port, TICK_SHIFT, Tuple, map, proto, role},
    datapath::FlowTable,
    testing::{DEV_CLIENT, Hook, Net, PacketSpec, World, dissect},
};
use zerocopy::IntoBytes as _;

/// Flows that the table of established ones has room for; each takes two entries.
const ROOM: u32 = 4096;
const EMBRYOS: u32 = 4096;
/// Free entries that an LRU table keeps for each processor, so that it pushes out others before it is full to the last
/// one (`LOCAL_FREE_TARGET` in kernel/bpf/bpf_lru_list.c).
const LRU_KEEPS: u32 = 128;
/// Packets of each kind that a flood sends.
const FLOOD: u32 = 20_000;
/// Rounds in which a full table and one that is not half full take turns, and exchanges in each turn: so short that what else the
/// machine does falls on both alike.
const ROUNDS: usize = 11;
/// How often both tables are the full one.
const PASSES: usize = 2;
const TURN: u32 = 64;
/// Share of its rate that a full table keeps.
const RATE: f64 = 0.9;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const INGRESS: Hook = Hook::PodIngress(DEV_CLIENT);
const NET: Net = Net::V4;

/// A client and the service, of which no two have the same tuple. Ports as senders choose them.
fn tuple(number: u32, proto: u8) -> Tuple {
    let [_, _, high, low] = (number / 16_384).to_be_bytes();
    let client = Addr::v4([10, 245, high, low]);
    Tuple::new(client, Port::new(32_768 + (number % 16_384) as u16), NET.vip(), Port::new(8080), proto)
}

struct Table {
    kernel: Kernel,
    /// What each packet took since [`Self::restart`], in nanoseconds.
    spent: Vec<u32>,
}

impl Table {
    /// With room for [`ROOM`] established flows.
    fn new() -> Self {
        let kept = LRU_KEEPS * u32::try_from(nr_cpus().expect("the number of processors")).expect("not that many");
        let kernel = Kernel::with_sizes(&[(map::FLOWS, 2 * ROOM + kept), (map::EMBRYOS, EMBRYOS)]);
        let mut table = Self { kernel, spent: Vec::new() };
        table.clear();
        table
    }

    /// Empties the tables of flows.
    fn clear(&mut self) {
        let mut world = World::tcp(NET);
        let mut udp = World::udp(NET);
        udp.services[0].index = 2;
        udp.services[0].slots = vec![50];
        world.backends.push((50, udp.backends[0].1));
        world.services.append(&mut udp.services);
        self.kernel.tables.reset(&world.contents(now()));
    }

    /// What a packet becomes; `None` if it is not translated.
    fn send(&mut self, hook: Hook, tuple: Tuple, flags: u8) -> Option<Tuple> {
        let packet = PacketSpec::new(tuple).flags(flags).build();
        let run = self.kernel.run(hook, &packet);
        self.spent.push(run.nanos);
        let after = dissect(&run.packet, 14).expect("a whole packet").tuple;
        (after != tuple && after != tuple.reversed()).then_some(after)
    }

    /// Both directions of one exchange: whether each is translated.
    fn exchange(&mut self, number: u32) -> (bool, bool) {
        let there = tuple(number, proto::TCP);
        let Some(seen) = self.send(INGRESS, there, ACK) else { return (false, false) };
        (true, self.send(Hook::PodEgress, seen.reversed(), ACK) == Some(there.reversed()))
    }

    fn open(&mut self, number: u32) {
        let there = tuple(number, proto::TCP);
        let seen = self.send(INGRESS, there, SYN).expect("a SYN opens a flow, however full the table");
        let answer = self.send(Hook::PodEgress, seen.reversed(), SYN_ACK);
        assert_eq!(answer, Some(there.reversed()), "the answer to a SYN, just after it");
        assert!(self.exchange(number) == (true, true), "a connection that was just opened");
    }

    fn open_all(&mut self, numbers: Range<u32>) {
        numbers.for_each(|number| self.open(number));
    }

    /// Each flow speaks in turn, as often as `rounds`; one that is lost is opened anew. Gives the share of exchanges
    /// that were whole, and of those that went one way only.
    fn rounds(&mut self, flows: u32, rounds: u32) -> (f64, f64) {
        let (mut whole, mut half) = (0, 0);
        for _ in 0..rounds {
            for number in 0..flows {
                match self.exchange(number) {
                    (true, true) => whole += 1,
                    (true, false) => half += 1,
                    (false, _) => self.open(number),
                }
            }
        }
        let all = f64::from(flows * rounds);
        (f64::from(whole) / all, f64::from(half) / all)
    }

    /// Forgets the time that was spent.
    fn restart(&mut self) {
        self.spent.clear();
    }

    /// What half of the packets since then took at most, in nanoseconds: those that were interrupted do not count.
    fn cost(&mut self) -> f64 {
        let middle = self.spent.len() / 2;
        f64::from(*self.spent.select_nth_unstable(middle).1)
    }

    /// Entries of established flows without the one of the other direction: their keys, and whether they lead forward.
    fn halves(&self) -> Vec<(Tuple, bool)> {
        let entries = self.kernel.tables.flow_entries();
        let answered = || entries.iter().filter(|(table, ..)| matches!(table, FlowTable::Flows));
        let keys: HashSet<[u8; 40]> = answered().map(|(_, key, _)| key.as_bytes().try_into().expect("a key")).collect();
        let alone = answered().filter(|(_, _, flow)| !keys.contains(flow.to.reversed().as_bytes()));
        alone.map(|(_, key, flow)| (*key, flow.role & role::FORWARD != 0)).collect()
    }

    /// Whether the next packet of this entry is translated and brings the other direction's entry back.
    fn mends(&mut self, (key, forward): (Tuple, bool)) -> bool {
        let Some(becomes) = self.send(if forward { INGRESS } else { Hook::PodEgress }, key, ACK) else { return false };
        self.kernel.tables.flows.get(&Plain(becomes.reversed()), 0).is_ok()
    }
}

#[test]
fn a_full_table_goes_on_translating() {
    netns::in_node(|| {
        let mut table = Table::new();
        let mut open = 0;
        for percent in [25, 50, 90, 100, 150] {
            let flows = ROOM * percent / 100;
            table.open_all(open..flows);
            open = flows;
            table.restart();
            let (whole, half) = table.rounds(flows, 4);
            let cost = table.cost();
            eprintln!(
                "{percent:>4} % full: {:.2} % of exchanges whole, {:.2} % one way, {cost:.0} ns a packet",
                100.0 * whole,
                100.0 * half
            );
            if percent <= 100 {
                assert!(whole >= 0.9, "at {percent} % only {whole:.3} of the exchanges are whole");
            }
            assert!(half <= 0.001, "at {percent} % {half:.4} of the exchanges go one way only");
        }
    });
}

#[test]
fn floods_of_openings_leave_connections_alone() {
    netns::in_node(|| {
        let mut table = Table::new();
        let flows = ROOM * 9 / 10;
        table.open_all(0..flows);
        for number in 0..FLOOD {
            let opened = table.send(INGRESS, tuple(1_000_000 + number, proto::TCP), SYN);
            assert!(opened.is_some(), "SYN {number} of the flood is translated");
            let sprayed = table.send(INGRESS, tuple(1_000_000 + number, proto::UDP), 0);
            assert!(sprayed.is_some(), "datagram {number} of the spray is translated");
        }
        let lost: Vec<u32> = (0..flows).filter(|number| table.exchange(*number) != (true, true)).collect();
        assert!(lost.is_empty(), "{} of {flows} connections lost: {:?}", lost.len(), &lost[..lost.len().min(8)]);
    });
}

/// The tables change places, as where their memory lies is no matter of how full they are.
#[test]
fn a_full_table_keeps_its_rate() {
    netns::in_node(|| {
        let [mut one, mut other] = [Table::new(), Table::new()];
        // In a new table entries lie side by side, in one that was in use they are scattered.
        one.open_all(0..ROOM);
        other.open_all(0..ROOM);
        let mut rates = Vec::new();
        for _ in 0..PASSES {
            rates.push(rate(&mut one, &mut other));
            rates.push(rate(&mut other, &mut one));
        }
        let mean = rates.iter().product::<f64>().powf(1.0 / rates.len() as f64);
        eprintln!("a full table has {mean:.3} of the rate of one half full: {rates:.3?}");
        assert!(mean >= RATE, "a full table keeps {mean:.3} of its rate");
    });
}

/// Rate of whole exchanges in the full table as a share of that in the other. The same connections speak in a table that
/// is full of others beside them, and in one that is half empty. New ones come all the time: to the full table as others,
/// so that it has to push out old ones, to the other as the same again.
fn rate(full: &mut Table, half: &mut Table) -> f64 {
    let speaking = ROOM / 2;
    full.clear();
    half.clear();
    // Those who speak come last: while the table fills, the others are pushed out first.
    full.open_all(speaking..ROOM);
    full.open_all(0..speaking);
    half.open_all(0..speaking - TURN);
    let (mut costs, mut new, mut whole) = ([Vec::new(), Vec::new()], ROOM, [0_usize; 2]);
    for _ in 0..ROUNDS {
        full.open_all(new..new + TURN);
        half.open_all(speaking - TURN..speaking);
        new += TURN;
        let mut tables = [&mut *full, &mut *half];
        tables.iter_mut().for_each(|table| table.restart());
        for turn in 0..speaking / TURN - 1 {
            for (table, whole) in tables.iter_mut().zip(&mut whole) {
                let numbers = turn * TURN..(turn + 1) * TURN;
                *whole += numbers.filter(|number| table.exchange(*number) == (true, true)).count();
            }
        }
        costs.iter_mut().zip(tables).for_each(|(costs, table)| costs.push(table.cost()));
    }
    let entries = [&*full, &*half].map(|table| table.kernel.tables.flow_entries().len());
    assert!(entries[0] >= 2 * ROOM as usize * 9 / 10 && entries[1] <= ROOM as usize, "{entries:?} entries");
    let [full, half] = costs.map(|mut costs| {
        costs.sort_by(f64::total_cmp);
        costs[ROUNDS / 2]
    });
    half / full * whole[0] as f64 / whole[1] as f64
}

/// More connections than there is room for, most of which go one way only, as a download's acknowledgements or a log's
/// datagrams: what is left of them has both directions, or gets them with its next packet.
#[test]
fn no_flow_stays_with_one_direction() {
    netns::in_node(|| {
        let mut table = Table::new();
        let flows = ROOM * 3 / 2;
        table.open_all(0..flows);
        for _ in 0..4 {
            for number in 0..flows {
                if table.send(INGRESS, tuple(number, proto::TCP), ACK).is_none() {
                    table.open(number);
                }
            }
        }
        let left = table.halves();
        // Some are made so by hand: a table need not be so kind as to lose the wrong ones here.
        let entries = table.kernel.tables.flow_entries();
        let answered = entries.iter().filter(|(kind, ..)| matches!(kind, FlowTable::Flows));
        let (forth, back): (Vec<_>, Vec<_>) = answered.partition(|(_, _, flow)| flow.role & role::FORWARD != 0);
        // Both are in the order of their clients, so these are of different flows.
        for (_, key, _) in forth.iter().step_by(17).chain(back.iter().skip(8).step_by(17)) {
            table.kernel.tables.flows.remove(&Plain(*key)).expect("an entry that was just listed");
        }
        let halves = table.halves();
        let forward = halves.iter().filter(|(_, forward)| *forward).count();
        eprintln!(
            "{} of {} entries without the other direction after pressure; {} with those made so, {forward} of them \
             forward",
            left.len(),
            entries.len(),
            halves.len()
        );
        assert!(forward > 20 && halves.len() - forward > 20, "nothing is shown for one direction");
        // An entry is looked after once in a tick.
        thread::sleep(Duration::from_nanos(1 << TICK_SHIFT));
        let (mut asked, mut lost) = ([0, 0], Vec::new());
        for half in halves {
            // What mends one pushes out another, whose both directions are gone then.
            if table.kernel.tables.flows.get(&Plain(half.0), 0).is_ok() {
                asked[usize::from(half.1)] += 1;
                if !table.mends(half) {
                    lost.push(half);
                }
            }
        }
        assert!(asked.iter().all(|asked| *asked > 20), "only {asked:?} were asked");
        assert!(lost.is_empty(), "{} of {asked:?} stay with one direction: {:?}", lost.len(), lost.first());
    });
}
