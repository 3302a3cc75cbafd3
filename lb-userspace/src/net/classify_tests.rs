//! Cases for the classification, one node each: how it is set up, and what each link must be.

use super::{super::test_table::TestTable, *};

use LinkKind::{Overlay, Pod, Uplink};

/// Checks the whole node; links that are not named must be nothing.
fn check(what: &str, t: &TestTable, options: &ClassifyOptions, expected: &[(&str, LinkKind)]) {
    let classified = classify(&t.table, options);
    let found: Vec<_> = classified.iter().filter_map(|link| Some((link.name.as_str(), link.kind?))).collect();
    assert_eq!(found, expected, "{what}: {classified:#?}");
    assert!(classified.iter().all(|link| !link.reason.is_empty()), "{what}");
}

fn node_address(ip: &str) -> ClassifyOptions {
    ClassifyOptions { node_addresses: vec![ip.parse().expect("an address")], ..ClassifyOptions::default() }
}

fn globs(patterns: &[&str]) -> Option<Vec<Glob>> {
    Some(patterns.iter().map(|pattern| pattern.parse().expect("a pattern")).collect())
}

#[test]
fn flannel_on_a_raspberry_pi() {
    let mut t = TestTable::default();
    t.loopback();
    t.link(2, "eth0", None).address(2, "192.168.1.2", 24).default_route(2);
    t.link(3, "wlan0", None).down(3);
    t.link(4, "flannel.1", Some("vxlan")).address(4, "10.244.1.0", 32);
    t.link(5, "cni0", Some("bridge")).address(5, "10.244.1.1", 24);
    t.pod(6, "veth6", Some(5)).pod(7, "veth7", Some(5));
    let expected = [("eth0", Uplink), ("flannel.1", Overlay), ("veth6", Pod), ("veth7", Pod)];
    check("without Node object", &t, &ClassifyOptions::default(), &expected);
    check("with Node object", &t, &node_address("192.168.1.2"), &expected);
}

#[test]
fn a_lab_node_hangs_on_a_veth() {
    let mut t = TestTable::default();
    t.loopback().pod(2, "eth0", None).address(2, "192.168.50.2", 24).address(2, "fd50::2", 64);
    t.link(3, "cni0", Some("bridge")).address(3, "10.244.1.1", 24).pod(4, "veth4", Some(3));
    check("no default route", &t, &ClassifyOptions::default(), &[("eth0", Uplink), ("veth4", Pod)]);
    check("its address known", &t, &node_address("192.168.50.2"), &[("eth0", Uplink), ("veth4", Pod)]);
}

#[test]
fn a_pod_link_is_one_before_it_joins_the_bridge_and_with_link_local_addresses() {
    let mut t = TestTable::default();
    t.pod(4, "veth4", None).address(4, "fe80::4", 64);
    check("alone", &t, &ClassifyOptions::default(), &[("veth4", Pod)]);
}

#[test]
fn routed_pod_links() {
    let mut t = TestTable::default();
    t.link(2, "eth0", None).address(2, "192.168.1.2", 24);
    t.link(3, "cali123", Some("veth"));
    t.link(4, "lxc_health", Some("veth"));
    // The ptp plugin (kindnet's too) puts the gateway on each link as a host address.
    t.pod(5, "veth5", None).address(5, "10.244.1.1", 32).address(5, "fd00::1", 128);
    t.link(6, "tunl0", Some("ipip")).headerless(6).address(6, "10.244.1.0", 32);
    t.link(7, "sit0", Some("sit")).headerless(7).down(7);
    t.link(8, "wireguard.cali", Some("wireguard")).headerless(8);
    let expected = [
        ("eth0", Uplink),
        ("cali123", Pod),
        ("lxc_health", Pod),
        ("veth5", Pod),
        ("tunl0", Overlay),
        ("wireguard.cali", Overlay),
    ];
    check("calico, cilium, ptp", &t, &ClassifyOptions::default(), &expected);
    let lengths: Vec<_> = classify(&t.table, &ClassifyOptions::default()).iter().map(|link| link.l2_len).collect();
    assert_eq!(lengths, [14, 14, 14, 14, 0, 0, 0]);
}

#[test]
fn the_bridge_or_bond_is_the_uplink_and_not_its_ports() {
    let mut t = TestTable::default();
    t.link(2, "eth0", None).port_of(2, 4).link(3, "eth1", None).port_of(3, 4);
    t.link(4, "bond0", Some("bond"));
    t.link(5, "bond0.7", Some("vlan")).address(5, "192.168.7.2", 24);
    t.link(6, "eth2", None).port_of(6, 7).address(6, "192.0.2.9", 24);
    t.link(7, "br0", Some("bridge")).address(7, "192.168.1.2", 24);
    // A container on the LAN bridge is a neighbour, not a pod: ClusterIPs stay closed to it.
    t.pod(8, "vethlan", Some(7));
    check("bond with VLAN, bridge", &t, &ClassifyOptions::default(), &[("bond0.7", Uplink), ("br0", Uplink)]);
}

