//! The node's links, addresses and default routes, followed over netlink in the agent's own network namespace, and what
//! follows from them: which link is a pod link, uplink or overlay, the `devs` table, the node's addresses.
//! Only `follower`, `bridge_nf` and `sock_diag` do I/O, the rest is pure. It never changes a link, address or route, and
//! never attaches a program (that is `loader`).
//!
//! ```text
//! netlink ─► follower ─► links::Table ─► topology ─► changes for loader (attach, detach) and maps (devs, node_addrs)
//!                                        └ classify, devs, addresses
//! ```

mod addresses;
mod bridge_nf;
mod classify;
mod devs;
mod follower;
mod glob;
mod links;
mod routes;
pub mod sock_diag;
#[cfg(test)]
mod test_table;
mod topology;

pub use self::{
    addresses::node_addresses,
    bridge_nf::BridgeNetfilter,
    classify::{Classified, ClassifyOptions, LinkKind, LinkRole, Patterns, classify},
    devs::devs,
    follower::{Follower, FollowerError, NetEvent},
    glob::{Glob, GlobError},
    links::{Address, Effect, Layer, Link, Table},
    topology::{Topology, TopologyChanges},
};
