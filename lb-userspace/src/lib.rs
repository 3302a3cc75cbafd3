//! berrylb's agent and command line.
//!
//! Data goes one way: `k8s` (objects) → `model` → `plan` (desired state) → `maps` (diff, operations, stores).
//! `loader` and `net` bring the BPF programs to the links; `agent` is the daemon that joins them; `cli` is the rest.

pub mod agent;
mod chain;
pub mod cli;
mod clock;
pub mod k8s;
pub mod loader;
pub mod maps;
pub mod model;
pub mod net;
pub mod plan;
