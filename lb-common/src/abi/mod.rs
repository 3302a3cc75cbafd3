//! The map ABI: keys, values, names and sizes of every pinned map.
//!
//! All types are `repr(C)` without padding (the `IntoBytes` derive refuses any), hold no `bool`, `enum` or `Option`,
//! and keep addresses and ports in network byte order. A change of any layout here needs a new [`VERSION`]:
//! the kernel reuses a pinned map without comparing its types.

mod filter;
mod flow;
mod net;
mod service;
mod sock;
mod tables;

pub use filter::*;
pub use flow::*;
pub use net::*;
pub use service::*;
pub use sock::*;
pub use tables::*;

/// Version of the map layouts. It names the pin folder (`…/v5/`), so two versions never share a map.
pub const VERSION: u32 = 5;

/// Names of the pinned maps, at most 15 characters each (the kernel's `BPF_OBJ_NAME_LEN` minus the NUL).
pub mod map {
    /// [`super::ServiceKey`] → [`super::ServiceRef`].
    pub const SERVICES: &str = "services";
    /// Service index → [`super::ServiceState`]; memory-mapped by the agent.
    pub const SVC_STATE: &str = "svc_state";
    /// Slot → backend id (u32); memory-mapped by the agent.
    pub const SLOTS: &str = "slots";
    /// Backend id → [`super::Backend`].
    pub const BACKENDS: &str = "backends";
    /// [`super::Tuple`] → [`super::Flow`]: flows that were answered.
    pub const FLOWS: &str = "flows";
    /// [`super::Tuple`] → [`super::Flow`]: flows that are not established, so that a flood evicts only its own kind.
    pub const EMBRYOS: &str = "embryos";
    /// [`super::Tuple`] with a fragment's identification in place of the ports → [`super::Flow`]: how the later fragments
    /// of a datagram are translated.
    pub const FRAGS: &str = "frags";
    /// Index 0 → [`super::FlowFilter`]: which keys are in neither `flows` nor `embryos`; memory-mapped by the agent.
    pub const FLOW_FILTER: &str = "flow_filter";
    /// [`super::SockKey`] → [`super::SockEntry`].
    pub const SOCK_REVNAT: &str = "sock_revnat";
    /// [`super::SkipKey`] → 1.
    pub const SKIPS: &str = "skips";
    /// [`super::AffinityKey`] → [`super::AffinityEntry`].
    pub const AFFINITY: &str = "affinity";
    /// [`super::RangeKey`] behind a prefix length → 1.
    pub const SOURCE_RANGES: &str = "source_ranges";
    /// [`super::Addr`] → [`super::AddrInfo`].
    pub const ADDRS: &str = "addrs";
    /// [`super::Addr`] behind a prefix length in bits → 1: the pod networks of other nodes.
    pub const POD_NETS: &str = "pod_nets";
    /// Interface index → [`super::Dev`].
    pub const DEVS: &str = "devs";
    /// Index 0 → [`super::Config`].
    pub const CONFIG: &str = "config";
    /// Index 0 → [`super::mark`] bits.
    pub const MARKS: &str = "marks";
    /// [`super::Counter`] → u64 per CPU.
    pub const COUNTERS: &str = "counters";
    /// Backend id → [`super::BackendCell`] per CPU.
    pub const SVC_COUNTERS: &str = "svc_counters";

    /// Every map that is pinned.
    pub const ALL: [&str; 19] = [
        SERVICES,
        SVC_STATE,
        SLOTS,
        BACKENDS,
        FLOWS,
        EMBRYOS,
        FRAGS,
        FLOW_FILTER,
        SOCK_REVNAT,
        SKIPS,
        AFFINITY,
        SOURCE_RANGES,
        ADDRS,
        POD_NETS,
        DEVS,
        CONFIG,
        MARKS,
        COUNTERS,
        SVC_COUNTERS,
    ];
}

/// Names of the programs in the object, which are also the names of their pinned links.
pub mod program {
    /// tc, ingress of a pod link.
    pub const POD_INGRESS: &str = "pod_ingress";
    /// tc, egress of a pod link.
    pub const POD_EGRESS: &str = "pod_egress";
    /// tc, ingress of an uplink or overlay with an Ethernet header.
    pub const UPLINK_INGRESS: &str = "uplink_ingress";
    /// tc, ingress of an uplink or overlay without a link-layer header (wireguard, ipip, tun).
    pub const UPLINK_L3: &str = "uplink_l3";
    /// tc, egress of an uplink or overlay with an Ethernet header.
    pub const UPLINK_EGRESS: &str = "uplink_egress";
    /// tc, egress of an uplink or overlay without a link-layer header.
    pub const UPLINK_L3_OUT: &str = "uplink_l3_out";
    /// XDP, on uplinks whose driver runs it.
    pub const UPLINK_XDP: &str = "uplink_xdp";
    /// Every cgroup socket-address program, by the name of its hook.
    pub const SOCKET: [&str; 8] =
        ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];
    /// Every tc program.
    pub const TC: [&str; 6] = [POD_INGRESS, POD_EGRESS, UPLINK_INGRESS, UPLINK_EGRESS, UPLINK_L3, UPLINK_L3_OUT];
}

/// Names of the read-only globals that the loader sets before the programs are verified; the verifier then removes
/// what they switch off.
pub mod global {
    /// u64: the cookie of the agent's own network namespace; a socket with another cookie belongs to a pod.
    pub const HOST_NETNS: &str = "HOST_NETNS";
    /// u8: [`super::socket_lb`] bits.
    pub const SOCKET_LB: &str = "SOCKET_LB";
    /// u8: 1 where `bpf_set_retval` exists (Linux 5.18).
    pub const HAS_SET_RETVAL: &str = "HAS_SET_RETVAL";
    /// u8: 1 where `bpf_ktime_get_coarse_ns` exists (Linux 5.11).
    pub const HAS_COARSE_CLOCK: &str = "HAS_COARSE_CLOCK";
    /// u32: bit n is set if `skips` may hold cgroups of level n below the hierarchy's root, which is level 0.
    pub const SKIP_CGROUPS: &str = "SKIP_CGROUPS";
    /// u8: 1 if `skips` may hold network namespaces.
    pub const SKIP_NETNS: &str = "SKIP_NETNS";
    /// u8: 0 if all of `devs` have [`super::delivery::BRIDGE`].
    pub const DELIVERS: &str = "DELIVERS";
    /// u8: aya-log's level; 0 switches datapath logging off and out of the program.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}

/// Bits of the global [`global::SOCKET_LB`]: what the socket hooks translate.
pub mod socket_lb {
    /// TCP connects.
    pub const TCP: u8 = 1;
    /// UDP, connected (host only) and unconnected.
    pub const UDP: u8 = 2;
}
