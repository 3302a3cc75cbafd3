//! The agent's settings: flags over environment over config file, then the defaults.
//!
//! One struct is both the command line and the config file, so that no setting exists in one of them only.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use lb_common::abi::{map, socket_lb};
use serde::Deserialize;

use super::{
    settings_error::SettingsError,
    skip_rules::{CgroupGlob, Listed, NetnsName, SkipRules},
    values::{
        Cidrs, DatapathLog, Forwarding, Globs, Listen, LocalPath, LogFormat, LogLevel, NodeAddress, OnOff, PodDelivery,
        PortAddresses, SocketLb, TableSize, Tc, node_addresses,
    },
};

use crate::{
    k8s::watch::{Access, Hints},
    loader::TcHook,
    maps::{Capacities, MaglevSize},
    net::{Glob, XdpMode},
    plan::{NodePortAddresses, state::Algorithm},
};

/// Run the node's agent: follow Services and links, keep the datapath as they say.
///
/// Every flag is also a key of the config file (without the dashes in front) and a variable BERRYLB_… in the
/// environment; flags win over the environment, the environment over the file.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[command(
    after_help = "Example:\n  berrylb agent --kubeconfig /etc/berrylb/kubeconfig --node-name raspi002\n  berrylb agent --from \
                  /etc/berrylb/services --node-name raspi002 --node-address 192.168.1.12"
)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AgentArgs {
    /// YAML file with any of these settings.
    #[arg(long, env = "BERRYLB_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Folder or file with Kubernetes objects; watched; repeatable, later objects win.
    #[arg(long, env = "BERRYLB_FROM", value_name = "PATH", value_delimiter = ',')]
    pub from: Option<Vec<PathBuf>>,
    /// Kubeconfig to reach the API server by, in place of --from. Default: what a pod of the cluster finds.
    #[arg(long, env = "BERRYLB_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, in place of the kubeconfig's or of the one that a pod is told. That one is a Service, which
    /// nobody serves before this agent does: name the server itself, unless kube-proxy runs.
    #[arg(long, env = "BERRYLB_API_SERVER", value_name = "URL")]
    pub api_server: Option<String>,
    /// Kubeconfig of this node's kubelet, of which only the server counts: an agent in a pod asks there first, with its own
    /// ServiceAccount, and only then at the Service that a pod is told. Default: none.
    #[arg(long, env = "BERRYLB_NODE_KUBECONFIG", value_name = "PATH")]
    pub node_kubeconfig: Option<PathBuf>,
    /// This node's name in the cluster. Default with an API server: the host's name.
    #[arg(long, env = "BERRYLB_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address that node ports listen on; repeatable. Default: those of the Node object, else of the node's links.
    #[arg(long, env = "BERRYLB_NODE_ADDRESS", value_name = "IP", value_delimiter = ',')]
    pub node_address: Option<Vec<NodeAddress>>,
    /// On which of the node's addresses node ports listen: primary (the first of each family), all (every address of
    /// every link), and ranges, separated by commas. Default: on those of --node-address.
    #[arg(long, env = "BERRYLB_NODEPORT_ADDRESSES", value_name = "WHICH")]
    pub nodeport_addresses: Option<PortAddresses>,
    /// Cluster IPs answer what comes from outside, too. Default: false, such packets are dropped.
    #[arg(long, env = "BERRYLB_ALLOW_EXTERNAL_CLUSTER_IP", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub allow_external_cluster_ip: Option<bool>,
    /// This node's zone. Default: the label of its Node object.
    #[arg(long, env = "BERRYLB_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,
    /// Serve node ports on the node's loopback addresses, for the node itself. Default: true.
    #[arg(long, env = "BERRYLB_LOCALHOST_NODEPORTS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub localhost_nodeports: Option<bool>,
    /// Hold node ports to loadBalancerSourceRanges, too. Default: false.
    #[arg(long, env = "BERRYLB_SOURCE_RANGES_NODEPORT", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub source_ranges_nodeport: Option<bool>,
    /// How backends are chosen for Services that do not say so by annotation: random or maglev. Default: random.
    #[arg(long, env = "BERRYLB_ALGORITHM", value_name = "ALGORITHM")]
    pub algorithm: Option<Algorithm>,
    /// Slots of a Maglev table, a prime: 251, 509, 1021, 2039, 4093, 8191, 16381, 32749 or 65521. Equal on all nodes.
    /// Default: 2039.
    #[arg(long, env = "BERRYLB_MAGLEV_TABLE_SIZE", value_name = "M")]
    pub maglev_table_size: Option<TableSize>,
    /// Folder on a bpffs for this agent's maps and links. Default: /sys/fs/bpf/berrylb.
    #[arg(long, env = "BERRYLB_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// cgroup v2 folder whose sockets are served. Default: the root of the hierarchy.
    #[arg(long, env = "BERRYLB_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Names of pod links, with * and ?. Default: detected.
    #[arg(long, env = "BERRYLB_POD_LINKS", value_name = "GLOB,…")]
    pub pod_links: Option<Globs>,
    /// Names of devices that leave the node. Default: detected.
    #[arg(long, env = "BERRYLB_UPLINKS", value_name = "GLOB,…")]
    pub uplinks: Option<Globs>,
    /// Names of devices towards other nodes' pods. Default: detected.
    #[arg(long, env = "BERRYLB_OVERLAYS", value_name = "GLOB,…")]
    pub overlays: Option<Globs>,
    /// Networks of all pods. Default: found by the routes to other nodes' pods.
    #[arg(long, env = "BERRYLB_CLUSTER_CIDR", value_name = "CIDR,…")]
    pub cluster_cidr: Option<Cidrs>,
    /// XDP on uplinks, beside tc: auto (in the drivers of hardware that take it), native (virtual devices as well),
    /// generic (in the stack) or off. Default: auto.
    #[arg(long, env = "BERRYLB_XDP", value_name = "MODE")]
    pub xdp: Option<XdpMode>,
    /// What is translated in sockets: tcp,udp or tcp or off; the rest of the pods' traffic takes the packet path, the
    /// node's own has none. Default: tcp,udp.
    #[arg(long, env = "BERRYLB_SOCKET_LB", value_name = "WHAT")]
    pub socket_lb: Option<SocketLb>,
    /// cgroups below --cgroup whose sockets are left to the packet path, with everything beneath them: a pattern for
    /// each level, with * and ?. Default: none.
    #[arg(long, env = "BERRYLB_SOCKET_LB_SKIP_CGROUPS", value_name = "GLOB,…")]
    pub socket_lb_skip_cgroups: Option<Listed<CgroupGlob>>,
    /// Network namespaces whose sockets are left to the packet path: names in /run/netns or paths, the last name with *
    /// and ?. Default: none.
    #[arg(long, env = "BERRYLB_SOCKET_LB_SKIP_NETNS", value_name = "NAME,…")]
    pub socket_lb_skip_netns: Option<Listed<NetnsName>>,
    /// The packet path on pod links: on or off. Default: on.
    #[arg(long, env = "BERRYLB_PACKET_PATH", value_name = "WHAT")]
    pub packet_path: Option<OnOff>,
    /// Way of flows to a backend on the client's own bridge: redirect (past the host's netfilter), stack (needs
    /// bridge-nf-call-iptables=1 where conntrack rules look), or auto (stack where that is 1). Default: auto.
    #[arg(long, env = "BERRYLB_LOCAL_PATH", value_name = "WAY")]
    pub local_path: Option<LocalPath>,
    /// How packets of a Service get to a pod of this node: bridge (as all others), link (by its link, past the bridge) or
    /// direct (into its network namespace, past queueing, tc programs and captures on its link). Default: link.
    #[arg(long, env = "BERRYLB_POD_DELIVERY", value_name = "HOW")]
    pub pod_delivery: Option<PodDelivery>,
    /// How packets from outside get to backends on other nodes: snat (with an address of this node as source; replies
    /// come back through it) or dsr (unchanged; the backend's node translates, and replies go straight out). Default: snat.
    #[arg(long, env = "BERRYLB_FORWARDING", value_name = "HOW")]
    pub forwarding: Option<Forwarding>,
    /// How tc programs are attached: auto, tcx or clsact. Default: auto (tcx from Linux 6.6).
    #[arg(long, env = "BERRYLB_TC", value_name = "HOOK")]
    pub tc: Option<Tc>,
    /// Address of /healthz and /livez, or off. Default: 0.0.0.0:10256.
    #[arg(long, env = "BERRYLB_HEALTHZ", value_name = "ADDR")]
    pub healthz: Option<Listen>,
    /// Address of /metrics, or off. Default: 127.0.0.1:10249.
    #[arg(long, env = "BERRYLB_METRICS", value_name = "ADDR")]
    pub metrics: Option<Listen>,
    /// Socket that the other commands ask for names. Default: /run/berrylb/agent.sock.
    #[arg(long, env = "BERRYLB_API_SOCKET", value_name = "PATH")]
    pub api_socket: Option<PathBuf>,
    /// Events on Services about what their owners should know, if objects come from an API server: on or off. Default: on.
    #[arg(long, env = "BERRYLB_EVENTS", value_name = "WHAT")]
    pub events: Option<OnOff>,
    /// error, warn, info, debug or trace, or a tracing filter. Default: info.
    #[arg(long, env = "BERRYLB_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// text or json. Default: text.
    #[arg(long, env = "BERRYLB_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Debug log of the BPF programs, at this level: error to trace. Costs speed. Default: none.
    #[arg(long, env = "BERRYLB_DATAPATH_LOG", value_name = "LEVEL")]
    pub datapath_log: Option<DatapathLog>,
    /// Seconds after the first start on a node in which TCP without a flow passes instead of being dropped, for
    /// connections that kube-proxy translated before. Default: 0.
    #[arg(long, env = "BERRYLB_GRACE_SECONDS", value_name = "S")]
    pub grace_seconds: Option<u32>,
    /// Seconds between looks at whether maps, programs and pins are as they should be; what differs is mended. 0: never.
    /// Default: 300.
    #[arg(long, env = "BERRYLB_AUDIT_INTERVAL", value_name = "S")]
    pub audit_interval: Option<u32>,
    /// Folder for a snapshot of the objects of the API server, by which a node that boots while the server is away serves.
    /// Default: none.
    #[arg(long, env = "BERRYLB_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Seconds between writes of the snapshot, at least; it is only written after a change. Default: 60.
    #[arg(long, env = "BERRYLB_STATE_INTERVAL", value_name = "S")]
    pub state_interval: Option<u32>,
    /// Most frontends. Default: 4096.
    #[arg(long, env = "BERRYLB_MAX_SERVICES", value_name = "N")]
    pub max_services: Option<u32>,
    /// Most backend sets. Default: 2048.
    #[arg(long, env = "BERRYLB_MAX_BACKEND_SETS", value_name = "N")]
    pub max_backend_sets: Option<u32>,
    /// Most slots of all backend sets. Default: 8192, and room for 64 Maglev tables with --algorithm maglev.
    #[arg(long, env = "BERRYLB_MAX_SLOTS", value_name = "N")]
    pub max_slots: Option<u32>,
    /// Most endpoints. Default: 4096.
    #[arg(long, env = "BERRYLB_MAX_BACKENDS", value_name = "N")]
    pub max_backends: Option<u32>,
    /// Entries of the flow table; a flow takes two. Default: 8192.
    #[arg(long, env = "BERRYLB_MAX_FLOWS", value_name = "N")]
    pub max_flows: Option<u32>,
    /// Entries of the table of flows that are not established; a flow takes two. Default: 4096.
    #[arg(long, env = "BERRYLB_MAX_EMBRYOS", value_name = "N")]
    pub max_embryos: Option<u32>,
    /// Datagrams whose fragments are being translated. Default: 768.
    #[arg(long, env = "BERRYLB_MAX_FRAGMENTS", value_name = "N")]
    pub max_fragments: Option<u32>,
    /// Translated sockets that are remembered. Default: 4096.
    #[arg(long, env = "BERRYLB_MAX_SOCKETS", value_name = "N")]
    pub max_sockets: Option<u32>,
    /// Clients with session affinity. Default: 2048.
    #[arg(long, env = "BERRYLB_MAX_AFFINITY", value_name = "N")]
    pub max_affinity: Option<u32>,
    /// Source ranges. Default: 2048.
    #[arg(long, env = "BERRYLB_MAX_SOURCE_RANGES", value_name = "N")]
    pub max_source_ranges: Option<u32>,
    /// Addresses of frontends and of this node. Default: half of --max-services, and 256.
    #[arg(long, env = "BERRYLB_MAX_ADDRESSES", value_name = "N")]
    pub max_addresses: Option<u32>,
    /// Networks of other nodes' pods. Default: 512.
    #[arg(long, env = "BERRYLB_MAX_POD_NETWORKS", value_name = "N")]
    pub max_pod_networks: Option<u32>,
    /// Devices that programs are attached to. Default: 512.
    #[arg(long, env = "BERRYLB_MAX_DEVICES", value_name = "N")]
    pub max_devices: Option<u32>,
}

