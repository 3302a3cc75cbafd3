//! The asking side over TCP.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use socket2::{Socket, Type};

use super::{
    answer::{Answers, Cause, Exchange, Failure, Seen, Step},
    request::{Big, TcpAsk},
    session::Stop,
    sockets::{failure, local, peer, target, towards},
};

/// A TCP connection.
pub(super) fn connect(
    to: SocketAddr,
    mapped: bool,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> Result<Socket, Failure> {
    let socket = towards(to, Type::STREAM, mapped, from, timeout)?;
    socket.set_tcp_nodelay(true).map_err(|error| failure(Step::Socket, &error))?;
    socket.connect_timeout(&target(to, mapped), timeout).map_err(|error| failure(Step::Connect, &error))?;
    Ok(socket)
}

/// Asks who is there on a connection.
pub(super) fn who(mut socket: &Socket, token: u64) -> Result<Seen, Failure> {
    socket.write_all(format!("WHO {token}\n").as_bytes()).map_err(|error| failure(Step::Send, &error))?;
    let mut line = String::new();
    let length = BufReader::new(socket).read_line(&mut line).map_err(|error| failure(Step::Receive, &error))?;
    if length == 0 {
        return Err(Failure { step: Step::Receive, cause: Cause::Closed });
    }
    match serde_json::from_str::<Seen>(&line) {
        Ok(seen) if seen.token == token => Ok(seen),
        Ok(_) | Err(_) => Err(Failure { step: Step::Receive, cause: Cause::Wrong(line) }),
    }
}

/// Runs a [`TcpAsk`].
pub(super) fn ask(ask: &TcpAsk, stop: &Stop) -> Answers {
    let timeout = Duration::from_millis(ask.timeout_ms);
    let mut answers = Vec::new();
    for token in 0..u64::from(ask.count) {
        if stop.asked() {
            break;
        }
        let start = Instant::now();
        let mut exchange = match connect(ask.to, ask.mapped, ask.from, timeout) {
            Err(failure) => failed(failure),
            Ok(socket) => {
                let (peer, local) = (peer(&socket), local(&socket));
                let mut result = who(&socket, token);
                if ask.abort
                    && let Err(error) = socket.set_linger(Some(Duration::ZERO))
                {
                    result = Err(failure(Step::Socket, &error));
                }
                Exchange { result, peer, local, from: None, micros: 0 }
            }
        };
        exchange.micros = micros(start);
        answers.push(exchange);
        thread::sleep(Duration::from_millis(ask.pause_ms));
    }
    Answers(answers)
}

/// Runs a [`Big`]. The answer of `WHO` on the same connection, asked afterwards, says who echoed.
pub(super) fn big(ask: &Big) -> Exchange {
    let start = Instant::now();
    let timeout = Duration::from_millis(ask.timeout_ms);
    let mut exchange = match connect(ask.to, ask.mapped, None, timeout) {
        Err(failure) => failed(failure),
        Ok(socket) => {
            let (peer, local) = (peer(&socket), local(&socket));
            let result = echo(&socket, ask.bytes).and_then(|()| who(&socket, ask.bytes as u64));
            Exchange { result, peer, local, from: None, micros: 0 }
        }
    };
    exchange.micros = micros(start);
    exchange
}

fn echo(socket: &Socket, bytes: usize) -> Result<(), Failure> {
    let sent: Vec<u8> = (0..bytes).map(byte).collect();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut output = socket;
            output.write_all(format!("ECHO {bytes}\n").as_bytes())?;
            output.write_all(&sent)
        });
        let mut back = vec![0; bytes];
        let mut input = socket;
        let read = input.read_exact(&mut back);
        let written: io::Result<()> = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.map_err(|error| failure(Step::Send, &error))?;
        read.map_err(|error| failure(Step::Receive, &error))?;
        match sent.iter().zip(&back).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => {
                let cause = Cause::Wrong(format!("byte {at} of {bytes} is {} instead of {}", back[at], sent[at]));
                Err(Failure { step: Step::Receive, cause })
            }
        }
    })
}

/// A pattern whose period (251 bytes) divides no segment size, so that a swapped segment shows.
fn byte(at: usize) -> u8 {
    (at % 251) as u8 ^ (at >> 16) as u8
}

/// An exchange that did not get as far as a socket.
pub(super) fn failed(failure: Failure) -> Exchange {
    Exchange { result: Err(failure), peer: None, local: None, from: None, micros: 0 }
}

/// Microseconds since `start`.
pub(super) fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}
