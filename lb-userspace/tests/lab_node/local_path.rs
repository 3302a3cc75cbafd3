//! A flow passes the host's stack in both directions or in neither: with a rule that drops what conntrack calls INVALID
//! in place, not one packet is dropped, whatever way flows on one bridge take and whatever the bridge does.

use lb_lab::{Host, LabConfig, Network, Place, Pod, peer::Big};

use crate::{
    rules::{Call, Manner},
    world::{Sample, VIPS, World, at, json, manifest, sample_service},
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