/// Resolved settings.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is the flag of the same name, documented there")]
pub struct Settings {
    pub from: Vec<PathBuf>,
    /// The way to the API server; none with `--from`.
    pub access: Option<Access>,
    pub node_name: String,
    pub node_address: Option<Vec<IpAddr>>,
    pub nodeport_addresses: Option<NodePortAddresses>,
    pub allow_external_cluster_ip: bool,
    pub zone: Option<String>,
    pub localhost_nodeports: bool,
    pub source_ranges_nodeport: bool,
    pub algorithm: Algorithm,
    pub maglev_table_size: MaglevSize,
    pub bpffs: PathBuf,
    pub cgroup: Option<PathBuf>,
    pub pod_links: Option<Vec<Glob>>,
    pub uplinks: Option<Vec<Glob>>,
    pub overlays: Option<Vec<Glob>>,
    pub cluster_cidr: Vec<IpNet>,
    pub xdp: XdpMode,
    /// [`socket_lb`] bits.
    pub socket_lb: u8,
    /// `--socket-lb-skip-cgroups` and `--socket-lb-skip-netns`.
    pub skip_rules: SkipRules,
    pub packet_path: bool,
    pub local_path: LocalPath,
    pub pod_delivery: PodDelivery,
    pub forwarding: Forwarding,
    pub tc: Option<TcHook>,
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub api_socket: PathBuf,
    pub events: bool,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    pub datapath_log: Option<tracing::Level>,
    pub grace_seconds: u32,
    /// Seconds; 0: never.
    pub audit_interval: u32,
    pub state_dir: Option<PathBuf>,
    /// Seconds.
    pub state_interval: u32,
    pub capacities: Capacities,
}

