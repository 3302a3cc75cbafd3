//! A node: `eth0` on the LAN, the bridge `cni0` with the gateway of its pods, and the way to other nodes' pods.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::{
    config::{self, LabConfig, Network, Pair, VXLAN_MTU, VXLAN6_MTU, mac},
    lab::{Shared, machine_settings, plug_in},
    netlink::{Mac, VxlanDevice},
    netns::NetNs,
    nft,
    place::{Host, Place},
    pod::Pod,
    reaper::BPFFS,
};

/// The pods' bridge, as the bridge CNI plugin names it for flannel.
pub const BRIDGE: &str = "cni0";
/// VXLAN network identifier and UDP port (host order) that flannel uses on Linux.
const VXLAN_NETWORK: (u32, u16) = (1, 8472);

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    place: Place,
    number: u8,
    bridge: u32,
    overlays: Vec<Overlay>,
    cgroup_root: PathBuf,
    next_pod: AtomicU8,
    shared: Arc<Shared>,
}

/// A VXLAN device of one address family.
#[derive(Clone, Copy, Debug)]
struct Overlay {
    name: &'static str,
    index: u32,
    /// Kind of device in its link-layer address.
    kind: u8,
    ipv6: bool,
}

impl Node {
    pub(crate) fn new(number: u8, name: &str, lan: &NetNs, lan_bridge: u32, shared: &Arc<Shared>) -> Result<Self> {
        let config = &shared.config;
        let netns = Arc::new(NetNs::create(&format!("{}-{name}", shared.name), &[])?);
        let settings = settings(config);
        netns.set(&settings.iter().map(|(path, value)| (*path, value.as_str())).collect::<Vec<_>>())?;
        let underlay = plug_in(config, lan, lan_bridge, name, &netns, config::node(number), mac(0, number))?;
        let netlink = netns.netlink();
        let bridge = netlink.add_bridge(BRIDGE, mac(1, number), config.pod_mtu())?;
        for gateway in config::pod(number, 1).nets(config.ipv6) {
            netlink.add_address(bridge, gateway)?;
        }
        let overlays = match config.network {
            Network::HostGw => Vec::new(),
            Network::Vxlan => add_overlays(&netns, config, number, underlay)?,
        };

        let cgroup_root = shared.cgroup.join(name);
        let place = Place::new(name, netns, cgroup_root.join("host"), shared.folder.join(name), config.ipv6)?;
        let mut node = Self {
            place,
            number,
            bridge,
            overlays,
            cgroup_root,
            next_pod: AtomicU8::new(2),
            shared: Arc::clone(shared),
        };
        let bpffs = node.bpffs();
        fs::create_dir(&bpffs).with_context(|| format!("create {}", bpffs.display()))?;
        // So that `berrylb` finds this node's agent without flags, as it does on a real node.
        let socket = node.agent_socket();
        for (key, value) in
            [("BERRYLB_BPFFS", bpffs), ("BERRYLB_CGROUP", node.cgroup_root.clone()), ("BERRYLB_API_SOCKET", socket)]
        {
            node.place.set_env(key, value);
        }
        let rules = nft::rules(config, config::pod(number, 1));
        if !rules.is_empty() {
            node.command("nft").args(["-f", "-"]).input(rules).ok().context("set netfilter rules")?;
        }
        Ok(node)
    }

    /// The way to another node's pods.
    pub(crate) fn connect(&self, other: &Self) -> Result<()> {
        let netlink = self.netns().netlink();
        let ipv6 = self.shared.config.ipv6;
        for gateway in config::pod(other.number, 1).nets(ipv6) {
            let subnet = gateway.trunc();
            let remote = config::node(other.number).like(gateway);
            match self.overlays.iter().find(|overlay| overlay.ipv6 == remote.is_ipv6()) {
                None => netlink.replace_route(subnet, remote, None, false)?,
                Some(overlay) => {
                    // flannel gives the device the subnet's first address and routes through it.
                    let tunnel = subnet.network();
                    let address = mac(overlay.kind, other.number);
                    netlink.add_neighbour(overlay.index, tunnel, address)?;
                    netlink.add_forwarding(overlay.index, address, remote)?;
                    netlink.replace_route(subnet, tunnel, Some(overlay.index), true)?;
                }
            }
        }
        Ok(())
    }

    /// Its number, which is the third number of its pods' IPv4 addresses.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its LAN addresses.
    #[must_use]
    pub fn addresses(&self) -> Pair {
        config::node(self.number)
    }

