//! The workers of one scenario, one for each mode, and the turns that they take.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use lb_lab::{Host, Process};

use super::{
    histogram::Quantiles,
    worker::{ASK_TIMES, Job, Slice},
};

/// How long a worker may take to begin, and beyond a slice's time.
const PATIENCE: Duration = Duration::from_secs(20);

/// A worker that has begun.
pub(super) struct Worker {
    process: Process,
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Worker {
    /// Starts a worker at the server's place, and waits until its job has begun.
    ///
    /// # Errors
    /// It cannot be started, or its first operation fails.
    pub(super) fn start(server: &impl Host, job: &Job) -> Result<Self> {
        let path = server.dir().join("worker.sock");
        // Of the worker before this one.
        let _gone = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
        listener.set_nonblocking(true).context("set up a socket")?;
        let program = std::env::current_exe().context("find the running program")?;
        let mut process = server.command(program).arg("worker").arg(&path).spawn("worker")?;
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    if let Some(status) = process.status()? {
                        bail!("a worker ended with {status}: {}", process.err()?);
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(error) => return Err(error).context("wait for a worker"),
            }
        };
        stream.set_nonblocking(false).context("set up a socket")?;
        stream.set_read_timeout(Some(PATIENCE)).context("set up a socket")?;
        let input = BufReader::new(stream.try_clone().context("clone a socket")?);
        let mut worker = Self { process, input, output: stream };
        let mut line = serde_json::to_vec(job).context("write a job")?;
        line.push(b'\n');
        worker.output.write_all(&line).context("give a worker its job")?;
        let told: Result<(), String> = worker.line()?;
        told.map_err(|error| anyhow!(error))?;
        Ok(worker)
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Has it work for so long.
    fn slice(&mut self, time: Duration) -> Result<Slice> {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(ASK_TIMES + 1);
        let mut bytes = [0; Slice::BYTES];
        let done = self.output.write_all(&nanos.to_ne_bytes()).and_then(|()| self.input.read_exact(&mut bytes));
        done.map_err(|error| self.broken(&error))?;
        Ok(Slice::from_bytes(bytes))
    }

    /// How long its operations took since it was asked last.
    fn times(&mut self) -> Result<Quantiles> {
        self.output.write_all(&ASK_TIMES.to_ne_bytes()).map_err(|error| self.broken(&error))?;
        self.line()
    }

    fn line<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.input.read_line(&mut line).map_err(|error| self.broken(&error))?;
        serde_json::from_str(&line).with_context(|| format!("a worker answered {line:?}: {}", self.log()))
    }

    fn broken(&mut self, error: &std::io::Error) -> anyhow::Error {
        // Its reason is in its log when it has ended, which follows at once.
        let status = self.process.wait(Duration::from_secs(1));
        let status = status.map_or_else(|_| "still running".to_owned(), |status| status.to_string());
        anyhow!("a worker broke ({error}, {status}): {}", self.log())
    }

    fn log(&self) -> String {
        let text = self.process.err().unwrap_or_default();
        text.lines().last().unwrap_or_default().to_owned()
    }
}

/// How the workers take turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    /// Turns of each worker.
    pub(super) rounds: u32,
    /// Time of each.
    pub(super) slice: Duration,
}

/// What one worker brought in one pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Pass {
    /// By round.
    pub(super) slices: Vec<Slice>,
    pub(super) times: Quantiles,
}

/// Lets the workers take turns, in another random order in each round.
///
/// # Errors
/// One of them breaks.
pub(super) fn take_turns(workers: &mut [Worker], turns: Turns, order: &mut Order) -> Result<Vec<Pass>> {
    let mut passes = vec![Pass::default(); workers.len()];
    // The first round finds cold caches and neighbours that are not resolved.
    for worker in &mut *workers {
        worker.slice(turns.slice)?;
        worker.times()?;
    }
    for _ in 0..turns.rounds {
        for at in order.next(workers.len()) {
            passes[at].slices.push(workers[at].slice(turns.slice)?);
        }
    }
    for (worker, pass) in workers.iter_mut().zip(&mut passes) {
        pass.times = worker.times()?;
    }
    Ok(passes)
}

/// Random orders, the same in every run.
pub(super) struct Order(u64);

impl Order {
    pub(super) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The numbers below `count`, each once.
    pub(super) fn next(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            // xorshift64: good enough to shuffle by.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            order.swap(last, (self.0 % (last as u64 + 1)) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_comes_and_none_has_gaps() {
        let mut order = Order::new();
        let seen: std::collections::BTreeSet<Vec<usize>> = (0..1000).map(|_| order.next(4)).collect();
        assert_eq!(seen.len(), 24);
        for mut one in seen {
            one.sort_unstable();
            assert_eq!(one, [0, 1, 2, 3]);
        }
    }
}