/// Default of `--bpffs`.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/berrylb";
/// Default of `--api-socket`.
pub const DEFAULT_API_SOCKET: &str = "/run/berrylb/agent.sock";

/// Default of `--audit-interval`, in seconds.
const DEFAULT_AUDIT_INTERVAL: u32 = 300;
/// Default of `--state-interval`, in seconds.
const DEFAULT_STATE_INTERVAL: u32 = 60;

/// Maglev tables that the default of `--max-slots` has room for if Maglev is the default algorithm.
const DEFAULT_TABLES: u32 = 64;

macro_rules! or_file {
    ($flags:ident, $file:ident, { $($field:ident),+ $(,)? }) => {{
        // Taken apart whole, so that no setting is forgotten.
        let AgentArgs { config, $($field),+ } = $flags;
        AgentArgs { config, $($field: $field.or($file.$field)),+ }
    }};
}

impl AgentArgs {
    /// Adds the config file and the defaults.
    ///
    /// # Errors
    /// If the config file is no good or a setting is missing.
    pub fn settle(self) -> Result<Settings, SettingsError> {
        let flags = self;
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None => Self::default(),
        };
        let merged = or_file!(flags, file, {
            from, kubeconfig, api_server, node_kubeconfig, node_name, node_address, nodeport_addresses, allow_external_cluster_ip, zone, localhost_nodeports,
            source_ranges_nodeport, algorithm, maglev_table_size, bpffs, cgroup, pod_links, uplinks, overlays,
            cluster_cidr, xdp, socket_lb, socket_lb_skip_cgroups, socket_lb_skip_netns, packet_path, local_path, pod_delivery, forwarding, tc,
            healthz, metrics, api_socket, events, log_level, log_format,
            datapath_log, grace_seconds, audit_interval, state_dir, state_interval, max_services, max_backend_sets, max_slots, max_backends, max_flows,
            max_embryos, max_fragments, max_sockets, max_affinity, max_source_ranges, max_addresses, max_pod_networks, max_devices,
        });
        merged.with_defaults()
    }

    fn with_defaults(self) -> Result<Settings, SettingsError> {
        let defaults = Capacities::DEFAULT;
        let services = self.max_services.unwrap_or(defaults.services);
        let algorithm = self.algorithm.unwrap_or_default();
        let maglev_table_size = self.maglev_table_size.map_or(MaglevSize::DEFAULT, |size| size.0);
        let tables = match algorithm {
            Algorithm::Random => 0,
            Algorithm::Maglev => DEFAULT_TABLES * u32::from(maglev_table_size.get()),
        };
        let capacities = Capacities {
            services,
            svc_state: self.max_backend_sets.unwrap_or(defaults.svc_state),
            slots: self.max_slots.unwrap_or(defaults.slots + tables),
            backends: self.max_backends.unwrap_or(defaults.backends),
            flows: self.max_flows.unwrap_or(defaults.flows),
            embryos: self.max_embryos.unwrap_or(defaults.embryos),
            frags: self.max_fragments.unwrap_or(defaults.frags),
            sock_revnat: self.max_sockets.unwrap_or(defaults.sock_revnat),
            affinity: self.max_affinity.unwrap_or(defaults.affinity),
            source_ranges: self.max_source_ranges.unwrap_or(defaults.source_ranges),
            addrs: self.max_addresses.unwrap_or_else(|| Capacities::addrs_for(services)),
            pod_nets: self.max_pod_networks.unwrap_or(defaults.pod_nets),
            devs: self.max_devices.unwrap_or(defaults.devs),
        };
        let empty = map::ALL.into_iter().filter(|name| capacities.of(name) == Some(0)).find_map(Capacities::flag);
        if let Some(flag) = empty {
            return Err(SettingsError::OutOfReach(format!("{flag} 0: a table has room for one entry at least")));
        }
        let from = self.from.unwrap_or_default();
        let server = self.kubeconfig.is_some() || self.node_kubeconfig.is_some() || self.api_server.is_some();
        let access = match (from.is_empty(), server) {
            (true, _) => {
                let hints = Hints {
                    kubeconfig: self.kubeconfig,
                    server: self.api_server.as_deref(),
                    node_kubeconfig: self.node_kubeconfig,
                };
                Some(Access::new(hints, |name| std::env::var(name).ok())?)
            }
            (false, false) => None,
            (false, true) => {
                let text = "objects come from files or from an API server: give --from, or one of --kubeconfig, \
                            --node-kubeconfig and --api-server";
                return Err(SettingsError::OutOfReach(text.into()));
            }
        };
        let node_name = match self.node_name {
            Some(name) if !name.is_empty() || access.is_none() => name,
            None if access.is_none() => String::new(),
            Some(_) | None => host_name().map_err(SettingsError::HostName)?,
        };
        let skip_rules = SkipRules {
            cgroups: self.socket_lb_skip_cgroups.map(|list| list.0).unwrap_or_default(),
            netns: self.socket_lb_skip_netns.map(|list| list.0).unwrap_or_default(),
        };
        if let Err(error) = skip_rules.depths() {
            return Err(SettingsError::OutOfReach(error));
        }
        let listen = |given: Option<Listen>, default: ([u8; 4], u16)| match given {
            Some(Listen::Off) => None,
            Some(Listen::At(addr)) => Some(addr),
            None => Some(SocketAddr::from(default)),
        };
        Ok(Settings {
            from,
            access,
            node_name,
            node_address: node_addresses(self.node_address),
            nodeport_addresses: self.nodeport_addresses.map(|choice| choice.0),
            allow_external_cluster_ip: self.allow_external_cluster_ip.unwrap_or(false),
            zone: self.zone,
            localhost_nodeports: self.localhost_nodeports.unwrap_or(true),
            source_ranges_nodeport: self.source_ranges_nodeport.unwrap_or(false),
            algorithm,
            maglev_table_size,
            bpffs: self.bpffs.unwrap_or_else(|| DEFAULT_BPFFS.into()),
            cgroup: self.cgroup,
            pod_links: self.pod_links.map(|globs| globs.0),
            uplinks: self.uplinks.map(|globs| globs.0),
            overlays: self.overlays.map(|globs| globs.0),
            cluster_cidr: self.cluster_cidr.map(|cidrs| cidrs.0).unwrap_or_default(),
            xdp: self.xdp.unwrap_or_default(),
            socket_lb: self.socket_lb.unwrap_or(SocketLb(socket_lb::TCP | socket_lb::UDP)).0,
            skip_rules,
            packet_path: self.packet_path != Some(OnOff::Off),
            local_path: self.local_path.unwrap_or(LocalPath::Auto),
            pod_delivery: self.pod_delivery.unwrap_or(PodDelivery::Link),
            forwarding: self.forwarding.unwrap_or(Forwarding::Snat),
            tc: match self.tc.unwrap_or(Tc::Auto) {
                Tc::Auto => None,
                Tc::Tcx => Some(TcHook::Tcx),
                Tc::Clsact => Some(TcHook::Clsact),
            },
            healthz: listen(self.healthz, ([0, 0, 0, 0], 10256)),
            metrics: listen(self.metrics, ([127, 0, 0, 1], 10249)),
            api_socket: self.api_socket.unwrap_or_else(|| DEFAULT_API_SOCKET.into()),
            events: self.events != Some(OnOff::Off),
            log_level: self.log_level.unwrap_or_else(|| LogLevel("info".into())),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            datapath_log: self.datapath_log.map(|log| log.0),
            grace_seconds: self.grace_seconds.unwrap_or(0),
            audit_interval: self.audit_interval.unwrap_or(DEFAULT_AUDIT_INTERVAL),
            state_dir: self.state_dir.filter(|dir| !dir.as_os_str().is_empty()),
            state_interval: self.state_interval.unwrap_or(DEFAULT_STATE_INTERVAL),
            capacities,
        })
    }
}

/// The host's name as the kubelet makes a node's of it: in lower case.
fn host_name() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_lowercase())
}

fn read_file(path: &Path) -> Result<AgentArgs, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|error| SettingsError::Unreadable { path: path.into(), error })?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(AgentArgs::default());
    }
    // A picture of the place would say the cause a second time: for an unknown key, the list of all keys.
    let plain = serde_yaml::options! { with_snippet: false };
    serde_yaml::from_str_with_options(&text, plain)
        .map_err(|error| SettingsError::Invalid { path: path.into(), error: error.to_string() })
}
