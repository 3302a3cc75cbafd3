//! What the kernel and the agent share: the layout of every BPF map ([`abi`]) and the datapath's logic ([`datapath`]).
//!
//! The datapath is generic over two traits, [`datapath::Packet`] and [`datapath::Tables`], so that the very code the
//! kernel runs is unit-tested, property-tested and fuzzed on the host.
//! This crate never does I/O, never allocates outside its tests and knows no hook and no library for BPF.
//!
//! With the feature `testing` it also brings a module `testing`: tables and packets in memory, and the packet cases that host
//! and kernel tests share.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod datapath;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
