//! The peer process: reads requests, does them one after the other, answers. It ends with its standard input.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;
use socket2::Socket;

use super::{
    answer::{Exchange, Opened},
    batch, load,
    request::{Close, Open, Ping, Request, Transport},
    serve, sockets, tcp, udp,
};

/// Line that ends what is running.
pub(super) const STOP: &str = "stop";

/// Whether the running request was asked to stop. Requests are numbered as they are read, so that a stop meets the
/// request it was meant for even if that has not begun, and none after it.
#[derive(Debug)]
pub(super) struct Stop {
    stopped: Arc<AtomicU64>,
    number: u64,
}

impl Stop {
    pub(super) fn asked(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) >= self.number
    }
}

/// Main of the peer process.
///
/// # Errors
/// Standard input or output breaks, or a line is not a request.
pub(super) fn session() -> Result<()> {
    let stopped = Arc::new(AtomicU64::new(0));
    let (sender, requests) = mpsc::channel();
    thread::spawn({
        let stopped = Arc::clone(&stopped);
        move || {
            let mut number = 0;
            for line in io::stdin().lock().lines() {
                match line {
                    Ok(line) if line == STOP => stopped.store(number, Ordering::Relaxed),
                    line => {
                        number += 1;
                        if sender.send((number, line)).is_err() {
                            return;
                        }
                    }
                }
            }
            // The owner is gone or done: so is this process, whatever it is at.
            std::process::exit(0);
        }
    });
    let mut sockets = Sockets::default();
    for (number, line) in requests {
        let line = line.context("read a request")?;
        let request = serde_json::from_str(&line)
            .with_context(|| format!("not a request (rebuild with `cargo build -p lb-lab`): {line}"))?;
        let stop = Stop { stopped: Arc::clone(&stopped), number };
        let answer = sockets.run(request, &stop).map_err(|error| format!("{error:#}"));
        let mut line = serde_json::to_vec(&answer).context("write an answer")?;
        line.push(b'\n');
        let mut output = io::stdout().lock();
        output.write_all(&line).and_then(|()| output.flush()).context("send an answer")?;
    }
    Ok(())
}

/// The sockets that are kept open.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: BTreeMap<u32, (Open, Socket)>,
    next: u32,
    token: u64,
}

impl Sockets {
    fn run(&mut self, request: Request, stop: &Stop) -> Result<serde_json::Value> {
        match request {
            Request::Serve(ask) => value(serve::serve(&ask)?),
            Request::TcpAsk(ask) => value(tcp::ask(&ask, stop)),
            Request::UdpAsk(ask) => value(udp::ask(&ask, stop)),
            Request::Big(ask) => value(tcp::big(&ask)),
            Request::Open(ask) => value(self.open(&ask)),
            Request::Ping(Ping { id, to, timeout_ms }) => {
                let exchange = self.ping(id, to, Duration::from_millis(timeout_ms));
                value(exchange.with_context(|| format!("socket {id} is not open"))?)
            }
            Request::Close(Close { id, abort }) => {
                let (_, socket) = self.open.remove(&id).with_context(|| format!("socket {id} is not open"))?;
                if abort {
                    socket.set_linger(Some(Duration::ZERO)).context("set SO_LINGER")?;
                }
                value(())
            }
            Request::Hold(ask) => value(load::hold(&ask, stop)),
            Request::HttpLoad(ask) => value(load::http_load(&ask, stop)),
            Request::Batch(ask) => value(batch::batch(&ask, stop)),
        }
    }

    pub(super) fn open(&mut self, ask: &Open) -> Opened {
        let timeout = Duration::from_millis(ask.timeout_ms);
        let socket = match ask.transport {
            Transport::Tcp => tcp::connect(ask.to, ask.mapped, ask.from, timeout),
            Transport::Udp => udp::open(ask.to, ask.connect, ask.mapped, ask.from, timeout),
        };
        match socket {
            Err(failure) => Opened { id: Err(failure), peer: None, local: None },
            Ok(socket) => {
                let (peer, local) = (sockets::peer(&socket), sockets::local(&socket));
                self.next += 1;
                self.open.insert(self.next, (ask.clone(), socket));
                Opened { id: Ok(self.next), peer, local }
            }
        }
    }

    /// `None`: there is no such socket.
    pub(super) fn ping(&mut self, id: u32, to: Option<std::net::SocketAddr>, timeout: Duration) -> Option<Exchange> {
        let (open, socket) = self.open.get(&id)?;
        self.token += 1;
        let start = std::time::Instant::now();
        let limit = Some(timeout.max(Duration::from_millis(1)));
        if let Err(error) = socket.set_read_timeout(limit).and_then(|()| socket.set_write_timeout(limit)) {
            return Some(tcp::failed(sockets::failure(super::answer::Step::Socket, &error)));
        }
        Some(match open.transport {
            Transport::Tcp => Exchange {
                result: tcp::who(socket, self.token),
                peer: sockets::peer(socket),
                local: sockets::local(socket),
                from: None,
                micros: tcp::micros(start),
            },
            Transport::Udp => {
                let to = (!open.connect).then_some((to.unwrap_or(open.to), open.mapped));
                udp::ping(socket, to, self.token, 20)
            }
        })
    }
}

fn value(answer: impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(answer).context("write an answer")
}
