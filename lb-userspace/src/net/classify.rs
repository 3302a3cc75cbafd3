//! Which link is a pod link, an uplink or an overlay, and why. Pure.
//!
//! The rules, in order; the first that speaks decides:
//! 1. the loopback device is nothing;
//! 2. a port of a bridge or bond is no uplink and no overlay, whatever it is called or holds: its master is what packets
//!    enter by;
//! 3. a pattern that matches the name decides; a class that has patterns is not detected any more;
//! 4. a holder of a node address or of a default route is an uplink;
//! 5. tunnels are overlays;
//! 6. a veth whose other end lives in another namespace is a pod link, unless it holds an address with a subnet
//!    (a node of a lab hangs on such a one) or is a port of a bridge that is an uplink itself;
//! 7. what holds a global address and leads out of the node is an uplink.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::abi::delivery;

use super::{
    glob::Glob,
    links::{Layer, Link, Table},
    xdp::{XdpMode, XdpPlan},
};
use ipnet::IpNet;

/// Kinds whose packets go to other nodes inside other packets.
const TUNNELS: [&str; 15] = [
    "vxlan",
    "geneve",
    "wireguard",
    "ipip",
    "sit",
    "gre",
    "gretap",
    "erspan",
    "ip6gre",
    "ip6gretap",
    "ip6erspan",
    "ip6tnl",
    "bareudp",
    "vti",
    "vti6",
];
/// Names under which network plugins make their tunnels, some of them without a kind of their own.
const TUNNEL_NAMES: [&str; 4] = ["flannel", "cilium_vxlan", "cilium_geneve", "vxlan.calico"];
/// Devices that their module makes unasked, and that are down unless somebody uses them.
const FALLBACK_TUNNELS: [&str; 8] = ["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0"];
/// Names under which network plugins make the host side of a pod's link.
const POD_NAMES: [&str; 2] = ["cali", "lxc"];
/// Kinds with addresses that lead nowhere: `dummy` holds what kube-proxy's IPVS mode and node-local DNS listen on.
const DEAD_ENDS: [&str; 4] = ["dummy", "ifb", "nlmon", "vrf"];

/// What a link is to the datapath.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LinkKind {
    /// Host side of a pod's link.
    Pod,
    /// Leaves the node.
    Uplink,
    /// Leads to other nodes' pods.
    Overlay,
    /// The bridge of pods' links: what is routed to these pods leaves by it.
    Bridge,
}

impl LinkKind {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Bridge => "bridge",
            Self::Uplink => "uplink",
            Self::Overlay => "overlay",
        }
    }
}

/// A link that programs are attached to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinkRole {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Bytes of link-layer header that programs see: 14 or 0.
    pub l2_len: u8,
    /// Why.
    pub reason: String,
    /// XDP beside the tc programs.
    pub xdp: XdpPlan,
    /// Of a pod's link: replies that come out of the host's stack are translated on it, and not on its bridge.
    pub answers: bool,
}

/// One link and the decision about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Classified {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// What it is; `None`: programs stay away from it.
    pub kind: Option<LinkKind>,
    /// Bytes of link-layer header.
    pub l2_len: u8,
    /// Why.
    pub reason: String,
    /// XDP beside the tc programs.
    pub xdp: XdpPlan,
    /// Of a pod's link: replies that come out of the host's stack are translated on it, and not on its bridge.
    pub answers: bool,
    /// Of a pod's link: how packets get to the pod, one of [`delivery`].
    pub delivery: u8,
}

impl Classified {
    /// The role, if it has one.
    #[must_use]
    pub fn role(&self) -> Option<LinkRole> {
        let Self { ifindex, name, kind, l2_len, reason, xdp, answers, delivery: _ } = self;
        Some(LinkRole {
            ifindex: *ifindex,
            name: name.clone(),
            kind: (*kind)?,
            l2_len: *l2_len,
            reason: reason.clone(),
            xdp: xdp.clone(),
            answers: *answers,
        })
    }
}

/// Patterns from flags; `None`: that class is detected.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    /// `--pod-links`.
    pub pod_links: Option<Vec<Glob>>,
    /// `--uplinks`.
    pub uplinks: Option<Vec<Glob>>,
    /// `--overlays`.
    pub overlays: Option<Vec<Glob>>,
}

/// What the decision needs besides the links.
#[derive(Clone, Debug, Default)]
pub struct ClassifyOptions {
    /// Patterns from flags.
    pub patterns: Patterns,
    /// The node's addresses, by flag or by its Node object; empty if neither tells.
    pub node_addresses: Vec<IpAddr>,
    /// `--cluster-cidr`: the networks of all pods; empty: found by their routes.
    pub cluster_cidrs: Vec<IpNet>,
    /// `--xdp`.
    pub xdp: XdpMode,
    /// Replies are translated on the bridge of the pods where they have one: no flow between its ports takes the stack.
    pub at_bridge: bool,
    /// `--pod-delivery`, one of [`delivery`]: links that it is nothing for have less.
    pub delivery: u8,
}

