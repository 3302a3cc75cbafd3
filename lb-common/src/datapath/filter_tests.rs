//! The filter changes nothing but the time that a look-up takes: whatever packets come, whatever is evicted, and whenever the
//! filter is made anew, everything is as without one.

use proptest::{prelude::*, sample::select};

use crate::{
    abi::{Addr, Flow, FlowFilter, Port, Tuple, filter_place, proto, reading, role},
    datapath::{FlowTable, Scratch, Tables as _, Verdict},
    testing::{
        DEV_CLIENT, DEV_SERVER, Fragment, Hook, MemTables, Net, PacketSpec, Table, World, cases, worlds::NODE_PORT,
    },
};

const NOW: u32 = 1_000_000;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    Packet {
        hook: Hook,
        packet: PacketSpec,
    },
    /// The entry of this number is evicted.
    Evict(prop::sample::Index),
    Ticks(u32),
    /// The filter is made anew, and the other one is asked.
    Renew,
    /// Who did that was killed just before the end.
    RenewHalf,
    /// Frontends come and go.
    Frontends(bool),
}

fn packets(net: Net) -> impl Strategy<Value = Event> {
    let ends: Vec<(Addr, u16)> = vec![
        (net.client(), 40_000),
        (net.client(), 40_001),
        (net.server(), 80),
        (net.remote(), 80),
        (net.vip(), 8080),
        (net.other_vip(), 8080),
        (net.node(), NODE_PORT),
        (net.outside(), 50_000),
        (net.far(), 9),
    ];
    let hook = select(vec![
        Hook::PodIngress(DEV_CLIENT),
        Hook::PodIngress(DEV_SERVER),
        Hook::PodEgress,
        Hook::Uplink,
        Hook::UplinkOut,
    ]);
    // Openings, their answers, what goes on and what ends; and whole datagrams, first and later fragments.
    let flags = select(vec![0x02_u8, 0x12, 0x10, 0x10, 0x11, 0x04]);
    let part = prop_oneof![
        8 => Just(None),
        1 => Just(Some(Fragment { offset: 0, more: true })),
        1 => Just(Some(Fragment { offset: 64, more: false })),
    ];
    (hook, select(ends.clone()), select(ends), select(vec![proto::TCP, proto::UDP]), flags, part).prop_map(
        |(hook, (src, sport), (dst, dport), proto, flags, part)| {
            let tuple = Tuple::new(src, Port::new(sport), dst, Port::new(dport), proto);
            let packet = PacketSpec::new(tuple).flags(flags).with(|packet| packet.fragment = part);
            Event::Packet { hook, packet }
        },
    )
}

fn events(net: Net) -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => packets(net),
        2 => any::<prop::sample::Index>().prop_map(Event::Evict),
        2 => (1_u32..200).prop_map(Event::Ticks),
        2 => Just(Event::Renew),
        1 => Just(Event::RenewHalf),
        1 => any::<bool>().prop_map(Event::Frontends),
    ]
}

fn histories() -> impl Strategy<Value = (Net, Vec<Event>)> {
    select(Net::BOTH.to_vec()).prop_flat_map(|net| (Just(net), prop::collection::vec(events(net), 1..200)))
}

/// As the agent does it, while no packet comes; the other filter is asked from then on if it gets so far.
fn renew(tables: &MemTables, to_the_end: bool) {
    let entries = tables.flow_entries();
    tables.with_filter(|filter| {
        let spare = FlowFilter::spare(filter.reading);
        let places = filter.places_mut(spare);
        places.fill(0);
        for (_, key, _) in entries.iter().filter(|(table, ..)| table.is_filtered()) {
            places[filter_place(key) as usize] = 1;
        }
        if to_the_end {
            filter.reading = spare;
        }
    });
}

fn tables(net: Net, asked: u32) -> MemTables {
    let world = World::outside(net, proto::TCP);
    let tables = MemTables::with(&world.contents(NOW));
    tables.fill(&World::outside(net, proto::UDP).contents(NOW));
    tables.with_filter(|filter| filter.reading = asked);
    for table in [Table::Flows, Table::Embryos] {
        tables.limit(table, 12);
    }
    tables
}

fn apply(tables: &MemTables, net: Net, event: &Event) -> Option<(Verdict, Vec<u8>)> {
    match event {
        Event::Packet { hook, packet } => {
            let mut packet = packet.packet();
            let verdict = hook.run_after(&mut packet, tables, &mut Scratch::default());
            return Some((verdict, packet.bytes));
        }
        Event::Evict(index) => {
            let entries = tables.flow_entries();
            if !entries.is_empty() {
                let (table, key, _) = index.get(&entries);
                assert!(tables.evict(*table, key));
            }
        }
        Event::Ticks(ticks) => tables.set_now(tables.now() + ticks),
        Event::Renew => renew(tables, true),
        Event::RenewHalf => renew(tables, false),
        Event::Frontends(there) => {
            for proto in [proto::TCP, proto::UDP] {
                let contents = World::outside(net, proto).contents(NOW);
                contents.services.iter().for_each(|(key, value)| tables.set_service(*key, there.then_some(*value)));
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 200 }, ..ProptestConfig::default() })]

    #[test]
    fn the_filter_changes_nothing((net, all) in histories(), seed in any::<u64>()) {
        let (with, without) = (tables(net, reading::FIRST), tables(net, reading::NONE));
        with.seed(seed);
        without.seed(seed);
        for event in &all {
            let found = apply(&with, net, event);
            // Here no filter is asked, whatever it holds.
            let wanted = if let Event::Renew | Event::RenewHalf = event { None } else { apply(&without, net, event) };
            prop_assert_eq!(found, wanted, "{:?}", event);
            prop_assert_eq!(with.flow_entries(), without.flow_entries());
            prop_assert_eq!(with.counters(), without.counters());
            for (table, key, flow) in with.flow_entries() {
                if table.is_filtered() {
                    prop_assert!(with.in_filter(filter_place(&key)), "{:?} {:?} {:?}", table, key, flow);
                }
            }
        }
    }
}

/// Every packet case is the same when no filter is asked, as of a map that was just made.
#[test]
fn every_case_holds_without_a_filter() {
    for case in cases::all() {
        let run = |asked| {
            let tables = MemTables::with(&case.world.contents(NOW));
            tables.with_filter(|filter| filter.reading = asked);
            let mut packet = case.packet.packet();
            let verdict = case.hook.run(&mut packet, &tables);
            (verdict, packet.bytes, tables.flow_entries(), tables.counters())
        };
        assert_eq!(run(reading::FIRST), run(reading::NONE), "{}", case.name);
    }
}

/// A packet to nobody that no flow is marked for is not looked for, which is the use of it all.
#[test]
fn what_is_not_in_the_filter_is_not_looked_up() {
    let net = Net::V4;
    let tables = MemTables::with(&World::tcp(net).contents(NOW));
    let key = net.from_client(proto::TCP, net.far(), 9);
    assert!(!tables.in_filter(filter_place(&key)));
    // An entry that nobody has marked: who finds it has looked it up.
    let mut flow = Flow::default();
    (flow.to, flow.role) = (net.from_client(proto::TCP, net.server(), 80), role::FORWARD);
    flow.reseal(&key);
    assert!(tables.put_flow(FlowTable::Flows, &key, &flow));
    let packet = PacketSpec::new(key).flags(0x10);
    let run = |tables: &MemTables| Hook::PodIngress(DEV_CLIENT).run(&mut packet.packet(), tables);
    assert_eq!(run(&tables), Verdict::Pass);
    tables.mark_filter(filter_place(&key));
    assert_eq!(run(&tables), Verdict::Stack);
}
