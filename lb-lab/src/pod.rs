//! A pod: a namespace behind a veth on its node's bridge, made in the order in which the bridge CNI plugin does it.

use std::{
    fs::File,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    sync::Arc,
};

use anyhow::{Context, Result, bail};

use crate::{
    cgroup,
    config::{self, Pair},
    lab::{Shared, machine_settings},
    netlink::{VethEnd, default_route},
    netns::NetNs,
    node::Node,
    place::{Host, Place},
};

/// A pod. Dropping it kills its processes and takes its link and namespace away.
#[derive(Debug)]
pub struct Pod {
    place: Place,
    addresses: Pair,
    link: String,
    node_name: String,
    node_netns: Arc<NetNs>,
    _shared: Arc<Shared>,
}

impl Pod {
    pub(crate) fn new(name: &str, host: u8, node: &Node) -> Result<Self> {
        if host < 2 || host == u8::MAX {
            bail!("a pod's address ends in 2 to 254, not {host}");
        }
        let shared = node.shared();
        let config = &shared.config;
        let addresses = config::pod(node.number(), host);
        let netns = Arc::new(NetNs::create(&format!("{}-{name}", shared.name), &machine_settings(config))?);

        // The pair is made inside the pod with the host's end put into the node; the node's end appears there
        // without a bridge, comes up, joins the bridge; only then the pod gets its addresses.
        let mut random = [0; 4];
        File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random)).context("read /dev/urandom")?;
        let link = format!("veth{:08x}", u32::from_ne_bytes(random));
        let mtu = config.pod_mtu();
        let own = VethEnd { name: "eth0", netns: None, bridge: None, mac: None, mtu };
        let peer = VethEnd { name: &link, netns: Some(node.netns().as_fd()), bridge: None, mac: None, mtu };
        netns.netlink().add_veth(own, peer)?;
        let node_side = node.netns().netlink();
        node_side.set_up(&link, true)?;
        let port = node_side.index(&link)?;
        node_side.enslave(port, node.bridge())?;
        node_side.set_hairpin(port, config.hairpin)?;
        let pod_side = netns.netlink();
        let eth0 = pod_side.index("eth0")?;
        for address in addresses.nets(config.ipv6) {
            pod_side.add_address(eth0, address)?;
            let gateway = node.gateway().like(address);
            pod_side.replace_route(default_route(gateway), gateway, Some(eth0), false)?;
        }

        let cgroup = node.cgroup_root().join(format!("pod-{name}"));
        let place = Place::new(name, netns, cgroup, shared.folder.join(format!("pod-{name}")), config.ipv6)?;
        Ok(Self {
            place,
            addresses,
            link,
            node_name: node.name().into(),
            node_netns: Arc::clone(node.place().netns_arc()),
            _shared: Arc::clone(shared),
        })
    }

    /// Its addresses with the prefix of the node's pod subnet.
    #[must_use]
    pub fn addresses(&self) -> Pair {
        self.addresses
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn ip4(&self) -> Ipv4Addr {
        self.addresses.v4.addr()
    }

    /// Its IPv6 address, used in labs with IPv6.
    #[must_use]
    pub fn ip6(&self) -> Ipv6Addr {
        self.addresses.v6.addr()
    }

    /// Its address of the family of `other`.
    #[must_use]
    pub fn ip_like(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.ip4().into() } else { self.ip6().into() }
    }

    /// Makes `server` the DNS server of processes that start from now on, with the search list that the kubelet gives to
    /// pods of the namespace `default`.
    ///
    /// # Errors
    /// The pod's folder cannot be written.
    pub fn set_dns(&mut self, server: IpAddr) -> Result<()> {
        self.place.set_resolv_conf(&format!(
            "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver {server}\noptions ndots:5\n"
        ))
    }

    /// Name of the node's end of its link.
    #[must_use]
    pub fn link(&self) -> &str {
        &self.link
    }

    /// Name of its node.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }
}

impl Host for Pod {
    fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let gone = cgroup::remove(self.cgroup()).and_then(|()| self.node_netns.netlink().delete_link(&self.link));
        if let Err(error) = gone {
            crate::complain(&error.context(format!("remove pod {}", self.name())));
        }
    }
}
