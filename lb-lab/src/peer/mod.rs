//! Peers: small processes inside a place that serve and ask, so that their sockets are in the right namespace *and*
//! the right cgroup.
//!
//! One peer process takes requests as JSON lines on standard input and answers each with one JSON line. The types
//! here are both sides' language; [`Peer`] is the side of the test, `session` that of the process. What a peer saw
//! is reported, never judged: a failed connect is an answer.

mod answer;
mod batch;
mod client;
mod http;
mod load;
mod request;
mod serve;
mod session;
mod sockets;
mod tcp;
mod udp;

use std::{
    env,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};

use crate::reaper::reap;
pub use answer::*;
pub use client::{Peer, Pending};
pub use request::*;
use session::session;

/// File name of the peer program.
pub const PROGRAM: &str = "berrylb-lab-peer";

/// Whether the running program has called [`main_if_asked`], and so can be the peer program itself.
static OWN_PROGRAM: AtomicBool = AtomicBool::new(false);

/// To be called first thing in `main` by a program that is its own peer program: does the peer's work and gives true
/// if that is what this process was started for.
///
/// # Errors
/// The peer's work failed.
pub fn main_if_asked() -> Result<bool> {
    OWN_PROGRAM.store(true, Ordering::Relaxed);
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["session"] => session()?,
        ["reap", lab] => reap(lab)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The peer program: this one, if it has called [`main_if_asked`]; else `berrylb-lab-peer` in the target folder that
/// this program was built into.
///
/// # Errors
/// It is not built.
pub fn path() -> Result<PathBuf> {
    let own = env::current_exe().context("find the running program")?;
    if OWN_PROGRAM.load(Ordering::Relaxed) {
        return Ok(own);
    }
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
