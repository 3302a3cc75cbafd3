//! The `devs` table as it should be: for each device that programs are attached to, what they need to know. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::abi::{Addr, Dev, dev_kind};

use super::{
    classify::{Classified, LinkKind},
    links::Table,
};

/// Names under which network plugins make the bridge of a node's pods.
const BRIDGE_NAMES: [&str; 4] = ["cni0", "cbr0", "kube-bridge", "weave"];

/// Entries by interface index. The program on a bridge of pods needs none.
///
/// The source addresses are those that a packet gets when its own source has to be replaced:
/// on a pod link that is a port of a bridge, the bridge's; on a routed pod link, its own or else the node's;
/// on an overlay, the pod network's gateway, which is routed back over any encapsulation while the node's address is
/// not; on an uplink its own.
#[must_use]
pub fn devs(
    table: &Table,
    classified: &[Classified],
    node_addresses: &[IpAddr],
    gateway: &PodGateway,
) -> BTreeMap<u32, Dev> {
    let gateway = Sources { v4: gateway.v4, v6: gateway.v6 };
    classified
        .iter()
        .filter_map(|link| {
            let kind = link.kind?;
            let found = table.link(link.ifindex)?;
            let own = sources(table, link.ifindex);
            let (kind, bridge, sources) = match kind {
                LinkKind::Pod => match table.bridge_of(link.ifindex) {
                    Some(bridge) => (dev_kind::POD, bridge, sources(table, bridge)),
                    None => (dev_kind::POD, 0, own.or(first_of_each(node_addresses.iter().copied()))),
                },
                LinkKind::Uplink => (dev_kind::UPLINK, 0, own),
                LinkKind::Overlay => (dev_kind::OVERLAY, 0, gateway.or(own)),
                LinkKind::Bridge => return None,
            };
            let mut dev = Dev::new(kind, link.l2_len, found.mtu, bridge, sources.v4, sources.v6);
            dev.delivery = link.delivery;
            Some((link.ifindex, dev))
        })
        .collect()
}

/// This node in its pod network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodGateway {
    /// IPv4 address that pods, here and on other nodes, know this node by; unspecified: none.
    pub v4: Addr,
    /// IPv6 address likewise.
    pub v6: Addr,
    /// Networks of this node's pods.
    pub networks: Vec<IpNet>,
}

/// What the bridge of the cluster's pods holds; nothing where there is none, as with routed pod links.
///
/// Others have bridges, too: of several, that counts which an overlay's own address belongs to (flannel and Calico take
/// it from the node's pod network), then one with a name that network plugins give, then one with pods, then the first.
/// So the bridge stays the same one while no pod runs here.
#[must_use]
pub fn pod_gateway(table: &Table, classified: &[Classified]) -> PodGateway {
    let of = |kind| classified.iter().filter(move |link| link.kind == Some(kind));
    let overlays: Vec<IpAddr> =
        of(LinkKind::Overlay).flat_map(|link| table.global_addresses(link.ifindex).map(|address| address.ip)).collect();
    let with_pods: BTreeSet<u32> = of(LinkKind::Pod).filter_map(|link| table.bridge_of(link.ifindex)).collect();
    let candidates = table.links().filter(|link| link.is_bridge()).filter_map(|link| {
        let index = link.ifindex;
        let ours = classified.iter().find(|decided| decided.ifindex == index)?;
        let named = BRIDGE_NAMES.contains(&link.name.as_str());
        let networks = networks(table, index);
        let of_overlay = networks.iter().any(|net| overlays.iter().any(|ip| net.contains(ip)));
        let pods = with_pods.contains(&index);
        (matches!(ours.kind, None | Some(LinkKind::Bridge)) && (pods || of_overlay || named))
            .then_some(((!of_overlay, !named, !pods, index), networks))
    });
    let Some(((.., index), networks)) = candidates.min_by_key(|(rank, _)| *rank) else { return PodGateway::default() };
    let Sources { v4, v6 } = sources(table, index);
    PodGateway { v4, v6, networks }
}

fn networks(table: &Table, ifindex: u32) -> Vec<IpNet> {
    let addresses = table.global_addresses(ifindex);
    addresses.filter_map(|address| IpNet::new(address.ip, address.prefix).ok()).map(|net| net.trunc()).collect()
}

