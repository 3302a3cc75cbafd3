//! The container image on a node, as the DaemonSets in `manifests/` run it: unpacked by other people's tools, run by runc with
//! the mounts, capabilities, environment and namespaces that a kubelet makes of the manifest. As root.
//!
//! The image is the one that `BERRYLB_IMAGE` names; `cargo xtask test image` makes it.

mod container;
mod daemonset;
mod host;
mod lifecycle;
mod tools;
