//! What the shared cases cannot show, because no kernel lets a test bring it about at will: tables that take nothing,
//! packets that cannot be written, chosen random numbers, elements that were recycled.

use crate::{
    abi::{AffinityKey, Counter, Port, Tuple, flow_state, proto},
    datapath::{FlowTable, Tables as _, Verdict},
    testing::{
        AffinitySpec, Case, DEV_CLIENT, FlowSpec, Hook, MemTables, Net, PacketSpec, Recycling, SockCase, Table, World,
        cases, pair, sock_cases, world::LOCAL, worlds::NODE_PORT,
    },
};

const NOW: u32 = 1_000_000;
const NET: Net = Net::V4;

fn syn() -> PacketSpec {
    PacketSpec::new(NET.from_client(proto::TCP, NET.vip(), 8080)).flags(0x02)
}

fn run(tables: &MemTables, hook: Hook, packet: &PacketSpec) -> (Verdict, Vec<u8>) {
    let mut packet = packet.packet();
    let verdict = hook.run(&mut packet, tables);
    (verdict, packet.bytes)
}

fn at_client(tables: &MemTables, packet: &PacketSpec) -> Verdict {
    run(tables, Hook::PodIngress(DEV_CLIENT), packet).0
}

/// The flow that [`syn`] opens.
fn flow() -> [FlowSpec; 2] {
    let key = NET.from_client(proto::TCP, NET.vip(), 8080);
    pair(key, NET.from_client(proto::TCP, NET.server(), 80))
}

/// Replies to this port of the client belong to another living flow.
fn taken(port: u16) -> [FlowSpec; 2] {
    let mut key = NET.from_client(proto::TCP, NET.other_vip(), 8080);
    let mut to = NET.from_client(proto::TCP, NET.server(), 80);
    (key.sport, to.sport) = (Port::new(port), Port::new(port));
    pair(key, to)
}