/// Sources of translated packets to other nodes' pods: the gateway of this node's pods; without one an overlay's own
/// address, which other nodes know the way to, or else the node's.
#[must_use]
pub(super) fn pod_sources(
    table: &Table,
    classified: &[Classified],
    node_addresses: &[IpAddr],
    gateway: &PodGateway,
) -> (Addr, Addr) {
    let overlays = classified.iter().filter(|link| link.kind == Some(LinkKind::Overlay));
    let own = overlays.map(|link| sources(table, link.ifindex)).fold(Sources::default(), Sources::or);
    let Sources { v4, v6 } = Sources { v4: gateway.v4, v6: gateway.v6 }
        .or(own)
        .or(first_of_each(node_addresses.iter().copied().filter(|ip| !ip.is_loopback())));
    (v4, v6)
}

/// One address of each family; unspecified where there is none.
#[derive(Clone, Copy, Default)]
struct Sources {
    v4: Addr,
    v6: Addr,
}

impl Sources {
    fn or(self, other: Self) -> Self {
        let pick = |a: Addr, b: Addr| if a.is_unspecified() { b } else { a };
        Self { v4: pick(self.v4, other.v4), v6: pick(self.v6, other.v6) }
    }
}

/// A link's first address of each family that may stand as a source: global, neither tentative nor deprecated.
fn sources(table: &Table, ifindex: u32) -> Sources {
    first_of_each(table.global_addresses(ifindex).filter(|address| !address.deprecated).map(|address| address.ip))
}