/// Decides about every link, in order of index.
#[must_use]
pub fn classify(table: &Table, options: &ClassifyOptions) -> Vec<Classified> {
    let view = View { table, options };
    let mut all: Vec<Classified> = table
        .links()
        .map(|link| {
            let (kind, reason) = view.decide(link);
            let l2_len = if link.layer == Layer::None { 0 } else { 14 };
            let xdp = XdpPlan::new(link, kind, options.xdp);
            let delivery = view.delivery(link, kind);
            let (ifindex, name, answers) = (link.ifindex, link.name.clone(), kind == Some(LinkKind::Pod));
            Classified { ifindex, name, kind, l2_len, reason, xdp, answers, delivery }
        })
        .collect();
    if options.at_bridge {
        answer_at_bridges(table, &mut all);
    }
    all
}

/// Has replies to pods translated where they enter the pods' bridge, so that what passes between its ports need not be
/// looked at twice. A bridge that is something else already is left out, and so is one that keeps VLANs apart, as frames may
/// enter it with a tag that they leave it without: the ports answer for themselves.
fn answer_at_bridges(table: &Table, all: &mut [Classified]) {
    let bridges: BTreeSet<u32> =
        all.iter().filter(|link| link.answers).filter_map(|link| table.bridge_of(link.ifindex)).collect();
    let plain = |index: u32| bridges.contains(&index) && table.link(index).is_some_and(|bridge| !bridge.filters_vlans);
    let mut taken = BTreeSet::new();
    for bridge in all.iter_mut().filter(|link| link.kind.is_none() && plain(link.ifindex)) {
        bridge.kind = Some(LinkKind::Bridge);
        bridge.reason = "the bridge of pods".to_owned();
        taken.insert(bridge.ifindex);
    }
    for link in all.iter_mut().filter(|link| link.answers) {
        link.answers = table.bridge_of(link.ifindex).is_none_or(|bridge| !taken.contains(&bridge));
    }
}

type Decision = (Option<LinkKind>, String);

struct View<'a> {
    table: &'a Table,
    options: &'a ClassifyOptions,
}