#[test]
fn a_bridge_whose_only_ports_are_veths_is_an_uplink_if_it_holds_the_nodes_address() {
    let mut t = TestTable::default();
    t.link(2, "br0", Some("bridge")).address(2, "192.168.1.2", 24).pod(3, "eth0", Some(2));
    check("by address", &t, &node_address("192.168.1.2"), &[("br0", Uplink)]);
    check("not known", &t, &ClassifyOptions::default(), &[("eth0", Pod)]);
    t.default_route(2);
    check("by route", &t, &ClassifyOptions::default(), &[("br0", Uplink)]);
}

#[test]
fn dead_ends_and_other_peoples_bridges_are_nothing() {
    let mut t = TestTable::default();
    t.link(2, "eth0", None).address(2, "192.168.1.2", 24);
    t.link(3, "kube-ipvs0", Some("dummy")).address(3, "10.96.0.1", 32);
    t.link(4, "nodelocaldns", Some("dummy")).address(4, "169.254.20.10", 32);
    t.link(5, "docker0", Some("bridge")).address(5, "172.17.0.1", 16);
    t.link(6, "virbr0", Some("bridge")).address(6, "192.168.122.1", 24).link(7, "vnet0", Some("tun")).port_of(7, 6);
    t.link(8, "eth1", None);
    t.link(10, "lxcbr0", Some("bridge")).address(10, "10.0.3.1", 24);
    t.link(9, "va", Some("veth")).address(9, "10.5.0.1", 24);
    check("nothing else", &t, &ClassifyOptions::default(), &[("eth0", Uplink)]);
}

#[test]
fn two_networks_make_two_uplinks_and_a_vpn_is_one_if_it_holds_the_nodes_address() {
    let mut t = TestTable::default();
    t.link(2, "eth0", None).address(2, "192.168.1.2", 24).default_route(2);
    t.link(3, "wlan0", None).address(3, "192.168.2.2", 24);
    t.link(4, "wg0", Some("wireguard")).headerless(4).address(4, "10.200.0.2", 24);
    t.link(5, "tailscale0", Some("tun")).headerless(5).address(5, "100.64.0.2", 32);
    let some = [("eth0", Uplink), ("wlan0", Uplink), ("wg0", Overlay), ("tailscale0", Uplink)];
    check("wireguard is an overlay", &t, &ClassifyOptions::default(), &some);
    let all = [("eth0", Uplink), ("wlan0", Uplink), ("wg0", Uplink), ("tailscale0", Uplink)];
    check("unless it is the node's", &t, &node_address("10.200.0.2"), &all);
}

#[test]
fn a_vrf_does_not_hide_its_members() {
    let mut t = TestTable::default();
    t.link(2, "vrf0", Some("vrf")).link(3, "eth0", None).port_of(3, 2).address(3, "192.168.1.2", 24);
    check("vrf", &t, &ClassifyOptions::default(), &[("eth0", Uplink)]);
}

#[test]
fn patterns_decide_and_switch_detection_of_their_class_off() {
    let mut t = TestTable::default();
    t.loopback().link(2, "eth0", None).address(2, "192.168.1.2", 24).default_route(2);
    t.link(3, "eth1", None);
    t.link(4, "flannel.1", Some("vxlan")).pod(5, "veth5", None).pod(6, "podx", None);
    t.link(7, "wg0", Some("wireguard")).headerless(7);
    let with = |pod_links, uplinks, overlays| ClassifyOptions {
        patterns: Patterns { pod_links, uplinks, overlays },
        ..ClassifyOptions::default()
    };
    let rest = [("flannel.1", Overlay), ("wg0", Overlay)];
    check("pods", &t, &with(globs(&["pod?"]), None, None), &[("eth0", Uplink), rest[0], ("podx", Pod), rest[1]]);
    let uplinks = with(None, globs(&["eth1", "lo"]), None);
    check("uplinks", &t, &uplinks, &[("eth1", Uplink), rest[0], ("veth5", Pod), ("podx", Pod), rest[1]]);
    let overlays = with(None, None, globs(&["veth*"]));
    check("overlays", &t, &overlays, &[("eth0", Uplink), ("veth5", Overlay), ("podx", Pod)]);
    check("no pods at all", &t, &with(globs(&["none"]), None, None), &[("eth0", Uplink), rest[0], rest[1]]);
    let first = with(globs(&["eth0"]), globs(&["eth*"]), None);
    check("pods before uplinks", &t, &first, &[("eth0", Pod), ("eth1", Uplink), rest[0], rest[1]]);
    t.link(8, "br1", Some("bridge")).port_of(3, 8);
    let ports = with(None, globs(&["eth*", "br1"]), None);
    check("no port", &t, &ports, &[("eth0", Uplink), rest[0], ("veth5", Pod), ("podx", Pod), rest[1], ("br1", Uplink)]);
    check("not Ethernet", &t, &with(globs(&["wg0"]), None, None), &[("eth0", Uplink), rest[0]]);
}
