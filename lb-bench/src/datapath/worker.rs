//! `berrylb-bench worker`: a process that is the client and the server of one work in one mode. It opens the server's
//! sockets where it is started, goes over to where the client is, namespace and cgroup, and then works in slices as it is
//! told by its socket.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, setns},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{
    histogram::Histogram,
    work::{Ends, Server, Work},
};

/// Where its orders come from.
#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    /// A Unix socket that is listened on
    socket: PathBuf,
}

/// What a worker is to do.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Job {
    pub(super) work: Work,
    /// Where the server listens.
    pub(super) server: SocketAddr,
    /// Where the client asks.
    pub(super) to: SocketAddr,
    /// The client's network namespace.
    pub(super) netns: PathBuf,
    /// The client's `cgroup.procs`.
    pub(super) cgroup: PathBuf,
    /// The processor that everything happens on.
    pub(super) processor: usize,
}

/// What a slice brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slice {
    /// Operations.
    pub(super) operations: u64,
    /// Time that they took, in nanoseconds.
    pub(super) nanos: u64,
    /// Processor time of the worker meanwhile, with the soft interrupts in it, in nanoseconds.
    pub(super) busy: u64,
}

impl Slice {
    pub(super) const BYTES: usize = 24;

    fn bytes(self) -> [u8; Self::BYTES] {
        let Self { operations, nanos, busy } = self;
        let mut bytes = [0; Self::BYTES];
        for (place, value) in bytes.chunks_exact_mut(8).zip([operations, nanos, busy]) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        let mut next = || words.next().unwrap_or_default();
        Self { operations: next(), nanos: next(), busy: next() }
    }
}

/// Order of a slice of no time: answer with how long single operations took.
pub(super) const ASK_TIMES: u64 = 0;
/// Operations at a slice's start that do not count: they bring the code and the tables back into the caches.
const WARM: u64 = 3;

/// The worker's main: serves orders until the socket is closed.
///
/// # Errors
/// An operation fails, or the place cannot be entered. The other side reads the reason from the socket while the job
/// begins, later from this process' standard error.
pub(crate) fn worker(args: &WorkerArgs) -> Result<()> {
    let stream = UnixStream::connect(&args.socket).with_context(|| format!("connect to {}", args.socket.display()))?;
    let mut input = BufReader::new(stream.try_clone().context("clone a socket")?);
    let mut output = stream;
    let mut line = String::new();
    input.read_line(&mut line).context("read the job")?;
    let job: Job = serde_json::from_str(&line).context("read the job")?;
    let ends = begin(&job);
    let told: Result<(), String> = ends.as_ref().map(drop).map_err(|error| format!("{error:#}"));
    let mut told = serde_json::to_vec(&told).context("answer")?;
    told.push(b'\n');
    output.write_all(&told).context("answer")?;
    let mut ends = ends?;
    let mut times = Histogram::default();
    let mut number = 0;
    let mut order = [0; 8];
    while input.read_exact(&mut order).is_ok() {
        match u64::from_ne_bytes(order) {
            ASK_TIMES => {
                let mut answer = serde_json::to_vec(&times.quantiles()).context("answer")?;
                answer.push(b'\n');
                output.write_all(&answer).context("answer")?;
                times = Histogram::default();
            }
            nanos => {
                let slice = slice(&mut ends, job.work.pace(), Duration::from_nanos(nanos), &mut number, &mut times);
                let slice = slice.with_context(|| format!("{} to {}", job.work.name(), job.to))?;
                output.write_all(&slice.bytes()).context("answer")?;
            }
        }
    }
    Ok(())
}

fn begin(job: &Job) -> Result<Ends> {
    let mut processors = CpuSet::new();
    processors.set(job.processor).context("name a processor")?;
    sched_setaffinity(Pid::from_raw(0), &processors).context("stay on one processor")?;
    // Above all ordinary programs of this processor, whatever their groups: they wait for a turn's end. The kernel's own
    // threads run while this one waits for them.
    let first = nix::libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter is read and not kept.
    if unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_FIFO, &raw const first) } != 0 {
        bail!("become a real-time process: {}", std::io::Error::last_os_error());
    }
    let server = Server::open(job.work, job.server).with_context(|| format!("serve at {}", job.server))?;
    let netns = File::open(&job.netns).with_context(|| format!("open {}", job.netns.display()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", job.netns.display()))?;
    fs::write(&job.cgroup, "0").with_context(|| format!("enter {}", job.cgroup.display()))?;
    let mut ends = Ends::open(job.work, server, job.to).with_context(|| format!("ask {}", job.to))?;
    ends.operate(0).with_context(|| format!("{} to {}", job.work.name(), job.to))?;
    Ok(ends)
}

fn slice(
    ends: &mut Ends,
    pace: Option<Duration>,
    time: Duration,
    number: &mut u64,
    times: &mut Histogram,
) -> Result<Slice> {
    for _ in 0..WARM {
        *number += 1;
        ends.operate(*number)?;
    }
    let busy = busy()?;
    let start = Instant::now();
    let mut before = start;
    let mut due = start;
    let mut operations = 0;
    loop {
        if let Some(pace) = pace {
            before = wait(due);
            due += pace;
        }
        *number += 1;
        ends.operate(*number)?;
        operations += 1;
        let now = Instant::now();
        times.add(now - before);
        before = now;
        if now - start >= time {
            let nanos = u64::try_from((now - start).as_nanos()).unwrap_or(u64::MAX);
            return Ok(Slice { operations, nanos, busy: self::busy()?.saturating_sub(busy) });
        }
    }
}

/// Sleeps until an operation is due, and gives the time from which on it counts: one that is late because of the one before
/// it has waited since it was due.
fn wait(due: Instant) -> Instant {
    let left = due.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return due;
    }
    std::thread::sleep(left);
    Instant::now()
}

/// Processor time of this thread in nanoseconds. Soft interrupts that run on its back are in it, as the kernel does not
/// tell them apart unless it was built with `CONFIG_IRQ_TIME_ACCOUNTING`.
fn busy() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("ask for the processor time")?;
    Ok(u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_comes_back_as_it_was() {
        let slice = Slice { operations: 7, nanos: 1 << 40, busy: 3 };
        assert_eq!(Slice::from_bytes(slice.bytes()), slice);
    }
}