impl View<'_> {
    fn decide(&self, link: &Link) -> Decision {
        if link.layer == Layer::Loopback {
            return (None, "loopback".to_owned());
        }
        if let Some(decision) = self.by_pattern(link) {
            return decision;
        }
        let decision = self.detect(link);
        let Patterns { pod_links, uplinks, overlays } = &self.options.patterns;
        let (given, flag) = match decision.0 {
            Some(LinkKind::Pod) => (pod_links.is_some(), "--pod-links"),
            Some(LinkKind::Uplink) => (uplinks.is_some(), "--uplinks"),
            Some(LinkKind::Overlay) => (overlays.is_some(), "--overlays"),
            Some(LinkKind::Bridge) | None => (false, ""),
        };
        if given { (None, format!("not named by {flag}")) } else { decision }
    }

    /// How packets get to the pod behind a link.
    fn delivery(&self, link: &Link, kind: Option<LinkKind>) -> u8 {
        if kind != Some(LinkKind::Pod) {
            return delivery::BRIDGE;
        }
        // `bpf_redirect_peer` drops what is for any other device, and what would stay in its namespace.
        let leads_elsewhere = link.kind.as_deref() == Some("veth") && link.peer_netns.is_some();
        if self.options.delivery == delivery::DIRECT && leads_elsewhere {
            return delivery::DIRECT;
        }
        // Routes lead to a link without a bridge anyway; and a bridge with VLANs decides who may hear whom.
        let bridge = self.table.bridge_of(link.ifindex).and_then(|index| self.table.link(index));
        if self.options.delivery == delivery::BRIDGE || bridge.is_none_or(|bridge| bridge.filters_vlans) {
            delivery::BRIDGE
        } else {
            delivery::LINK
        }
    }

    fn by_pattern(&self, link: &Link) -> Option<Decision> {
        let Patterns { pod_links, uplinks, overlays } = &self.options.patterns;
        let flags = [
            (LinkKind::Pod, "--pod-links", pod_links),
            (LinkKind::Uplink, "--uplinks", uplinks),
            (LinkKind::Overlay, "--overlays", overlays),
        ];
        flags.into_iter().find_map(|(kind, flag, patterns)| {
            let pattern = patterns.iter().flatten().find(|pattern| pattern.matches(&link.name))?;
            if kind == LinkKind::Pod && link.layer != Layer::Ethernet {
                return Some((None, format!("named by {flag} {pattern}, but it has no Ethernet header")));
            }
            if kind != LinkKind::Pod
                && let Some(master) = self.switching_master(link)
            {
                return Some((None, format!("named by {flag} {pattern}, but a port of {}", master.name)));
            }
            Some((Some(kind), format!("named by {flag} {pattern}")))
        })
    }

    fn detect(&self, link: &Link) -> Decision {
        let master = self.switching_master(link);
        let kind = link.kind.as_deref().unwrap_or_default();
        match master {
            None => {
                if let Some(reason) = self.is_the_nodes(link) {
                    return (Some(LinkKind::Uplink), reason);
                }
                if TUNNELS.contains(&kind) || TUNNEL_NAMES.iter().any(|name| link.name.starts_with(name)) {
                    return if FALLBACK_TUNNELS.contains(&link.name.as_str()) && !link.up {
                        (None, "the module's own tunnel device, and down".to_owned())
                    } else {
                        (
                            Some(LinkKind::Overlay),
                            format!("a tunnel ({})", link.kind.as_deref().unwrap_or("by its name")),
                        )
                    };
                }
            }
            Some(master) if !leads_to_a_pod(link) => {
                return (None, format!("a port of {}", master.name));
            }
            Some(_) => {}
        }
        if leads_to_a_pod(link) {
            return self.pod_or_not(link, master);
        }
        self.leads_out(link)
    }

    fn pod_or_not(&self, link: &Link, master: Option<&Link>) -> Decision {
        if let Some(master) = master
            && let Some(reason) = self.bridge_leads_out(master)
        {
            return (None, format!("a port of {}, which is an uplink ({reason})", master.name));
        }
        if let Some(address) =
            self.table.global_addresses(link.ifindex).find(|address| !is_host_prefix(address.ip, address.prefix))
        {
            return (Some(LinkKind::Uplink), format!("holds {}/{}", address.ip, address.prefix));
        }
        if link.layer != Layer::Ethernet {
            return (None, "leads to a pod, but has no Ethernet header".to_owned());
        }
        let why = match link.peer_netns {
            Some(_) => "its other end is in another namespace",
            None => "a network plugin's name for pod links",
        };
        (Some(LinkKind::Pod), why.to_owned())
    }

    fn leads_out(&self, link: &Link) -> Decision {
        let Some(address) = self.table.global_addresses(link.ifindex).next() else {
            return (None, "holds no global address".to_owned());
        };
        match link.kind.as_deref() {
            Some("bridge") => match self.outside_port(link) {
                Some(port) => (Some(LinkKind::Uplink), format!("holds {} and leads out by {}", address.ip, port.name)),
                None => (None, "a bridge that only pods, or nobody, is connected to".to_owned()),
            },
            Some(kind) if DEAD_ENDS.contains(&kind) => (None, format!("a {kind} device leads nowhere")),
            Some("veth") => (None, "a veth with both ends on the node".to_owned()),
            Some(_) | None => (Some(LinkKind::Uplink), format!("holds {}", address.ip)),
        }
    }

    /// Why a link without a switching master is certainly an uplink.
    fn is_the_nodes(&self, link: &Link) -> Option<String> {
        let nodes = &self.options.node_addresses;
        if let Some(address) = self.table.addresses(link.ifindex).iter().find(|address| nodes.contains(&address.ip)) {
            return Some(format!("holds the node's address {}", address.ip));
        }
        self.table.has_default_route(link.ifindex).then(|| "a default route leaves by it".to_owned())
    }

    /// Why a bridge is an uplink, if it is.
    fn bridge_leads_out(&self, bridge: &Link) -> Option<String> {
        if let Some(decided) = self.by_pattern(bridge) {
            return (decided.0 == Some(LinkKind::Uplink)).then_some(decided.1);
        }
        self.is_the_nodes(bridge).or_else(|| {
            let (kind, reason) = self.leads_out(bridge);
            (kind == Some(LinkKind::Uplink)).then_some(reason)
        })
    }

    /// The bridge, bond or team that takes this link's packets away from it. A VRF leaves them where they are.
    fn switching_master(&self, link: &Link) -> Option<&Link> {
        let master = self.table.link(link.master?)?;
        (master.kind.as_deref() != Some("vrf")).then_some(master)
    }

    /// A port through which a bridge reaches beyond this machine's pods and virtual machines.
    fn outside_port(&self, bridge: &Link) -> Option<&Link> {
        self.table.links().find(|port| {
            let inside = leads_to_a_pod(port) || matches!(port.kind.as_deref(), Some("tun" | "veth" | "dummy"));
            port.master == Some(bridge.ifindex) && !inside
        })
    }
}

/// A pair of which the other end lives elsewhere, or that a network plugin named so.
fn leads_to_a_pod(link: &Link) -> bool {
    matches!(link.kind.as_deref(), Some("veth" | "netkit"))
        && (link.peer_netns.is_some() || POD_NAMES.iter().any(|name| link.name.starts_with(name)))
}

/// Routed pod links hold the pod's gateway as a host address (the CNI plugin `ptp` does so on each).
fn is_host_prefix(ip: IpAddr, prefix: u8) -> bool {
    prefix == if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
