//! What the kernel and the agent share: the layout of every BPF map ([`abi`]) and the datapath's logic ([`datapath`]).
//!
//! The datapath is generic over two traits, [`datapath::Packet`] and [`datapath::Tables`], so that the very code the
//! kernel runs is unit-tested, property-tested and fuzzed on the host.
//! This crate never does I/O, never allocates outside its tests and knows no hook and no library for BPF.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod datapath;
