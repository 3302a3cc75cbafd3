//! Networks of other nodes' pods, as the routes of this node show them, or as `--cluster-cidr` says. Pure.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use super::{
    classify::{Classified, LinkKind},
    links::Table,
};

/// `given`, if it is not empty. Otherwise every network that is routed over an overlay, and every one that is routed to a
/// gateway behind an uplink and is as large as `own`, this node's pod networks: flannel's host-gw and others that work
/// like it give each node a network of one size.
#[must_use]
pub fn pod_nets(table: &Table, classified: &[Classified], own: &[IpNet], given: &[IpNet]) -> BTreeSet<IpNet> {
    if !given.is_empty() {
        return given.iter().map(IpNet::trunc).collect();
    }
    let of = |kind| classified.iter().filter(move |link| link.kind == Some(kind)).map(|link| link.ifindex);
    let overlays: HashSet<u32> = of(LinkKind::Overlay).collect();
    let uplinks: HashSet<u32> = of(LinkKind::Uplink).collect();
    let as_large = |to: &IpNet| {
        own.iter().any(|own| (own.addr().is_ipv4(), own.prefix_len()) == (to.addr().is_ipv4(), to.prefix_len()))
    };
    table
        .routes()
        .filter(|route| !route.is_default() && may_hold_pods(&route.to))
        .filter(|route| {
            overlays.contains(&route.ifindex)
                || uplinks.contains(&route.ifindex) && route.gateway && as_large(&route.to)
        })
        .map(|route| route.to)
        .collect()
}

/// Whether an IPv6 network spans the mapped addresses: as an entry of `pod_nets` it would span IPv4 as a whole.
#[must_use]
pub fn spans_ipv4(net: &IpNet) -> bool {
    net.addr().is_ipv6() && net.contains(&IpAddr::from(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()))
}

fn may_hold_pods(net: &IpNet) -> bool {
    let elsewhere = match net.addr() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_multicast() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast() || ip.is_loopback(),
    };
    !elsewhere && !spans_ipv4(net)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            classify::{ClassifyOptions, classify},
            devs::pod_gateway,
            test_table::TestTable,
        },
        *,
    };

    fn found(t: &TestTable, given: &[&str]) -> Vec<String> {
        let classified = classify(&t.table, &ClassifyOptions::default());
        let given: Vec<IpNet> = given.iter().map(|net| net.parse().expect("a network")).collect();
        let own = pod_gateway(&t.table, &classified).networks;
        pod_nets(&t.table, &classified, &own, &given).iter().map(ToString::to_string).collect()
    }

    fn node() -> TestTable {
        let mut t = TestTable::default();
        t.link(2, "eth0", None).address(2, "192.168.1.2", 24).address(2, "2001:db8::2", 64).default_route(2);
        t.link(3, "cni0", Some("bridge")).address(3, "10.244.1.1", 24).address(3, "fd00:1::1", 64);
        t.pod(5, "veth5", Some(3));
        t.route("192.168.1.0/24", 2, false).route("10.244.1.0/24", 3, false).route("fe80::/64", 2, false);
        t
    }

    #[test]
    fn an_overlays_routes_are_pod_networks_whatever_their_size() {
        let mut t = node();
        t.link(4, "flannel.1", Some("vxlan")).address(4, "10.244.1.0", 32);
        t.route("10.244.2.0/24", 4, true).route("10.244.3.64/26", 4, true).route("fd00:2::/64", 4, true);
        t.route("fe80::/64", 4, false).route("::/1", 4, false);
        assert_eq!(found(&t, &[]), ["10.244.2.0/24", "10.244.3.64/26", "fd00:2::/64"]);
    }

    #[test]
    fn behind_an_uplink_those_of_the_pod_networks_size_are() {
        let mut t = node();
        t.route("10.244.2.0/24", 2, true).route("fd00:2::/64", 2, true);
        t.route("172.16.0.0/12", 2, true).route("fd00:9::/48", 2, true).route("192.168.9.0/24", 2, false);
        assert_eq!(found(&t, &[]), ["10.244.2.0/24", "fd00:2::/64"]);
        t.no_routes();
        assert!(found(&t, &[]).is_empty());
    }

    #[test]
    fn without_a_pod_network_of_its_own_a_node_takes_no_route_of_an_uplink_for_one() {
        let mut t = TestTable::default();
        t.link(2, "eth0", None).address(2, "192.168.1.2", 24).route("10.244.2.0/24", 2, true);
        assert!(found(&t, &[]).is_empty());
    }

    #[test]
    fn given_networks_are_all_there_is() {
        let mut t = node();
        t.route("10.244.2.0/24", 2, true);
        assert_eq!(found(&t, &["10.1.2.3/16", "fd00::/48"]), ["10.1.0.0/16", "fd00::/48"]);
    }

    #[test]
    fn what_spans_ipv4_is_told() {
        for (net, spans) in [("::/0", true), ("::/1", true), ("fd00::/8", false), ("0.0.0.0/0", false)] {
            assert_eq!(spans_ipv4(&net.parse().expect("a network")), spans, "{net}");
        }
    }
}
