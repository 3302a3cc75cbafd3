//! `berrylb agent`: settings, logging, and the loop on one thread.

use std::{io, io::Write as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};
use tracing_subscriber::EnvFilter;

use crate::agent::{self, AgentArgs, LogFormat, Settings};

/// What a thread beside the loop has left at the end, of the two seconds in which SIGTERM is to be obeyed.
const LEAVE: Duration = Duration::from_millis(200);

/// Runs the agent until it is told to end. Wrong settings are wrong usage.
pub(super) fn run(args: AgentArgs) -> ExitCode {
    let settings = match args.settle() {
        Ok(settings) => settings,
        Err(error) => {
            // If standard error is gone, the exit code still tells.
            let _told = writeln!(io::stderr(), "berrylb agent: {error}");
            return ExitCode::from(2);
        }
    };
    super::finish("agent", start(settings))
}

fn start(settings: Settings) -> Result<()> {
    let filter = EnvFilter::try_new(&settings.log_level.0)
        .with_context(|| format!("--log-level {:?}: use error, warn, info, debug or trace", settings.log_level.0))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match settings.log_format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
    }
    // Whoever started it may have held them back, and a process inherits that.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_unblock().context("unblock SIGINT and SIGTERM")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    let ended = tokio::task::LocalSet::new().block_on(&runtime, agent::run(settings));
    // What waits in a thread of its own (a name being resolved, a kubeconfig's plugin, a disk) is not waited for.
    runtime.shutdown_timeout(LEAVE);
    ended
}
