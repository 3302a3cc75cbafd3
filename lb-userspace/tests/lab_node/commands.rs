//! The live commands show what the datapath does: Services, backends, flows, counters, in every format.

use std::net::SocketAddr;

use lb_lab::{
    Agent, Host, LabConfig,
    peer::{Open, Ping},
};
use serde_json::{Value, json};

use crate::{
    rules::{Call, Manner, Mode},
    world::{PORT, Sample, VIPS, World, at, counter, eventually, json as json_of, manifest, sample_service},
};

fn table(agent: &Agent, command: &[&str], format: &str) -> Vec<Vec<String>> {
    let text = agent.command(command).args(["-o", format]).ok().unwrap();
    assert!(!text.contains('\u{1b}'), "colour without a terminal: {text:?}");
    text.lines().map(|line| line.split_whitespace().map(String::from).collect()).collect()
}

/// The row of a table that holds all of these words.
fn row<'a>(table: &'a [Vec<String>], words: &[&str]) -> &'a [String] {
    let found = table.iter().find(|row| words.iter().all(|word| row.iter().any(|cell| cell == word)));
    found.unwrap_or_else(|| panic!("no row with {words:?} in {table:#?}"))
}

/// A packet-path flow from its first packet to its end, with client, frontend and backend.
#[test]
fn flows_show_client_frontend_and_backend() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", Mode::Packet.flags());
    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    let agent = world.agent("raspi002");
    assert_eq!(json_of(agent, &["flow", "list"]), json!([]));

    for vip in VIPS {
        for (open, protocol) in [(Open::tcp(at(vip)), "TCP"), (Open { connect: true, ..Open::udp(at(vip)) }, "UDP")] {
            let mut peer = pod.peer().unwrap();
            let opened = peer.ask(open).unwrap();
            let id = opened.id.unwrap();
            let seen = peer.ask(Ping::new(id)).unwrap().result.unwrap();
            // Asked twice, so that the backend's answer is confirmed by a later packet of the client.
            peer.ask(Ping::new(id)).unwrap().result.unwrap();
            let client = opened.local.unwrap();
            let backend = sample.pods.iter().find(|pod| pod.name() == seen.name).unwrap();
            let backend = SocketAddr::new(backend.ip_like(client.ip()), seen.server.port());

            let end = |address: SocketAddr| json!({"address": address.ip(), "port": address.port()});
            let flows = json_of(agent, &["flow", "list"]);
            let of = |direction: &str, source: Value| {
                let flows = flows.as_array().unwrap();
                let mut found = flows
                    .iter()
                    .filter(|f| f["direction"] == direction && f["protocol"] == protocol && f["source"] == source);
                let flow = found.next().unwrap_or_else(|| panic!("no {direction} flow from {source} in {flows:#?}"));
                assert!(found.next().is_none(), "two {direction} flows from {source} in {flows:#?}");
                flow.clone()
            };
            let forward = of("forward", end(client));
            assert_eq!(forward["destination"], end(at(vip)));
            assert_eq!(forward["newDestination"], end(backend));
            assert_eq!(forward["newSource"], end(client));
            let reply = of("reply", end(backend));
            assert_eq!((&reply["destination"], &reply["newSource"]), (&end(client), &end(at(vip))));
            if protocol == "TCP" {
                assert_eq!((&forward["state"], &reply["state"]), (&json!("established"), &json!("established")));
            }
            let ends = [client, at(vip), backend].map(|end| end.to_string());
            let shown = table(agent, &["flow", "list"], "table");
            row(&shown, &[protocol, &ends[0], &ends[1], &ends[2]]);
            row(&table(agent, &["flow", "list"], "wide"), &[protocol, "reply", &ends[2], &ends[0]]);
        }
    }
}

