//! What a peer answers: what it saw, with nothing judged.
//!
//! Measured times are in microseconds. Addresses are in canonical form: `::ffff:a.b.c.d` is given as `a.b.c.d`.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Answer to [`super::Serve`]: the bound addresses, in order.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Serving {
    /// TCP.
    pub tcp: Vec<SocketAddr>,
    /// UDP.
    pub udp: Vec<SocketAddr>,
}

/// Answer to [`super::Open`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Opened {
    /// Its number, or why it could not be opened.
    pub id: Result<u32, Failure>,
    /// What getpeername says, on connected sockets.
    pub peer: Option<SocketAddr>,
    /// What getsockname says.
    pub local: Option<SocketAddr>,
}

/// Answer to [`super::Hold`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Held {
    /// Answered pings.
    pub pings: u64,
    /// Answered pings by the name that answered.
    pub names: BTreeMap<String, u64>,
    /// When each answered ping began, in milliseconds since 1970, and who answered.
    pub log: Vec<(u64, String)>,
    /// Failures, with the milliseconds since the start.
    pub failures: Vec<(u64, Failure)>,
    /// Longest time between two answers.
    pub longest_gap_micros: u64,
    /// How long it ran.
    pub elapsed_ms: u64,
}

/// Answer to [`super::HttpLoad`].
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Load {
    /// Requests that were answered, by the body's text: the name of the pod.
    pub names: BTreeMap<String, u64>,
    /// Requests that failed.
    pub failed: u64,
    /// The first failures, with the milliseconds since the start.
    pub failures: Vec<(u64, Failure)>,
    /// The slowest answered request.
    pub slowest_micros: u64,
    /// How long it ran.
    pub elapsed_ms: u64,
    /// If asked for: when each answered request began, in milliseconds since 1970, and who answered.
    pub log: Vec<(u64, String)>,
}

impl Load {
    /// Requests that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.names.values().sum()
    }
}

/// What a server saw.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Seen {
    /// The server's name.
    pub name: String,
    /// The client as the server sees it.
    pub client: SocketAddr,
    /// The server's own end.
    pub server: SocketAddr,
    /// The number that the question held.
    pub token: u64,
}

/// One question and what came of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Exchange {
    /// The answer, or what went wrong.
    pub result: Result<Seen, Failure>,
    /// What getpeername says, on connected sockets.
    pub peer: Option<SocketAddr>,
    /// What getsockname says.
    pub local: Option<SocketAddr>,
    /// UDP: where recvfrom says that the answer came from.
    pub from: Option<SocketAddr>,
    /// How long it took.
    pub micros: u64,
}

/// Questions and what came of them, in order.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Answers(pub Vec<Exchange>);

impl Answers {
    /// How many answers each name gave.
    #[must_use]
    pub fn names(&self) -> BTreeMap<String, u64> {
        let mut names = BTreeMap::new();
        for seen in self.0.iter().filter_map(|e| e.result.as_ref().ok()) {
            *names.entry(seen.name.clone()).or_default() += 1;
        }
        names
    }

    /// What went wrong, in order.
    #[must_use]
    pub fn failures(&self) -> Vec<&Failure> {
        self.0.iter().filter_map(|e| e.result.as_ref().err()).collect()
    }

    /// The answers, when all were answered.
    ///
    /// # Panics
    /// One was not.
    #[must_use]
    pub fn all(&self) -> Vec<&Seen> {
        let seen = |(i, e): (usize, &'_ Exchange)| match &e.result {
            Ok(_) => {}
            Err(failure) => panic!("question {} of {}: {failure} ({e:?})", i + 1, self.0.len()),
        };
        self.0.iter().enumerate().for_each(seen);
        self.0.iter().filter_map(|e| e.result.as_ref().ok()).collect()
    }

    /// The only one.
    ///
    /// # Panics
    /// There is not exactly one.
    #[must_use]
    pub fn one(&self) -> &Exchange {
        match self.0.as_slice() {
            [one] => one,
            other => panic!("{} questions were asked, not one", other.len()),
        }
    }
}

/// What an attempt was doing when it failed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Step {
    /// Making, setting up or binding the socket.
    Socket,
    /// connect.
    Connect,
    /// send or sendto.
    Send,
    /// recv or recvfrom.
    Receive,
}

/// Why it failed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Cause {
    /// The kernel said so.
    Errno(i32),
    /// Nothing came in time.
    Timeout,
    /// The other side closed.
    Closed,
    /// Something else came than was asked for.
    Wrong(String),
}

/// A failed attempt.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// At which step.
    pub step: Step,
    /// Why.
    pub cause: Cause,
}

impl Failure {
    /// A failure with an error number.
    #[must_use]
    pub fn errno(step: Step, errno: Errno) -> Self {
        Self { step, cause: Cause::Errno(errno as i32) }
    }

    /// A failure by time.
    #[must_use]
    pub fn timeout(step: Step) -> Self {
        Self { step, cause: Cause::Timeout }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.step)?;
        match &self.cause {
            Cause::Errno(errno) => write!(f, "{:?}", Errno::from_raw(*errno)),
            Cause::Timeout => f.write_str("timed out"),
            Cause::Closed => f.write_str("closed by the other side"),
            Cause::Wrong(what) => write!(f, "wrong answer: {what}"),
        }
    }
}
