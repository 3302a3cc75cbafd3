//! The node's own addresses as its links show them, for a node whose Node object and flags do not tell. Pure.

use std::net::IpAddr;

use super::{
    classify::{Classified, LinkKind},
    links::Table,
};

/// Global addresses of the uplinks: those with a default route first, then by index; IPv4 before IPv6 on each; none
/// that is tentative, deprecated ones last.
///
/// kube-proxy in iptables mode takes a NodePort on every local address but loopback, also on a pod bridge's, whose
/// clients are pods, and they have better ways; in nftables mode only on the node's primary addresses, which is what
/// this comes to (`--nodeport-addresses`, `pkg/proxy/util/nodeport_addresses.go`).
#[must_use]
pub fn node_addresses(table: &Table, classified: &[Classified]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (order, link) in classified.iter().enumerate().filter(|(_, link)| link.kind == Some(LinkKind::Uplink)) {
        for (position, address) in table.global_addresses(link.ifindex).enumerate() {
            let rank =
                (address.deprecated, !table.has_default_route(link.ifindex), order, address.ip.is_ipv6(), position);
            found.push((rank, address.ip));
        }
    }
    found.sort_unstable_by_key(|(rank, _)| *rank);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (_, ip) in found {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    addresses
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

    #[test]
    fn uplinks_in_order_of_use() {
        let mut t = TestTable::default();
        t.link(2, "wlan0", None).address(2, "10.9.0.2", 24);
        t.link(3, "eth0", None).address(3, "2001:db8::2", 64).address(3, "192.168.1.2", 24);
        t.address(3, "fe80::1", 64).deprecated(3, "2001:db8::dead", 64).tentative(3, "2001:db8::7", 64);
        t.link(4, "cni0", Some("bridge")).address(4, "10.244.1.1", 24).pod(5, "veth5", Some(4));
        t.link(6, "flannel.1", Some("vxlan")).address(6, "10.244.1.0", 32);
        t.default_route(3);
        let classified = classify(&t.table, &ClassifyOptions::default());
        let expected: Vec<IpAddr> = ["192.168.1.2", "2001:db8::2", "10.9.0.2", "2001:db8::dead"]
            .map(|ip| ip.parse().expect("an address"))
            .into();
        assert_eq!(node_addresses(&t.table, &classified), expected);
    }

    #[test]
    fn a_node_without_uplink_has_none() {
        let mut t = TestTable::default();
        t.link(4, "cni0", Some("bridge")).address(4, "10.244.1.1", 24).pod(5, "veth5", Some(4));
        let classified = classify(&t.table, &ClassifyOptions::default());
        assert!(node_addresses(&t.table, &classified).is_empty());
    }
}
