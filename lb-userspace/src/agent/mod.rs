//! The daemon: joins sources of objects, the plan, the maps, the loader and the node's links in one loop.
//!
//! ```text
//! files, or the API server ──► planner ──► tables ──► pinned maps
//! netlink ─► topology ─► loader (attach), devs, node addresses ─► planner
//! api, health, metrics ◄── ask the loop, and have it verify; never write to it
//! ```
//! One task owns all state ([`run`]); what waits or serves runs beside it and talks to it by messages.

mod addresses;
mod answers;
mod api;
mod audit;
mod changes;
mod cluster;
mod config;
mod events;
mod files;
mod filter;
mod health;
mod health_checks;
mod histogram;
mod http;
mod links;
mod memory;
mod metrics;
mod own_node;
mod recall;
mod removal;
mod retry;
mod run;
mod serve;
mod settings_error;
mod skip_rules;
mod skip_scan;
mod skips;
mod snapshot;
mod sources;
mod stale;
mod state;
mod status;
mod syncs;
mod values;
mod verify;
mod watch;
mod xdp;

pub use api::{ApiAnswer, ApiHealthCheck, ApiLink, ApiSnapshot, ApiVerdict, ApiXdp, ask, verify};
pub use config::{AgentArgs, DEFAULT_API_SOCKET, DEFAULT_BPFFS, Settings};
pub use run::run;
pub use settings_error::SettingsError;
pub use skip_rules::{CgroupGlob, Listed, NetnsName, SkipRules};
pub use snapshot::remove_snapshot;
pub use values::{
    DatapathLog, Forwarding, Globs, Listen, LocalPath, LogFormat, LogLevel, NodeAddress, OnOff, PodDelivery,
    PortAddresses, SocketLb, TableSize, Tc,
};
