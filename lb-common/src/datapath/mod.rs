//! The datapath's logic, as pure functions over a [`Packet`] and the [`Tables`].
//!
//! ```text
//!  socket call ► sock::{connect, sendmsg, reverse}
//!  pod packet  ► pod::{ingress, egress} ┐
//!  LAN packet  ► uplink::ingress        ┴► parse ► frontend ► flow / select ► rewrite ► Verdict
//! ```
//! Nothing here knows a hook: the shell (`lb-ebpf`, or a host test) turns a [`Verdict`] into its action.
//! The verifier asks for the style: everything is inlined, values are small and `Copy`, nothing is sliced or formatted.

mod answer;
pub mod checksum;
mod clash;
mod dsr;
mod flow;
mod frontend;
mod headers;
mod icmp;
mod link;
mod packet;
mod parse;
mod path;
pub mod pod;
pub mod rewrite;
mod scratch;
pub mod sock;
mod tables;
mod traffic;
pub mod uplink;
mod verdict;
pub mod xdp;

pub use flow::is_over;
pub use frontend::{Choice, Traffic, find, select};
pub use link::Link;
pub use packet::{ANSWER_WORDS, Fault, Frame, HostPacket, L4Checksum, Packet, Route};
pub use parse::{Parsed, Unparsed, parse, tcp_flag};
pub use scratch::{SCRATCH_WORDS, Scratch};
pub use tables::{FlowTable, Tables};
pub use verdict::Verdict;

#[cfg(test)]
mod filter_tests;
#[cfg(test)]
mod tests;
