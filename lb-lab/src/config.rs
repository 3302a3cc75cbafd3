//! What a lab looks like: the options, and the addresses that follow from a node's number.
//!
//! Every lab has the same addresses; labs never meet, as each LAN is a bridge in a namespace of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::netlink::Mac;

/// How pods reach pods of other nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Network {
    /// Routes via the other nodes' addresses.
    HostGw,
    /// `flannel.1` (and `flannel-v6.1`): static VXLAN, VNI 1, UDP port 8472, MTU 1450 (1430 for IPv6's underlay).
    Vxlan,
}

/// Options of a lab. The default is the story's cluster as flannel and the bridge CNI plugin would set it up.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// Node names; node number N has the pod subnet `10.244.N.0/24`.
    pub nodes: Vec<String>,
    /// How pods reach pods of other nodes.
    pub network: Network,
    /// Whether there is IPv6 next to IPv4.
    pub ipv6: bool,
    /// flannel's masquerade rules (which also switch connection tracking on).
    pub masquerade: bool,
    /// A forward rule on the nodes that drops what conntrack calls INVALID.
    pub invalid_drop: bool,
    /// `bridge-nf-call-iptables` and `-ip6tables` of the nodes: whether bridged frames pass netfilter.
    pub bridge_netfilter: bool,
    /// `rp_filter` of the nodes: 0 off, 1 strict, 2 loose.
    pub rp_filter: u8,
    /// Hairpin mode of the pods' bridge ports.
    pub hairpin: bool,
    /// Number of the node that the outside machine routes the service networks to.
    pub service_gateway: usize,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            nodes: ["raspi001", "raspi002", "raspi003"].map(String::from).into(),
            network: Network::HostGw,
            ipv6: true,
            masquerade: true,
            invalid_drop: false,
            bridge_netfilter: true,
            rp_filter: 2,
            hairpin: true,
            service_gateway: 1,
        }
    }
}

impl LabConfig {
    /// MTU of pods in bytes.
    #[must_use]
    pub fn pod_mtu(&self) -> u32 {
        match self.network {
            Network::HostGw => LAN_MTU,
            Network::Vxlan if self.ipv6 => VXLAN6_MTU,
            Network::Vxlan => VXLAN_MTU,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.nodes.is_empty() || self.nodes.len() > MAX_NODES {
            bail!("a lab has 1 to {MAX_NODES} nodes, not {}", self.nodes.len());
        }
        for name in &self.nodes {
            // The node's name is also that of its port on the LAN's bridge.
            if name.is_empty() || name.len() > 15 || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                bail!("node name `{name}`: 1 to 15 letters, digits and dashes");
            }
        }
        if self.service_gateway >= self.nodes.len() {
            bail!("service_gateway {}: there are {} nodes", self.service_gateway, self.nodes.len());
        }
        Ok(())
    }
}

/// MTU of the LAN in bytes.
pub const LAN_MTU: u32 = 1500;
/// LAN less outer Ethernet, IPv4, UDP and VXLAN headers.
pub const VXLAN_MTU: u32 = LAN_MTU - 14 - 20 - 8 - 8;
/// The same with an outer IPv6 header.
pub const VXLAN6_MTU: u32 = VXLAN_MTU - 20;
const MAX_NODES: usize = 80;

/// The pods' network of the whole cluster, IPv4.
pub const POD_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
/// The pods' network of the whole cluster, IPv6.
pub const POD_NETWORK6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 48);
/// The Services' network, IPv4.
pub const SERVICE_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12);
/// The Services' network, IPv6.
pub const SERVICE_NETWORK6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112);
/// Last number of the router's LAN addresses.
const ROUTER: u8 = 1;
/// Last number of the outside machine's LAN addresses.
const OUTSIDE: u8 = 200;

/// An IPv4 and an IPv6 address with the prefix of their network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Net,
    /// IPv6; used only in labs with IPv6.
    pub v6: Ipv6Net,
}

impl Pair {
    /// Those that a lab uses.
    pub(crate) fn nets(self, ipv6: bool) -> impl Iterator<Item = IpNet> {
        [Some(self.v4.into()), ipv6.then(|| self.v6.into())].into_iter().flatten()
    }

    /// The address of `other`'s family.
    pub(crate) fn like(self, other: IpNet) -> IpAddr {
        match other {
            IpNet::V4(_) => self.v4.addr().into(),
            IpNet::V6(_) => self.v6.addr().into(),
        }
    }
}

/// Addresses on the LAN: 192.168.178.0/24 and fd00:192:168:178::/64. The IPv6 address reads like the IPv4 one.
const fn lan(host: u8) -> Pair {
    Pair {
        v4: Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 178, host), 24),
        v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x178, 0, 0, 0, reads_like(host)), 64),
    }
}

/// The router's LAN addresses, the nodes' default gateway.
#[must_use]
pub const fn router() -> Pair {
    lan(ROUTER)
}

/// The outside machine's LAN addresses.
#[must_use]
pub const fn outside() -> Pair {
    lan(OUTSIDE)
}

/// LAN addresses of node number `node`.
pub(crate) fn node(node: u8) -> Pair {
    lan(11 + node)
}

/// Address number `host` in the pod subnet of node number `node`; 1 is the gateway.
pub(crate) const fn pod(node: u8, host: u8) -> Pair {
    let (n, h) = (reads_like(node), reads_like(host));
    Pair {
        v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, node, host), 24),
        v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, n, 0, 0, 0, h), 64),
    }
}

/// Link-layer address of a node's device: locally administered, fixed, so that neighbours never go stale.
pub(crate) const fn mac(device: u8, node: u8) -> Mac {
    [0x02, 0xbe, 0x44, device, 0, node]
}

/// The hexadecimal number whose digits are those of the decimal number.
const fn reads_like(decimal: u8) -> u16 {
    let d = decimal as u16;
    (d / 100) << 8 | (d / 10 % 10) << 4 | (d % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn story_addresses() {
        assert_eq!(pod(1, 72).v4.to_string(), "10.244.1.72/24");
        assert_eq!(pod(2, 66).v6.to_string(), "fd00:10:244:2::66/64");
        assert_eq!(pod(0, 255).v6.addr().to_string(), "fd00:10:244::255");
        assert_eq!(node(0).v4.to_string(), "192.168.178.11/24");
        assert_eq!(outside().v6.to_string(), "fd00:192:168:178::200/64");
        assert!(POD_NETWORK.contains(&pod(79, 254).v4) && POD_NETWORK6.contains(&pod(79, 254).v6));
    }

    #[test]
    fn vxlan_leaves_flannels_mtu() {
        assert_eq!((VXLAN_MTU, VXLAN6_MTU), (1450, 1430));
    }

    #[test]
    fn bad_options_are_refused() {
        let config = LabConfig { nodes: vec!["a-name-that-is-too-long".into()], ..LabConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("a-name-that-is-too-long"));
        LabConfig { service_gateway: 3, ..LabConfig::default() }.check().unwrap_err();
        LabConfig { nodes: Vec::new(), ..LabConfig::default() }.check().unwrap_err();
        LabConfig::default().check().unwrap();
    }
}
