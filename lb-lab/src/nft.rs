//! The nodes' netfilter rules, as text for `nft -f -`: flannel's masquerading, and a policy that drops INVALID.

use crate::config::{LabConfig, POD_NETWORK, POD_NETWORK6, Pair};

/// Name of the table with the INVALID rule, and of its counter.
pub(crate) const POLICY: &str = "lab-policy";

/// The rules of one node, empty if the lab has none. `subnet` is the node's own pod network.
///
/// The masquerade rules are in effect those of flannel's `trafficmngr`: nothing inside the pod network changes; from
/// pods to elsewhere, and from elsewhere to pods of other nodes, the source becomes the node's.
pub(crate) fn rules(config: &LabConfig, subnet: Pair) -> String {
    let mut text = String::new();
    if config.masquerade {
        text.push_str(&masquerade("ip", &POD_NETWORK.to_string(), &subnet.v4.trunc().to_string(), "224.0.0.0/4"));
        if config.ipv6 {
            text.push_str(&masquerade("ip6", &POD_NETWORK6.to_string(), &subnet.v6.trunc().to_string(), "ff00::/8"));
        }
    }
    if config.invalid_drop {
        text.push_str(&format!(
            "table inet {POLICY} {{
                counter invalid {{ }}
                chain forward {{
                    type filter hook forward priority filter; policy accept;
                    ct state invalid counter name invalid drop
                }}
            }}\n"
        ));
    }
    text
}

fn masquerade(family: &str, network: &str, subnet: &str, multicast: &str) -> String {
    format!(
        "table {family} flannel {{
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                meta mark & 0x4000 == 0x4000 return
                {family} saddr {network} {family} daddr {network} return
                {family} saddr {network} {family} daddr != {multicast} masquerade fully-random
                {family} saddr != {network} {family} daddr {subnet} return
                {family} saddr != {network} {family} daddr {network} masquerade fully-random
            }}
        }}\n"
    )
}
