//! A small Kubernetes-like network on one kernel, for tests and the demo: nodes, pods and an outside machine as network
//! namespaces, each node with a cgroup and a bpffs folder of its own.
//!
//! Everything is a value that removes itself when dropped, and a reaper process removes what is left when its owner
//! is killed. Several labs live side by side. Nothing here touches an interface, a cgroup or a namespace that it did
//! not make.

mod agent;
pub mod api_server;
pub mod apps;
mod cgroup;
pub mod command;
pub mod config;
mod enter;
mod folder;
pub mod kubernetes;
mod lab;
pub mod netlink;
mod netns;
mod nft;
mod node;
pub mod objects;
pub mod patience;
pub mod peer;
mod place;
mod pod;
mod process;
mod reaper;

pub use agent::Agent;
pub use command::{Command, Output};
pub use config::{LabConfig, Network, Pair};
pub use folder::Folder;
pub use lab::{Lab, Machine, has_bridge_netfilter};
pub use netns::{NETNS_DIR, NetNs};
pub use node::{BRIDGE, Node};
pub use peer::{Peer, Pending};
pub use place::{Host, Place};
pub use pod::Pod;
pub use process::Process;
pub use reaper::{remove, sweep_dead};

/// A clean-up that failed: a panic, so that no test passes over it, but not on top of another one.
pub(crate) fn complain(error: &anyhow::Error) {
    let text = format!("lab: {error:#}");
    if std::thread::panicking() { eprintln!("{text}") } else { panic!("{text}") }
}
