//! Agents on the nodes of a lab, and real traffic through them: what the kernel does with real sockets, links and
//! clocks, which the tests of the parts can only assume. Every state that a test makes is also compared as
//! `berrylb plan` against `berrylb dump`, byte for byte.
//!
//! It needs root; without, each test fails when it makes its lab. Labs never meet, so tests may run side by side.

mod affinity;
mod api;
mod changes;
mod commands;
mod delivery;
mod dsr;
mod events;
mod exposition;
mod files;
mod filter;
mod hairpin;
mod health_checks;
mod kube_proxy;
mod links;
mod local_path;
mod localhost;
mod masked;
mod metrics;
mod node_addresses;
mod process;
mod removal;
mod restart;
mod rules;
mod scaling;
mod selection;
mod skips;
mod snapshot;
mod sockets;
mod stale;
mod story;
mod verify;
mod world;
mod xdp;