#[test]
fn a_flow_finds_a_port_at_the_last_try_or_none() {
    let ports = [40_000, 32_769, 32_770, 32_771, 32_772, 32_773, 32_774, 32_775];
    let world = |taken_ports: &[u16]| {
        let flows: Vec<FlowSpec> = taken_ports.iter().flat_map(|port| taken(*port)).collect();
        MemTables::with(&World::tcp(NET).flows(&flows).contents(NOW))
    };
    let tables = world(&ports[..7]);
    tables.script_random(&[7, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(at_client(&tables, &syn()), Verdict::Stack, "the eighth port is free");
    let reply = Tuple::new(NET.server(), Port::new(80), NET.client(), Port::new(32_775), proto::TCP);
    assert!(tables.flow_entries().iter().any(|(_, key, _)| *key == reply), "{:?}", tables.flow_entries());

    let tables = world(&ports);
    tables.script_random(&[7, 1, 2, 3, 4, 5, 6, 7]);
    let before = tables.flow_entries();
    assert_eq!(at_client(&tables, &syn()), Verdict::Drop(Counter::DropNoPort));
    assert_eq!(tables.flow_entries(), before);
    assert!(tables.backend_counters().is_empty());
}

#[test]
fn every_other_port_is_one_that_replies_are_looked_for_at() {
    for random in [0, 0x0fff, 0x1000, u32::MAX] {
        let tables = MemTables::with(&World::tcp(NET).flows(&taken(40_000)).contents(NOW));
        tables.script_random(&[7, random]);
        assert_eq!(at_client(&tables, &syn()), Verdict::Stack);
        let forward = tables.flow_entries().into_iter().find(|(_, key, _)| *key == flow()[0].key).expect("a flow");
        let port = forward.2.to.sport.get();
        assert!(port >= 32_768, "{random:#x} gave {port}");
    }
}

#[test]
fn a_full_flow_table_drops_the_opening_packet() {
    let tables = MemTables::with(&World::tcp(NET).contents(NOW));
    tables.refuse(Table::Embryos);
    assert_eq!(at_client(&tables, &syn()), Verdict::Drop(Counter::DropFlowTable));
    assert_eq!((tables.counter(Counter::DropFlowTable), tables.counter(Counter::PacketFlows)), (1, 0));
}

/// A packet that establishes its flow is translated, whether or not that can be moved to the established ones.
#[test]
fn a_flow_that_cannot_move_goes_on_where_it_is() {
    let answered = flow().map(|entry| FlowSpec { state: flow_state::REPLIED, ..entry });
    let tables = MemTables::with(&World::tcp(NET).flows(&answered).contents(NOW));
    tables.refuse(Table::Flows);
    let ack = syn().flags(0x10);
    let (verdict, bytes) = run(&tables, Hook::PodIngress(DEV_CLIENT), &ack);
    assert_eq!(verdict, Verdict::Stack);
    assert_eq!(bytes, ack.with_tuple(flow()[0].to).build());
    assert_eq!(tables.counter(Counter::DropFlowTable), 1);
    let stays = (FlowTable::Embryos, flow_state::REPLIED);
    assert!(tables.flow_entries().iter().all(|(table, _, flow)| (*table, flow.state) == stays));
}

#[test]
fn a_packet_that_cannot_be_written_is_dropped() {
    let tables = MemTables::with(&World::tcp(NET).flows(&flow()).contents(NOW));
    let spec = syn().flags(0x10);
    let mut packet = spec.packet();
    packet.read_only = true;
    let verdict = Hook::PodIngress(DEV_CLIENT).run(&mut packet, &tables);
    assert_eq!(verdict, Verdict::Drop(Counter::DropInternal));
    assert_eq!(packet.bytes, spec.build());
    assert!(tables.backend_counters().is_empty(), "and not counted for its backend");
}

/// A TCP connection goes on after its endpoint, whose id may be somebody else's by then: it counts no more.
#[test]
fn a_backend_counts_only_what_is_its_own() {
    let tables = MemTables::with(&World::tcp(NET).slots(&[LOCAL]).contents(NOW));
    let counted = || tables.backend_counters()[&LOCAL];
    let old = |flags| at_client(&tables, &syn().flags(flags));
    let new = |flags| at_client(&tables, &syn().from(NET.client(), 5).flags(flags));
    assert_eq!(old(0x02), old(0x10));
    assert_eq!((counted().generation, counted().connections, counted().to.packets), (1, 1, 2));
    let mut backend = tables.backend(LOCAL).expect("the backend of the case");
    backend.generation = 3;
    tables.set_backend(LOCAL, backend);
    assert_eq!(old(0x10), new(0x02));
    assert_eq!((counted().generation, counted().connections, counted().to.packets), (3, 1, 1));
    assert_eq!(old(0x10), new(0x10));
    assert_eq!((counted().generation, counted().connections, counted().to.packets), (3, 1, 2));
}

/// Elements that are recycled for a moment make no difference to any case but the counter.
#[test]
fn every_case_holds_while_elements_are_recycled() {
    let held = |case: &Case, seed| {
        let tables = MemTables::with(&case.world.contents(NOW));
        tables.recycle(Some(Recycling { one_in: 2, twice: false, sealed: false, seed }));
        let (verdict, bytes) = run(&tables, case.hook, &case.packet);
        let wanted = MemTables::with(&case.world.contents(NOW));
        (verdict, bytes) == run(&wanted, case.hook, &case.packet)
    };
    // With a random port, two runs differ by right.
    let cases: Vec<Case> = cases::all().into_iter().filter(|case| !case.any_port).collect();
    for seed in 0..if cfg!(miri) { 1 } else { 20 } {
        let wrong: Vec<&str> = cases.iter().filter(|case| !held(case, seed)).map(|case| case.name.as_str()).collect();
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    }
}

#[test]
fn every_socket_case_holds_while_elements_are_recycled() {
    for seed in 0..if cfg!(miri) { 1 } else { 20 } {
        for mut case in sock_cases::all() {
            // Others' entries, to be met by mistake.
            let stranger = AffinitySpec::new(AffinityKey::netns(99), 6);
            case.world.affinity.push(stranger);
            case.affinity.iter_mut().for_each(|after| after.push(stranger));
            let tables = MemTables::with(&case.world.contents(NOW));
            tables.recycle(Some(Recycling { one_in: 2, twice: false, sealed: false, seed }));
            let found = case.run_on(&tables);
            let recycled = tables.counter(Counter::Recycled);
            let only_counted = |text: &str| {
                let wrong: Vec<&str> = text.lines().skip(1).collect();
                recycled > 0 && wrong.iter().all(|line| line.contains("counter recycled"))
            };
            assert!(found.as_ref().map_or_else(|text| only_counted(text), |()| true), "seed {seed}: {found:?}");
        }
    }
}

/// A socket whose entries find no room is translated all the same, and that is counted.
#[test]
fn a_full_socket_table_is_counted() {
    let case: SockCase = sock_cases::all()
        .into_iter()
        .find(|case| case.name.starts_with("rule: pod, protocol 17, SendMsg, socket_lb 3"))
        .expect("the case of a pod's datagram");
    let tables = MemTables::with(&case.world.contents(NOW));
    tables.refuse(Table::Socks);
    let wrong = case.run_on(&tables).expect_err("no entry can be there");
    assert!(!wrong.contains("outcome"), "{wrong}");
    assert_eq!(tables.counter(Counter::SocketTable), 2, "the way back and the backend to stay with");
}

/// A burst of openings evicts openings only.
#[test]
fn a_flood_of_openings_leaves_answered_flows_alone() {
    let answered = flow().map(|entry| FlowSpec { table: FlowTable::Flows, state: flow_state::ESTABLISHED, ..entry });
    let tables = MemTables::with(&World::tcp(NET).flows(&answered).contents(NOW));
    tables.limit(Table::Flows, 4);
    tables.limit(Table::Embryos, 16);
    for port in 1..=1000 {
        assert_eq!(at_client(&tables, &syn().from(NET.client(), port)), Verdict::Stack);
    }
    let kept = tables.flow_entries().into_iter().filter(|(table, ..)| *table == FlowTable::Flows).count();
    assert_eq!(kept, 2);
    assert_eq!(tables.flow_entries().len(), 2 + 16);
    assert_eq!(at_client(&tables, &syn().flags(0x10)), Verdict::Stack, "the answered flow goes on");
}

/// A one-way stream keeps its way back: each tick it touches it, or puts it back.
#[test]
fn a_one_way_stream_does_not_lose_its_way_back() {
    let spoken = pair(NET.from_client(proto::UDP, NET.vip(), 8080), NET.from_client(proto::UDP, NET.server(), 80))
        .map(|entry| FlowSpec { table: FlowTable::Flows, state: flow_state::REPLIED, ..entry });
    let tables = MemTables::with(&World::udp(NET).flows(&spoken).contents(NOW));
    tables.limit(Table::Flows, 8);
    let datagram = PacketSpec::new(spoken[0].key);
    for tick in 1..200 {
        tables.set_now(NOW + tick);
        assert_eq!(at_client(&tables, &datagram), Verdict::Stack);
        // Six others come and are used once.
        for n in 0..6 {
            let mut key = spoken[0].key;
            key.sport = Port::new((tick * 6 + n) as u16);
            let other = FlowSpec { key, ..spoken[0] };
            assert!(tables.insert_flow(FlowTable::Flows, &key, &other.flow(NOW + tick)));
        }
    }
    let answer = PacketSpec::new(spoken[1].key);
    let (verdict, bytes) = run(&tables, Hook::PodEgress, &answer);
    assert_eq!((verdict, bytes), (Verdict::Stack, answer.with_tuple(spoken[1].to).build()));
}

/// A node port's connection leaves its mark, by which it is found when the node port is gone.
#[test]
fn a_connection_outlives_its_node_port() {
    let world = World::outside(NET, proto::TCP).slots(&[LOCAL]);
    let tables = MemTables::with(&World { marks: 0, ..world.clone() }.contents(NOW));
    let packet = |flags| {
        let to = Tuple::new(NET.outside(), Port::new(50_000), NET.node(), Port::new(NODE_PORT), proto::TCP);
        PacketSpec::new(to).flags(flags)
    };
    let (opened, _) = run(&tables, Hook::Uplink, &packet(0x02));
    assert!(matches!(opened, Verdict::Redirect(_)), "{opened:?}");
    for (key, _) in &world.services[0].frontends {
        tables.set_service(*key, None);
    }
    assert_eq!(run(&tables, Hook::Uplink, &packet(0x10)).0, opened, "its packets go on");
    assert_eq!(run(&tables, Hook::Uplink, &packet(0x02)).0, Verdict::Pass, "a new one goes to the node");
    assert_eq!(run(&tables, Hook::Uplink, &packet(0x10)).0, Verdict::Pass, "and stays there");
    assert_eq!(tables.flow_entries(), [], "nothing of the old one is left");
}