#[test]
fn services_backends_and_counters() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    let agent = world.agent("raspi002");

    let services = json_of(agent, &["service", "list"]);
    assert_eq!(
        services,
        json!([{
            "service": "default/sample-clusterip", "addresses": VIPS, "ports": ["8080/TCP", "8080/UDP"],
            "types": ["ClusterIP"], "backends": 6, "draining": 0, "problem": null
        }])
    );
    row(&table(agent, &["service", "list"], "table"), &["default/sample-clusterip", &VIPS.join(","), "6"]);
    row(&table(agent, &["service", "list"], "wide"), &["default/sample-clusterip", "6", "0"]);

    let plan = agent.plan().unwrap();
    for name in ["default/sample-clusterip", "sample-clusterip"] {
        assert_eq!(json_of(agent, &["service", "get", name]), plan["frontends"], "{name}");
    }
    let shown = table(agent, &["service", "get", "sample-clusterip"], "table");
    row(&shown, &[VIPS[0], &PORT.to_string(), "TCP", "internal", "forward"]);
    row(&shown, &[VIPS[1], &PORT.to_string(), "UDP", "external", "drop"]);
    row(&shown, &[&format!("{}:80", sample.pods[0].ip4()), "active", "yes"]);
    row(&shown, &[&format!("[{}]:80", sample.pods[1].ip6()), "active", "no"]);
    let unknown = agent.command(&["service", "get", "default/other"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1), "{unknown}");
    assert!(unknown.stderr.contains("default/other"), "{unknown}");
    let elsewhere = agent.command(&["service", "get", "other/sample-clusterip"]).output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere}");
    assert!(elsewhere.stderr.ends_with("but there is default/sample-clusterip\n"), "{elsewhere}");

    let requests = 30;
    let asked = Call::Tcp.ask(pod.place(), at(VIPS[0]), Manner::times(requests));
    assert_eq!(asked.all().len(), requests as usize);
    assert_eq!(counter(agent, "socket_tcp"), u64::from(requests));
    let backends = json_of(agent, &["backend", "list"]);
    let backends = backends.as_array().unwrap();
    // Three pods, two families, two service ports.
    assert_eq!(backends.len(), 12, "{backends:#?}");
    let mut connections = 0;
    for backend in backends {
        let port = if backend["protocol"] == "TCP" { "http-port" } else { "udp-port" };
        assert_eq!(backend["services"], json!([format!("default/sample-clusterip:{port}")]), "{backend}");
        assert_eq!(
            (&backend["port"], &backend["state"], &backend["weight"]),
            (&json!(80), &json!("active"), &json!(1))
        );
        let here = sample.pods[0].ip4().to_string() == backend["address"].as_str().unwrap()
            || sample.pods[0].ip6().to_string() == backend["address"].as_str().unwrap();
        assert_eq!(backend["local"], json!(here), "{backend}");
        connections += backend["connections"].as_u64().unwrap();
    }
    assert_eq!(connections, u64::from(requests));
    let shown = table(agent, &["backend", "list"], "table");
    row(
        &shown,
        &[&sample.pods[2].ip4().to_string(), "80", "TCP", "active", "no", "default/sample-clusterip:http-port"],
    );
    row(&table(agent, &["counters"], "table"), &["socket_tcp", &requests.to_string()]);
    for command in [&["service", "list"][..], &["backend", "list"], &["flow", "list"], &["counters"], &["dump"]] {
        let yaml = agent.command(command).args(["-o", "yaml"]).ok().unwrap();
        assert!(!yaml.trim().is_empty(), "{command:?}");
        let wrong = agent.command(command).args(["-o", "xml"]).output().unwrap();
        assert_eq!(wrong.status.code(), Some(2), "{command:?}: {wrong}");
    }
}

/// The maps hold no names: without the agent they are null, and nothing else is different.
#[test]
fn without_an_agent_names_are_null() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&sample_service(), &sample.all())]);
    let mut expected = world.agent("raspi002").plan().unwrap();
    world.agent_mut("raspi002").kill9().unwrap();
    for frontend in expected["frontends"].as_array_mut().unwrap() {
        frontend["service"] = Value::Null;
        frontend["portName"] = Value::Null;
        for backend in frontend["backends"].as_array_mut().unwrap() {
            backend["zone"] = Value::Null;
        }
    }
    let agent = world.agent("raspi002");
    assert_eq!(agent.dump().unwrap()["frontends"], expected["frontends"]);
    let services = json_of(agent, &["service", "list"]);
    assert_eq!((&services[0]["service"], &services[0]["backends"]), (&Value::Null, &json!(6)));
    assert_eq!(json_of(agent, &["backend", "list"])[0]["services"], Value::Null);
    for command in [&["service", "list"][..], &["backend", "list"], &["dump"]] {
        let shown = agent.command(command).output().unwrap();
        let told = shown.stderr.contains("`?` in place of a name: only a running agent knows names");
        assert!(shown.status.success() && shown.stdout.contains('?') && told, "{shown}");
        assert_eq!(agent.command(command).args(["-o", "json"]).output().unwrap().stderr, "", "{command:?}");
    }
    let get = agent.command(&["service", "get", "sample-clusterip"]).output().unwrap();
    assert_eq!(get.status.code(), Some(1), "{get}");
    assert!(get.stderr.contains("no agent runs"), "{get}");

    let folder = agent.command(&["dump", "--bpffs", "/nonexistent"]).output().unwrap();
    assert_eq!(folder.status.code(), Some(1), "{folder}");
    assert!(folder.stderr.contains("/nonexistent"), "{folder}");
}

