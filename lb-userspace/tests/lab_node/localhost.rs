//! NodePorts on the node's loopback addresses: for the node itself, in every form of call, and for nobody else.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use lb_lab::{
    Agent, Host, LabConfig,
    objects::Port,
    peer::{Failure, Step, TcpAsk},
};
use nix::errno::Errno;

use crate::{
    rules::{Call, Client, Manner, SHORT_MS},
    world::{BERRYLB, PORT, Sample, World, dual_stack, manifest},
};

const NODE_PORT: u16 = 30_080;

fn node_ports() -> [Port; 2] {
    [Port::tcp("tcp", PORT, 80), Port::udp("udp", PORT, 80)].map(|port| Port { node_port: Some(NODE_PORT), ..port })
}

/// All of 127.0.0.0/8, as behind kube-proxy, and ::1.
const LOOPBACK: [&str; 4] = ["127.0.0.1", "127.0.0.53", "127.255.255.254", "::1"];

fn at_loopback(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), NODE_PORT)
}

#[test]
fn a_node_port_is_at_localhost_for_the_node_alone() {
    let mut world = World::new(LabConfig::default());
    let sample = Sample::start(&world.lab, &[80]);
    let pod = world.node("raspi002").add_pod("client").unwrap();
    let mut service = dual_stack("sample", &node_ports());
    service.kind = "NodePort";
    world.start("raspi002", &[]);
    world.put("sample", &[&manifest(&service, &sample.all())]);
    let node = world.node("raspi002");
    assert_eq!(node.netns().get("ipv4/conf/all/route_localnet").unwrap(), "0", "no sysctl is needed");

    for ip in LOOPBACK {
        let to = at_loopback(ip);
        for call in Call::ALL {
            let answers = call.ask(node.place(), to, Manner::times(60));
            let mut names: Vec<String> = answers.names().into_keys().collect();
            names.sort();
            assert_eq!(names, sample.names(), "{call:?} to {to}");
            assert!(answers.all().iter().all(|seen| Client::Node(node).is_seen_as(seen.client.ip())), "{answers:?}");
            call.assert_shows(&answers, to);
            if to.is_ipv4() {
                let answers = call.ask(node.place(), to, Manner { mapped: true, ..Manner::times(20) });
                assert_eq!(answers.all().len(), 20);
                call.assert_shows(&answers, to);
            }
        }
        // A pod's loopback addresses are its own, and nothing listens there.
        let refused = pod.ask(TcpAsk { timeout_ms: SHORT_MS, ..TcpAsk::to(to) }).unwrap();
        assert_eq!(refused.one().result, Err(Failure::errno(Step::Connect, Errno::ECONNREFUSED)), "{to} in a pod");
    }

    // What listens on the node's loopback elsewhere is not touched, nor is the same port at the pod's own.
    let own = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), NODE_PORT + 1);
    let _local = node.serve_at("the node's own", &[own]).unwrap();
    let in_pod = at_loopback("127.0.0.1");
    let _in_pod = pod.serve_at("the pod's own", &[in_pod]).unwrap();
    for call in Call::ALL {
        assert_eq!(call.ask(node.place(), own, Manner::times(1)).all()[0].name, "the node's own");
        assert_eq!(call.ask(pod.place(), in_pod, Manner::times(1)).all()[0].name, "the pod's own");
    }

    // A socket that is bound to loopback has a source that must not leave the node; the kernel says so at once.
    let bound = TcpAsk {
        from: Some(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0)),
        timeout_ms: SHORT_MS,
        ..TcpAsk::to(in_pod)
    };
    assert_eq!(node.ask(bound).unwrap().one().result, Err(Failure::errno(Step::Connect, Errno::EINVAL)));
}

/// The state document lists loopback only if it was asked for by name; `false` ends it in the datapath as well.
#[test]
fn localhost_is_listed_only_if_named_and_can_be_switched_off() {
    let off = ["--localhost-nodeports", "false"];
    let named = ["--localhost-nodeports", "false", "--node-address", "127.0.0.1"];
    for (flags, listed, served) in [(&[][..], false, true), (&off[..], false, false), (&named[..], true, true)] {
        let world = World::of_one_node();
        let node = world.node("raspi002");
        let server = node.add_pod_at("server", 72).unwrap();
        let _serving = server.serve(&[80]).unwrap();
        let mut service = dual_stack("sample", &node_ports());
        service.kind = "NodePort";
        world.put("sample", &[&manifest(&service, &[&server])]);
        // What was there before it said `ready` is in the datapath.
        let agent = Agent::start(node, Path::new(BERRYLB), world.objects.path(), flags).unwrap();

        let asked = node.ask(TcpAsk { timeout_ms: SHORT_MS, ..TcpAsk::to(at_loopback("127.0.0.1")) }).unwrap();
        assert_eq!(asked.one().result.is_ok(), served, "{flags:?}: {asked:?}");
        let dump = agent.dump().unwrap();
        let frontends = dump["frontends"].as_array().unwrap();
        assert!(frontends.iter().any(|frontend| frontend["port"] == PORT), "{dump}");
        assert_eq!(frontends.iter().any(|frontend| frontend["address"] == "127.0.0.1"), listed, "{flags:?}: {dump}");
        assert!(!frontends.iter().any(|frontend| frontend["address"] == "::1"), "{flags:?}: {dump}");
    }
}
