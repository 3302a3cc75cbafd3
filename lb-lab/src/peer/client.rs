//! The test's side of a peer process.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    marker::PhantomData,
    process::ChildStdin,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::{request::Ask, session::STOP};
use crate::{Command, Process, patience};

/// What a peer may take beyond a request's own limit: this machine may be busy building something.
const SLACK: Duration = Duration::from_secs(20);

/// A peer process inside a place. Dropping it ends it, with its sockets and servers.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    input: ChildStdin,
    answers: Receiver<std::io::Result<String>>,
}

/// A request that is running. Its answer is taken by [`Self::finish`] or [`Self::stop`].
#[derive(Debug)]
#[must_use = "the answer says what happened"]
pub struct Pending<A: Ask> {
    peer: Peer,
    limit: Duration,
    ask: PhantomData<A>,
}

impl Peer {
    pub(crate) fn start(command: Command) -> Result<Self> {
        let (process, input, output) = command.spawn_piped("peer")?;
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(File::from(output)).lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, input, answers })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The peer process ended, took too long, or could not do what was asked (that a connection failed is an answer).
    pub fn ask<A: Ask>(&mut self, ask: A) -> Result<A::Answer> {
        let limit = ask.limit();
        self.send(ask)?;
        self.receive::<A>(limit)
    }

    /// Asks and goes on; the peer does this one thing.
    ///
    /// # Errors
    /// The peer process ended.
    pub fn begin<A: Ask>(mut self, ask: A) -> Result<Pending<A>> {
        let limit = ask.limit();
        self.send(ask)?;
        Ok(Pending { peer: self, limit, ask: PhantomData })
    }

    /// Process id of the peer.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    fn send(&mut self, ask: impl Ask) -> Result<()> {
        let mut line = serde_json::to_vec(&ask.request()).context("write a request")?;
        line.push(b'\n');
        self.input.write_all(&line).with_context(|| self.end("send a request to a peer"))?;
        Ok(())
    }

    fn receive<A: Ask>(&mut self, limit: Duration) -> Result<A::Answer> {
        let slack = patience::limit(SLACK);
        let line = match self.answers.recv_timeout(limit + slack) {
            Ok(line) => line.context("read a peer's answer")?,
            Err(RecvTimeoutError::Timeout) => bail!("a peer did not answer within {limit:?} and {slack:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!(self.end("a peer ended")),
        };
        let answer: Result<Value, String> =
            serde_json::from_str(&line).with_context(|| format!("not a peer's answer: {line}"))?;
        let value = answer.map_err(|error| anyhow!("a peer said: {error}"))?;
        serde_json::from_value(value).with_context(|| format!("not the answer that was asked for: {line}"))
    }

    /// What a dead peer left in its log.
    fn end(&mut self, what: &str) -> String {
        let status = self.process.status().ok().flatten();
        let log = self.process.err().unwrap_or_else(|error| format!("{error:#}"));
        match status {
            Some(status) => format!("{what}: it ended with {status}\n{log}"),
            None => format!("{what}\n{log}"),
        }
    }
}

impl<A: Ask> Pending<A> {
    /// Waits for its end.
    ///
    /// # Errors
    /// As [`Peer::ask`].
    pub fn finish(mut self) -> Result<A::Answer> {
        self.peer.receive::<A>(self.limit)
    }

    /// Tells it to end now and waits for that.
    ///
    /// # Errors
    /// As [`Peer::ask`].
    pub fn stop(mut self) -> Result<A::Answer> {
        self.tell_to_stop()?;
        self.finish()
    }

    /// Tells it to end now, and does not wait.
    ///
    /// # Errors
    /// The peer process ended.
    pub fn tell_to_stop(&mut self) -> Result<()> {
        let told = self.peer.input.write_all(format!("{STOP}\n").as_bytes());
        told.with_context(|| self.peer.end("stop a peer"))
    }
}
