//! A flow passes the host's stack in both directions or in neither: with a rule that drops what conntrack calls INVALID
//! in place, not one packet is dropped, whatever way flows on one bridge take and whatever the bridge does.

use lb_lab::{
    Host, LabConfig, Network, Place, Pod,
    peer::{Big, Open, Peer, Ping},
};

use crate::{
    rules::{Call, Manner},
    world::{Sample, VIPS, World, at, eventually, json, manifest, sample_service},
};

/// Both directions through the stack need `bridge-nf-call-iptables=1`, so `stack` has no case without.
#[test]
fn redirect_without_bridge_netfilter() {
    check(Case {
        network: Network::HostGw,
        flag: "redirect",
        bridge_netfilter: false,
        rp_filter: 1,
        way: Way::Redirect,
    });
}

#[test]
fn redirect_with_bridge_netfilter() {
    check(Case {
        network: Network::HostGw,
        flag: "redirect",
        bridge_netfilter: true,
        rp_filter: 2,
        way: Way::Redirect,
    });
}

#[test]
fn stack_with_bridge_netfilter() {
    check(Case { network: Network::HostGw, flag: "stack", bridge_netfilter: true, rp_filter: 1, way: Way::Stack });
}

#[test]
fn auto_without_bridge_netfilter() {
    check(Case { network: Network::Vxlan, flag: "auto", bridge_netfilter: false, rp_filter: 2, way: Way::Redirect });
}

#[test]
fn auto_with_bridge_netfilter() {
    check(Case { network: Network::Vxlan, flag: "auto", bridge_netfilter: true, rp_filter: 1, way: Way::Stack });
}

struct Case {
    network: Network,
    /// `--local-path`.
    flag: &'static str,
    bridge_netfilter: bool,
    rp_filter: u8,
    /// What flows to a backend on the client's bridge are to take.
    way: Way,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Redirect,
    Stack,
}

fn check(case: Case) {
    let Case { network, flag, bridge_netfilter, rp_filter, way } = case;
    let config = LabConfig { network, bridge_netfilter, rp_filter, invalid_drop: true, ..LabConfig::default() };
    let mut world = World::new(config);
    let sample = Sample::start(&world.lab, &[80]);
    let client = world.node("raspi002").add_pod("client").unwrap();
    world.start_everywhere(&["--socket-lb", "off", "--local-path", flag]);

    // One backend at a time, so that each way is known to be taken.
    for backend in sample.all() {
        world.put("sample", &[&manifest(&sample_service(), &[backend])]);
        for vip in VIPS {
            for call in Call::ALL {
                let answers = call.ask(client.place(), at(vip), Manner::times(100));
                assert_eq!(answers.names(), [(backend.name().to_owned(), 100)].into(), "{call:?} to {vip}");
            }
            megabyte(client.place(), vip, backend);
        }
    }
    let local = |pod: &Pod| pod.node_name() == client.node_name();
    let flows = json(world.agent("raspi002"), &["flow", "list"]);
    let mut seen = [0, 0];
    for flow in flows.as_array().unwrap().iter().filter(|flow| flow["direction"] == "forward") {
        let to = flow["newDestination"]["address"].as_str().unwrap();
        let backend =
            sample.pods.iter().find(|pod| [pod.ip4().to_string(), pod.ip6().to_string()].contains(&to.into()));
        let local = local(backend.unwrap_or_else(|| panic!("{to} is no backend: {flow}")));
        let wanted = if local && way == Way::Redirect { "redirect:" } else { "stack" };
        assert!(flow["way"].as_str().unwrap().starts_with(wanted), "local: {local}, {flow}");
        seen[usize::from(local)] += 1;
    }
    assert!(seen.iter().all(|seen| *seen > 0), "[to other nodes, to this node]: {seen:?}");
    for node in world.lab.nodes() {
        assert_eq!(node.invalid_drops().unwrap(), 0, "{} dropped packets as INVALID", node.name());
    }
}

/// There and back, compared byte by byte: packets of full size, segmentation offload and partial checksums.
fn megabyte(client: &Place, vip: &str, backend: &Pod) {
    let echoed = client.ask(Big::new(at(vip), 1 << 20)).unwrap();
    assert_eq!(echoed.result.unwrap_or_else(|failure| panic!("1 MiB to {vip}: {failure}")).name, backend.name());
}

/// Replies are translated where they enter the pods' bridge, and on their links as soon as flows between them may take the
/// stack: from then on, whatever comes, as such flows live on.
#[test]
fn where_replies_are_translated_follows_the_bridge_and_no_connection_notices() {
    for hook in ["auto", "clsact"] {
        follow_the_bridge(hook);
    }
}

fn follow_the_bridge(hook: &str) {
    const NODE: &str = "raspi002";
    let mut world = World::new(LabConfig { bridge_netfilter: false, ..LabConfig::default() });
    let sample = Sample::start(&world.lab, &[80]);
    let client = world.node(NODE).add_pod("client").unwrap();
    let here = sample.pods.iter().find(|pod| pod.node_name() == NODE).unwrap();
    let there = sample.pods.iter().find(|pod| pod.node_name() != NODE).unwrap();
    world.start(NODE, &["--socket-lb", "off", "--tc", hook]);
    let at_bridge = |world: &World| {
        let links = json(world.agent(NODE), &["link", "list"]);
        let bridge = links.as_array().unwrap().iter().find(|link| link["name"] == "cni0").cloned();
        bridge.inspect(|bridge| assert_eq!((&bridge["kind"], &bridge["attached"]), (&"bridge".into(), &true.into())));
        links.as_array().unwrap().iter().any(|link| link["name"] == "cni0")
    };
    // A link that comes has the agent look at the bridge's settings at once, and not only every half a minute.
    let netfilter = |world: &World, value: &str, pod: &str| {
        let settings = [("bridge/bridge-nf-call-iptables", value), ("bridge/bridge-nf-call-ip6tables", value)];
        world.node(NODE).netns().set(&settings).unwrap();
        world.node(NODE).add_pod(pod).unwrap()
    };
    let mut connections: Vec<(Peer, u32, String)> = Vec::new();
    let open = |world: &World, connections: &mut Vec<(Peer, u32, String)>| {
        for backend in [here, there] {
            world.put("sample", &[&manifest(&sample_service(), &[backend])]);
            for vip in VIPS {
                for call in Call::ALL {
                    let answers = call.ask(client.place(), at(vip), Manner::times(20));
                    assert_eq!(answers.names(), [(backend.name().to_owned(), 20)].into(), "{call:?} to {vip}");
                }
                let mut peer = client.peer().unwrap();
                let id = peer.ask(Open::tcp(at(vip))).unwrap().id.unwrap();
                connections.push((peer, id, backend.name().to_owned()));
            }
        }
        for (number, (peer, id, backend)) in connections.iter_mut().enumerate() {
            let answer = peer.ask(Ping::new(*id)).unwrap().result;
            assert_eq!(answer.map(|seen| seen.name).as_ref(), Ok(&*backend), "connection {number}");
        }
    };
    assert!(at_bridge(&world));
    open(&world, &mut connections);

    let _one = netfilter(&world, "1", "one");
    eventually("the links answer", || if at_bridge(&world) { Err("the bridge does".into()) } else { Ok(()) });
    open(&world, &mut connections);

    let _two = netfilter(&world, "0", "two");
    open(&world, &mut connections);
    world.agent_mut(NODE).restart().unwrap();
    assert!(!at_bridge(&world), "flows that took the stack are there");
    open(&world, &mut connections);
}
