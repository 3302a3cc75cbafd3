//! The flow tables in the kernel when there are as many connections as they have room for, and more: what part of all
//! packets is translated, in both directions, and what floods of openings do to connections that are there. Needs root
//! and the BPF object; packets go through `BPF_PROG_TEST_RUN`.

mod bpf_packets_support;

use std::time::{Duration, Instant};

use bpf_packets_support::{Kernel, netns, tables::now};
use lb_common::{
    abi::{Addr, Port, Tuple, map, proto},
    testing::{DEV_CLIENT, Hook, Net, PacketSpec, World, dissect},
};

/// Flows that the table of answered ones has room for; each takes two entries.
const ROOM: u32 = 4096;
const EMBRYOS: u32 = 4096;
/// Packets of each kind that a flood sends.
const FLOOD: u32 = 20_000;

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
    spent: Duration,
    packets: u32,
}

impl Table {
    fn new() -> Self {
        let mut kernel = Kernel::with_sizes(&[(map::FLOWS, 2 * ROOM), (map::EMBRYOS, EMBRYOS)]);
        let mut world = World::tcp(NET);
        let mut udp = World::udp(NET);
        udp.services[0].index = 2;
        udp.services[0].slots = vec![50];
        world.backends.push((50, udp.backends[0].1));
        world.services.append(&mut udp.services);
        kernel.tables.reset(&world.contents(now()));
        Self { kernel, spent: Duration::ZERO, packets: 0 }
    }

    /// What a packet becomes; `None` if it is not translated.
    fn send(&mut self, hook: Hook, tuple: Tuple, flags: u8) -> Option<Tuple> {
        let packet = PacketSpec::new(tuple).flags(flags).build();
        let start = Instant::now();
        let run = self.kernel.run(hook, &packet);
        self.spent += start.elapsed();
        self.packets += 1;
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

    /// Nanoseconds for each packet since the last time, the system call included.
    fn cost(&mut self) -> f64 {
        let nanos = self.spent.as_nanos() as f64 / f64::from(self.packets);
        (self.spent, self.packets) = (Duration::ZERO, 0);
        nanos
    }
}

#[test]
fn a_full_table_goes_on_translating() {
    netns::in_node(|| {
        let mut table = Table::new();
        let mut open = 0;
        let mut costs = Vec::new();
        for percent in [25, 50, 90, 100, 150] {
            let flows = ROOM * percent / 100;
            (open..flows).for_each(|number| table.open(number));
            open = flows;
            table.cost();
            let (whole, half) = table.rounds(flows, 4);
            let cost = table.cost();
            costs.push(cost);
            eprintln!(
                "{percent:>4} % full: {:.2} % of exchanges whole, {:.2} % one way, {cost:.0} ns a packet with its system call",
                100.0 * whole,
                100.0 * half
            );
            if percent <= 100 {
                assert!(whole >= 0.9, "at {percent} % only {whole:.3} of the exchanges are whole");
                assert!(cost <= costs[0] / 0.5, "at {percent} % a packet takes {cost:.0} ns, at 25 % {:.0}", costs[0]);
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
        (0..flows).for_each(|number| table.open(number));
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
