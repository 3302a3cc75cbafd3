//! The `devs` table as it should be: for each device that programs are attached to, what they need to know. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::abi::{Addr, Dev, dev_kind};

use super::{
    classify::{Classified, LinkKind},
    links::Table,
};

/// Entries by interface index.
///
/// The source addresses are those that a packet gets when its own source has to be replaced:
/// on a pod link that is a port of a bridge, the bridge's; on a routed pod link, its own or else the node's;
/// on an overlay, the pod network's gateway, which is routed back over any encapsulation while the node's address is
/// not; on an uplink its own.
#[must_use]
pub fn devs(table: &Table, classified: &[Classified], node_addresses: &[IpAddr]) -> BTreeMap<u32, Dev> {
    let gateway = pod_bridges(table, classified).map(|bridge| sources(table, bridge)).next();
    classified
        .iter()
        .filter_map(|link| {
            let kind = link.kind?;
            let found = table.link(link.ifindex)?;
            let own = sources(table, link.ifindex);
            let (kind, bridge, sources) = match kind {
                LinkKind::Pod => match bridge_of(table, link.ifindex) {
                    Some(bridge) => (dev_kind::POD, bridge, sources(table, bridge)),
                    None => (dev_kind::POD, 0, own.or(first_of_each(node_addresses.iter().copied()))),
                },
                LinkKind::Uplink => (dev_kind::UPLINK, 0, own),
                LinkKind::Overlay => (dev_kind::OVERLAY, 0, gateway.unwrap_or_default().or(own)),
            };
            Some((link.ifindex, Dev::new(kind, link.l2_len, found.mtu, bridge, sources.v4, sources.v6)))
        })
        .collect()
}

/// Bridges with a pod link among their ports, in order of index.
fn pod_bridges(table: &Table, classified: &[Classified]) -> impl Iterator<Item = u32> {
    let mut bridges: Vec<u32> = classified
        .iter()
        .filter(|link| link.kind == Some(LinkKind::Pod))
        .filter_map(|link| bridge_of(table, link.ifindex))
        .collect();
    bridges.sort_unstable();
    bridges.dedup();
    bridges.into_iter()
}

/// The bridge that a link is a port of.
fn bridge_of(table: &Table, ifindex: u32) -> Option<u32> {
    let master = table.link(table.link(ifindex)?.master?)?;
    (master.kind.as_deref() == Some("bridge")).then_some(master.ifindex)
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
    use super::{
        super::{
            classify::{ClassifyOptions, classify},
            test_table::TestTable,
        },
        *,
    };

    fn v4(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("an address").into()
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
        let devs = devs(&t.table, &classify(&t.table, &options), &options.node_addresses);
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
        let devs = devs(&t.table, &classify(&t.table, &ClassifyOptions::default()), &node);
        assert_eq!(devs[&5], Dev::new(dev_kind::POD, 14, 1500, 0, v4("192.168.1.2"), Addr::UNSPECIFIED));
        assert_eq!(devs[&6], Dev::new(dev_kind::POD, 14, 1500, 0, v4("10.244.1.1"), Addr::UNSPECIFIED));
    }

    #[test]
    fn what_cannot_be_a_source_is_passed_over() {
        let mut t = TestTable::default();
        t.link(3, "cni0", Some("bridge")).deprecated(3, "fd00::dead", 64).tentative(3, "fd00::7", 64);
        t.address(3, "fd00::1", 64).pod(5, "veth5", Some(3));
        let devs = devs(&t.table, &classify(&t.table, &ClassifyOptions::default()), &[]);
        assert_eq!(devs[&5].source_v6, v4("fd00::1"));
        assert_eq!(devs[&5].source_v4, Addr::UNSPECIFIED);
    }

    #[test]
    fn a_device_without_link_layer_header_says_so() {
        let mut t = TestTable::default();
        t.link(4, "wg0", Some("wireguard")).headerless(4).mtu(4, 1420);
        let devs = devs(&t.table, &classify(&t.table, &ClassifyOptions::default()), &[]);
        assert_eq!(devs[&4], Dev::new(dev_kind::OVERLAY, 0, 1420, 0, Addr::UNSPECIFIED, Addr::UNSPECIFIED));
    }
}
