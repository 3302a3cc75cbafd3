//! The node's links, addresses and routes, followed over netlink in the agent's own network namespace, and what
//! follows from them: which link is a pod link, uplink or overlay, the `devs` table, the node's addresses, other nodes' pod networks.
//! Only `follower`, `bridge_nf` and `sock_diag` do I/O, the rest is pure. It never changes a link, address or route, and
//! never attaches a program (that is `loader`).
//!
//! ```text
//! netlink ─► follower ─► links::Table ─► topology ─► changes for loader (attach, detach) and maps (devs, addrs, pod_nets)
//!                                        └ classify, devs, addresses, pod_nets
//! ```

mod addresses;
mod bridge_nf;
mod classify;
mod devs;
mod follower;
mod glob;
mod links;
mod pod_nets;
mod routes;
pub mod sock_diag;
#[cfg(test)]
mod test_table;
mod topology;
mod xdp;

pub use self::{
    addresses::node_addresses,
    bridge_nf::BridgeNetfilter,
    classify::{Classified, ClassifyOptions, LinkKind, LinkRole, Patterns, classify},
    devs::{PodGateway, devs, pod_gateway},
    follower::{Follower, FollowerError, NetEvent},
    glob::{Glob, GlobError},
    links::{Address, Effect, Layer, Link, Table},
    pod_nets::{pod_nets, spans_ipv4},
    routes::Route,
    topology::{Topology, TopologyChanges},
    xdp::{XdpMode, XdpPlan},
};