/// A Service that finds no room is listed with the reason, though nothing of it is in the maps.
#[test]
fn a_service_without_room_is_listed_with_the_reason() {
    let mut world = World::of_one_node();
    let pods = ["a", "b"].map(|name| world.node("raspi002").add_pod(name).unwrap());
    // A backend for each pod, family and protocol.
    world.start("raspi002", &["--max-backends", "1"]);
    world.objects.put("sample", &[&manifest(&sample_service(), &pods.each_ref())]).unwrap();
    let agent = world.agent("raspi002");
    let problem = eventually("it is listed", || {
        let services = json_of(agent, &["service", "list"]);
        let row = services.as_array().unwrap().iter().find(|row| row["service"] == "default/sample-clusterip");
        row.and_then(|row| row["problem"].as_str().map(str::to_owned)).ok_or_else(|| services.to_string())
    });
    assert!(problem.contains("raise --max-backends"), "{problem}");
    let shown = agent.command(&["service", "get", "sample-clusterip"]).output().unwrap();
    assert!(format!("{}{}", shown.stdout, shown.stderr).contains("raise --max-backends"), "{shown}");
}

/// Services that are served otherwise than their objects say, or not at all, are listed with the reason until it is over.
#[test]
fn a_service_that_is_not_served_as_its_object_says_is_listed_with_the_reason() {
    let mut world = World::of_one_node();
    world.start("raspi002", &[]);
    let service = |name: &str, ip: &str| {
        let spec = format!("{{clusterIP: {ip}, ports: [{{port: 80}}]}}");
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
    };
    let put = |ip: &str, loser_ip: &str| {
        let all = [service("first", "10.96.9.9"), service("loser", loser_ip), service("web", ip)].concat();
        world.objects.put("mine", &[&all]).unwrap();
    };
    let agent = world.agent("raspi002");
    let listed = |name: &str| {
        let services = json_of(agent, &["service", "list"]);
        services.as_array().unwrap().iter().find(|row| row["service"] == format!("default/{name}")).cloned()
    };
    let problem_with = |name: &str, part: &str| {
        eventually(part, || {
            let row = listed(name);
            let text = row.as_ref().and_then(|row| row["problem"].as_str()).unwrap_or_default();
            if text.contains(part) { Ok(()) } else { Err(format!("{row:?}")) }
        });
    };
    put("10.96.9.7", "10.96.9.9");
    problem_with("loser", "10.96.9.9:80/TCP is left out: service default/first");
    put("10.96.9.777", "10.96.9.9");
    problem_with("web", "\"10.96.9.777\" is not an IP address; its last good version stays in force");
    assert_eq!(listed("web").unwrap()["addresses"], json!(["10.96.9.7"]));
    let get = agent.command(&["service", "get", "loser"]).output().unwrap();
    assert!(get.status.code() == Some(1) && get.stderr.contains("service default/first"), "{get}");
    let get = agent.command(&["service", "get", "web"]).ok().unwrap();
    assert!(get.contains("10.96.9.7 ") && get.contains("its last good version stays in force"), "{get}");

    put("10.96.9.8", "10.96.9.10");
    eventually("all is well", || {
        let problems = ["first", "loser", "web"].map(|name| listed(name).map(|row| row["problem"].clone()));
        if problems == [Some(Value::Null), Some(Value::Null), Some(Value::Null)] {
            Ok(())
        } else {
            Err(format!("{problems:?}"))
        }
    });
    let log = agent.log().unwrap();
    assert_eq!(log.matches("Service default/web: is good again").count(), 1, "{log}");
}
