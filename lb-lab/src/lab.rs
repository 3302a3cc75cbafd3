//! The lab: a LAN with a router, the nodes on it, and an outside machine.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::{
    cgroup,
    config::{self, LAN_MTU, LabConfig, Pair, SERVICE_NETWORK, SERVICE_NETWORK6, mac},
    enter,
    netlink::{VethEnd, default_route},
    netns::NetNs,
    node::{self, Node},
    place::{Host, Place},
    reaper::{self, BPFFS, LABS_DIR, Manifest, Reaper},
};

/// The LAN's bridge.
const LAN_BRIDGE: &str = "br0";

/// A small cluster on this kernel. Everything goes when the lab and the last pod of it are dropped, or its process dies.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Node>,
    outside: Machine,
    router: Machine,
    enter: PathBuf,
    shared: Arc<Shared>,
}

/// A machine on the LAN that is not a node.
#[derive(Debug)]
pub struct Machine {
    place: Place,
    addresses: Pair,
    shared: Arc<Shared>,
}

/// What all parts of a lab hold on to: its name, its options, and its end.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) config: LabConfig,
    /// The lab's cgroup.
    pub(crate) cgroup: PathBuf,
    /// The lab's folder.
    pub(crate) folder: PathBuf,
    reaper: Mutex<Reaper>,
}

impl Lab {
    /// Sets the lab up.
    ///
    /// # Errors
    /// Not root, an option that the kernel cannot do, a bad option, or the peer program is not built.
    pub fn new(config: LabConfig) -> Result<Self> {
        config.check()?;
        if config.bridge_netfilter && !has_bridge_netfilter() {
            bail!(
                "this kernel passes no bridged frames to netfilter: run `modprobe br_netfilter`, or make the lab with \
                 bridge_netfilter: false"
            );
        }
        let shared = Arc::new(Shared::new(config)?);
        let config = &shared.config;

        let lan = Arc::new(NetNs::create(&format!("{}-lan", shared.name), &lan_settings(config))?);
        let bridge = lan.netlink().add_bridge(LAN_BRIDGE, mac(0, 255), LAN_MTU)?;
        for address in config::router().nets(config.ipv6) {
            lan.netlink().add_address(bridge, address)?;
        }
        let router = Machine::new("router", lan, config::router(), &shared)?;

        let outside = Arc::new(NetNs::create(&format!("{}-outside", shared.name), &machine_settings(config))?);
        plug_in(config, router.netns(), bridge, "outside", &outside, config::outside(), mac(0, 254))?;
        let outside = Machine::new("outside", outside, config::outside(), &shared)?;
        outside.route_services(config::node(node::number(config.service_gateway)))?;

        let mut nodes = Vec::with_capacity(config.nodes.len());
        for (index, name) in config.nodes.iter().enumerate() {
            nodes.push(Node::new(node::number(index), name, router.netns(), bridge, &shared)?);
        }
        for node in &nodes {
            for other in nodes.iter().filter(|other| other.number() != node.number()) {
                node.connect(other)?;
            }
        }
        let enter = enter::write(&shared.name, &shared.folder, &shared.cgroup)?;
        Ok(Self { nodes, outside, router, enter, shared })
    }

    /// The story's cluster.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn story() -> Result<Self> {
        Self::new(LabConfig::default())
    }

    /// The lab's name: unique on this machine, and the first part of all names the lab uses.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The lab's own folder; gone with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.folder
    }

    /// A script for people: `sh PATH NAME [COMMAND…]` runs a shell or a command on a node, in a pod or outside.
    #[must_use]
    pub fn enter_script(&self) -> &Path {
        &self.enter
    }

    /// The options it was made with.
    #[must_use]
    pub fn config(&self) -> &LabConfig {
        &self.shared.config
    }

    /// All nodes in order of number.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that name.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("lab {} has no node {name}", self.name()))
    }

    /// The machine outside the cluster, on the same LAN, with routes for the service networks via a node.
    #[must_use]
    pub fn outside(&self) -> &Machine {
        &self.outside
    }

    /// The LAN's router, default gateway of nodes and the outside machine. It knows no other network.
    #[must_use]
    pub fn router(&self) -> &Machine {
        &self.router
    }
}

impl Machine {
    fn new(name: &str, netns: Arc<NetNs>, addresses: Pair, shared: &Arc<Shared>) -> Result<Self> {
        let place = Place::new(name, netns, shared.cgroup.join(name), shared.folder.join(name), shared.config.ipv6)?;
        Ok(Self { place, addresses, shared: Arc::clone(shared) })
    }

    /// Its LAN addresses.
    #[must_use]
    pub fn addresses(&self) -> Pair {
        self.addresses
    }

    /// Routes `to` via `via`, replacing a route that is there.
    ///
    /// # Errors
    /// The gateway is not on the LAN.
    pub fn route(&self, to: IpNet, via: std::net::IpAddr) -> Result<()> {
        self.netns().netlink().replace_route(to, via, None, false)
    }