fn first_of_each(addresses: impl Iterator<Item = IpAddr>) -> Sources {
    let mut found = Sources::default();
    for ip in addresses {
        let place = if ip.is_ipv4() { &mut found.v4 } else { &mut found.v6 };
        if place.is_unspecified() {
            *place = ip.into();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use lb_common::abi::delivery;

    use super::{
        super::{
            classify::{ClassifyOptions, Patterns, classify},
            test_table::TestTable,
        },
        *,
    };

    fn v4(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn with(node_addresses: &[IpAddr]) -> ClassifyOptions {
        ClassifyOptions { node_addresses: node_addresses.to_vec(), ..ClassifyOptions::default() }
    }

    fn derived(t: &TestTable, options: &ClassifyOptions) -> BTreeMap<u32, Dev> {
        let classified = classify(&t.table, options);
        devs(&t.table, &classified, &options.node_addresses, &pod_gateway(&t.table, &classified))
    }

    fn gateway(t: &TestTable) -> Addr {
        pod_gateway(&t.table, &classify(&t.table, &ClassifyOptions::default())).v4
    }

    fn pod_source(t: &TestTable) -> Addr {
        let classified = classify(&t.table, &ClassifyOptions::default());
        let node = ["127.0.0.1", "192.168.1.2"].map(|ip| ip.parse().expect("ip"));
        pod_sources(&t.table, &classified, &node, &pod_gateway(&t.table, &classified)).0
    }

    #[test]
    fn the_clusters_bridge_is_told_from_others_also_while_it_is_empty() {
        let mut t = TestTable::default();
        t.link(2, "docker0", Some("bridge")).address(2, "172.17.0.1", 16).pod(6, "veth6", Some(2));
        assert_eq!(gateway(&t), v4("172.17.0.1"));
        t.link(4, "mynet0", Some("bridge")).address(4, "10.244.1.1", 24);
        assert_eq!(gateway(&t), v4("172.17.0.1"), "nothing is known of the other bridge");
        t.link(3, "flannel.1", Some("vxlan")).address(3, "10.244.1.0", 32);
        assert_eq!(gateway(&t), v4("10.244.1.1"));
        t.gone(3).gone(4).link(5, "cni0", Some("bridge")).address(5, "10.244.1.1", 24);
        assert_eq!(gateway(&t), v4("10.244.1.1"));
    }

    #[test]
    fn a_bridge_that_leads_out_is_no_pod_bridge() {
        let mut t = TestTable::default();
        t.link(2, "cni0", Some("bridge")).address(2, "192.168.1.2", 24).default_route(2);
        assert_eq!(gateway(&t), Addr::UNSPECIFIED);
    }

    #[test]
    fn translated_packets_to_pods_elsewhere_come_from_the_gateway_the_overlay_or_the_node() {
        let mut t = TestTable::default();
        t.link(2, "eth0", None).address(2, "192.168.1.2", 24);
        assert_eq!(pod_source(&t), v4("192.168.1.2"));
        t.link(3, "tunl0", Some("ipip")).headerless(3).address(3, "10.244.1.0", 32);
        assert_eq!(pod_source(&t), v4("10.244.1.0"));
        t.link(4, "cni0", Some("bridge")).address(4, "10.244.1.1", 24);
        assert_eq!(pod_source(&t), v4("10.244.1.1"));
    }

    #[test]
    fn a_node_with_a_bridge_and_an_overlay() {
        let mut t = TestTable::default();
        t.link(2, "eth0", None).address(2, "192.168.1.2", 24).address(2, "2001:db8::2", 64);
        t.link(3, "cni0", Some("bridge")).address(3, "10.244.1.1", 24).address(3, "fd00:1::1", 64);
        t.address(3, "fe80::1", 64);
        t.link(4, "flannel.1", Some("vxlan")).address(4, "10.244.1.0", 32).mtu(4, 1450);
        t.pod(5, "veth5", Some(3));
        let options =
            ClassifyOptions { node_addresses: vec!["192.168.1.2".parse().expect("ip")], ..Default::default() };
        let devs = derived(&t, &options);
        assert_eq!(devs.keys().copied().collect::<Vec<_>>(), [2, 4, 5]);
        assert_eq!(devs[&2], Dev::new(dev_kind::UPLINK, 14, 1500, 0, v4("192.168.1.2"), v4("2001:db8::2")));
        assert_eq!(devs[&4], Dev::new(dev_kind::OVERLAY, 14, 1450, 0, v4("10.244.1.1"), v4("fd00:1::1")));
        assert_eq!(devs[&5], Dev::new(dev_kind::POD, 14, 1500, 3, v4("10.244.1.1"), v4("fd00:1::1")));
    }

    #[test]
    fn a_routed_pod_link_has_its_own_address_or_the_nodes() {
        let mut t = TestTable::default();
        t.pod(5, "cali1", None);
        t.pod(6, "veth6", None).address(6, "10.244.1.1", 32);
        let node = ["192.168.1.2".parse().expect("ip")];
        let devs = derived(&t, &with(&node));
        assert_eq!(devs[&5], Dev::new(dev_kind::POD, 14, 1500, 0, v4("192.168.1.2"), Addr::UNSPECIFIED));
        assert_eq!(devs[&6], Dev::new(dev_kind::POD, 14, 1500, 0, v4("10.244.1.1"), Addr::UNSPECIFIED));
    }

    #[test]
    fn how_packets_get_to_a_pod_depends_on_its_link_and_its_bridge() {
        let mut t = TestTable::default();
        t.link(2, "eth0", None).address(2, "192.168.1.2", 24);
        t.link(3, "cni0", Some("bridge"));
        t.link(4, "br-vlan", Some("bridge")).vlan_filtering(4);
        t.pod(5, "veth5", None).pod(6, "veth6", Some(3)).pod(7, "veth7", Some(4));
        t.link(8, "tap8", Some("tun")).link(9, "tap9", Some("tun")).port_of(9, 3);
        let patterns = Patterns {
            pod_links: Some(vec!["tap*".parse().expect("glob"), "veth*".parse().expect("glob")]),
            ..Patterns::default()
        };
        let options =
            ClassifyOptions { patterns, delivery: delivery::DIRECT, ..with(&["192.168.1.2".parse().expect("ip")]) };
        let by = |delivery| {
            let options = ClassifyOptions { delivery, ..options.clone() };
            derived(&t, &options).into_iter().map(|(n, dev)| (n, dev.delivery)).collect::<Vec<_>>()
        };
        let (bridge, link, direct) = (delivery::BRIDGE, delivery::LINK, delivery::DIRECT);
        assert_eq!(by(direct), [(2, bridge), (5, direct), (6, direct), (7, direct), (8, bridge), (9, link)]);
        assert_eq!(by(link), [(2, bridge), (5, bridge), (6, link), (7, bridge), (8, bridge), (9, link)]);
        assert_eq!(by(bridge), [2, 5, 6, 7, 8, 9].map(|n| (n, bridge)));
    }

    #[test]
    fn what_cannot_be_a_source_is_passed_over() {
        let mut t = TestTable::default();
        t.link(3, "cni0", Some("bridge")).deprecated(3, "fd00::dead", 64).tentative(3, "fd00::7", 64);
        t.address(3, "fd00::1", 64).pod(5, "veth5", Some(3));
        let devs = derived(&t, &ClassifyOptions::default());
        assert_eq!(devs[&5].source_v6, v4("fd00::1"));
        assert_eq!(devs[&5].source_v4, Addr::UNSPECIFIED);
    }

    #[test]
    fn a_device_without_link_layer_header_says_so() {
        let mut t = TestTable::default();
        t.link(4, "wg0", Some("wireguard")).headerless(4).mtu(4, 1420);
        let devs = derived(&t, &ClassifyOptions::default());
        assert_eq!(devs[&4], Dev::new(dev_kind::OVERLAY, 0, 1420, 0, Addr::UNSPECIFIED, Addr::UNSPECIFIED));
    }
}
