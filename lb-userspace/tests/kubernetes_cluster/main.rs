//! The agent beside a real Kubernetes control plane: its API server, its controllers, kubectl; and pods of the lab. As root.
//!
//! `BERRYLB_KUBERNETES` names the folder with etcd, kube-apiserver, kube-controller-manager and kubectl;
//! `cargo xtask test kubernetes` tells more.

mod cluster;
mod kinds;
mod server;
mod story;
