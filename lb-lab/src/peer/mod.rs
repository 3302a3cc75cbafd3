//! Peers: small processes inside a place that serve and ask, so that their sockets are in the right namespace *and*
//! the right cgroup.
//!
//! One peer process takes requests as JSON lines on standard input and answers each with one JSON line. The types
//! here are both sides' language; [`Peer`] is the side of the test, [`session`] that of the process. What a peer saw
//! is reported, never judged: a failed connect is an answer.

mod client;
mod http;
mod load;
mod message;
mod serve;
mod session;
mod sockets;
mod tcp;
mod udp;

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

pub use client::{Peer, Pending};
pub use message::*;
pub use session::session;

/// File name of the peer program.
pub const PROGRAM: &str = "berrylb-lab-peer";

/// The peer program, from the environment variable `BERRYLB_LAB_PEER` or the target folder that this program was built
/// into.
///
/// # Errors
/// It is not built.
pub fn path() -> Result<PathBuf> {
    if let Some(path) = env::var_os("BERRYLB_LAB_PEER") {
        return Ok(path.into());
    }
    let own = env::current_exe().context("find the running program")?;
    // Programs are in target/PROFILE, tests in target/PROFILE/deps, examples in target/PROFILE/examples.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(PROGRAM)).find(|path| path.exists());
    match found {
        Some(path) => Ok(path),
        None => bail!(
            "{PROGRAM} is not built beside {}: run `cargo build -p lb-lab` with the same profile and target folder",
            own.parent().unwrap_or(Path::new("/")).display()
        ),
    }
}