    /// Routes the service networks via the machine with these addresses.
    ///
    /// # Errors
    /// The gateway is not on the LAN.
    pub fn route_services(&self, via: Pair) -> Result<()> {
        self.route(SERVICE_NETWORK.into(), via.v4.addr().into())?;
        if self.shared.config.ipv6 {
            self.route(SERVICE_NETWORK6.into(), via.v6.addr().into())?;
        }
        Ok(())
    }
}

impl Host for Machine {
    fn place(&self) -> &Place {
        &self.place
    }
}

impl Shared {
    fn new(config: LabConfig) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let mut random = [0; 4];
        File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random)).context("read /dev/urandom")?;
        let owner = std::process::id();
        let name = reaper::lab_name(owner, COUNTER.fetch_add(1, Ordering::Relaxed), u32::from_ne_bytes(random));
        let folder = Path::new(LABS_DIR).join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("create {} (are you root?)", folder.display()))?;

        let found = cgroup::find_mount()?;
        let cgroup_mount = found.is_none().then(|| folder.join("cgroup2"));
        let root = found.as_ref().or(cgroup_mount.as_ref()).context("no cgroup v2")?;
        let cgroup = root.join(&name);
        let owner = owner.cast_signed();
        let owner_start = reaper::start_time(owner)?.context("this process has no start time")?;
        Manifest { owner, owner_start, cgroup: cgroup.clone(), cgroup_mount: cgroup_mount.clone() }.write(&name)?;
        // From here on, whatever happens to this process, the lab goes.
        let reaper = Mutex::new(Reaper::start(&name).inspect_err(|_| {
            if let Err(error) = reaper::remove(&name) {
                eprintln!("{error:#}");
            }
        })?);
        let shared = Self { name, config, cgroup, folder, reaper };
        if let Some(point) = &cgroup_mount {
            cgroup::mount_at(point)?;
        }
        cgroup::create(&shared.cgroup)?;
        mount_bpffs()?;
        Ok(shared)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let removed = reaper::remove(&self.name);
        let reaper = self.reaper.get_mut().unwrap_or_else(PoisonError::into_inner);
        for result in [removed, reaper.finish()] {
            if let Err(error) = result {
                crate::complain(&error);
            }
        }
    }
}

/// Connects a namespace to the LAN by a link `eth0` with these addresses, and the router as default gateway.
pub(crate) fn plug_in(
    config: &LabConfig,
    lan: &NetNs,
    bridge: u32,
    port: &str,
    machine: &NetNs,
    addresses: Pair,
    address: [u8; 6],
) -> Result<u32> {
    use std::os::fd::AsFd;
    let own = VethEnd { name: port, netns: None, bridge: Some(bridge), mac: None, mtu: LAN_MTU };
    let peer = VethEnd { name: "eth0", netns: Some(machine.as_fd()), bridge: None, mac: Some(address), mtu: LAN_MTU };
    lan.netlink().add_veth(own, peer)?;
    let netlink = machine.netlink();
    netlink.set_up("eth0", true)?;
    let eth0 = netlink.index("eth0")?;
    for address in addresses.nets(config.ipv6) {
        netlink.add_address(eth0, address)?;
        let router = config::router().like(address);
        netlink.replace_route(default_route(router), router, Some(eth0), false)?;
    }
    Ok(eth0)
}

/// Whether this kernel can pass bridged frames to netfilter (br_netfilter is built in or loaded).
#[must_use]
pub fn has_bridge_netfilter() -> bool {
    Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
}

/// Settings of every machine: addresses usable at once, nothing learned from router advertisements.
pub(crate) fn machine_settings(config: &LabConfig) -> Vec<(&'static str, &'static str)> {
    if config.ipv6 {
        vec![
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/all/accept_ra", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
        ]
    } else if Path::new("/proc/sys/net/ipv6").exists() {
        vec![("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")]
    } else {
        Vec::new()
    }
}

fn lan_settings(config: &LabConfig) -> Vec<(&'static str, &'static str)> {
    let mut settings = machine_settings(config);
    settings.push(("ipv4/ip_forward", "1"));
    if config.ipv6 {
        settings.push(("ipv6/conf/all/forwarding", "1"));
    }
    if has_bridge_netfilter() {
        // The LAN is a switch: nothing looks into its frames.
        settings.push(("bridge/bridge-nf-call-iptables", "0"));
        settings.push(("bridge/bridge-nf-call-ip6tables", "0"));
        settings.push(("bridge/bridge-nf-call-arptables", "0"));
    }
    settings
}

/// Mounts bpffs at its usual place if nothing is there. It stays: it is the machine's, not the lab's.
fn mount_bpffs() -> Result<()> {
    let kind = statfs(BPFFS).with_context(|| format!("look at {BPFFS}"))?.filesystem_type();
    if kind == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount bpffs at {BPFFS}"))
}
