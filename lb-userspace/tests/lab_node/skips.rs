//! Pods that are left to the packet path: by cgroup, by network namespace, those that come later, and never the node.

use lb_lab::{Host, Place, Pod};
use serde_json::Value;

use crate::{
    rules::{Call, Manner},
    world::{VIPS, World, at, eventually, manifest, sample_service},
};

const NODE: &str = "raspi002";
const TIMES: u32 = 5;

/// Which path new connections took.
#[derive(Debug, Eq, PartialEq)]
struct Paths {
    sockets: u64,
    packets: u64,
}

fn paths(world: &World) -> Paths {
    let sockets = world.counter(NODE, "socket_tcp") + world.counter(NODE, "socket_udp");
    Paths { sockets, packets: world.counter(NODE, "packet_flows") }
}

/// The paths that [`TIMES`] calls take.
fn taken(world: &World, client: &Place, call: Call, vip: &str) -> Paths {
    let before = paths(world);
    let answers = call.ask(client, at(vip), Manner::times(TIMES));
    assert!(answers.all().iter().all(|seen| seen.name == "server"), "{answers:?}");
    call.assert_shows(&answers, at(vip));
    let after = paths(world);
    Paths { sockets: after.sockets - before.sockets, packets: after.packets - before.packets }
}

const ALL_SOCKETS: Paths = Paths { sockets: TIMES as u64, packets: 0 };
const ALL_PACKETS: Paths = Paths { sockets: 0, packets: TIMES as u64 };

fn assert_skipped(world: &World, pod: &Pod) {
    for vip in VIPS {
        for call in Call::ALL {
            assert_eq!(taken(world, pod.place(), call, vip), ALL_PACKETS, "{call:?} of {} to {vip}", pod.name());
        }
    }
}

fn assert_served(world: &World, client: &Place) {
    for vip in VIPS {
        for call in [Call::Tcp, Call::Unconnected] {
            assert_eq!(taken(world, client, call, vip), ALL_SOCKETS, "{call:?} of {} to {vip}", client.name());
        }
    }
}

/// What the agent says that it skips.
fn skipped(world: &World) -> Vec<String> {
    let node = world.node(NODE);
    let text = node.sh("curl -sS --unix-socket \"$BERRYLB_API_SOCKET\" http://berrylb/v1/names").unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    let names = answer["skipped"].as_array().unwrap_or_else(|| panic!("no names in {text}"));
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// A node with a server behind the Service, without an agent so far.
fn world() -> (World, impl Sized) {
    let world = World::of_one_node();
    let server = world.node(NODE).add_pod("server").unwrap();
    let serving = server.serve(&[80]).unwrap();
    world.put("sample", &[&manifest(&sample_service(), &[&server])]);
    (world, (server, serving))
}

#[test]
fn by_cgroup() {
    let (mut world, _server) = world();
    let (mesh, plain) = (world.node(NODE).add_pod("mesh-1").unwrap(), world.node(NODE).add_pod("plain").unwrap());
    world.start(NODE, &["--socket-lb-skip-cgroups", "pod-mesh-*,host,nobody/*/*"]);

    assert_skipped(&world, &mesh);
    assert_served(&world, plain.place());
    // The node's own sockets have no packet path; its cgroup matches, and that changes nothing.
    assert_served(&world, world.node(NODE).place());
    assert_eq!(skipped(&world), ["cgroup host", "cgroup pod-mesh-1"].map(str::to_owned).to_vec());

    // A cgroup beneath, as a container's below its pod's.
    let inner = mesh.cgroup().join("container");
    let before = paths(&world);
    let [vip, _] = VIPS;
    let script = format!(
        "mkdir {inner} && echo $$ > {inner}/cgroup.procs && curl -sS -m 5 http://{to}/",
        inner = inner.display(),
        to = at(vip)
    );
    assert!(mesh.sh(&script).unwrap().contains("server"));
    assert_eq!(paths(&world), Paths { packets: before.packets + 1, ..before });

    // A pod that comes later.
    let late = world.node(NODE).add_pod("mesh-2").unwrap();
    eventually("the agent sees it", || {
        let names = skipped(&world);
        if names.contains(&"cgroup pod-mesh-2".to_owned()) { Ok(()) } else { Err(format!("{names:?}")) }
    });
    assert_skipped(&world, &late);
    drop(late);
    eventually("the agent sees it go", || {
        let names = skipped(&world);
        if names.len() == 2 { Ok(()) } else { Err(format!("{names:?}")) }
    });

    // The next agent is told nothing of it.
    world.agent_mut(NODE).terminate().unwrap();
    world.start(NODE, &[]);
    assert_eq!(skipped(&world), Vec::<String>::new());
    assert_served(&world, mesh.place());
}

#[test]
fn by_network_namespace() {
    let (mut world, _server) = world();
    world.start(NODE, &[]);
    let (mesh, plain) = (world.node(NODE).add_pod("mesh").unwrap(), world.node(NODE).add_pod("plain").unwrap());
    assert_served(&world, mesh.place());
    world.agent_mut(NODE).terminate().unwrap();

    let own = world.node(NODE).netns().name().to_owned();
    let later = format!("{}-late*", mesh.netns().name().strip_suffix("-mesh").unwrap());
    let names = format!("{},{},{own},nobody", mesh.netns().path().display(), later);
    world.start(NODE, &["--socket-lb-skip-netns", &names]);
    assert_skipped(&world, &mesh);
    assert_served(&world, plain.place());
    assert_served(&world, world.node(NODE).place());

    // Its name is a plain file before it stands for a namespace.
    let late = world.node(NODE).add_pod("late").unwrap();
    let name = format!("netns {}", late.netns().path().display());
    eventually("the agent sees it", || {
        let names = skipped(&world);
        if names.contains(&name) { Ok(()) } else { Err(format!("{names:?}")) }
    });
    assert_skipped(&world, &late);
}
