//! Somebody else writes to the maps, detaches programs and removes pins: `berrylb verify` names each, the agent mends it,
//! and traffic flows again; the audit does so unasked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use berrylb::maps::{BpfStore, MapStore as _};
use lb_common::abi::{SkipKey, map, scope};
use lb_lab::{
    Agent, Host, Node, Peer, Pod,
    objects::{Endpoint, Port, Service},
};
use serde_json::{Value, json};

use crate::{
    rules::{Call, Manner},
    world::{VIPS, World, at, bpftool, eventually, layout, manifest, sample_service},
};

const NODE: &str = "raspi002";

struct Web {
    world: World,
    client: Pod,
    _server: (Pod, Peer),
}

fn web(flags: &[&str]) -> Web {
    let mut world = World::of_one_node();
    let pod = world.node(NODE).add_pod("web").unwrap();
    let client = world.node(NODE).add_pod("client").unwrap();
    let server = pod.serve(&[80]).unwrap();
    world.start(NODE, flags);
    world.put("sample", &[&manifest(&sample_service(), &[&pod])]);
    Web { world, client, _server: (pod, server) }
}

/// Pins of the links whose names begin so.
fn link_pins(node: &Node, prefix: &str) -> Vec<PathBuf> {
    let pins = fs::read_dir(layout(node).links()).unwrap().map(|entry| entry.unwrap().path());
    let pins = pins.filter(|pin| pin.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    let pins: Vec<PathBuf> = pins.collect();
    assert!(!pins.is_empty(), "no link {prefix} is pinned");
    pins
}

/// Deletes the frontends at an address, for the node's own side.
fn delete_frontends(node: &Node, vip: &str) {
    let mut store = BpfStore::open(layout(node).version()).unwrap();
    let mut keys = store.services().unwrap();
    keys.retain(|(key, _)| key.addr == at(vip).ip().into() && key.scope == scope::INTERNAL);
    assert_eq!(keys.len(), 2, "one for each protocol");
    store.delete_services(&keys.into_iter().map(|(key, _)| key).collect::<Vec<_>>()).unwrap();
}

fn detach(node: &Node, pin: &Path) {
    let done = node.command("bpftool").args(["link", "detach", "pinned", pin.to_str().unwrap()]).output().unwrap();
    assert!(done.status.success(), "{done}");
}

/// Exit code, and what is listed: `(repaired, "OBJECT: FOUND, intent INTENT")`.
fn verify(agent: &Agent, flags: &[&str]) -> (Option<i32>, Vec<(bool, String)>) {
    let output = agent.command(&["verify", "-o", "json"]).args(flags.iter().copied()).output().unwrap();
    let rows: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"));
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let line = |row: &Value| format!("{}: {}, intent {}", text(row, "object"), text(row, "found"), text(row, "intent"));
    let rows = rows.as_array().unwrap().iter().map(|row| (row["repaired"] == json!(true), line(row))).collect();
    (output.status.code(), rows)
}

#[test]
fn what_differs_is_listed_and_mended() {
    let mut web = web(&["--audit-interval", "0"]);
    let (node, agent) = (web.world.node(NODE), web.world.agent(NODE));
    assert_eq!(verify(agent, &[]), (Some(0), Vec::new()));

    delete_frontends(node, VIPS[0]);
    for pin in link_pins(node, "pod_ingress-") {
        detach(node, &pin);
    }
    detach(node, &link_pins(node, "connect4")[0]);
    let unlinked = link_pins(node, "uplink_egress-");
    unlinked.iter().for_each(|pin| fs::remove_file(pin).unwrap());
    fs::remove_file(layout(node).map(map::MARKS)).unwrap();

    let (code, rows) = verify(agent, &[]);
    assert_eq!(code, Some(1), "{rows:#?}");
    let named = [
        format!("service default/sample-clusterip {}/TCP internal: map has nothing, intent forward", at(VIPS[0])),
        format!("service default/sample-clusterip {}/UDP internal: map has nothing, intent forward", at(VIPS[0])),
        "program pod_ingress on device veth".to_owned(),
        "program connect4 on the cgroup: detached".to_owned(),
        "program uplink_egress on device eth0".to_owned(),
        "pin of map marks: no pin, intent map ".to_owned(),
    ];
    for text in &named {
        assert!(rows.iter().any(|(repaired, row)| !repaired && row.starts_with(text)), "no {text} in {rows:#?}");
    }
    // Two pods; everything else once.
    assert_eq!(rows.len(), named.len() + 1, "{rows:#?}");
    let shown = agent.command(&["verify"]).output().unwrap();
    assert_eq!(shown.status.code(), Some(1), "{shown}");
    assert!(shown.stdout.contains("differs") && shown.stderr.contains("--repair"), "{shown}");

    assert_repairs(agent, rows);
    assert_eq!(verify(agent, &["--repair"]), (Some(0), Vec::new()));
    web.world.settle();
    for vip in VIPS {
        for call in Call::ALL {
            assert_eq!(call.ask(web.client.place(), at(vip), Manner::times(2)).all().len(), 2, "{call:?} to {vip}");
        }
    }
    assert!(bpftool(node, &["map", "show", "pinned", layout(node).map(map::MARKS).to_str().unwrap()])["id"].is_u64());

    // Another map in a pin's place: nothing is written, until it is gone.
    delete_frontends(node, VIPS[1]);
    let marks = layout(node).map(map::MARKS);
    fs::remove_file(&marks).unwrap();
    let create = ["map", "create", marks.to_str().unwrap(), "type", "hash", "key", "4", "value", "4", "entries", "1"];
    node.command("bpftool").args(create).args(["name", "other"]).ok().unwrap();
    let (code, rows) = verify(agent, &["--repair"]);
    assert_eq!((code, rows.len()), (Some(1), 3), "{rows:#?}");
    assert!(rows.iter().all(|(repaired, _)| !repaired), "{rows:#?}");
    let text = agent.command(&["verify", "--repair"]).output().unwrap().stderr;
    assert!(text.contains("remove the pins") && text.contains("3 differences are left"), "{text}");
    fs::remove_file(&marks).unwrap();
    assert_eq!(verify(agent, &["--repair"]).0, Some(0));
    assert_eq!(verify(agent, &[]), (Some(0), Vec::new()));

    // Whoever looks at what is not there is told how it comes back.
    fs::remove_file(layout(node).map(map::SERVICES)).unwrap();
    let blind = agent.command(&["service", "list"]).output().unwrap();
    assert_eq!(blind.status.code(), Some(1), "{blind}");
    assert!(blind.stderr.contains("/services,") && blind.stderr.contains("`berrylb verify --repair`"), "{blind}");
    assert_eq!(verify(agent, &["--repair"]).0, Some(0));
    agent.command(&["service", "list"]).ok().unwrap();
    let strange = agent.command(&["service", "list", "--bpffs", "/nonexistent"]).output().unwrap();
    assert!(strange.stderr.contains(&format!("give --bpffs {}", node.bpffs().display())), "{strange}");

    web.world.agent_mut(NODE).kill9().unwrap();
    let nobody = web.world.agent(NODE).command(&["verify"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1), "{nobody}");
    assert!(nobody.stderr.contains("no agent runs") && nobody.stderr.contains("start the agent"), "{nobody}");
}

#[test]
fn the_audit_mends_unasked() {
    let web = web(&["--audit-interval", "1"]);
    let (node, agent) = (web.world.node(NODE), web.world.agent(NODE));
    delete_frontends(node, VIPS[0]);
    detach(node, &link_pins(node, "pod_ingress-")[0]);
    let text = "the datapath was not what it should be, and is again";
    eventually("the audit mends", || match (verify(agent, &[]), agent.log().unwrap()) {
        ((Some(0), _), log) if log.contains(text) => Ok(()),
        (found, log) => Err(format!("{found:?}\n{log}")),
    });
    web.world.settle();
    assert_eq!(Call::Tcp.ask(web.client.place(), at(VIPS[0]), Manner::times(2)).all().len(), 2);
    // Two frontends and a program.
    let metrics = node.command("curl").args(["-sS", "-m", "5", "http://127.0.0.1:10249/metrics"]).ok().unwrap();
    assert!(metrics.lines().any(|line| line == "berrylb_audit_drift_total 3"), "{metrics}");
    let log = agent.log().unwrap();
    assert!(log.lines().filter(|line| line.contains(text)).count() <= 2, "{log}");
}

/// Something that fails all the time, here a Service without room, keeps the audit from nothing else.
#[test]
fn the_audit_goes_on_beside_what_fails() {
    let web = web(&["--audit-interval", "1", "--max-backends", "6"]);
    let (node, agent) = (web.world.node(NODE), web.world.agent(NODE));
    let crowd = Service::new("crowd", &[[10, 96, 1, 1].into()], &[Port::tcp("http", 80, 80)]);
    let endpoints = [1, 2, 3].map(|n| Endpoint::new([10, 244, 9, n].into(), "raspi003"));
    web.world.objects.put("crowd", &[&crowd, &crowd.slice(&endpoints)]).unwrap();
    eventually("it fails", || {
        let (_, rows) = verify(agent, &[]);
        if rows.iter().any(|(_, row)| row.contains("default/crowd")) { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    let shown = agent.command(&["verify"]).output().unwrap();
    assert!(shown.stderr.contains("raise --max-backends; a pinned table keeps its size"), "{shown}");
    delete_frontends(node, VIPS[0]);
    eventually("the audit mends", || {
        let ((_, rows), log) = (verify(agent, &[]), agent.log().unwrap());
        let only_the_crowd = !rows.is_empty() && rows.iter().all(|(_, row)| row.contains("default/crowd"));
        if only_the_crowd && log.contains("is again") { Ok(()) } else { Err(format!("{rows:?}\n{log}")) }
    });
    let metrics = node.command("curl").args(["-sS", "-m", "5", "http://127.0.0.1:10249/metrics"]).ok().unwrap();
    assert!(metrics.lines().any(|line| line == "berrylb_audit_drift_total 2"), "{metrics}");
}

/// What the programs are attached by on kernels before 6.6: filters, which no pin holds.
#[test]
fn filters_of_clsact_are_looked_at_and_made_again() {
    let web = web(&["--audit-interval", "0", "--tc", "clsact"]);
    let (node, agent) = (web.world.node(NODE), web.world.agent(NODE));
    assert_eq!(verify(agent, &[]), (Some(0), Vec::new()));
    // Of the pods' links the filters, of the uplink everything.
    let links = node.sh("ip -o link show type veth | sed 's/^[0-9]*: \\([^@:]*\\).*/\\1/'").unwrap();
    for link in links.lines().filter(|link| link.starts_with("veth")) {
        node.sh(&format!("tc filter del dev {link} ingress")).unwrap();
    }
    node.sh("tc qdisc del dev eth0 clsact").unwrap();
    let (code, rows) = verify(agent, &[]);
    assert_eq!(code, Some(1), "{rows:#?}");
    for text in [
        "program pod_ingress on device veth",
        "program uplink_ingress on device eth0",
        "program uplink_egress on device eth0",
    ] {
        assert!(
            rows.iter().any(|(_, row)| row.starts_with(text) && row.contains("no filter")),
            "no {text} in {rows:#?}"
        );
    }
    // Two pods, and the uplink's two directions.
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert_repairs(agent, rows);
    web.world.settle();
    for call in Call::ALL {
        assert_eq!(call.ask(web.client.place(), at(VIPS[0]), Manner::times(2)).all().len(), 2, "{call:?}");
    }
}

#[test]
fn xdp_that_somebody_took_off_is_attached_again() {
    let web = web(&["--audit-interval", "0", "--xdp", "generic"]);
    let (node, agent) = (web.world.node(NODE), web.world.agent(NODE));
    assert_eq!(verify(agent, &[]), (Some(0), Vec::new()));
    let mode = || node.sh("ip -d link show dev eth0").unwrap().contains("xdpgeneric");
    assert!(mode(), "the program is there to begin with");
    detach(node, &link_pins(node, "uplink_xdp-")[0]);
    let (code, rows) = verify(agent, &[]);
    assert_eq!((code, rows.len()), (Some(1), 1), "{rows:#?}");
    assert!(rows[0].1.starts_with("program uplink_xdp on device eth0"), "{rows:#?}");
    assert!(!mode());
    assert_repairs(agent, rows);
    assert!(mode());
}

#[test]
fn skipped_sockets_are_compared() {
    let mut web = web(&["--audit-interval", "0"]);
    web.world.agent_mut(NODE).terminate().unwrap();
    let _mesh = web.world.node(NODE).add_pod("mesh-1").unwrap();
    web.world.start(NODE, &["--audit-interval", "0", "--socket-lb-skip-cgroups", "pod-mesh-*"]);
    let (node, agent) = (web.world.node(NODE), web.world.agent(NODE));
    assert_eq!(verify(agent, &[]), (Some(0), Vec::new()));
    let mut store = BpfStore::open(layout(node).version()).unwrap();
    let [skip] = store.skips().unwrap()[..] else { panic!("one pod is skipped") };
    store.delete_skip(skip).unwrap();
    store.put_skip(SkipKey::new(skip.kind, 4711)).unwrap();
    let (code, rows) = verify(agent, &[]);
    assert_eq!((code, rows.len()), (Some(1), 2), "{rows:#?}");
    assert!(rows.iter().any(|(_, row)| row.starts_with("skip of cgroup 4711: map has that its sockets")), "{rows:#?}");
    assert!(rows.iter().any(|(_, row)| row.contains("mesh-1") && row.contains("map has nothing")), "{rows:#?}");
    assert_repairs(agent, rows);
    assert_eq!(store.skips().unwrap(), [skip]);
}

/// All that was listed is mended, and nothing else is left.
#[track_caller]
fn assert_repairs(agent: &Agent, listed: Vec<(bool, String)>) {
    let expected: Vec<(bool, String)> = listed.into_iter().map(|(_, row)| (true, row)).collect();
    let (code, repaired) = verify(agent, &["--repair"]);
    assert_eq!((code, &repaired), (Some(0), &expected), "{}", agent.log().unwrap());
    assert_eq!(verify(agent, &[]), (Some(0), Vec::new()));
}
