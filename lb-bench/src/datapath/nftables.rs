//! nftables rules in the structure that kube-proxy's nftables mode gives them, from the same Services: text for `nft -f -`.
//! Pure.
//!
//! What makes the cost is the structure: the first packet of a connection is looked up in the maps `service-ips` and
//! `service-nodeports`, whose verdicts are a chain for each Service port; an endpoint is drawn by a random number from a
//! map of the chains of its endpoints.

use std::{fmt::Write as _, net::IpAddr};

use super::{
    iptables::{at, id},
    services::{Family, Service, ServicePort, TARGET},
};

/// Rules of one family for all Services. `pods` is the network of the cluster's pods, `node` the address where NodePorts are.
pub(super) fn rules(services: &[Service], family: Family, pods: &str, node: IpAddr) -> String {
    let (table, address) = match family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let mut parts = Parts::default();
    for service in services {
        let Some(ip) = service.ip(family) else { continue };
        let _infallible = write!(parts.cluster_ips, "{ip},");
        service.ports.iter().for_each(|port| parts.add((&service.name, ip), port, family, table, pods));
    }
    let Parts { cluster_ips, ips, node_ports, chains } = parts;
    let (destination, source) = (format!("{table} daddr . meta l4proto . th dport"), "meta l4proto . th dport");
    format!(
        "table {table} kube-proxy {{
set cluster-ips {{ type {address}; elements = {{ {cluster_ips} }}; }}
set nodeport-ips {{ type {address}; elements = {{ {node} }}; }}
map no-endpoint-services {{ type {address} . inet_proto . inet_service : verdict; }}
map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
map firewall-ips {{ type {address} . inet_proto . inet_service : verdict; }}
chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
chain masquerading {{
 meta mark & 0x4000 == 0 return
 meta mark set meta mark ^ 0x4000
 masquerade fully-random
}}
{chains}
map service-ips {{ type {address} . inet_proto . inet_service : verdict; elements = {{ {ips} }}; }}
map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {node_ports} }}; }}
chain services {{
 {destination} vmap @service-ips
 {table} daddr @nodeport-ips {source} vmap @service-nodeports
}}
chain service-endpoints-check {{ {destination} vmap @no-endpoint-services; }}
chain nodeport-endpoints-check {{ {table} daddr @nodeport-ips {source} vmap @no-endpoint-nodeports; }}
chain firewall-check {{ {destination} vmap @firewall-ips; }}
chain cluster-ips-check {{ {table} daddr @cluster-ips reject; }}
chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
chain filter-input {{
 type filter hook input priority -110;
 ct state new jump nodeport-endpoints-check
 ct state new jump service-endpoints-check
}}
chain filter-forward {{
 type filter hook forward priority -110;
 ct state new jump service-endpoints-check
 ct state new jump cluster-ips-check
}}
chain filter-output {{
 type filter hook output priority -110;
 ct state new jump service-endpoints-check
 ct state new jump firewall-check
}}
chain filter-output-post-dnat {{ type filter hook output priority -90; ct state new jump cluster-ips-check; }}
chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
chain nat-output {{ type nat hook output priority -100; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
"
    )
}

/// What grows with the Services.
#[derive(Default)]
struct Parts {
    cluster_ips: String,
    ips: String,
    node_ports: String,
    chains: String,
}

impl Parts {
    fn add(&mut self, (service, ip): (&str, IpAddr), port: &ServicePort, family: Family, table: &str, pods: &str) {
        let (transport, number) = (port.transport.name(), port.port);
        let name = |endpoint| format!("{}-{service}", id(service, port, endpoint));
        let own = name(None);
        let Self { cluster_ips: _, ips, node_ports, chains } = self;
        let mut draws = String::new();
        let mut text = String::new();
        for (i, pair) in port.endpoints.iter().enumerate() {
            let (pod, end) = (family.of(*pair), name(Some(i)));
            text.push_str(&format!(
                "chain endpoint-{end} {{\n {table} saddr {pod} jump mark-for-masquerade\n \
                 meta l4proto {transport} dnat to {}\n}}\n",
                at(pod, TARGET)
            ));
            draws.push_str(&format!("{i} : goto endpoint-{end},"));
        }
        text.push_str(&format!(
            "chain service-{own} {{\n {table} daddr {ip} {transport} dport {number} {table} saddr != {pods} jump \
             mark-for-masquerade\n numgen random mod {} vmap {{ {draws} }}\n}}\n",
            port.endpoints.len()
        ));
        ips.push_str(&format!("{ip} . {transport} . {number} : goto service-{own},"));
        if let Some(node_port) = port.node_port {
            text.push_str(&format!("chain external-{own} {{\n jump mark-for-masquerade\n goto service-{own}\n}}\n"));
            node_ports.push_str(&format!("{transport} . {node_port} : goto external-{own},"));
        }
        chains.push_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::services::tests::sample, *};

    #[test]
    fn an_element_and_a_chain_for_each_service_port() {
        let text = rules(&sample(100), Family::V4, "10.244.0.0/16", "192.168.178.11".parse().unwrap());
        assert_eq!(text.matches("chain service-").count(), 103 + 1, "and that of the check");
        assert_eq!(text.matches("goto service-").count(), 103 + 4, "of its four node ports, too");
        assert_eq!(text.matches("numgen random mod 2").count(), 99);
        assert!(text.contains("10.111.197.69 . tcp . 80 : goto service-"), "{text}");
    }
}
