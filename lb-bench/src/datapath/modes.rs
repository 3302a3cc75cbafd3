//! What serves the Services of a station. Pure.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A way to serve Services, or none.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// Nobody: the client asks the pod by its own address, and the nodes have neither programs nor rules.
    Direct,
    /// berrylb without its packet path.
    Socket,
    /// berrylb without its socket path.
    Packet,
    /// The packet path, and into pods' namespaces past their links.
    Delivery,
    /// berrylb as it is by default.
    Both,
    /// berrylb with generic XDP on the uplink.
    Xdp,
    /// berrylb with direct server return.
    Dsr,
    /// Rules as kube-proxy's iptables mode writes them.
    Iptables,
    /// Rules as kube-proxy's nftables mode writes them.
    Nftables,
    /// kube-proxy itself in iptables mode.
    #[serde(rename = "kp-ipt")]
    #[value(name = "kp-ipt")]
    KubeProxyIpt,
    /// kube-proxy itself in nftables mode.
    #[serde(rename = "kp-nft")]
    #[value(name = "kp-nft")]
    KubeProxyNft,
}

/// Modes that cannot be measured here, and why.
pub(super) type Absent = Vec<(Mode, String)>;

impl Mode {
    pub(super) const ALL: [Self; 11] = [
        Self::Direct,
        Self::Socket,
        Self::Packet,
        Self::Delivery,
        Self::Both,
        Self::Xdp,
        Self::Dsr,
        Self::Iptables,
        Self::Nftables,
        Self::KubeProxyIpt,
        Self::KubeProxyNft,
    ];

    /// As tables and plots show it, and as names of nodes begin.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Socket => "socket",
            Self::Packet => "packet",
            Self::Delivery => "delivery",
            Self::Both => "both",
            Self::Xdp => "xdp",
            Self::Dsr => "dsr",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::KubeProxyIpt => "kp-ipt",
            Self::KubeProxyNft => "kp-nft",
        }
    }

    /// For the legend.
    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Direct => "pod asked by its own address, nodes without programs and rules",
            Self::Socket => "berrylb --packet-path off",
            Self::Packet => "berrylb --socket-lb off",
            Self::Delivery => "berrylb --socket-lb off --local-path redirect --pod-delivery direct",
            Self::Both => "berrylb as by default",
            Self::Xdp => "berrylb --xdp generic (a veth has no other that fits), its wires without checksum offload",
            Self::Dsr => "berrylb --forwarding dsr",
            Self::Iptables => "rules as kube-proxy's iptables mode writes them, bridge-nf-call-iptables=1",
            Self::Nftables => "rules as kube-proxy's nftables mode writes them, bridge-nf-call-iptables=1",
            Self::KubeProxyIpt => "kube-proxy itself, --proxy-mode iptables, bridge-nf-call-iptables=1",
            Self::KubeProxyNft => "kube-proxy itself, --proxy-mode nftables, bridge-nf-call-iptables=1",
        }
    }

    /// Flags of the agent, if it is one of berrylb's modes.
    pub(super) const fn flags(self) -> Option<&'static [&'static str]> {
        Some(match self {
            Self::Direct | Self::Iptables | Self::Nftables | Self::KubeProxyIpt | Self::KubeProxyNft => return None,
            Self::Socket => &["--packet-path", "off"],
            Self::Packet => &["--socket-lb", "off"],
            Self::Delivery => &["--socket-lb", "off", "--local-path", "redirect", "--pod-delivery", "direct"],
            Self::Both => &[],
            Self::Xdp => &["--xdp", "generic"],
            Self::Dsr => &["--forwarding", "dsr"],
        })
    }

    /// Whether rules do it, which need netfilter.
    pub(super) const fn is_rules(self) -> bool {
        matches!(self, Self::Iptables | Self::Nftables) || self.is_kube_proxy()
    }

    /// Whether kube-proxy writes them.
    pub(super) const fn is_kube_proxy(self) -> bool {
        matches!(self, Self::KubeProxyIpt | Self::KubeProxyNft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_has_one_name() {
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
            assert_eq!(mode.to_possible_value().unwrap().get_name(), mode.name());
        }
    }
}