    /// Its LAN addresses that the lab uses: IPv4, and IPv6 if the lab has it.
    #[must_use]
    pub fn ips(&self) -> Vec<IpAddr> {
        self.addresses().nets(self.shared.config.ipv6).map(|net| net.addr()).collect()
    }

    /// Its addresses on the pods' bridge: the pods' gateway.
    #[must_use]
    pub fn gateway(&self) -> Pair {
        config::pod(self.number, 1)
    }

    /// Its overlay devices: `flannel.1` and, with IPv6, `flannel-v6.1` in a VXLAN lab; none otherwise.
    #[must_use]
    pub fn overlays(&self) -> Vec<&'static str> {
        self.overlays.iter().map(|overlay| overlay.name).collect()
    }

    /// The cgroup that holds all processes of the node and of its pods, and nothing else: an agent's `--cgroup`.
    #[must_use]
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// A folder on bpffs of the node's own: an agent's `--bpffs`.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        Path::new(BPFFS).join(format!("{}-{}", self.shared.name, self.name()))
    }

    /// Where the node's agent has its socket: an agent's `--api-socket`.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.dir().join("agent.sock")
    }

    /// Starts a pod with the next free address.
    ///
    /// # Errors
    /// The name is taken in this lab, or no address is left.
    pub fn add_pod(&self, name: &str) -> Result<Pod> {
        let host = self.next_pod.fetch_add(1, Ordering::Relaxed);
        if !(2..=250).contains(&host) {
            bail!("node {} has no pod address left", self.name());
        }
        self.add_pod_at(name, host)
    }

    /// Starts a pod whose address ends in `host` (2 to 254).
    ///
    /// # Errors
    /// The name or the address is taken.
    pub fn add_pod_at(&self, name: &str, host: u8) -> Result<Pod> {
        Pod::new(name, host, self).with_context(|| format!("add pod {name} to node {}", self.name()))
    }

    /// Packets that the INVALID rule dropped; only in labs with `invalid_drop`.
    ///
    /// # Errors
    /// The lab has no such rule.
    pub fn invalid_drops(&self) -> Result<u64> {
        let list = ["-j", "list", "counter", "inet", nft::POLICY, "invalid"];
        let text = self.command("nft").args(list).ok().context("read the INVALID counter")?;
        let json: serde_json::Value = serde_json::from_str(&text).context("parse nft's counter")?;
        let counters = json["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let packets = counters.iter().find_map(|item| item["counter"]["packets"].as_u64());
        packets.with_context(|| format!("nft printed no counter: {text}"))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn bridge(&self) -> u32 {
        self.bridge
    }
}

impl Host for Node {
    fn place(&self) -> &Place {
        &self.place
    }
}

/// Node number of an index that [`LabConfig::check`] has accepted.
pub(crate) fn number(index: usize) -> u8 {
    u8::try_from(index).expect("a lab has at most 80 nodes")
}

fn add_overlays(netns: &NetNs, config: &LabConfig, number: u8, underlay: u32) -> Result<Vec<Overlay>> {
    let mut overlays = Vec::new();
    for local in config::node(number).nets(config.ipv6) {
        let (name, kind, mtu) = match local {
            IpNet::V4(_) => ("flannel.1", 2, VXLAN_MTU),
            IpNet::V6(_) => ("flannel-v6.1", 3, VXLAN6_MTU),
        };
        let address: Mac = mac(kind, number);
        let (vni, port) = VXLAN_NETWORK;
        let device = VxlanDevice { name, mac: address, vni, port, underlay, local: local.addr(), mtu };
        let index = netns.netlink().add_vxlan(device)?;
        let first = config::pod(number, 0).like(local);
        netns.netlink().add_address(index, IpNet::from(first))?;
        overlays.push(Overlay { name, index, kind, ipv6: local.addr().is_ipv6() });
    }
    Ok(overlays)
}

fn settings(config: &LabConfig) -> Vec<(&'static str, String)> {
    let mut settings: Vec<_> =
        machine_settings(config).into_iter().map(|(path, value)| (path, value.to_owned())).collect();
    settings.push(("ipv4/ip_forward", "1".into()));
    settings.push(("ipv4/conf/all/rp_filter", config.rp_filter.to_string()));
    settings.push(("ipv4/conf/default/rp_filter", config.rp_filter.to_string()));
    if config.ipv6 {
        settings.push(("ipv6/conf/all/forwarding", "1".into()));
    }
    if crate::has_bridge_netfilter() {
        let on = u8::from(config.bridge_netfilter).to_string();
        settings.push(("bridge/bridge-nf-call-iptables", on.clone()));
        settings.push(("bridge/bridge-nf-call-ip6tables", on));
    }
    settings
}
