//! Running processes under a guard that kills and reaps them with their process group.
//!
//! Nothing here waits without a limit.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use crate::patience::limit;

/// How soon a wait looks again at first; what takes long is looked at less often, by [`pause`].
const FIRST_PAUSE: Duration = Duration::from_micros(500);
/// And at least this often.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A running process. Dropping it kills its process group and reaps it.
#[derive(Debug)]
pub struct Process {
    guard: Guard,
    out: PathBuf,
    err: PathBuf,
    /// Bytes of the output file that were there before.
    seen: u64,
}

impl Process {
    pub(crate) fn new(guard: Guard, out: PathBuf, err: PathBuf, seen: u64) -> Self {
        Self { guard, out, err, seen }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.guard.pid().as_raw()
    }

    /// File with its standard output.
    #[must_use]
    pub fn out_path(&self) -> &Path {
        &self.out
    }

    /// File with its standard error.
    #[must_use]
    pub fn err_path(&self) -> &Path {
        &self.err
    }

    /// Standard output so far.
    ///
    /// # Errors
    /// The log file cannot be read.
    pub fn out(&self) -> Result<String> {
        let bytes = fs::read(&self.out).with_context(|| format!("read {}", self.out.display()))?;
        Ok(String::from_utf8_lossy(bytes.get(self.seen as usize..).unwrap_or_default()).into_owned())
    }

    /// Standard error so far, of all processes that wrote to this log.
    ///
    /// # Errors
    /// The log file cannot be read.
    pub fn err(&self) -> Result<String> {
        let bytes = fs::read(&self.err).with_context(|| format!("read {}", self.err.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits for a line of standard output that `wanted` accepts, and gives it.
    ///
    /// # Errors
    /// The process ends or the time passes first; the message holds the logs.
    pub fn wait_line(&mut self, wanted: impl Fn(&str) -> bool, timeout: Duration) -> Result<String> {
        let (start, timeout) = (Instant::now(), limit(timeout));
        loop {
            // The status is taken before the output: what a process wrote before it ended is not missed.
            let ended = self.status()?;
            let out = self.out()?;
            let whole = out.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(line) = whole.lines().find(|line| wanted(line)) {
                return Ok(line.to_owned());
            }
            let why = match ended {
                Some(status) => format!("ended with {status}"),
                None if start.elapsed() >= timeout => format!("did not say so within {timeout:?}"),
                None => {
                    thread::sleep(pause(start.elapsed()));
                    continue;
                }
            };
            bail!("{} {why}\nstdout:\n{out}\nstderr:\n{}", self.guard.label, self.err()?);
        }
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.guard.status()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        match self.guard.wait(timeout)? {
            Some(status) => Ok(status),
            None => bail!("{} did not end within {:?}\nstderr:\n{}", self.guard.label, limit(timeout), self.err()?),
        }
    }

    /// Sends a signal to its process group.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.guard.signal(signal)
    }

    /// `SIGTERM`, then waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(timeout)
    }

    /// `SIGKILL`, then reaps it.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.guard.kill()
    }
}

/// The child itself, and its process group.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    label: String,
    ended: Option<ExitStatus>,
}

impl Guard {
    pub(crate) fn new(child: Child, label: &str) -> Self {
        Self { child, label: label.into(), ended: None }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The status once it has ended. What is left of its group is killed then, before it is reaped: as long as it is
    /// a zombie nobody else can have its group id.
    fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let state = waitid(Id::Pid(self.pid()), look).with_context(|| format!("wait for {}", self.label))?;
            if state != WaitStatus::StillAlive {
                self.reap()?;
            }
        }
        Ok(self.ended)
    }

    /// `None` if [`limit`] of `timeout` passes first.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let (start, timeout) = (Instant::now(), limit(timeout));
        loop {
            let status = self.status()?;
            if status.is_some() || start.elapsed() >= timeout {
                return Ok(status);
            }
            thread::sleep(pause(start.elapsed()));
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.status()? {
            bail!("send {signal} to {}: it has ended with {status}", self.label);
        }
        killpg(self.pid(), signal).with_context(|| format!("send {signal} to {}", self.label))
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        if self.ended.is_none() { self.reap() } else { Ok(()) }
    }

    fn reap(&mut self) -> Result<()> {
        killpg(self.pid(), Signal::SIGKILL).with_context(|| format!("kill {}", self.label))?;
        self.ended = Some(self.child.wait().with_context(|| format!("reap {}", self.label))?);
        Ok(())
    }
}

/// Before the next look, after so long: a hundredth of it, so that waiting takes no time from what is waited for.
fn pause(waited: Duration) -> Duration {
    (waited / 100).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            crate::complain(&error);
        }
    }
}
