//! What a peer can be asked. Times are in milliseconds.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::answer::{Answers, Exchange, Held, Load, Opened, Serving};
use crate::patience::limit_ms;

/// Time limit of one connect, send or receive, unless a request says otherwise.
fn step_limit_ms() -> u64 {
    limit_ms(2_000)
}

/// Any request.
#[expect(missing_docs, reason = "each variant is the request of its name")]
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Request {
    Serve(Serve),
    TcpAsk(TcpAsk),
    UdpAsk(UdpAsk),
    Big(Big),
    Open(Open),
    Ping(Ping),
    Close(Close),
    Hold(Hold),
    HttpLoad(HttpLoad),
    Batch(Batch),
}

/// A request that a [`crate::Peer`] takes.
pub trait Ask {
    /// What it is answered with.
    type Answer: DeserializeOwned;
    /// For the wire.
    fn request(self) -> Request;
    /// The longest it may take, without the overhead of the peer itself.
    fn limit(&self) -> Duration;
}

macro_rules! ask {
    ($request:ident -> $answer:ty, |$self:ident| $limit:expr) => {
        impl Ask for $request {
            type Answer = $answer;
            fn request(self) -> Request {
                Request::$request(self)
            }
            fn limit(&self) -> Duration {
                let $self = self;
                Duration::from_millis($limit)
            }
        }
    };
}

ask!(Serve -> Serving, |_ask| step_limit_ms());
ask!(TcpAsk -> Answers, |ask| (3 * ask.timeout_ms + ask.pause_ms) * u64::from(ask.count));
ask!(UdpAsk -> Answers, |ask| (ask.timeout_ms + ask.pause_ms) * u64::from(ask.count));
ask!(Big -> Exchange, |ask| 3 * ask.timeout_ms);
ask!(Open -> Opened, |ask| ask.timeout_ms);
ask!(Ping -> Exchange, |ask| 2 * ask.timeout_ms);
ask!(Close -> (), |_ask| step_limit_ms());
ask!(Hold -> Held, |ask| ask.duration_ms + 3 * ask.timeout_ms);
ask!(HttpLoad -> Load, |ask| ask.duration_ms + 3 * ask.timeout_ms);
ask!(Batch -> Vec<Answers>, |ask| ask.limit_ms());

/// Which transport.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Start serving; goes on until the peer ends. Over TCP it answers `WHO`, `ECHO` and HTTP's `GET`, over UDP anything.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Serve {
    /// What it calls itself in every answer, and the body of its web page.
    pub name: String,
    /// Addresses to listen on, port 0 for any. `[::]` takes IPv4 as well.
    pub tcp: Vec<SocketAddr>,
    /// Addresses to receive on, port 0 for any.
    pub udp: Vec<SocketAddr>,
}

/// Connect, ask who is there, close; `count` times, each with a socket of its own.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TcpAsk {
    /// Where to.
    pub to: SocketAddr,
    /// How often.
    pub count: u32,
    /// Source to bind to.
    pub from: Option<SocketAddr>,
    /// An IPv6 socket that connects to the v4-mapped address, as a JVM does.
    pub mapped: bool,
    /// Close with a reset, so that the same source port is free again at once.
    pub abort: bool,
    /// Limit of each step.
    pub timeout_ms: u64,
    /// Pause after each.
    pub pause_ms: u64,
}

impl TcpAsk {
    /// Once, with defaults.
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        Self { to, count: 1, from: None, mapped: false, abort: false, timeout_ms: step_limit_ms(), pause_ms: 0 }
    }
}

/// Send datagrams and wait for the answer to each.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UdpAsk {
    /// Where to, in turn. A connected socket takes the first only.
    pub to: Vec<SocketAddr>,
    /// How many datagrams.
    pub count: u32,
    /// Connect the socket first.
    pub connect: bool,
    /// A new socket for each datagram instead of one for all.
    pub fresh: bool,
    /// Source to bind to.
    pub from: Option<SocketAddr>,
    /// An IPv6 socket that sends to the v4-mapped address.
    pub mapped: bool,
    /// Bytes of each datagram and of its answer, at least 20; answers of small ones are as long as they need to be.
    pub size: usize,
    /// How long to wait for each answer.
    pub timeout_ms: u64,
    /// Pause after each.
    pub pause_ms: u64,
}

impl UdpAsk {
    /// One datagram from an unconnected socket, with defaults.
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to: vec![to],
            count: 1,
            connect: false,
            fresh: false,
            from: None,
            mapped: false,
            size: 20,
            timeout_ms: step_limit_ms(),
            pause_ms: 0,
        }
    }
}

