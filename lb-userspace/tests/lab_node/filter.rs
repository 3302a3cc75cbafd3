//! The filter in front of the flows: asked soon after the first start, as it was left by an agent that was killed, and asked
//! again where somebody took its pin away, once all programs mark the new one. A connection of the packet path goes on all
//! the while.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use berrylb::maps::{BpfFilter, BpfStore, FilterMaps as _, MapStore as _};
use lb_common::{
    abi::{map, reading},
    datapath::FlowTable,
};
use lb_lab::{
    Host, Node,
    peer::{Hold, Open},
};

use crate::{
    rules::{Mode, PATIENT_MS},
    world::{VIPS, World, at, layout, manifest, sample_service},
};

const NODE: &str = "raspi002";

fn asked(node: &Node) -> u32 {
    BpfFilter::open(layout(node).version()).unwrap().reading()
}

/// The agent looks every two seconds while no filter is asked.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_is_asked_once_all_programs_are_known_to_mark_it() {
    let mut world = World::of_one_node();
    let pod = world.node(NODE).add_pod("web").unwrap();
    let client = world.node(NODE).add_pod("client").unwrap();
    let _server = pod.serve(&[80]).unwrap();
    world.start(NODE, Mode::Packet.flags());
    world.put("sample", &[&manifest(&sample_service(), &[&pod])]);
    until("the filter of new tables is asked", || asked(world.node(NODE)) != reading::NONE);

    let hold = Hold { open: Open::tcp(at(VIPS[0])), interval_ms: 5, duration_ms: 60_000, timeout_ms: PATIENT_MS };
    let held = client.begin(hold).unwrap();
    let flows = |world: &World| {
        let store = BpfStore::open_read_only(layout(world.node(NODE)).version()).unwrap();
        store.flows(FlowTable::Flows).unwrap().len()
    };
    until("the connection is a flow of the packet path", || flows(&world) == 2);
    let before = asked(world.node(NODE));
    world.agent_mut(NODE).kill9().unwrap();
    world.agent_mut(NODE).start_again().unwrap();
    assert_eq!(asked(world.node(NODE)), before, "another agent has nothing to do");

    world.agent_mut(NODE).kill9().unwrap();
    let pin = layout(world.node(NODE)).map(map::FLOW_FILTER);
    fs::remove_file(&pin).unwrap();
    // The programs go on with the filter that has no pin any more, so their flow is unknown to the new one.
    world.agent_mut(NODE).start_again().unwrap();
    until("the new filter is asked", || asked(world.node(NODE)) != reading::NONE);
    thread::sleep(Duration::from_millis(500));
    let held = held.stop().unwrap();
    assert!(held.failures.is_empty() && held.pings > 20, "{held:?}");
}
