//! The asking side over UDP.

use std::{
    mem::MaybeUninit,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use socket2::{Socket, Type};

use super::{
    answer::{Answers, Cause, Exchange, Failure, Seen, Step},
    request::UdpAsk,
    session::Stop,
    sockets::{canonical, failure, local, peer, target, towards},
    tcp::{failed, micros},
};

/// A UDP socket, connected if asked for.
pub(super) fn open(
    to: SocketAddr,
    connect: bool,
    mapped: bool,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> Result<Socket, Failure> {
    let socket = towards(to, Type::DGRAM, mapped, from, timeout)?;
    if connect {
        socket.connect(&target(to, mapped)).map_err(|error| failure(Step::Connect, &error))?;
    }
    Ok(socket)
}

/// One datagram and its answer. `to`: where to on an unconnected socket. Late answers to earlier questions are skipped.
pub(super) fn ping(socket: &Socket, to: Option<(SocketAddr, bool)>, token: u64, size: usize) -> Exchange {
    let start = Instant::now();
    let mut exchange = Exchange {
        result: Err(Failure::timeout(Step::Receive)),
        peer: peer(socket),
        local: None,
        from: None,
        micros: 0,
    };
    let text = format!("{token:<size$}");
    let sent = match to {
        Some((to, mapped)) => socket.send_to(text.as_bytes(), &target(to, mapped)),
        None => socket.send(text.as_bytes()),
    };
    exchange.local = local(socket);
    exchange.result = match sent {
        Err(error) => Err(failure(Step::Send, &error)),
        Ok(_) => loop {
            match receive(socket, &mut exchange.from) {
                Ok(seen) if seen.token < token => {}
                other => break other,
            }
        },
    };
    exchange.micros = micros(start);
    exchange
}

/// The name of who answers one datagram.
pub(super) fn get(to: SocketAddr, timeout: Duration) -> Result<String, Failure> {
    let socket = open(to, false, false, None, timeout)?;
    ping(&socket, Some((to, false)), 1, 20).result.map(|seen| seen.name)
}

fn receive(socket: &Socket, from: &mut Option<SocketAddr>) -> Result<Seen, Failure> {
    let mut buffer = vec![MaybeUninit::uninit(); 1 << 16];
    let (length, source) = socket.recv_from(&mut buffer).map_err(|error| failure(Step::Receive, &error))?;
    *from = source.as_socket().map(canonical);
    // SAFETY: recv_from has written the first `length` bytes of the buffer.
    let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
    serde_json::from_slice(&bytes).map_err(|_| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Failure { step: Step::Receive, cause: Cause::Wrong(text) }
    })
}

/// Runs a [`UdpAsk`].
pub(super) fn ask(ask: &UdpAsk, stop: &Stop) -> Answers {
    let timeout = Duration::from_millis(ask.timeout_ms);
    let mut answers = Vec::new();
    let mut kept: Option<Socket> = None;
    for (token, to) in (0..u64::from(ask.count)).zip(ask.to.iter().cycle()) {
        if stop.asked() {
            break;
        }
        let socket = match kept.take() {
            Some(socket) => Ok(socket),
            None => open(*to, ask.connect, ask.mapped, ask.from, timeout),
        };
        answers.push(match socket {
            Err(failure) => failed(failure),
            Ok(socket) => {
                let exchange = ping(&socket, (!ask.connect).then_some((*to, ask.mapped)), token, ask.size);
                kept = (!ask.fresh).then_some(socket);
                exchange
            }
        });
        thread::sleep(Duration::from_millis(ask.pause_ms));
    }
    Answers(answers)
}