/// Send so many bytes over one TCP connection while reading them back; each byte is compared.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Big {
    /// Where to.
    pub to: SocketAddr,
    /// How many bytes each way.
    pub bytes: usize,
    /// See [`TcpAsk::mapped`].
    pub mapped: bool,
    /// Limit of each step, and of the whole transfer.
    pub timeout_ms: u64,
}

impl Big {
    /// So many bytes, with defaults.
    #[must_use]
    pub fn new(to: SocketAddr, bytes: usize) -> Self {
        Self { to, bytes, mapped: false, timeout_ms: 10_000 }
    }
}

/// Open a socket and keep it for [`Ping`] and [`Close`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Open {
    /// Where to.
    pub to: SocketAddr,
    /// TCP or UDP.
    pub transport: Transport,
    /// UDP: connect the socket (TCP always does).
    pub connect: bool,
    /// Source to bind to.
    pub from: Option<SocketAddr>,
    /// See [`TcpAsk::mapped`].
    pub mapped: bool,
    /// Limit of the connect.
    pub timeout_ms: u64,
}

impl Open {
    /// A TCP connection.
    #[must_use]
    pub fn tcp(to: SocketAddr) -> Self {
        Self { to, transport: Transport::Tcp, connect: true, from: None, mapped: false, timeout_ms: step_limit_ms() }
    }

    /// A UDP socket, unconnected.
    #[must_use]
    pub fn udp(to: SocketAddr) -> Self {
        Self { transport: Transport::Udp, connect: false, ..Self::tcp(to) }
    }
}

/// Ask who is there, on an open socket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ping {
    /// The number from [`Opened`].
    pub id: u32,
    /// Unconnected UDP: where to, instead of the address it was opened with.
    pub to: Option<SocketAddr>,
    /// Limit of each step.
    pub timeout_ms: u64,
}

impl Ping {
    /// With defaults.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self { id, to: None, timeout_ms: step_limit_ms() }
    }
}

/// Close an open socket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Close {
    /// The number from [`Opened`].
    pub id: u32,
    /// TCP: with a reset.
    pub abort: bool,
}

/// Hold one connection (or UDP socket) and ping on it. TCP ends at the first failure; UDP goes on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Hold {
    /// The socket.
    pub open: Open,
    /// Time between pings.
    pub interval_ms: u64,
    /// How long; [`crate::Pending::stop`] ends it before.
    pub duration_ms: u64,
    /// Limit of each ping.
    pub timeout_ms: u64,
}

/// `GET` at full rate, each with a connection of its own, by several workers; over UDP a datagram and its answer, each
/// with an unconnected socket of its own.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HttpLoad {
    /// Where to.
    pub to: SocketAddr,
    /// TCP or UDP.
    pub transport: Transport,
    /// Threads that ask.
    pub workers: u32,
    /// How long; [`crate::Pending::stop`] ends it before.
    pub duration_ms: u64,
    /// End after so many requests, too.
    pub requests: Option<u64>,
    /// Limit of each step.
    pub timeout_ms: u64,
    /// Pause of each worker after each request.
    pub pause_ms: u64,
    /// Whether [`Load::log`] is kept.
    pub log: bool,
}

impl HttpLoad {
    /// Two workers for so long.
    #[must_use]
    pub fn new(to: SocketAddr, duration: Duration) -> Self {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            to,
            transport: Transport::Tcp,
            workers: 2,
            duration_ms,
            requests: None,
            timeout_ms: step_limit_ms(),
            pause_ms: 0,
            log: false,
        }
    }

    /// So many requests, by two workers.
    #[must_use]
    pub fn count(to: SocketAddr, requests: u64) -> Self {
        let duration_ms = 2 * step_limit_ms() * requests.max(1);
        Self { duration_ms, requests: Some(requests), ..Self::new(to, Duration::ZERO) }
    }
}

/// One question of a [`Batch`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Question {
    /// Over TCP.
    Tcp(TcpAsk),
    /// Over UDP.
    Udp(UdpAsk),
    /// A transfer; one [`Exchange`].
    Big(Big),
}

/// Many different questions, several at a time; answered in the order of the questions.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Batch {
    /// What to ask.
    pub questions: Vec<Question>,
    /// Threads that ask.
    pub workers: u32,
}

impl Batch {
    fn limit_ms(&self) -> u64 {
        let limit = |question: &Question| match question {
            Question::Tcp(ask) => ask.limit(),
            Question::Udp(ask) => ask.limit(),
            Question::Big(ask) => ask.limit(),
        };
        let all: Duration = self.questions.iter().map(limit).sum();
        u64::try_from(all.as_millis()).unwrap_or(u64::MAX)
    }
}
