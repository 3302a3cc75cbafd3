//! The loader and the follower of links against the kernel. Needs root and the BPF object (`cargo xtask build-ebpf`);
//! each test stands on ground of its own, see `support`.

mod attach;
mod cleanup;
mod net;
mod restart;
mod skips;
mod support;
mod tables;
mod this_kernel;
mod xdp;
