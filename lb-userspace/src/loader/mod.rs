//! Brings the BPF programs to the kernel and to the links: probes, loads, pins, attaches, adopts what an earlier run
//! left, and takes everything away. It never reads or writes an element of a table (that is `maps`) and never decides
//! which link is what (that is `net`).
//!
//! Attached programs belong to pins in the agent's bpffs folder, not to the agent's process: traffic goes on when it
//! dies, and the next one replaces each program in place, so that no packet meets an empty hook.

mod cleanup;
mod clsact;
pub mod cookie;
mod datapath;
mod error;
pub mod host;
mod insn;
mod layout;
mod lock;
mod logs;
pub mod object;
mod pins;
mod probe;
mod removal;
mod rtnl;
mod sockets;
mod stats;
mod sys;
mod tables;
mod tc;
mod undo;
mod verify;
mod xdp;

pub use self::{
    cleanup::{Removed, cleanup},
    datapath::{Datapath, DatapathOptions, TcHook},
    error::{Error, Result},
    layout::{Layout, LinkPin},
    lock::FolderLock,
    logs::LogForwarder,
    pins::{Adopted, Attachment},
    probe::{Feature, Finding, Probe},
    stats::{MapStats, ProgramStats, pinned_maps},
    tables::KeptSize,
    verify::Fault,
};
